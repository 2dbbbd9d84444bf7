r"""Dataset: a table of rows (theta, x, latents ...) in HDF5 shards, read lazily.

A row belongs to train, validation or test by

.. math::
    u_i = 2^{-64}\, h(i \oplus k), \qquad k = \text{first 64 bits of the dataset's identity},

with h the finaliser of splitmix64: a function of row number and identity alone, so that
extending a dataset moves no row from one side to the other.
"""

from __future__ import annotations

__all__ = ["Column", "Dataset", "DatasetError", "Failure", "View"]

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .campaign.dependence import Dependence, Failures, dependence
from .campaign.timing import RECORD, read_times
from .field import Field
from .storage.arrays import as_stored, default_shard_size, fields_of, theta_field
from .storage.foreign import open_arrays, open_table
from .storage.manifest import (
    FILE,
    INDEX,
    Manifest,
    committed,
    identity_of,
    identity_of_rows,
    index_fits,
    prefix,
    write_index,
)
from .storage.rows import finite_rows, screen
from .storage.shard import (
    COLUMNS,
    GOOD,
    DatasetError,
    Failure,
    Segments,
    is_disk_full,
    read_failures,
    status_code,
    strangers,
    verify_shard,
    write_shard,
)
from .storage.view import Column, View

if TYPE_CHECKING:
    from .prior import Prior

logger = logging.getLogger("simgen")


