"""Shards: the immutable HDF5 files that hold the rows of a dataset.

A shard named `shard-%08d.h5` by its first row holds one array a field with a row axis in front,
the columns /row, /round and /status, and the errors of its failed rows. It appears whole under
its name or not at all: temporary name, flush to disk, rename, flush the directory.
"""

from __future__ import annotations

__all__ = [
    "COLUMNS",
    "GOOD",
    "MISSING",
    "DatasetError",
    "Failure",
    "Segment",
    "Segments",
    "abandoned",
    "first_row",
    "is_disk_full",
    "open_file",
    "put",
    "shard_name",
    "status_code",
    "verify_shard",
    "write_shard",
]

import errno
import io
import itertools
import os
import re
import socket
import threading
import time
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from .locking import is_alive

GOOD, MISSING = 0, 255
COLUMNS = ("row", "round", "status")
"""The columns that every shard has beside its fields."""

_CODES = {"nonfinite": 2, "timeout": 3, "killed": 4, "shape": 5}
_NAME = re.compile(r"shard-(\d{8,})\.h5")
_SPAN = 16 << 20
_COUNT = itertools.count()
_LEFTOVER = 3600.0  # seconds after which a temporary file of another host is nobody's


class DatasetError(ValueError):
    """What is wrong with a dataset, in one sentence, and what to do about it."""


class Failure(NamedTuple):
    """A failed row: number, kind ("nonfinite", an exception's name ...), message, theta (d,)."""

    row: int
    kind: str
    message: str
    theta: np.ndarray | None = None


def status_code(kind: str) -> int:
    """The number in /status of a kind of failure: 1 of an exception, others of their own."""
    return _CODES.get(kind, 1)


def shard_name(first: int) -> str:
    """The file name of the shard that starts with row `first`."""
    return f"shard-{first:08d}.h5"


def first_row(name: str) -> int | None:
    """The first row of the shard of this file name; None if it is no shard's name."""
    match = _NAME.fullmatch(name)
    return None if match is None else int(match[1])


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk, or the quota on it, is full."""
    codes = (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, OSError) and (
        error.errno in codes or "No space left on device" in str(error)
    )


def _host() -> str:
    return re.sub(r"\W", "_", socket.gethostname())


def abandoned(file: Path) -> bool:
    """Whether a temporary file is nobody's: its process is gone, or it is old."""
    match = re.fullmatch(r".*\.(\w+)-(\d+)-\d+\.tmp", file.name)
    if match is not None and match[1] == _host():
        return not is_alive(int(match[2]))
    try:
        return time.time() - file.stat().st_mtime > _LEFTOVER
    except OSError:
        return False


def put(path: Path, content: bytes | Callable[[h5py.File], None], exclusive: bool = False) -> None:
    """Writes a file whole or not at all, and to disk before it returns.

    Arguments:
        path: Where; an existing file is replaced in one step.
        content: The bytes; or what writes them into an open HDF5 file.
        exclusive: Whether an existing file is an error instead.

    Raises:
        FileExistsError: If `exclusive` and the file is there.
        OSError: If it cannot be written; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{next(_COUNT)}.tmp")
    try:
        with open(temporary, "x+b", buffering=0) as file:
            sink = _Sink(file)
            if isinstance(content, bytes):
                sink.write(content)
            else:
                with h5py.File(sink, "w") as hdf5:
                    content(hdf5)
            if sink.error is not None:
                raise sink.error
            os.fsync(file.fileno())
        if exclusive:
            os.link(temporary, path)
            os.unlink(temporary)
        else:
            os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    with suppress(OSError):  # not every file system flushes directories
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class _Sink:
    """A file that HDF5 writes to; it keeps an error for later, as HDF5 cannot close what fails."""

    def __init__(self, file: io.FileIO) -> None:
        self.file = file
        self.error: OSError | None = None
        self.seek, self.tell = file.seek, file.tell
        self.read, self.readinto = file.read, file.readinto

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        written = 0
        while written < len(view) and self.error is None:
            try:
                written += self.file.write(view[written:]) or 0
            except OSError as error:
                self.error = error
        return len(view)

    def truncate(self, size: int) -> int:
        try:
            return self.file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size

    def flush(self) -> None:
        """Nothing is buffered."""


def open_file(path: Path) -> h5py.File:
    """Opens an HDF5 file for reading, also where the file system knows no locks."""
    try:
        return h5py.File(path, "r")  # the usual flags: the user may have it open as well
    except FileNotFoundError:
        raise
    except OSError:
        return h5py.File(path, "r", locking=False)


def checksum(array: np.ndarray) -> int:
    """The CRC-32 of an array's bytes, row by row, little-endian."""
    array = np.ascontiguousarray(array)
    if not array.size:
        return 0
    return zlib.crc32(array.astype(array.dtype.newbyteorder("<"), copy=False).data.cast("B"))


def write_shard(
    directory: Path,
    first: int,
    fields: Mapping[str, np.ndarray],
    status: np.ndarray,
    failures: Sequence[Failure] = (),
    round: int = 0,
) -> Path:
    """Writes the shard of the rows from `first` on.

    Arguments:
        directory: The dataset.
        first: The number of its first row.
        fields: Arrays (n, ...), theta among them.
        status: 0 for a good row, else a code, shape (n,).
        failures: One for each failed row.
        round: The round that all rows belong to.

    Raises:
        OSError: If it cannot be written.
    """
    count = len(status)
    columns = {
        **fields,
        "row": np.arange(first, first + count, dtype=np.int64),
        "round": np.full(count, round, dtype=np.int32),
        "status": np.asarray(status, dtype=np.uint8),
    }
    text = h5py.string_dtype()
    errors = np.empty(len(failures), dtype=[("row", np.int64), ("kind", text), ("message", text)])
    for i, failure in enumerate(failures):
        errors[i] = (failure.row, _text(failure.kind), _text(failure.message))

    def compose(file: h5py.File) -> None:
        file.attrs["count"] = count
        for key, array in columns.items():
            stored = file.create_dataset(key, data=array)
            stored.attrs["crc32"] = np.uint32(checksum(array))
        file.create_dataset("errors", data=errors)

    path = directory / shard_name(first)
    put(path, compose)
    return path


