"""Foreign files: arrays that others have written, read where they lie.

A file, or a folder, is a mapping from names to arrays with a leading row axis: HDF5 of any layout
(columns of compound tables as "table/column"), .npy and .npz files or a folder of them, ROOT trees
("tree/branch"), FITS images and tables ("hdu/column"). Several names are stacked behind the row
axis: columns become a vector, maps the channels of an image. A jagged branch of a tree is padded
with zeros, and "#branch" is its lengths.

A folder of .npz files is one table, its files end to end in the order of their names.
"""

from __future__ import annotations

__all__ = ["Arrays", "Spec", "open_arrays", "open_table"]

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from .numpy_files import open_npy, open_npz
from .shard import DatasetError, Segment, open_file

Spec = str | tuple[str, ...]
"""The name of an array in a file; or several, which are stacked."""

_FITS = re.compile(r".*\.(fits|fit|fts)(\.gz|\.fz)?", re.IGNORECASE)


class Arrays(ABC):
    """The arrays of one open file.

    Arguments:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def names(self) -> list[str]:
        """The names of its arrays."""

    @abstractmethod
    def array(self, name: str) -> Any:
        """An array: it has a shape, a dtype, and slices of rows.

        Raises:
            KeyError: If there is none of this name.
        """

    @abstractmethod
    def close(self) -> None:
        """Gives back what is open."""

    def __getitem__(self, spec: Spec) -> Any:
        return self.array(spec) if isinstance(spec, str) else Stacked([self[k] for k in spec])

    def described(self) -> str:
        """What it holds, in words."""
        return ", ".join(f"{name} {self[name].shape}" for name in self.names()) or "no arrays"


class Stacked:
    """Arrays (n, ...) of one shape side by side: (n, k, ...); jagged ones (n, K): (n, K, k)."""

    def __init__(self, arrays: Sequence[Any]) -> None:
        if len({tuple(a.shape) for a in arrays}) != 1:
            raise ValueError(f"arrays of shapes {', '.join(str(a.shape) for a in arrays)}")
        self.arrays = arrays
        self.axis = 2 if hasattr(arrays[0], "lengths") else 1
        one = tuple(arrays[0].shape)
        self.shape = (*one[: self.axis], len(arrays), *one[self.axis :])
        self.dtype = np.result_type(*(a.dtype for a in arrays))
        if self.axis == 2:
            self.lengths = arrays[0].lengths

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.stack([a[rows] for a in self.arrays], self.axis)


class HDF5(Arrays):
    """An HDF5 file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.file = open_file(path)

    def names(self) -> list[str]:
        """Every array with rows, in any group; of a compound one, its columns."""
        found: list[str] = []

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.dtype.names:
                found.extend(f"{name}/{column}" for column in item.dtype.names)
            elif isinstance(item, h5py.Dataset):
                found.append(name)

        self.file.visititems(visit)
        return found

    def array(self, name: str) -> Any:
        """An array, or a column of a compound one."""
        item = self.file.get(name)
        if isinstance(item, h5py.Dataset):
            return item
        table, _, column = name.rpartition("/")
        item = self.file.get(table) if table else None
        if not isinstance(item, h5py.Dataset) or column not in (item.dtype.names or ()):
            raise KeyError(name)
        return _Column(item, column)

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


class _Column:
    """A column of a compound array."""

    def __init__(self, table: h5py.Dataset, name: str) -> None:
        self._rows = table.fields(name)
        kind = table.dtype[name]
        self.shape, self.dtype = (*table.shape, *kind.shape), kind.base

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.asarray(self._rows[rows])


