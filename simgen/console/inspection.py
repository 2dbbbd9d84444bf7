"""Inspection: what a file or directory of simgen's holds, as titled tables of text."""

from __future__ import annotations

__all__ = ["Section", "inspect", "plus_minus", "summary_section"]

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py

from ..field import Field
from ..storage.importing import read_npz
from ..storage.locking import holder
from ..storage.manifest import committed
from ..storage.shard import Segment, open_file, read_failures

if TYPE_CHECKING:
    from ..campaign.dependence import Dependence
    from ..dataset import Dataset

FACTS = ("", "")
_GAPS = 6  # runs of missing rows to list
_MAGIC = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Section:
    """A title and a table of text; its header is FACTS where it is a list of names and values."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def inspect(path: str | os.PathLike[str], failures: bool = False) -> list[Section]:
    """What a dataset, a model, a checkpoint, samples or another HDF5 or NumPy file holds.

    Arguments:
        path: The file or directory.
        failures: Of a dataset, list its failed rows instead.

    Raises:
        ValueError: If it is nothing that can be read.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"there is no {path}")
    if failures and not path.is_dir():
        raise ValueError(f"{path} is no dataset: only datasets have failed rows")
    if path.is_dir():
        return _failures(path) if failures else _dataset(path)
    with open(path, "rb") as file:
        start = file.read(8)
    if start == _MAGIC:
        return _hdf5(path)
    if start[:2] == b"PK":
        return _arrays(path)
    return _model(path)


def _fields(fields: Mapping[str, Field], title: str = "fields") -> Section:
    header = ("name", "shape", "layout", "type", "columns")
    rows = []
    for name, field in fields.items():
        columns = [
            f"{k} [{unit}]" if unit else k
            for k, unit in zip(field.names or (), field.units or ("",) * field.columns)
        ]
        more = "variable" if f"{name}_length" in fields else ""
        layout = f"{field.layout} {more}".strip()
        rows.append((name, str(field.shape), layout, field.dtype or "float32", ", ".join(columns)))
    return Section(title, header, rows)


def _dataset(path: Path) -> list[Section]:
    from ..dataset import Dataset

    dataset = Dataset(path)
    about = dataset.provenance
    origin = about["simulator"] or {}
    size = sum(file.stat().st_size for file in path.glob("*.h5"))
    facts = [
        ("rows", f"{len(dataset)} of {about['rows']} planned"),
        *_progress(dataset),
        ("simulator", origin.get("name") or "none: made from arrays"),
        ("settings", json.dumps(origin.get("settings", {}))),
        ("seed, block", f"{about['seed']}, {about['block']}"),
        ("identity", dataset.identity),
        ("size", f"{size / 1e6:.1f} MB"),
        ("created", f"{about['created']}, {_versions(about['versions'])}"),
    ]
    stored = {k: dataset.fields[k] for k in dataset.stored}
    sections = [Section(f"dataset {path}", FACTS, facts), _fields(stored)]
    return [*sections, _rounds(dataset)] if len(dataset.rounds) > 1 else sections


def _rounds(dataset: Dataset) -> Section:
    """Where each round of simulations was."""
    ends = [*(entry["first"] for entry in dataset.rounds[1:]), len(dataset)]
    rows = []
    for k, (entry, end) in enumerate(zip(dataset.rounds, ends)):
        p = entry["proposal"]
        where = ("1", "", "") if p is None else (f"{p['volume']:.3g}", p["origin"], p["file"])
        rows.append((str(k), str(entry["first"]), str(max(0, end - entry["first"])), *where))
    seen = json.dumps(dataset.rounds[1]["observation"])
    header = ("round", "first row", "rows", "share of the prior", "drawn from", "region")
    return Section(f"rounds for {seen[:100]}{'...' * (len(seen) > 100)}", header, rows)


