"""Shards: the immutable HDF5 files that hold the rows of a dataset.

A shard named `shard-%08d.h5` by its first row holds one array a field with a row axis in front,
the columns /row, /round and /status, and the errors of its failed rows. It appears whole under
its name or not at all: temporary name, flush to disk, rename, flush the directory. One that is
there is never written again. Arrays are contiguous and not compressed: of float32 simulations the
codecs of HDF5 save a seventh at most, and write a tenth as fast (`studies/campaigns`).
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
    "strangers",
    "verify_shard",
    "write_shard",
]

import errno
import io
import itertools
import json
import os
import re
import socket
import threading
import time
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from ..field import Field
from .extent import Extent, extent_of
from .locking import is_alive
from .sealing import ROOM, check_seal, large_arrays, write_seal

GOOD, MISSING = 0, 255
COLUMNS = ("row", "round", "status")
"""The columns that every shard has beside its fields."""

_CODES = {"nonfinite": 2, "timeout": 3, "killed": 4, "shape": 5}
_NAME = re.compile(r"shard-(\d{8,})\.h5")
_TIMES = re.compile(r"times-\d+-of-\d+\.bin")
_SPAN = 16 << 20
_BUFFER = 4 << 20
STRANGE = "is not of this dataset: move it elsewhere"
_COLUMN_TYPES = {"row": "int64", "round": "int32", "status": "uint8"}
_UNREADABLE = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError)
"""What HDF5 raises where a file is damaged."""
_COUNT = itertools.count()
_TRACE = 2000  # letters of the last lines of an error
_LEFTOVER = 3600.0  # seconds after which a temporary file of another host is nobody's


class DatasetError(ValueError):
    """What is wrong with a dataset, in one sentence, and what to do about it."""


class Failure(NamedTuple):
    """A failed row.

    Arguments:
        row: Its number.
        kind: "nonfinite", "timeout", "killed", "shape", or the name of an exception.
        message: What that said.
        theta: Its parameters (d,).
        trace: The last lines of its error.
        seed: Of the call's random stream: `simgen.forward.stream(*seed)`.
    """

    row: int
    kind: str
    message: str
    theta: np.ndarray | None = None
    trace: str = ""
    seed: tuple[int, ...] | None = None


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
    """Whether a temporary file or a worker's probe is nobody's: its process is gone, or it is
    old.
    """
    match = re.fullmatch(r".*\.(\w+)-(\d+)-\d+\.tmp|\.probe-(.+)-(\d+)", file.name)
    if match is not None and match[3] == socket.gethostname():
        return not is_alive(int(match[4]))
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
        exclusive: Whether an existing file is kept, and an error.

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
                with h5py.File(sink, "w", userblock_size=ROOM) as hdf5:
                    content(hdf5)
                    arrays = large_arrays(hdf5)
                if sink.error is None:
                    write_seal(file.fileno(), arrays)
            if sink.error is not None:
                raise sink.error
            os.fsync(file.fileno())
        if exclusive:
            _link(temporary, path)
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


def _link(temporary: Path, path: Path) -> None:
    """Gives a file its name, if nobody has that name."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists():
            raise FileExistsError(f"{path} is there already") from None
        os.replace(temporary, path)
    else:
        os.unlink(temporary)


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
    """Opens an HDF5 file for reading, also where the file system knows no locks.

    Raises:
        SealError: If it is one of ours and not what was written; HDF5 does not see it then.
        OSError: If it cannot be opened.
    """
    check_seal(path, required=_NAME.fullmatch(path.name) is not None or path.name == "index.h5")
    try:
        return h5py.File(path, "r")  # the usual flags: the user may have it open as well
    except FileNotFoundError:
        raise
    except OSError:
        return h5py.File(path, "r", locking=False)


def checksum(array: np.ndarray, before: int = 0) -> int:
    """The CRC-32 of an array's bytes, row by row, little-endian; continued from rows before."""
    array = np.ascontiguousarray(array)
    if not array.size:
        return before
    plain = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return zlib.crc32(plain.data.cast("B"), before)


