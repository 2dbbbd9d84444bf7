"""What goes into a program and comes out of it: placeholders, tables of parameters, results."""

from __future__ import annotations

__all__ = ["Reader", "names_of", "reader_of", "render", "write_table"]

import csv
import json
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

_FORMAT = string.Formatter()


def names_of(text: str, known: set[str], where: str) -> set[str]:
    """The placeholders in a text.

    Raises:
        ValueError: If one is not known, or is more than a name and a format.
    """
    try:
        parts = list(_FORMAT.parse(text))
    except ValueError as error:
        raise ValueError(f"{where}: {error} in {text!r}; a brace itself is doubled") from None
    found = {name for _, name, _, _ in parts if name is not None}
    for _, name, spec, conversion in parts:
        if name is not None and (name not in known or conversion or "{" in (spec or "")):
            raise ValueError(
                f"{where}: {{{name}}} is no placeholder; there are {', '.join(sorted(known))}; "
                "a brace itself is doubled"
            )
    return found


def render(text: str, values: Mapping[str, Any]) -> str:
    """A text with values in the places of its placeholders; floats to their last digit."""
    parts = []
    for literal, name, spec, _ in _FORMAT.parse(text):
        parts.append(literal)
        if name is not None:
            parts.append(format(values[name], spec) if spec else str(values[name]))
    return "".join(parts)


def write_table(path: Path, names: Sequence[str], theta: np.ndarray) -> None:
    """Writes parameters (n, d) as CSV under a line with their names, floats to the last digit."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(theta.tolist())


@dataclass(frozen=True)
class Reader:
    """How a program's output becomes fields.

    Arguments:
        kind: "npy", "npz", "csv", "json", "hdf5"; or "" for a function of the caller's.
        suffix: The ending of its file.
        key: The array in an HDF5 file.
        own: A function of the file's path, or of the bytes of standard output.
    """

    kind: str
    suffix: str = ""
    key: str = ""
    own: Callable[[Any], Any] | None = None

    def __str__(self) -> str:
        return self.kind or "the caller's function has it"

    def read(self, path: Path, batched: bool, is_file: bool) -> Any:
        """The fields in a file, or in the standard output that a file holds."""
        if self.own is not None:
            return self.own(path if is_file else path.read_bytes())
        if self.kind == "csv":
            return _csv(path, batched)
        if self.kind == "hdf5":
            return _hdf5(path, self.key)
        return {"npy": _npy, "npz": _npz, "json": _json}[self.kind](path)


def reader_of(read: str | Callable[[Any], Any]) -> Reader:
    """The reader that a setting names.

    Raises:
        ValueError: If there is no such reader.
    """
    if callable(read):
        return Reader("", own=read)
    if read.startswith("hdf5:") and len(read) > 5:
        return Reader("hdf5", ".h5", read[5:])
    if read not in ("npy", "npz", "csv", "json"):
        raise ValueError(f"read is npy, npz, csv, json, hdf5:/key, or a function; got {read!r}")
    return Reader(read, f".{read}")


def _npy(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _csv(path: Path, batched: bool) -> np.ndarray:
    """Numbers (rows, columns), under a line of names or none; one row or column is a vector."""
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    if lines and not _is_numbers(lines[0]):
        lines = lines[1:]
    if not lines:
        raise ValueError("it holds no numbers")
    table = np.loadtxt(lines, delimiter="," if "," in lines[0] else None, ndmin=2)
    return table if batched or min(table.shape) > 1 else table.ravel()


def _is_numbers(line: str) -> bool:
    try:
        [float(word) for word in line.replace(",", " ").split()]
    except ValueError:
        return False
    return True


def _json(path: Path) -> Any:
    values = json.loads(path.read_text())
    if isinstance(values, dict):
        return {name: np.asarray(value) for name, value in values.items()}
    return np.asarray(values)


def _hdf5(path: Path, key: str) -> np.ndarray:
    with h5py.File(path, "r") as file:
        if not isinstance(file.get(key), h5py.Dataset):
            raise ValueError(f"it has no array {key!r}")
        return file[key][()]