class Dataset:
    """Rows of simulations: a directory that simgen wrote, or foreign files.

    Opening reads the manifest and the names of the shards, and no data.

    Arguments:
        path: The directory; or a foreign file (HDF5, .npy, .npz, ROOT, FITS), or a folder of .npy
            or .npz files, of which nothing is copied.
        fields: Of foreign files, arrays by the names that they have here: {"theta": "params",
            "x": "maps"}; of several, {"theta": ["mass", "width"]}, the columns side by side.
            NumPy arrays that have the names of fields need none.
        split: The shares of rows that train, validate and test; by a hash of the row number.
        prior: The prior, where the dataset cannot rebuild it.

    Attributes:
        path: Where it is.
        fields: Every field by name: theta first, then what is stored, then each parameter by its
            name.
        stored: The names of the fields that are stored.
        identity: A hash of simulator, prior, seed and block; of a foreign file, of its first rows.

    Raises:
        DatasetError: If there is no dataset, or it is damaged or of a newer version; if the split
            or the fields do not fit.
    """

    def __init__(
        self,
        path: str | Path,
        fields: Mapping[str, str | Sequence[str]] | None = None,
        split: Sequence[float] = (0.9, 0.1, 0.0),
        prior: Prior | None = None,
    ) -> None:
        self.path = Path(path)
        self.split = _checked_split(split)
        self._prior = prior
        self.chosen: np.ndarray | None = None  # rows to use, where not all are: see `rounds`
        self.truncation: dict[str, Any] | None = None  # of the prior that these rows follow
        if not self.path.exists():
            raise DatasetError(f"there is no dataset at {self.path}")
        if self.path.is_file() or _is_foreign(self.path):
            self._open_foreign(fields)
        elif fields is not None:
            raise DatasetError(
                f"fields= names the arrays of foreign files; {self.path} is a directory of ours, "
                "or of no NumPy files"
            )
        else:
            self._open_directory()

    def _open_directory(self) -> None:
        # shards before the manifest: what is listed was planned when the manifest is read
        there = {entry.name for entry in self.path.iterdir()}
        self.manifest: Manifest | None = Manifest.load(self.path)
        layout = self.manifest.layout(self.path)
        segments = prefix([s for s in layout if s.path.name in there])
        stored = dict(self.manifest.fields)
        if self._prior is not None and "theta" in stored:
            known = (self.manifest.prior or {}).get("names")
            if known is not None and tuple(known) != tuple(self._prior.names):
                raise DatasetError(
                    f"{self.path} has the parameters {', '.join(known)}; the given prior has "
                    f"{', '.join(self._prior.names)}"
                )
            stored["theta"] = theta_field(stored["theta"].shape[0], self._prior)
        self.identity = self.manifest.identity
        sources = {k: k for k in (*stored, *COLUMNS)}
        self._segments = Segments(segments, sources, identity=self.identity)
        self._set_fields(stored)

    def _open_foreign(self, fields: Mapping[str, str | Sequence[str]] | None) -> None:
        self.manifest = None
        segments, sources, first = open_table(self.path, fields)
        self._segments = Segments(segments, sources, opener=open_arrays)
        self._set_fields(fields_of(first, self._prior, str(self.path)))
        self.identity = identity_of_rows({k: as_stored(v, k) for k, v in first.items()})

    def _set_fields(self, stored: dict[str, Field]) -> None:
        theta = stored.get("theta")
        self.stored = (
            *(("theta",) if theta is not None else ()),
            *(k for k in stored if k != "theta"),
        )
        self.fields = {name: stored[name] for name in self.stored}
        self._parameters: dict[str, int] = {}
        for i, name in enumerate((theta.names or ()) if theta is not None else ()):
            assert theta is not None
            if name in self.fields:
                raise DatasetError(f"{self.path}: {name!r} is both a field and a parameter")
            low, high = theta.support or (None, None)
            pair = tuple(b[i] if isinstance(b, tuple) else b for b in (low, high))
            self._parameters[name] = i
            self.fields[name] = Field(
                (),
                support=None if pair == (None, None) else pair,
                names=(name,),
                labels=None if theta.labels is None else (theta.labels[i],),
                units=None if theta.units is None else (theta.units[i],),
                dtype=theta.dtype,
            )

    @classmethod
    def create(
        cls,
        path: str | Path,
        theta: Any = None,
        x: Any = None,
        prior: Prior | None = None,
        declared: Mapping[str, Field] | None = None,
        **fields: Any,
    ) -> Dataset:
        """Writes a dataset from arrays.

        Arguments:
            path: The directory to make.
            theta: Parameters (n, d); None for an unconditional dataset.
            x: The observable (n, ...); like every field an array, or anything that has a NumPy
                dtype and slices, such as a column of a dataset: it is read a shard at a time.
            prior: The prior that theta was drawn from.
            declared: Layouts, names and units of fields, where they are not to be inferred.
            **fields: More fields (n, ...): latents, `weight`, `x_length` ...

        Raises:
            DatasetError: If the directory is not empty, or the arrays do not fit together.
        """
        path = Path(path)
        arrays = {k: v for k, v in {"theta": theta, "x": x, **fields}.items() if v is not None}
        if "x" not in arrays:
            raise DatasetError("a dataset needs the field 'x': Dataset.create(path, x=...)")
        sliced = {
            k: v if isinstance(getattr(v, "dtype", None), np.dtype) else np.asarray(v)
            for k, v in arrays.items()
        }
        lengths = {k: len(v) if v.shape else 0 for k, v in sliced.items()}
        n = lengths["x"]
        if len(set(lengths.values())) != 1 or n == 0:
            raise DatasetError(f"fields need the same number of rows, at least one; got {lengths}")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise DatasetError(f"{path} is there already: choose another path")
        columns = _stored_rows(sliced, 0, 256)
        described = fields_of(columns, prior, str(path), declared)
        block = 256
        manifest = Manifest(
            kind="arrays",
            simulator=None,
            prior=None if prior is None or "theta" not in columns else prior.to_dict(),
            fields=described,
            seed=None,
            block=block,
            shard_size=default_shard_size(described, block),
            plans=(n,),
            identity=identity_of_rows(columns),
        )
        try:
            manifest.create(path)
            write_index(path, manifest)
            for first, count, _ in manifest.layout(path):
                rows, status, failures = screen(_stored_rows(sliced, first, count), first)
                write_shard(path, first, rows, status, failures)
        except BaseException as error:
            _discard(path, manifest)
            if isinstance(error, OSError):
                raise write_error(path, error, "nothing is kept") from error
            raise
        dataset = cls(path, prior=prior)
        dataset._report_failures()
        return dataset

    def __len__(self) -> int:
        return self._segments.count

    def __getitem__(self, name: str) -> Column:
        self._check(name)
        return Column(self, name)

    def _check(self, name: str) -> None:
        if name not in self.fields:
            raise DatasetError(
                f"{self.path} has no field {name!r}; it has {', '.join(self.fields)}"
            )

    def _source(self, name: str) -> tuple[str, Any]:
        column = self._parameters.get(name)
        return (name, None) if column is None else ("theta", column)

    def _read_range(
        self, name: str, start: int, stop: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        source, column = self._source(name)
        if out is not None and column is None:
            return self._segments.read(source, start, stop, out)
        if out is not None:
            out[...] = self._read_range(name, start, stop)
            return out
        out = self._empty(source, max(0, stop - start))
        if len(out):
            self._segments.read(source, start, stop, out)
        return out if column is None else np.ascontiguousarray(out[:, column])

    def read_rows(self, name: str, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The entries of a field at increasing row numbers, by contiguous reads, in `out`."""
        source, column = self._source(name)
        if column is None:
            return self._segments.gather(
                source, rows, self._empty(source, len(rows)) if out is None else out
            )
        values = self._segments.gather(source, rows, self._empty(source, len(rows)))[:, column]
        if out is None:
            return np.ascontiguousarray(values)
        out[...] = values
        return out

    def _empty(self, name: str, n: int) -> np.ndarray:
        field = self.fields[name]
        return np.empty((n, *field.shape), dtype=field.dtype or "float32")

    @cached_property
    def status(self) -> np.ndarray:
        """0 for a good row, else a code, shape (n,)."""
        if self.manifest is not None:
            out = np.empty(len(self), dtype=np.uint8)
            return self._segments.read("status", 0, len(self), out) if len(out) else out
        good = np.ones(len(self), dtype=bool)
        for name in self.stored:
            step = max(1, (16 << 20) // max(1, 4 * self.fields[name].size))
            for start in range(0, len(self), step):
                stop = min(start + step, len(self))
                good[start:stop] &= finite_rows(self._read_range(name, start, stop))
        if not good.all():
            logger.warning(
                "%s: %d of %d rows hold NaN or infinity and are left out",
                self.path,
                (~good).sum(),
                len(good),
            )
        return np.where(good, GOOD, status_code("nonfinite")).astype(np.uint8)

    def _report_failures(self) -> None:
        if bad := int(np.count_nonzero(self.status)):
            logger.warning("%s: %d of %d rows failed and are left out", self.path, bad, len(self))

    @cached_property
    def _position(self) -> np.ndarray:
        """Where each row lies in [0, 1), shape (n,)."""
        h = np.arange(len(self), dtype=np.uint64) ^ np.uint64(int(self.identity[:16], 16))
        with np.errstate(over="ignore"):
            h += np.uint64(0x9E3779B97F4A7C15)
            h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((h ^ (h >> np.uint64(31))) >> np.uint64(11)) / 2.0**53

    def _side(self, i: int) -> View:
        ends = np.concatenate([[0.0], np.cumsum(self.split).round(12)])
        chosen = (self._position >= ends[i]) & (self._position < ends[i + 1])
        return View(self, ("train", "validation", "test")[i], self._good_rows(chosen))

    def _good_rows(self, chosen: np.ndarray | bool = True) -> np.ndarray:
        """Numbers of the good rows among those that are chosen."""
        wanted = True if self.chosen is None else self.chosen
        return np.flatnonzero(chosen & (self.status == GOOD) & wanted)

    @cached_property
    def train(self) -> View:
        """The good rows to train on."""
        return self._side(0)

    @cached_property
    def validation(self) -> View:
        """The good rows to validate on."""
        return self._side(1)

    @cached_property
    def test(self) -> View:
        """The good rows to test on."""
        return self._side(2)

    @cached_property
    def good(self) -> View:
        """All good rows."""
        return View(self, "good", self._good_rows())

    @property
    def failures(self) -> Failures:
        """The failed rows: number, kind, message, parameters, seed, the last lines of the error;
        `failures.dependence()` tells whether they depend on theta.
        """
        if self.manifest is None:
            message = "NaN or infinity in a field"
            found = [Failure(int(i), "nonfinite", message) for i in np.flatnonzero(self.status)]
        else:
            segments = self._segments.segments
            bad = [s for s in segments if self.status[s.first : s.first + s.rows].any()]
            seed = self.manifest.seed
            found = [failure for segment in bad for failure in read_failures(segment.path, seed)]
        if "theta" in self.fields and found:
            theta = self.read_rows("theta", np.array([failure.row for failure in found]))
            found = [failure._replace(theta=row) for failure, row in zip(found, theta)]
        return Failures(found, self)

    def dependence(self) -> list[Dependence]:
        """Whether failures and run times depend on theta: one answer a parameter."""
        if "theta" not in self.fields or not len(self):
            return []
        names = self.fields["theta"].names or ()
        simulated = self.manifest is not None
        times = read_times(self.path, len(self)) if simulated else np.empty(0, RECORD)
        return dependence(self["theta"][:], names, self.status != GOOD, times)

    @cached_property
    def prior(self) -> Prior | None:
        """The prior over theta; None without theta.

        Raises:
            DatasetError: If it cannot be rebuilt from the file: give it when opening.
        """
        if self._prior is not None:
            return self._prior
        if "theta" not in self.fields:
            return None
        stored = None if self.manifest is None else self.manifest.prior
        if stored is None or "factors" not in stored:
            names = ", ".join(self.fields["theta"].names or ())
            raise DatasetError(
                f"{self.path} does not hold its prior over {names} in full: open it with "
                f"Dataset(path, prior=...)"
            )
        from .prior import Prior

        return Prior.from_dict(stored)

    @property
    def prior_rules(self) -> list[dict[str, Any]] | None:
        """The bijection of each parameter to R, as JSON values; None where no prior is known."""
        if "theta" not in self.fields:
            return None
        if self._prior is not None:
            return list(self._prior.bijection.rules)
        stored = None if self.manifest is None else self.manifest.prior
        return None if stored is None else list(stored["bijection"])

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """First row, observation and proposal of each round; the first round follows the prior."""
        return [] if self.manifest is None else self.manifest.rounds

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the rows come from: simulator, settings, seed, versions ... as JSON values."""
        out: dict[str, Any] = {
            "path": str(self.path),
            "identity": self.identity,
            "count": len(self),
        }
        if self.manifest is None:
            return {**out, "kind": "foreign", "sources": dict(self._segments.sources)}
        m = self.manifest
        keys = (
            "kind simulator prior seed block shard_size rows rounds keep versions created".split()
        )
        return {**out, **{k: getattr(m, k) for k in keys}}

    def verify(self) -> list[str]:
        """Reads everything; what is missing, damaged or of another origin, empty if nothing is."""
        if self.manifest is None:
            try:
                for name in self.stored:
                    for start in range(0, len(self), 4096):
                        self._read_range(name, start, min(start + 4096, len(self)))
            except DatasetError as error:
                return [str(error)]
            return []
        layout = self.manifest.layout(self.path)
        there = {segment.first for segment in committed(self.path, layout)}
        problems = []
        for first, count, path in layout:
            if first not in there:
                problems.append(f"{path.name} is missing: rows {first} to {first + count - 1}")
            else:
                problems += verify_shard(path, first, count, self.manifest.fields, self.identity)
        proposals = [entry["proposal"] for entry in self.manifest.rounds[1:]]
        problems += _damaged_regions(self.path, proposals)
        planned = [segment.path.name for segment in layout]
        problems += strangers(self.path, [*planned, *(p["file"] for p in proposals)])
        if not _is_consistent(self.manifest):
            problems.append("dataset.json is damaged: its identity is of other contents")
        if not index_fits(self.path, self.manifest):
            problems.append(
                "index.h5 is missing, damaged, or of other rows: simulate() rewrites it"
            )
        return problems

    def close(self) -> None:
        """Closes the files that reading has opened; reading opens them again."""
        self._segments.close()

    def __repr__(self) -> str:
        inside = ", ".join(f"{k} {self.fields[k].shape}" for k in self.stored)
        return f"Dataset({str(self.path)!r}: {len(self)} rows of {inside})"


def write_error(path: Path, error: OSError, kept: str = "nothing is lost") -> DatasetError:
    """An operating-system error in writing, as one sentence."""
    if is_disk_full(error):
        return DatasetError(
            f"the disk of {path} is full ({kept}): free some space and run the same command again"
        )
    return DatasetError(f"{path} cannot be written: {error} ({kept})")


def _damaged_regions(path: Path, proposals: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the files that say where rounds were simulated."""
    problems = []
    for proposal in proposals:
        file = path / proposal["file"]
        if not file.is_file():
            problems.append(f"{file.name} is missing: it says where a round was simulated")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != proposal["sha256"]:
            problems.append(f"{file.name} is damaged: it is not what was written")
    return problems


def _is_consistent(manifest: Manifest) -> bool:
    """Whether the identity of simulated rows is of what the manifest says."""
    m = manifest
    if m.simulator is None or m.seed is None:
        return m.kind == "arrays"
    return identity_of(m.simulator, m.prior, m.seed, m.block) == m.identity


def _is_foreign(path: Path) -> bool:
    """Whether a folder is one of NumPy files, and no dataset."""
    names = [entry.name for entry in path.iterdir()]
    return FILE not in names and any(name.endswith((".npy", ".npz")) for name in names)


def _stored_rows(columns: Mapping[str, Any], first: int, count: int) -> dict[str, np.ndarray]:
    """Rows of arrays as a shard holds them."""
    out = {}
    for name, column in columns.items():
        rows = as_stored(np.ascontiguousarray(column[first : first + count]), name)
        out[name] = rows[:, None] if name == "theta" and rows.ndim == 1 else rows
    return out


def _discard(path: Path, manifest: Manifest) -> None:
    """Removes what creating a dataset has written so far."""
    names = [FILE, INDEX, *(segment.path.name for segment in manifest.layout(path))]
    with suppress(OSError):
        for name in names:
            (path / name).unlink(missing_ok=True)
        path.rmdir()


def _checked_split(split: Sequence[float]) -> tuple[float, ...]:
    shares = tuple(float(s) for s in split)
    if len(shares) != 3 or min(shares) < 0 or not 0 < sum(shares) <= 1 + 1e-9:
        raise DatasetError(
            f"split is the shares of train, validation and test, at most 1 in all; got "
            f"{tuple(split)}"
        )
    total = sum(shares)
    return tuple(s / total for s in shares) if total > 1 else shares