def _text(value: str) -> str:
    """Text that HDF5 can hold: no NUL, no lone surrogates, of a sensible length."""
    return value.replace("\0", " ").encode("utf-8", "replace").decode()[:2000]


def read_failures(path: Path) -> list[Failure]:
    """The failed rows of a shard."""
    with open_file(path) as file:
        rows = file["errors"][()]
    return [Failure(int(row), _decode(kind), _decode(message)) for row, kind, message in rows]


def _decode(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def verify_shard(path: Path, first: int, count: int, fields: Sequence[str]) -> list[str]:
    """What is wrong with a shard: rows, fields and checksums against what they should be."""
    name, problems = path.name, []
    try:
        with open_file(path) as file:
            if file.attrs.get("count") != count:
                problems.append(f"{name} counts {file.attrs.get('count')} rows; wanted {count}")
            for key in (*fields, *COLUMNS):
                if key not in file:
                    problems.append(f"{name} lacks the field {key!r}")
                    continue
                array = file[key][()]
                if len(array) != count:
                    problems.append(f"{name} holds {len(array)} rows of {key!r}; wanted {count}")
                stored = int(file[key].attrs.get("crc32", -1))
                if (found := checksum(array)) != stored:
                    problems.append(
                        f"{name}: field {key!r} is damaged: crc32 {found:08x}, stored {stored:08x}"
                    )
                elif key == "row" and not np.array_equal(array, np.arange(first, first + count)):
                    problems.append(f"{name} does not hold the rows from {first} on")
    except (OSError, KeyError, RuntimeError) as error:
        problems.append(f"{name} cannot be read: {error}")
    return problems


class Segment(NamedTuple):
    """Rows first ... first + rows - 1, in one HDF5 file."""

    first: int
    rows: int
    path: Path


class Segments:
    """Contiguous rows over HDF5 files, of which few are open at a time; reading takes no lock.

    Arguments:
        segments: In order of rows, without gaps, from row 0.
        sources: Where in each file a field is: name → HDF5 path.
        open_files: The most files to keep open.
    """

    def __init__(
        self, segments: Sequence[Segment], sources: Mapping[str, str], open_files: int = 8
    ) -> None:
        self.segments = list(segments)
        self.sources = dict(sources)
        self.count = self.segments[-1].first + self.segments[-1].rows if self.segments else 0
        self._firsts = [segment.first for segment in self.segments]
        self._limit = open_files
        self._open: OrderedDict[Path, h5py.File] = OrderedDict()
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        hidden = ("_open", "_lock")
        return {k: v for k, v in vars(self).items() if k not in hidden}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _open=OrderedDict(), _lock=threading.RLock())

    def _file(self, path: Path) -> h5py.File:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        while len(self._open) >= self._limit:
            self._open.popitem(last=False)[1].close()
        self._open[path] = open_file(path)
        return self._open[path]

    def close(self) -> None:
        """Closes the files that are open; reading opens them again."""
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def read(self, name: str, start: int, stop: int, out: np.ndarray | None = None) -> np.ndarray:
        """The entries of rows start ... stop - 1 of a field, as they are stored.

        Arguments:
            name: The field.
            start: The first row.
            stop: The row after the last; both within the rows there are.
            out: An array to fill instead of a new one.

        Raises:
            DatasetError: If a file cannot be read.
        """
        parts = []
        for segment, low, high in self._pieces(start, stop):
            with self._lock:
                try:
                    source = self._file(segment.path)[self.sources[name]]
                    if out is not None:
                        at = segment.first + low - start
                        out[at : at + high - low] = source[low:high].reshape(
                            high - low, *out.shape[1:]
                        )
                    else:
                        parts.append(source[low:high])
                except (OSError, KeyError, RuntimeError) as error:
                    raise DatasetError(
                        f"{segment.path}: field {name!r} cannot be read ({error}); the file is "
                        f"damaged: "
                        "verify() says which files are"
                    ) from error
        if out is not None:
            return out
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[Segment, int, int]]:
        i = bisect_right(self._firsts, start) - 1
        while start < stop:
            segment = self.segments[i]
            end = min(stop, segment.first + segment.rows)
            yield segment, start - segment.first, end - segment.first
            start, i = end, i + 1

    def gather(self, name: str, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        """The entries of sorted rows, by contiguous reads of the spans that they lie in.

        Arguments:
            name: The field.
            rows: Row numbers, increasing, shape (m,).
            out: The array to fill, shape (m, ...).
        """
        width = max(1, out.itemsize * int(np.prod(out.shape[1:], dtype=int)))
        span = max(1, _SPAN // width)
        i = 0
        while i < len(rows):
            start = int(rows[i])
            j = int(np.searchsorted(rows, start + span))
            stop = int(rows[j - 1]) + 1
            if stop - start == j - i:
                self.read(name, start, stop, out[i:j])
            else:
                block = self.read(name, start, stop)
                block = block.reshape(stop - start, *out.shape[1:])
                if block.dtype == out.dtype:  # in range already: "clip" spares a buffer
                    np.take(block, rows[i:j] - start, axis=0, out=out[i:j], mode="clip")
                else:
                    out[i:j] = block[rows[i:j] - start]
            i = j
        return out