class Numpy(Arrays):
    """A .npy or .npz file, or a folder of .npy files, mapped from disk where they can be."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if path.is_dir():
            self.arrays = {f.stem: open_npy(f) for f in sorted(path.glob("*.npy"))}
        elif path.suffix == ".npz":
            self.arrays = open_npz(path)
        else:
            self.arrays = {path.stem: open_npy(path)}

    def names(self) -> list[str]:
        """Names within the .npz, or of the files without their ending."""
        return list(self.arrays)

    def array(self, name: str) -> Any:
        """An array."""
        return self.arrays[name]

    def close(self) -> None:
        """Forgets the arrays; what is mapped goes with the last reference to it."""
        self.arrays = {}


def open_arrays(path: Path) -> Arrays:
    """Opens a foreign file.

    Raises:
        DatasetError: If it cannot be read, or its reader is not installed.
    """
    kind: Callable[[Path], Arrays]
    if path.is_dir() or path.suffix in (".npy", ".npz"):
        kind, what = Numpy, "NumPy"
    elif path.suffix == ".root":
        from .root_files import Root

        kind, what = Root, "ROOT"
    elif _FITS.fullmatch(path.name):
        from .fits_files import Fits

        kind, what = Fits, "FITS"
    else:
        kind, what = HDF5, "HDF5"
    try:
        return kind(path)
    except ImportError as error:
        raise DatasetError(
            f"{path}: to read it, install {error.name}: pip install {error.name}"
        ) from None
    except Exception as error:  # each reader has exceptions of its own
        told = f"cannot be read as {what}"
        if kind is HDF5:
            told = "is neither a dataset's directory nor a readable HDF5 file"
        raise DatasetError(f"{path} {told}: {error}") from None


class Table(NamedTuple):
    """Foreign arrays that are fields: where their rows lie, their names there, first rows."""

    segments: list[Segment]
    sources: dict[str, Spec]
    first: dict[str, np.ndarray]


def open_table(path: Path, fields: Mapping[str, str | Sequence[str]] | None) -> Table:
    """Finds the chosen arrays of a foreign file or folder; copies nothing.

    Arguments:
        path: The file or folder.
        fields: Names of arrays by the names of fields; None for NumPy arrays that have the names
            of fields.

    Raises:
        DatasetError: If a file cannot be read, lacks an array, or arrays do not fit together.
    """
    files = [path]
    if path.is_dir() and not any(path.glob("*.npy")):
        files = sorted(path.glob("*.npz"), key=_natural)
    segments: list[Segment] = []
    sources: dict[str, Spec] = {}
    first: dict[str, np.ndarray] = {}
    for file in files:
        arrays = open_arrays(file)
        try:
            sources = sources or _sources(arrays, fields)
            found = {name: _found(arrays, spec, name) for name, spec in sources.items()}
            lengths = {name: len(array) for name, array in found.items()}
            if len(set(lengths.values())) != 1:
                raise DatasetError(f"{file}: fields differ in their number of rows: {lengths}")
            start = segments[-1].first + segments[-1].rows if segments else 0
            if rows := next(iter(lengths.values())):
                segments.append(Segment(start, rows, file))
            head = {k: np.asarray(v[:256]) for k, v in found.items()}
        except DatasetError:
            raise
        except Exception as error:  # each reader has exceptions of its own
            raise DatasetError(f"{file} cannot be read: {error}") from error
        finally:
            arrays.close()
        first = {k: _joined(first.get(k), v, file, k) for k, v in head.items()}
    if not segments:
        raise DatasetError(f"{path} holds no rows")
    return Table(segments, sources, first)


def _natural(path: Path) -> list[Any]:
    """A key of file names by which 10 follows 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _sources(arrays: Arrays, fields: Mapping[str, str | Sequence[str]] | None) -> dict[str, Spec]:
    """The arrays that become fields, those of lengths of jagged ones among them."""
    if fields is None and not (isinstance(arrays, Numpy) and "x" in arrays.names()):
        raise DatasetError(
            f"{arrays.path} is foreign: say which array is which field, "
            f'fields={{"theta": ..., "x": ...}}: it holds {arrays.described()}'
        )
    chosen: dict[str, Spec] = {
        k: v if isinstance(v, str) else tuple(v)
        for k, v in (fields or {name: name for name in arrays.names()}).items()
    }
    if "x" not in chosen:
        raise DatasetError(f"fields= must name 'x'; {arrays.path} holds {arrays.described()}")
    for name, spec in list(chosen.items()):
        length = f"{name}_length"
        if hasattr(_found(arrays, spec, name), "lengths") and length not in chosen:
            chosen[length] = "#" + (spec if isinstance(spec, str) else spec[0])
    return chosen


def _found(arrays: Arrays, spec: Spec, name: str) -> Any:
    """An array that has rows."""
    try:
        array = arrays[spec]
    except KeyError as error:
        raise DatasetError(
            f"{arrays.path} has no array {error.args[0]!r}; it holds {arrays.described()}"
        ) from None
    except ValueError as error:
        raise DatasetError(f"{arrays.path}: field {name!r} cannot be stacked: {error}") from None
    if not array.shape:
        raise DatasetError(f"{arrays.path}: {spec!r} is one number; field {name!r} needs rows")
    return array


def _joined(before: np.ndarray | None, rows: np.ndarray, file: Path, name: str) -> np.ndarray:
    """The first rows of the table, of which those of one more file are of the same kind."""
    if before is None:
        return rows
    if before.shape[1:] != rows.shape[1:] or before.dtype != rows.dtype:
        raise DatasetError(
            f"{file}: field {name!r} is {rows.dtype} {rows.shape[1:]} a row; in the files before "
            f"{before.dtype} {before.shape[1:]}"
        )
    return np.concatenate([before, rows[: 256 - len(before)]])
