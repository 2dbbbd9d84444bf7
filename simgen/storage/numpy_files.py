"""NumPy files: arrays of .npy and .npz, mapped from disk and not read.

What a .npz holds without compression lies in it as a .npy would, at an offset that the zip
archive knows. Compressed arrays are read whole, when they are first asked for.
"""

from __future__ import annotations

__all__ = ["open_npy", "open_npz"]

import struct
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

_LOCAL_HEADER = 30  # bytes before the name in a zip archive's header of a file


def open_npy(path: Path) -> np.ndarray:
    """The array of a .npy file, mapped from disk.

    Raises:
        ValueError: If it is damaged, or holds objects.
    """
    return _mapped(path, 0)


def open_npz(path: Path) -> dict[str, Any]:
    """The arrays of a .npz file by name.

    Raises:
        zipfile.BadZipFile, ValueError: If it is damaged.
    """
    out: dict[str, Any] = {}
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if entry.compress_type == zipfile.ZIP_STORED:
                file.seek(entry.header_offset)
                head = file.read(_LOCAL_HEADER)
                if len(head) < _LOCAL_HEADER or not head.startswith(b"PK\x03\x04"):
                    raise ValueError(f"the archive is damaged at {entry.filename}")
                before = sum(struct.unpack("<HH", head[26:30])) + _LOCAL_HEADER
                out[name] = _mapped(path, entry.header_offset + before)
            else:
                out[name] = _Compressed(path, entry.filename)
    return out


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return shape, fortran, dtype


def _mapped(path: Path, offset: int) -> np.ndarray:
    """The array of the .npy that starts at an offset of a file."""
    with open(path, "rb") as file:
        file.seek(offset)
        shape, fortran, dtype = _header(file)
        start = file.tell()
    if not all(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


class _Compressed:
    """A compressed array of a .npz file; its header alone is read before it is sliced."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            self.shape, _, self.dtype = _header(file)  # type: ignore[arg-type]

    @cached_property
    def _array(self) -> np.ndarray:
        with zipfile.ZipFile(self.path) as archive, archive.open(self.name) as file:
            return npy.read_array(file, allow_pickle=False)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._array[rows]
