"""Extents: arrays that lie in a file as they do in memory, read without a library in between."""

from __future__ import annotations

__all__ = ["Extent", "extent_of"]

import os
from typing import Any, NamedTuple

import h5py
import numpy as np


class Extent(NamedTuple):
    """An array that is neither compressed nor in chunks: some bytes of a file.

    Arguments:
        path: The file.
        offset: Its first byte.
        stride: Bytes from a row to the next.
        dtype: Of an element.
        stamp: What the file was when it was looked at: device, number, size, time of change.
    """

    path: str
    offset: int
    stride: int
    dtype: np.dtype
    stamp: tuple[int, ...]

    def fits(self, out: np.ndarray) -> bool:
        """Whether rows of an array are as they are in the file."""
        width = out.itemsize * int(np.prod(out.shape[1:], dtype=int))
        return (self.dtype, self.stride) == (out.dtype, width) and out.flags.c_contiguous

    def read(self, low: int, out: np.ndarray) -> bool:
        """Reads the rows from `low` on into an array that fits.

        Returns:
            Whether the file is still what it was; nothing is read if it is not.

        Raises:
            OSError: If it cannot be read.
        """
        with open(self.path, "rb", buffering=0) as file:
            if _stamp(os.fstat(file.fileno())) != self.stamp:
                return False
            file.seek(self.offset + low * self.stride)
            room = out.reshape(-1).view("u1").data
            while len(room):
                if not (got := file.readinto(room)):
                    raise OSError("it ends before the rows do")
                room = room[got:]
        return True


def extent_of(array: Any) -> Extent | None:
    """Where an array of an open file lies; None if it does not lie in one piece.

    Raises:
        ValueError: If the file ends before it.
    """
    if isinstance(array, np.memmap) and array.filename and array.flags.c_contiguous:
        path, offset = os.fspath(array.filename), array.offset
    elif isinstance(array, h5py.Dataset) and array.file.driver == "sec2":
        plan, offset = array.id.get_create_plist(), array.id.get_offset()
        if plan.get_layout() != h5py.h5d.CONTIGUOUS or plan.get_external_count() or not offset:
            return None
        path = array.file.filename
    else:
        return None
    size = int(array.nbytes)
    if array.dtype.hasobject or array.dtype.names or not size:
        return None
    stamp = _stamp(os.stat(path))
    if offset + size > stamp[2]:
        raise ValueError(f"it ends at byte {stamp[2]}, the array at byte {offset + size}")
    return Extent(path, int(offset), size // len(array), array.dtype, stamp)


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
