"""Manifest: what a dataset is (dataset.json), which rows its shards hold, and its index "
"(index.h5).

Shards end at multiples of the shard size and at every number of rows that was once asked for,
so that the layout follows from the manifest alone.
"""

from __future__ import annotations

__all__ = ["SCHEMA", "Manifest", "identity_of", "identity_of_rows", "plain", "write_index"]

import hashlib
import importlib.metadata
import json
import platform
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..field import Field
from .shard import MISSING, DatasetError, Segment, open_file, put, shard_name

SCHEMA = 1
"""The version of the layout of files that this code writes, and the newest that it reads."""

FILE, INDEX = "dataset.json", "index.h5"
_ROUND_0 = {"first": 0, "observation": None, "proposal": None}
_ROWS = 256


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a simulation may depend on."""
    out = {"python": platform.python_version()}
    for package in ("simgen", "numpy", "scipy", "h5py", "torch"):
        try:
            out[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out


def plain(value: Any) -> Any:
    """A value as JSON has it: large arrays as a digest, other objects as their type's name."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(v) for v in value)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Field):
        return plain(value.to_dict())
    if isinstance(value, np.ndarray) or hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.size <= 1000:
            return plain(array.tolist())
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": digest}
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return plain(asdict(value))
    name = value if hasattr(value, "__qualname__") else type(value)
    return f"{name.__module__}:{name.__qualname__}"