def _progress(dataset: Dataset) -> list[tuple[str, str]]:
    """What is done, missing and failed of a campaign, and who is at work on it."""
    assert dataset.manifest is not None
    planned = dataset.manifest.layout(dataset.path)
    there = committed(dataset.path, planned)
    kinds: Counter[str] = Counter()
    for segment in there:
        with open_file(segment.path) as file:
            if file["status"][()].any():
                kinds.update(failure.kind for failure in read_failures(segment.path))
    said = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    facts = [
        ("shards", f"{len(there)} of {len(planned)}, {sum(s.rows for s in there)} rows"),
        ("missing rows", _gaps(planned, {s.first for s in there})),
        (
            "failed rows",
            f"{kinds.total()}" + (f": {said} (--failures lists them)" if said else ""),
        ),
    ]
    for file in sorted(dataset.path.glob(".part-*.lock")):
        if (who := holder(file)) is not None:
            part = file.name.removeprefix(".part-").removesuffix(".lock").replace("-of-", "/")
            where = f"process {who.get('pid')} on {who.get('host')}, since {who.get('since')}"
            facts.append(("at work", f"part {part}: {where}"))
    return facts


def _gaps(planned: Sequence[Segment], there: set[int]) -> str:
    """Runs of planned rows that are not there, in words."""
    gaps: list[tuple[int, int]] = []
    for first, rows, _ in planned:
        if first in there:
            continue
        if gaps and gaps[-1][1] == first:
            gaps[-1] = (gaps[-1][0], first + rows)
        else:
            gaps.append((first, first + rows))
    runs = [f"{a} to {b - 1}" for a, b in gaps[:_GAPS]] + ["..."] * (len(gaps) > _GAPS)
    total = sum(b - a for a, b in gaps)
    return f"{total}" + (f": {', '.join(runs)}" if gaps else "")


def _failures(path: Path) -> list[Section]:
    from ..dataset import Dataset

    dataset = Dataset(path)
    failures = dataset.failures
    names = list(dataset.fields["theta"].names or ()) if "theta" in dataset.fields else []
    rows = []
    for failure in failures:
        theta = dataset["theta"][failure.row] if names else ()
        rows.append(
            (str(failure.row), failure.kind, *(f"{t:.5g}" for t in theta), failure.message)
        )
    title = f"{len(failures)} of {len(dataset)} rows of {path} failed"
    found = Section(title, ("row", "kind", *names, "message"), rows)
    tested = [_tested(d) for d in failures.dependence()]
    header = ("parameter", "most failures", "failed there", "elsewhere", "p", "run time, s", "p")
    about = "whether failures and run times depend on the parameters"
    return [found, Section(about, header, tested)] if tested else [found]


def _tested(d: Dependence) -> tuple[str, ...]:
    """A parameter's row in the table of what failures and run times depend on."""
    rare = ("", "", "", "")
    if d.p_failure is not None:
        rare = (d.where, f"{d.inside:.2%}", f"{d.outside:.2%}", f"{d.p_failure:.2g}")
    timed = ("", "")
    if d.p_time is not None:
        timed = (f"{min(d.seconds):.2g} ... {max(d.seconds):.2g}", f"{d.p_time:.2g}")
    return (d.name, *rare, *timed)


def _model(path: Path) -> list[Section]:
    import safetensors

    from ..conditional import read_model_header

    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is no dataset, model or samples of simgen's, or it is damaged: {error}"
        ) from None
    peek = json.loads(metadata.get("simgen", "{}"))
    if "identity" in peek:
        return [_checkpoint(path, peek)]
    header = read_model_header(path)
    about = header["provenance"]
    data, training = about.get("dataset", {}), about.get("training", {})
    chosen = dict(header["family"])
    name = chosen.pop("name")
    said = ", ".join(f"{k}={v}" for k, v in chosen.items() if v is not None)
    facts = [
        ("expression", str(header["expression"])),
        ("family", f"{name}({said})"),
        ("parameters", f"{training.get('parameters', 0):,}"),
        ("trained on", f"{training.get('rows')} of {data.get('rows')} rows of {data.get('path')}"),
        ("dataset", str(data.get("identity"))),
        ("simulator", str((data.get("simulator") or {}).get("name"))),
        ("training", _training(training)),
        ("seed", str(about.get("seed"))),
        ("created", f"{about.get('created')}, {_versions(about.get('versions', {}))}"),
        ("verdict", _verdict(header["verdict"])),
    ]
    fields = {k: Field.from_dict(v) for k, v in header["fields"].items()}
    sections = [Section(f"model {path}", FACTS, facts), _fields(fields)]
    return sections if header["verdict"] is None else [*sections, _checks(header["verdict"])]


