"""Run times: what the calls of a campaign took, in a journal beside its shards.

A shard is a function of simulator, seed and rows; a run time is not, so it has a file of its own:
`times-K-of-N.bin`, to which part K of N appends 16 bytes a call, little-endian: first row (int64),
rows (int32), seconds (float32). Nothing depends on it: a kill may lose its last records.
"""

from __future__ import annotations

__all__ = ["RECORD", "Journal", "read_times"]

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np

RECORD = np.dtype([("row", "<i8"), ("rows", "<i4"), ("seconds", "<f4")])
"""A call: its first row, its rows, its seconds."""


class Journal:
    """Appends run times to a part's file; a disk that is full costs only these.

    Arguments:
        path: The file; made when there is something to write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def append(self, times: np.ndarray) -> None:
        """Adds records, whole or not at all."""
        if not len(times):
            return
        with suppress(OSError):
            if self._descriptor < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
                self._descriptor = os.open(self.path, flags, 0o644)
                self._trim()
            if os.write(self._descriptor, times.tobytes()) % RECORD.itemsize:
                self._trim()

    def _trim(self) -> None:
        """Cuts off a record that a killed process, or a full disk, left half-written."""
        size = os.fstat(self._descriptor).st_size
        if size % RECORD.itemsize:
            os.ftruncate(self._descriptor, size - size % RECORD.itemsize)

    def close(self) -> None:
        """Closes the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_times(directory: Path, rows: int) -> np.ndarray:
    """The run times of calls on the first so many rows, by row; of a row's several, the last."""
    parts = []
    for file in sorted(directory.glob("times-*-of-*.bin")):
        content = file.read_bytes()
        parts.append(
            np.frombuffer(content[: len(content) // RECORD.itemsize * RECORD.itemsize], RECORD)
        )
    if not parts:
        return np.empty(0, RECORD)
    found = np.concatenate(parts)[::-1]
    _, first = np.unique(found["row"], return_index=True)
    found = found[first]
    good = (found["rows"] > 0) & (found["row"] >= 0) & np.isfinite(found["seconds"])
    return found[good & (found["row"] + found["rows"] <= rows)]