def _digest(value: Any) -> str:
    content = json.dumps(plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def behaviour(prior: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Of a prior as a dict, what draws depend on: labels and units do not count."""
    if prior is None:
        return None
    return plain({k: v for k, v in prior.items() if k not in ("labels", "units")})


def identity_of(
    simulator: Mapping[str, Any], prior: Mapping[str, Any] | None, seed: int, block: int
) -> str:
    """The identity of a simulated dataset: a hash of simulator, prior, seed and block."""
    origin = {k: simulator[k] for k in ("name", "settings")}
    return _digest([origin, behaviour(prior), seed, block])


def identity_of_rows(columns: Mapping[str, np.ndarray]) -> str:
    """The identity of a dataset made of arrays: a hash of the first 256 rows."""
    rows = {}
    for name, array in sorted(columns.items()):
        first = np.ascontiguousarray(array[:_ROWS])
        content = hashlib.sha256(first.tobytes()).hexdigest()
        rows[name] = [str(first.dtype), list(first.shape), content]
    return _digest(rows)


@dataclass(frozen=True)
class Manifest:
    """What dataset.json says.

    Arguments:
        kind: "simulated" by `simulate`, or "arrays".
        simulator: Name and settings of the simulator.
        prior: The prior as a dict; None without theta.
        fields: The fields that are stored, theta first.
        seed: The seed of all random streams.
        block: Rows a block.
        shard_size: Rows a shard.
        plans: The numbers of rows asked for, increasing; the last is how many are planned.
        identity: The dataset's identity.
        rounds: First row, observation and proposal of each round.
        keep: The fields that were chosen to be stored; None for all.
        versions: Of the packages that were there at creation.
        created: When.
    """

    kind: str
    simulator: dict[str, Any] | None
    prior: dict[str, Any] | None
    fields: dict[str, Field]
    seed: int | None
    block: int
    shard_size: int
    plans: tuple[int, ...]
    identity: str
    rounds: list[dict[str, Any]] = field(default_factory=lambda: [dict(_ROUND_0)])
    keep: list[str] | None = None
    versions: dict[str, str] = field(default_factory=versions)
    created: str = field(
        default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds")
    )

    @property
    def rows(self) -> int:
        """The number of planned rows."""
        return self.plans[-1]

    def round_of(self, row: int) -> int:
        """The round that a row belongs to."""
        return bisect_right([entry["first"] for entry in self.rounds], row) - 1

    def to_json(self) -> str:
        """As the text of dataset.json."""
        stored = {k.name: getattr(self, k.name) for k in fields(self)}
        values = {"schema": SCHEMA, "rows": self.rows, **plain(stored)}
        return json.dumps({**values, "crc32": _crc(values)}, indent=1) + "\n"

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        """Reads dataset.json.

        Raises:
            DatasetError: If it is not there, damaged, or of a newer version.
        """
        path = directory / FILE
        try:
            values = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise DatasetError(
                f"{directory} is no simgen dataset: it has no {FILE}; a foreign HDF5 file is "
                'opened with Dataset(file, fields={"theta": "params", "x": "maps"})'
            ) from None
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{path} is damaged ({error}); its shards are not: restore this file, or run the "
                "same simulation into a new directory"
            ) from None
        schema = values.get("schema") if isinstance(values, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise DatasetError(
                f"{path} has schema {schema}; this simgen reads up to {SCHEMA}: upgrade simgen"
            )
        if isinstance(values, dict) and "crc32" in values and values.pop("crc32") != _crc(values):
            raise DatasetError(
                f"{path} is damaged: its contents are not what was written; restore this file"
            )
        try:
            known = {k.name: values[k.name] for k in fields(cls)}
            known["fields"] = {k: Field.from_dict(v) for k, v in known["fields"].items()}
            known["plans"] = tuple(known["plans"])
            return cls(**known)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(f"{path} is no manifest of a simgen dataset: {error!r}") from None

    def create(self, directory: Path) -> Manifest:
        """Writes dataset.json if it is not there, else returns the one that is."""
        directory.mkdir(parents=True, exist_ok=True)
        try:
            put(directory / FILE, self.to_json().encode(), exclusive=True)
        except FileExistsError:
            return self.load(directory)
        return self

    def extended(self, rows: int) -> Manifest:
        """The same dataset with at least so many rows planned."""
        return self if rows <= self.rows else replace(self, plans=(*self.plans, rows))

    def save(self, directory: Path) -> None:
        """Replaces dataset.json."""
        put(directory / FILE, self.to_json().encode())

    def layout(self, directory: Path) -> list[Segment]:
        """Every planned shard, in order of rows."""
        ends = sorted({*range(self.shard_size, self.rows, self.shard_size), *self.plans})
        starts = [0, *ends[:-1]]
        return [Segment(a, b - a, directory / shard_name(a)) for a, b in zip(starts, ends)]


def write_index(directory: Path, manifest: Manifest) -> None:
    """Writes index.h5: every planned row of every field as one virtual dataset over the shards.

    HDF5 fills what is not there in silence; so floats are filled with NaN and /status with 255.
    """
    columns: dict[str, tuple[tuple[int, ...], np.dtype, Any]] = {
        name: (f.shape, np.dtype(f.dtype or "float32"), np.nan)
        for name, f in manifest.fields.items()
    }
    columns["row"] = ((), np.dtype(np.int64), -1)
    columns["round"] = ((), np.dtype(np.int32), -1)
    columns["status"] = ((), np.dtype(np.uint8), MISSING)
    layout = manifest.layout(directory)

    def compose(file: h5py.File) -> None:
        file.attrs["rows"] = manifest.rows
        file.attrs["shards"] = len(layout)
        for name, (shape, dtype, fill) in columns.items():
            value = 0 if np.isnan(fill) and dtype.kind != "f" else fill
            _create_virtual(file, name, (manifest.rows, *shape), dtype.type(value), layout)

    put(directory / INDEX, compose)


def _create_virtual(
    file: h5py.File, name: str, shape: tuple[int, ...], fill: Any, layout: Sequence[Segment]
) -> None:
    """A virtual dataset over the field of this name in every shard.

    HDF5's own functions: h5py's VirtualLayout takes five times as long, which counts where there
    are 100,000 shards.
    """
    space = h5py.h5s.create_simple(shape)
    sources = {
        count: h5py.h5s.create_simple((count, *shape[1:])) for count in {s.rows for s in layout}
    }
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_fill_value(np.asarray(fill))
    kind, key, origin = h5py.h5t.py_create(fill.dtype, logical=True), name.encode(), shape[1:]
    for first, count, path in layout:
        space.select_hyperslab((first, *(0 for _ in origin)), (count, *origin))
        plan.set_virtual(space, path.name.encode(), key, sources[count])
    h5py.h5d.create(file.id, key, kind, h5py.h5s.create_simple(shape), plan)


def index_fits(directory: Path, manifest: Manifest) -> bool:
    """Whether index.h5 is there and covers the planned rows."""
    try:
        with open_file(directory / INDEX) as file:
            return (
                file.attrs.get("rows") == manifest.rows
                and file.attrs.get("shards") == len(manifest.layout(directory))
                and "status" in file
            )
    except OSError:
        return False


def committed(directory: Path, layout: Iterable[Segment]) -> list[Segment]:
    """Those planned shards whose file is there."""
    there = {entry.name for entry in directory.iterdir()}
    return [segment for segment in layout if segment.path.name in there]


def prefix(segments: Sequence[Segment]) -> list[Segment]:
    """The longest run of segments without a gap from row 0 on."""
    out: list[Segment] = []
    for segment in segments:
        if segment.first != (out[-1].first + out[-1].rows if out else 0):
            break
        out.append(segment)
    return out


def _crc(values: Mapping[str, Any]) -> str:
    """The checksum of a manifest's values, whatever the order and layout of their text."""
    content = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return f"{zlib.crc32(content.encode()):08x}"