def _training(about: Mapping[str, Any]) -> str:
    if not about:
        return "unknown"
    return (
        f"{about['epochs']} epochs in {about['seconds']:.1f} s on {about['device']}, "
        f"held-out loss {about['best_validation_loss']:.4f} nats"
    )


def _verdict(values: Mapping[str, Any] | None) -> str:
    if values is None:
        return "none: simgen calibrate has not judged it"
    from ..calibration import Verdict

    return Verdict.from_dict(values).headline


def _checks(values: Mapping[str, Any]) -> Section:
    """The table of a verdict."""
    words = {True: "pass", False: "FAIL", None: ""}
    rows = []
    for row in values["table"]:
        p, q = ("—" if row[k] is None else f"{row[k]:.2g}" for k in ("p_value", "p_corrected"))
        found = (p, q, words[row["passed"]], row["finding"])
        rows.append((row["check"], row["parameter"], f"{row['statistic']:.3f}", *found))
    title = f"verdict: {values['source']}"
    header = ("check", "parameter", "statistic", "p", "corrected p", "", "finding")
    return Section(title, header, rows)


def _checkpoint(path: Path, header: Mapping[str, Any]) -> Section:
    identity, history = header["identity"], header["history"]
    facts = [
        ("expression", identity["expression"]),
        ("family", json.dumps(identity["family"])),
        ("dataset", f"{identity['dataset']}, {identity['rows']} rows"),
        ("seed", str(identity["seed"])),
        ("reached", f"step {header['step']}, {len(history['epoch'])} epochs"),
        ("held-out loss", ", ".join(f"{loss:.4f}" for loss in header["best_loss"])),
        ("time so far", f"{header['elapsed']:.1f} s"),
    ]
    return Section(f"checkpoint of a fit {path}", FACTS, facts)


def _hdf5(path: Path) -> list[Section]:
    from ..samples import Samples
    from ..storage.shard import open_file

    try:
        with open_file(Path(path)) as file:
            ours = file.attrs.get("simgen") == "samples"
            arrays: list[tuple[str, str, str]] = []
            if not ours:
                file.visititems(lambda name, item: _visit(arrays, name, item))
    except OSError as error:
        raise ValueError(f"{path} is a damaged HDF5 file: {error}") from None
    if not ours:
        title = f"HDF5 file {path}: simgen import makes a dataset of it"
        return [Section(title, ("array", "shape", "type"), arrays)]
    samples = Samples.load(path)
    title = f"samples {path}: {len(samples)} draws, effective number {samples.ess:.0f}"
    if not samples.names:
        return [Section(title, FACTS, [("shape of a draw", str(samples.draws.shape[1:]))])]
    return [summary_section(title, samples.summary())]


def _visit(arrays: list[tuple[str, str, str]], name: str, item: Any) -> None:
    if isinstance(item, h5py.Dataset):
        arrays.append((name, str(item.shape), str(item.dtype)))


def summary_section(title: str, summary: Sequence[Mapping[str, Any]]) -> Section:
    """A summary of samples as a table; truth and pull where the truth is known."""
    known = "truth" in summary[0]
    rows = []
    for row in summary:
        cells = [row["name"], row["unit"], plus_minus(row["mean"], row["sd"])]
        cells += [f"{row['median']:.4g}", f"{row['low']:.4g} ... {row['high']:.4g}"]
        if known:
            cells += [f"{row['truth']:.4g}", f"{row['pull']:+.2f}"]
        rows.append(tuple(cells))
    header = ("parameter", "unit", "mean ± sd", "median", "68 %")
    return Section(title, header + (("truth", "pull") if known else ()), rows)


def plus_minus(mean: float, sd: float) -> str:
    """A mean and its standard deviation, to two digits of the latter.

    Examples:
        >>> plus_minus(0.118352, 0.002603)
        '0.1184 ± 0.0026'
    """
    if not 1e-5 < sd < 1e5:
        return f"{mean:.4g} ± {sd:.2g}"
    places = max(0, 1 - math.floor(math.log10(sd)))
    return f"{mean:.{places}f} ± {sd:.{places}f}"


def _arrays(path: Path) -> list[Section]:
    rows = [(k, str(v.shape), str(v.dtype)) for k, v in read_npz(path).items()]
    title = f"NumPy file {path}: simgen import makes a dataset of it"
    return [Section(title, ("array", "shape", "type"), rows)]


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{k} {v}" for k, v in versions.items())
