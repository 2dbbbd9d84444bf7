"""Seals: whether an HDF5 file is, but for its large arrays, byte for byte what was written.

HDF5 trusts the structures within a file: where these are damaged it may crash, hang, or take
other bytes for an array. The seal, in a user block that HDF5 passes over, holds the CRC-32 of
every byte but those of large arrays, which have a checksum of their own each. It is compared
before HDF5 sees the file.
"""

from __future__ import annotations

__all__ = ["ROOM", "SealError", "check_seal", "large_arrays", "write_seal"]

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py

ROOM = 2048
"""Bytes before the HDF5 file itself: its user block."""

_MAGIC, _HDF5 = b"simgen sealed ", b"\x89HDF\r\n\x1a\n"
_HEAD = len(_MAGIC) + 9  # and the checksum in eight letters, a blank
_LARGE = 4096  # bytes from which an array is left to its own checksum
_MOST = 48  # large arrays that a seal has room for
_PIECE = 4 << 20

Extent = tuple[int, int]


class SealError(OSError):
    """A file is not what was written."""


def large_arrays(file: h5py.File) -> list[Extent]:
    """Where the large arrays of an open file lie: first byte and number of bytes, in order."""
    file.flush()
    found: list[Extent] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.nbytes >= _LARGE:
            start = item.id.get_offset()
            if start is not None:
                found.append((int(start), int(item.nbytes)))

    file.visititems(visit)
    return sorted(found)[:_MOST]


def write_seal(descriptor: int, arrays: Sequence[Extent]) -> None:
    """Seals a file that is closed for HDF5, and open for reading and writing."""
    told = json.dumps({"size": os.fstat(descriptor).st_size, "arrays": list(arrays)})
    body = told.encode().ljust(ROOM - _HEAD)
    crc = _checksum(descriptor, body, arrays)
    os.pwrite(descriptor, b"%s%08x %s" % (_MAGIC, crc, body), 0)


def check_seal(path: Path, required: bool) -> None:
    """Compares a file with its seal.

    Arguments:
        path: The file.
        required: Whether there must be one, unless the file starts as HDF5 does: that was written
            by other means.

    Raises:
        SealError: If it is not what was written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        head = os.pread(descriptor, ROOM, 0)
        if not head.startswith(_MAGIC):
            if required and not head.startswith(_HDF5):
                raise SealError(f"{path.name} is damaged at its beginning")
            return
        try:
            stored, told = int(head[len(_MAGIC) : _HEAD], 16), json.loads(head[_HEAD:])
            size, arrays = int(told["size"]), [(int(a), int(b)) for a, b in told["arrays"]]
            if any(low > high for low, high in _between(arrays, size)):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise SealError(f"{path.name} is damaged at its beginning") from None
        if (there := os.fstat(descriptor).st_size) != size:
            raise SealError(f"{path.name} has {there} bytes; {size} were written")
        if (found := _checksum(descriptor, head[_HEAD:], arrays)) != stored:
            raise SealError(f"{path.name} is damaged: crc32 {found:08x}, stored {stored:08x}")
    finally:
        os.close(descriptor)


def _checksum(descriptor: int, body: bytes, arrays: Sequence[Extent]) -> int:
    """The CRC-32 of a seal's text and of all bytes behind it but those of large arrays."""
    crc = zlib.crc32(body)
    for start, stop in _between(arrays, os.fstat(descriptor).st_size):
        for at in range(start, stop, _PIECE):
            crc = zlib.crc32(os.pread(descriptor, min(_PIECE, stop - at), at), crc)
    return crc


def _between(arrays: Sequence[Extent], size: int) -> Iterator[Extent]:
    """The spans between large arrays, first byte and the one after the last."""
    start = ROOM
    for first, length in [*arrays, (size, 0)]:
        yield start, first
        start = first + length
