"""Observation: the given fields of a trained conditional as files and text, and draws as files.

An observation is a file (.npy, .npz, .csv, .json), a row of a dataset (`DIR:ROW`), or numbers
(`0.3,0.8`); `field=...` says which field it is where there are several. A .npz or .json file holds
arrays by the names of the fields; a .json file may hold a vector by the names of its columns.
"""

from __future__ import annotations

__all__ = ["SUFFIXES", "Observation", "draw_samples", "read_observation", "write_samples"]

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..field import Field
from ..storage.importing import read_npz

if TYPE_CHECKING:
    from ..conditional import Conditional
    from ..samples import Samples

SUFFIXES = (".npy", ".npz", ".csv", ".json")


class Observation(NamedTuple):
    """Values of the given fields by name, and the true target where it is known."""

    given: dict[str, np.ndarray]
    truth: np.ndarray | None = None


def read_observation(texts: Sequence[str], conditional: Conditional) -> Observation:
    """The given fields of a trained conditional, as written on a command line.

    Arguments:
        texts: One for all fields, or one a field as `field=...`.
        conditional: What they are given to.

    Raises:
        ValueError: If a file cannot be read, or does not hold the field with its shape.
    """
    names = conditional.given
    given: dict[str, np.ndarray] = {}
    truth = None
    if not names and texts:
        raise ValueError(f"{conditional.expression!r} is given nothing: leave --given out")
    for text in texts:
        field, found, rest = text.partition("=")
        wanted: tuple[str, ...] = names
        if found and field in names:
            text, wanted = rest, (field,)
        row = _row(text, wanted, conditional)
        if row is not None:
            given |= row.given
            truth = row.truth if len(texts) == 1 else None
        else:
            given |= _values(text, {k: conditional.fields[k] for k in wanted})
    if missing := [k for k in names if k not in given]:
        raise ValueError(
            f"{conditional.expression!r} needs the field {missing[0]!r}: --given {missing[0]}=FILE"
        )
    return Observation(given, truth)


def _row(text: str, names: Sequence[str], conditional: Conditional) -> Observation | None:
    """The row of a dataset that `DIR:ROW` names; None if the text is nothing of the kind."""
    where, _, number = text.rpartition(":")
    if not where or not number.lstrip("-").isdigit() or not Path(where).is_dir():
        return None
    from ..dataset import Dataset

    dataset, row = Dataset(where), int(number)
    if not -len(dataset) <= row < len(dataset):
        raise ValueError(f"{where} has the rows 0 to {len(dataset) - 1}; got {row}")
    if dataset.status[row]:
        raise ValueError(f"row {row} of {where} failed: choose another")
    given = {k: dataset[k][row] for k in names}
    for name in names:
        length = f"{name}_length"
        if length in dataset.fields:
            given[length] = dataset[length][row]
    truth = None
    if all(k in dataset.fields for k in conditional.target):
        parts = [np.ravel(dataset[k][row]) for k in conditional.target]
        truth = np.concatenate(parts)
    return Observation(given, truth)


def _values(text: str, wanted: Mapping[str, Field]) -> dict[str, np.ndarray]:
    """The fields that a file holds, or that are written out as numbers."""
    path = Path(text)
    if not path.is_file():
        try:
            held: Any = np.array([float(part) for part in text.split(",")])
        except ValueError:
            raise ValueError(
                f"no observation {text!r}: give a file ({', '.join(SUFFIXES)}), a row of a "
                "dataset as DIR:ROW, or numbers with commas"
            ) from None
    else:
        held = _read(path)
    if not isinstance(held, dict):
        if len(wanted) != 1:
            raise ValueError(
                f"{text} holds one array; say which field it is, of {', '.join(wanted)}: "
                f"--given FIELD={text}"
            )
        return {k: _shaped(held, field, k, text) for k, field in wanted.items()}
    out = {}
    for name, field in wanted.items():
        if name in held:
            out[name] = _shaped(held[name], field, name, text)
        elif field.names and all(k in held for k in field.names):
            out[name] = _shaped([held[k] for k in field.names], field, name, text)
        elif len(wanted) == len(held) == 1:
            out[name] = _shaped(next(iter(held.values())), field, name, text)
        else:
            raise ValueError(f"{text} holds {', '.join(held) or 'nothing'}; wanted {name!r}")
        if f"{name}_length" in held:
            out[f"{name}_length"] = np.asarray(held[f"{name}_length"])
    return out


def _read(path: Path) -> Any:
    """What a file holds: an array, or a dict of arrays."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if suffix == ".npz":
            return read_npz(path)
        if suffix == ".json":
            return json.loads(path.read_text("utf-8"))
        if suffix == ".csv":
            return _table(path.read_text("utf-8"))
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as {suffix}: {error}") from None
    raise ValueError(f"{path} is no observation: the file types are {', '.join(SUFFIXES)}")


def _table(text: str) -> np.ndarray:
    """Rows of numbers with commas or blanks between; a first line of names is left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    rows = [line.replace(",", " ").split() for line in lines]
    try:
        [float(v) for v in rows[0]]
    except (ValueError, IndexError):
        rows = rows[1:]
    if not rows or len({len(row) for row in rows}) != 1:
        raise ValueError("the rows have different numbers of columns, or there are none")
    return np.array([[float(v) for v in row] for row in rows])


def _shaped(value: Any, field: Field, name: str, where: str) -> np.ndarray:
    """A value with the axes of one row of a field; axes of one entry may be too many."""
    try:
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind not in "iub" else array
    except (TypeError, ValueError):
        raise ValueError(f"{where}: field {name!r} is no array of numbers") from None
    event = field.shape
    if array.size == field.size and [k for k in array.shape if k > 1] == [
        k for k in event if k > 1
    ]:
        return array.reshape(event)
    short = field.layout in ("set", "series") and array.ndim == len(event)
    if short and array.shape[1:] == event[1:] and 0 < array.shape[0] <= event[0]:
        return array
    raise ValueError(f"{where}: field {name!r} must have shape {event}; got {array.shape}")


def draw_samples(
    conditional: Conditional, given: Mapping[str, np.ndarray], n: int, seed: int
) -> Samples:
    """Draws from a conditional, with the names, labels and units of its target."""
    from ..samples import Samples

    q = conditional(**given)
    said = {k: getattr(conditional, k) for k in ("names", "labels", "units")}
    return Samples.draw(q, n, seed, **(said if len(q.event_shape) == 1 else {}))


def write_samples(samples: Samples, path: Path) -> None:
    """Writes samples by the file's type: .csv, .npy, .npz, else HDF5.

    Raises:
        ValueError: If the draws have more axes than the type can hold.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        if not samples.names:
            raise ValueError(f"draws of shape {samples.draws.shape[1:]} need .npy, .npz or .h5")
        header = ",".join(samples.names)
        np.savetxt(path, samples.draws, fmt="%.9g", delimiter=",", header=header, comments="")
    elif suffix == ".npy":
        np.save(path, samples.draws)
    elif suffix == ".npz":
        np.savez(path, draws=samples.draws, names=np.array(samples.names, dtype=str))
    else:
        samples.save(path)