def _identity(directory: Path) -> str:
    """The identity of the dataset in a directory; empty where there is none yet."""
    try:
        return str(json.loads((directory / "dataset.json").read_text("utf-8"))["identity"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def write_shard(
    directory: Path,
    first: int,
    fields: Mapping[str, np.ndarray],
    status: np.ndarray,
    failures: Sequence[Failure] = (),
    round: int = 0,
) -> Path:
    """Writes the shard of the rows from `first` on; one that is there is kept as it is.

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
    kinds = [("row", np.int64), ("stream", np.int64, (2,))]
    errors = np.empty(
        len(failures), dtype=[*kinds, *((k, text) for k in ("kind", "message", "trace"))]
    )
    for i, failure in enumerate(failures):
        said = (_text(v) for v in (failure.kind, failure.message, failure.trace[-_TRACE:]))
        errors[i] = (failure.row, (failure.seed or (-1, -1))[-2:], *said)

    def compose(file: h5py.File) -> None:
        file.attrs["count"] = count
        file.attrs["dataset"] = _identity(directory)
        for key, array in columns.items():
            stored = file.create_dataset(key, data=array)
            stored.attrs["crc32"] = np.uint32(checksum(array))
        file.create_dataset("errors", data=errors)

    path = directory / shard_name(first)
    with suppress(FileExistsError):  # of a killed run's worker: the same rows
        put(path, compose, exclusive=True)
    return path


def _text(value: str) -> str:
    """Text that HDF5 can hold: no NUL, no lone surrogates, of a sensible length."""
    return value.replace("\0", " ").encode("utf-8", "replace").decode()[:2000]


def read_failures(path: Path, seed: int | None = None) -> list[Failure]:
    """The failed rows of a shard; with the dataset's seed, also those of their random streams."""
    with open_file(path) as file:
        table = file["errors"][()]
    more = "trace" in table.dtype.names
    out = []
    for entry in table:
        purpose, index = (int(v) for v in entry["stream"]) if more else (-1, -1)
        out.append(
            Failure(
                int(entry["row"]),
                _decode(entry["kind"]),
                _decode(entry["message"]),
                trace=_decode(entry["trace"]) if more else "",
                seed=None if seed is None or purpose < 0 else (seed, purpose, index),
            )
        )
    return out


def _decode(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def verify_shard(
    path: Path, first: int, count: int, fields: Mapping[str, Field], identity: str = ""
) -> list[str]:
    """What is wrong with a shard: origin, rows, fields and checksums against what they should be.

    Arguments:
        path: The file.
        first: Its first row.
        count: Its rows.
        fields: The fields that it should hold.
        identity: That of its dataset; not compared unless said.
    """
    name, problems = path.name, []
    wanted: dict[str, tuple[tuple[int, ...], str]] = {
        **{k: (f.shape, f.dtype or "float32") for k, f in fields.items()},
        **{k: ((), kind) for k, kind in _COLUMN_TYPES.items()},
    }
    try:
        with open_file(path) as file:
            problems += [f"{name} {what}" for what in _misfits(file, first, count, identity)]
            for key, (shape, dtype) in wanted.items():
                if key not in file:
                    problems.append(f"{name} lacks the field {key!r}")
                    continue
                array = file[key]
                if array.shape != (count, *shape) or array.dtype != dtype:
                    problems.append(
                        f"{name} holds {key!r} as {array.dtype} {array.shape}; wanted {dtype} "
                        f"{(count, *shape)}"
                    )
                elif what := _damage(array):
                    problems.append(f"{name}: field {key!r} is damaged: {what}")
            if len(file["errors"]) != np.count_nonzero(file["status"][()]) and not problems:
                problems.append(f"{name} lists {len(file['errors'])} errors; its /status others")
            read_failures(path)
    except _UNREADABLE as error:
        problems.append(f"{name} cannot be read: {error}")
    return problems


def _misfits(file: Any, first: int, count: int, identity: str) -> list[str]:
    """Why a shard's file is not that of these rows of this dataset."""
    out = []
    if file.attrs.get("count") != count:
        out.append(f"counts {file.attrs.get('count')} rows; wanted {count}")
    if identity and (found := file.attrs.get("dataset", identity)) not in ("", identity):
        out.append(f"is of another dataset ({str(found)[:12]}; this is {identity[:12]})")
    row = file["row"]
    if row.shape != (count,) or not np.array_equal(row[()], np.arange(first, first + count)):
        out.append(f"does not hold the rows from {first} on")
    return out


def _damage(array: h5py.Dataset) -> str:
    """How an array of a shard differs from its checksum; empty if it does not."""
    stored = array.attrs.get("crc32")
    found, step = (
        0,
        max(1, _BUFFER // max(1, array.dtype.itemsize * int(np.prod(array.shape[1:])))),
    )
    for start in range(0, len(array), step):
        found = checksum(array[start : start + step], found)
    if stored is None or int(stored) != found:
        return f"crc32 {found:08x}, stored {'none' if stored is None else f'{int(stored):08x}'}"
    return ""


def strangers(directory: Path, planned: Sequence[str]) -> list[str]:
    """Files of a dataset's directory that are not of it, in words; hidden ones do not count."""
    known = {"dataset.json", "index.h5", *planned}
    names = sorted(e.name for e in os.scandir(directory) if e.is_file() and e.name not in known)
    strange = [name for name in names if not name.startswith(".") and not _TIMES.fullmatch(name)]
    return [f"{name} {STRANGE}" for name in strange]


class Segment(NamedTuple):
    """Rows first ... first + rows - 1, in one HDF5 file."""

    first: int
    rows: int
    path: Path


class Segments:
    """Contiguous rows over files, of which few are open at a time; reading takes no lock.

    The first time that a field of a shard is read, its checksum is, too: damage is an error, and
    never a wrong number.

    Arguments:
        segments: In order of rows, without gaps, from row 0.
        sources: Where in each file a field is: name → HDF5 path.
        open_files: The most files to keep open.
        opener: Opens a file as a mapping of arrays that slice; HDF5 unless said.
        identity: Of the dataset whose shards these are; None for files without checksums.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        sources: Mapping[str, Any],
        open_files: int = 8,
        opener: Callable[[Path], Any] | None = None,
        identity: str | None = None,
    ) -> None:
        self.segments = list(segments)
        self.sources = dict(sources)
        self.count = self.segments[-1].first + self.segments[-1].rows if self.segments else 0
        self._firsts = [segment.first for segment in self.segments]
        self._limit = open_files
        self._opener, self._identity = opener or open_file, identity
        self._checked: set[tuple[int, str]] = set()
        self._extents: dict[tuple[int, str], Extent | None] = {}
        self._open: OrderedDict[Path, Any] = OrderedDict()
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        hidden = ("_open", "_lock")
        return {k: v for k, v in vars(self).items() if k not in hidden}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _open=OrderedDict(), _lock=threading.RLock())

    def _file(self, path: Path) -> Any:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        while len(self._open) >= self._limit:
            self._open.popitem(last=False)[1].close()
        self._open[path] = self._opener(path)
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
            DatasetError: If a file cannot be read, or is damaged.
        """
        parts = []
        for segment, low, high in self._pieces(start, stop):
            with self._lock, _reading(segment, name):
                if out is None:
                    parts.append(self._array(segment, name)[low:high])
                else:
                    at = segment.first + low - start
                    self._fill(segment, name, low, out[at : at + high - low])
        if out is not None:
            return out
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _fill(self, segment: Segment, name: str, low: int, out: np.ndarray) -> None:
        """Reads the rows of a file from `low` on, straight from it where that can be."""
        key = (segment.first, name)
        if key not in self._extents:
            self._extents[key] = extent_of(self._array(segment, name))
        extent = self._extents[key]
        if extent is None or not extent.fits(out):
            _read_into(self._array(segment, name), low, low + len(out), out)
        elif not extent.read(low, out):  # another file by now
            del self._extents[key]
            self._checked -= {key, (segment.first, "")}
            if segment.path in self._open:
                self._open.pop(segment.path).close()
            self._fill(segment, name, low, out)

    def _array(self, segment: Segment, name: str) -> Any:
        """A field's array in a file, which is checked at the first time."""
        file = self._file(segment.path)
        if self._identity is None:
            return file[self.sources[name]]
        known = (segment.first, "")
        if known not in self._checked:
            if problems := _misfits(file, segment.first, segment.rows, self._identity):
                raise DatasetError(f"{segment.path} {problems[0]}: repair the dataset")
            self._checked.add(known)
        source, known = file[self.sources[name]], (segment.first, name)
        if known not in self._checked:
            if what := _damage(source):
                raise DatasetError(
                    f"{segment.path}: field {name!r} is damaged ({what}): repair the dataset"
                )
            self._checked.add(known)
        return source

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


@contextmanager
def _reading(segment: Segment, name: str) -> Iterator[None]:
    """Says of what goes wrong in a file where it does."""
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:  # readers of foreign files raise what they like
        raise DatasetError(
            f"{segment.path}: field {name!r} cannot be read ({error}); the file is "
            "damaged: verify() says which files are"
        ) from error


def _read_into(source: Any, low: int, high: int, out: np.ndarray) -> None:
    """Reads rows of an array into another, without a copy in between where that can be."""
    if isinstance(source, h5py.Dataset) and source.dtype == out.dtype and out.flags.c_contiguous:
        source.read_direct(out.reshape(high - low, *source.shape[1:]), np.s_[low:high])
    else:
        with np.errstate(over="ignore"):
            out[...] = source[low:high].reshape(out.shape)
