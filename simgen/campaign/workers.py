"""Work: running a simulator over a range of rows, in this process or in a worker's.

A task carries theta and the number of its first row; its random streams follow from these and
the seed, so where and when it runs does not matter. A worker gets the bare simulator: a prior
that comes along is unpickled only if it is used, so that a NumPy simulator's workers import no
torch.
"""

from __future__ import annotations

__all__ = [
    "Payload",
    "Result",
    "Task",
    "attend",
    "execute",
    "join",
    "killed",
    "run_task",
    "written",
]

import hashlib
import io
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import numpy as np

from ..forward import BLOCK, ROW, Simulator, stream
from ..storage.rows import blank, finite_rows
from ..storage.shard import (
    Failure,
    is_disk_full,
    open_file,
    put,
    read_failures,
    shard_name,
    status_code,
    write_shard,
)
from .timing import RECORD

_GRACE = 5.0  # seconds beyond twice the timeout, until a call that hangs loses its process
_WATCH = 0.5  # seconds between looks at whether the coordinator is there
_PIECES = 8  # into which a task that ends its process is divided
_TIMES = 256  # run times that a task reports at most
_LINES = 20  # of a traceback to keep
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
LATE = 70
"""The exit code of a process that a call did not leave in time."""
_cache: dict[str, Simulator] = {}

Columns = dict[str, np.ndarray]
Layout = Mapping[str, tuple[tuple[int, ...], str]]


@dataclass(frozen=True)
class Task:
    """Rows start ... stop - 1 to simulate.

    Arguments:
        start: The first row.
        stop: The row after the last.
        theta: float32 parameters, one row each; of a batched simulator, of all blocks that the
            rows touch.
        seed: Of all random streams.
        block: Rows a block.
        layout: Shape and type of each field to return; None to find out.
        retries: How often to repeat a call that raises.
        timeout: Seconds that one call may take.
        seconds: Stop after so many seconds, with at least one row done; None for never.
        directory: The dataset, when the rows are a whole shard that a worker may write.
        stored: Whether theta is stored.
        seen: The hosts whose probe file the coordinator has seen in the dataset.
        token: What a probe file holds.
        guarded: Whether a worker hands it to a child of its own.
        round: The round that the rows belong to.
    """

    start: int
    stop: int
    theta: np.ndarray
    seed: int
    block: int
    layout: Layout | None = None
    retries: int = 0
    timeout: float | None = None
    seconds: float | None = None
    directory: str | None = None
    stored: bool = True
    seen: frozenset[str] = frozenset()
    token: str = ""
    guarded: bool = False
    round: int = 0

    @property
    def own(self) -> np.ndarray:
        """The parameters of the task's own rows, without those of the rest of their blocks."""
        before = self.start % self.block if len(self.theta) > self.stop - self.start else 0
        return self.theta[before : before + self.stop - self.start]


@dataclass
class Result:
    """What became of a task.

    Arguments:
        columns: The fields, (rows, ...); empty if a worker has written the shard.
        status: 0 or a code, (rows,).
        failures: The failed rows.
        seconds: What it took.
        times: What its calls took, or some of many.
        host: Where it ran.
        probe: The probe file that the worker wrote, if it did.
        size: The size of the shard in bytes, if the worker wrote it.
    """

    columns: Columns
    status: np.ndarray
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
    times: np.ndarray = field(default_factory=lambda: np.empty(0, RECORD))
    host: str = ""
    probe: str | None = None
    size: int | None = None


class _Fault(NamedTuple):
    """Why a call gave no row."""

    kind: str
    message: str
    trace: str = ""


class _Part(NamedTuple):
    """What a call gave for rows start ... stop - 1, and its block where it drew from that."""

    start: int
    stop: int
    out: Columns | _Fault
    block: int | None = None


def attend(coordinator: int) -> None:
    """Prepares a worker: Ctrl-C is the coordinator's, and the worker ends when that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == coordinator:
            time.sleep(_WATCH)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="simgen-watch").start()


@contextmanager
def _deadline(seconds: float | None) -> Iterator[None]:
    """Raises TimeoutError in the body when it is late; ends the process if that does not help."""
    if seconds is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "timeout= needs workers that run calls in their main thread, such as a process "
            "pool's; these do not"
        )

    def late(*_: Any) -> None:
        raise TimeoutError(f"took longer than {seconds:g} s")

    last_resort = threading.Timer(2 * seconds + _GRACE, os._exit, (LATE,))
    last_resort.daemon = True
    last_resort.start()
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        last_resort.cancel()


def _attempt(call: Callable[[], Columns], task: Task) -> Columns | _Fault:
    """A call's fields, or why there are none; the same random stream at every attempt."""
    fault = _Fault("error", "")
    for _ in range(task.retries + 1):
        try:
            with _deadline(task.timeout):
                return call()
        except TimeoutError as error:
            kind = "TimeoutError" if task.timeout is None else "timeout"
            fault = _Fault(kind, str(error), _trace(error))
        except (Exception, SystemExit) as error:
            fault = _Fault(type(error).__name__, str(error), _trace(error))
    return fault


def _trace(error: BaseException) -> str:
    """The last lines of a traceback, without the frames that lead from here to the simulator."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_HERE):
        trace = trace.tb_next
    lines = "".join(traceback.format_exception(type(error), error, trace)).splitlines()
    return "\n".join(lines[-_LINES:])


def _calls(simulator: Simulator, task: Task) -> Iterator[_Part]:
    """Runs the calls of a task."""
    theta = task.theta.astype(np.float64)
    if not simulator.batched:
        for i, row in enumerate(range(task.start, task.stop)):

            def single(i: int = i, row: int = row) -> Columns:
                return simulator.run(theta[i], stream(task.seed, ROW, row))

            yield _Part(row, row + 1, _attempt(single, task))
        return
    base = task.start // task.block * task.block
    for low in range(base, task.stop, task.block):
        rows = theta[low - base : low - base + task.block]
        a, b = max(low, task.start), min(low + task.block, task.stop)

        index = low // task.block

        def whole(rows: np.ndarray = rows, index: int = index) -> Columns:
            return simulator.run(rows, stream(task.seed, BLOCK, index))

        out = _attempt(whole, task)
        if not isinstance(out, _Fault):
            yield _Part(a, b, {k: v[a - low : b - low] for k, v in out.items()}, index)
        elif not getattr(simulator, "rowwise", False):
            yield _Part(a, b, out, index)
        else:
            for row in range(a, b):

                def one(row: int = row) -> Columns:
                    theta_i = theta[row - base : row - base + 1]
                    return simulator.run(theta_i, stream(task.seed, ROW, row))

                yield _Part(row, row + 1, _attempt(one, task))


def _find_layout(parts: Sequence[_Part]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Names and shapes of the first good call; types that hold the values of all like it."""
    good = [part.out for part in parts if not isinstance(part.out, _Fault)]
    if not good:
        return {}
    layout = {k: (v.shape[1:], v.dtype) for k, v in good[0].items()}
    for out in good:
        if set(out) == set(layout):
            layout = {
                k: (s, np.result_type(t, out[k].dtype)) if out[k].shape[1:] == s else (s, t)
                for k, (s, t) in layout.items()
            }
    return {
        k: (shape, "float32" if dtype.kind == "f" else str(dtype))
        for k, (shape, dtype) in layout.items()
    }


def _misfit(out: Columns, layout: Layout) -> _Fault | None:
    """What keeps a call's fields from the dataset's."""
    for name, (shape, dtype) in layout.items():
        if name not in out:
            return _Fault("shape", f"the field {name!r} is missing; found {', '.join(out)}")
        found = out[name]
        if found.shape[1:] != tuple(shape):
            return _Fault(
                "shape",
                f"field {name!r} has shape {found.shape[1:]} a row; the dataset has {shape}",
            )
        if not np.can_cast(found.dtype, dtype, "same_kind") and not np.array_equal(
            found, found.astype(dtype)
        ):
            return _Fault(
                "shape", f"field {name!r} has type {found.dtype}; the dataset has {dtype}"
            )
    return None


def run_task(simulator: Simulator, task: Task) -> Result:
    """Simulates the rows of a task; what fails is recorded, not raised."""
    began = before = time.perf_counter()
    parts: list[_Part] = []
    times: list[tuple[int, int, float]] = []
    stop = task.start
    for part in _calls(simulator, task):
        now = time.perf_counter()
        parts.append(part)
        times.append((part.start, part.stop - part.start, now - before))
        stop, before = part.stop, now
        if task.seconds is not None and now - began > task.seconds:
            break
    layout = _find_layout(parts) if task.layout is None else task.layout
    result = _fill(parts, layout, task.start, stop, task.seed)
    result.seconds = time.perf_counter() - began
    result.times = np.array(times[:: max(1, len(times) // _TIMES)], dtype=RECORD)
    result.host = socket.gethostname()
    return result


def _fill(parts: Sequence[_Part], layout: Layout, start: int, stop: int, seed: int) -> Result:
    n = stop - start
    columns: Columns = {}
    direct = len(parts) == 1 and not isinstance(parts[0].out, _Fault)
    if not direct:
        columns = {k: np.zeros((n, *shape), dtype) for k, (shape, dtype) in layout.items()}
    status = np.zeros(n, dtype=np.uint8)
    faults: dict[int, _Fault] = {}
    block: dict[int, int] = {}  # of rows that were drawn together
    for a, b, out, index in parts:
        if index is not None:
            block |= dict.fromkeys(range(a, b), index)
        fault = out if isinstance(out, _Fault) else _misfit(out, layout)
        if fault is not None:
            faults |= dict.fromkeys(range(a, b), fault)
            direct = False
        elif direct:
            assert not isinstance(out, _Fault)
            columns = {k: np.asarray(out[k], dtype) for k, (_, dtype) in layout.items()}
        elif not isinstance(out, _Fault):
            for name in layout:
                columns[name][a - start : b - start] = out[name]
    if not columns:
        columns = {k: np.zeros((n, *shape), dtype) for k, (shape, dtype) in layout.items()}
    faults |= _pad(columns, start)
    finite = {k: finite_rows(v) for k, v in columns.items()}
    if finite:
        for i in np.flatnonzero(~np.logical_and.reduce(list(finite.values()))):
            names = ", ".join(k for k, good in finite.items() if not good[i])
            faults.setdefault(start + int(i), _Fault("nonfinite", f"NaN or infinity in {names}"))
    bad = np.array(sorted(faults), dtype=np.int64)
    status[bad - start] = [status_code(faults[row].kind) for row in bad.tolist()]
    failures = []
    for row in bad.tolist():
        kind, message, trace = faults[row]
        drawn = (seed, BLOCK, block[row]) if row in block else (seed, ROW, row)
        failures.append(Failure(row, kind, message, trace=trace, seed=drawn))
    return Result(blank(columns, bad - start), status, failures)


def join(results: Sequence[tuple[Task, Result]], layout: Layout | None = None) -> Result:
    """Results of adjoining tasks, in order, as one; of those without a layout it is found."""
    parts: list[_Part] = []
    known: dict[int, Failure] = {}
    for task, result in results:
        stop = task.start + len(result.status)
        known |= {failure.row: failure for failure in result.failures}
        fault = _Fault(*result.failures[0][1:3]) if not result.columns else None
        parts.append(_Part(task.start, stop, fault or result.columns))
    found = _find_layout(parts) if layout is None else layout
    joined = _fill(parts, found, parts[0].start, parts[-1].stop, results[0][0].seed)
    known = {**{failure.row: failure for failure in joined.failures}, **known}
    joined.failures = [known[row] for row in sorted(known)]
    for failure in joined.failures:
        joined.status[failure.row - parts[0].start] = status_code(failure.kind)
    joined.seconds = sum(result.seconds for _, result in results)
    joined.times = np.concatenate([result.times for _, result in results])
    return joined


def _pad(columns: Columns, start: int) -> dict[int, _Fault]:
    """Puts zeros behind the last element of each row of a variable-length field."""
    faults = {}
    for name in [k for k in columns if f"{k}_length" in columns]:
        array, length = columns[name], columns[f"{name}_length"]
        if array.ndim < 2 or length.ndim != 1:
            continue
        size = array.shape[1]
        for i in np.flatnonzero((length < 0) | (length > size)):
            message = f"{name}_length is {length[i]}; {name!r} has room for {size} elements"
            faults[start + int(i)] = _Fault("shape", message)
        beyond = np.arange(size) >= length[:, None]
        if np.any(array[beyond] != 0):
            columns[name] = array = array.copy()
            array[beyond] = 0
    return faults


def killed(task: Task, batched: bool, how: str, kind: str = "killed") -> Result:
    """The rows of a task that ends its process each time, as failed ones."""
    rows = range(task.start, task.stop)
    message = f"the process ended while it simulated this row: {how}"
    failures = []
    for row in rows:
        drawn = (task.seed, BLOCK, row // task.block) if batched else (task.seed, ROW, row)
        failures.append(Failure(row, kind, message, seed=drawn))
    return Result({}, np.full(len(rows), status_code(kind), dtype=np.uint8), failures)


def pieces(task: Task, batched: bool) -> list[Task]:
    """A task in up to eight, which return their rows; none if it cannot be divided."""
    step = task.block if batched else 1
    base = task.start // step * step
    parts = -(-(task.stop - base) // step)
    if parts < 2:
        return []
    width = -(-parts // _PIECES) * step
    starts = range(base, task.stop, width)
    return [
        replace(
            task,
            start=max(low, task.start),
            stop=min(low + width, task.stop),
            theta=task.theta[low - base : low + width - base],
            directory=None,
        )
        for low in starts
    ]


def written(task: Task) -> Result | None:
    """The result of a task whose worker has committed its shard and could not say so."""
    if task.directory is None:
        return None
    path = Path(task.directory) / shard_name(task.start)
    try:
        with open_file(path) as file:
            status = file["status"][()]
        size = path.stat().st_size
        return Result({}, status, read_failures(path, task.seed), size=size)
    except FileNotFoundError:
        return None


class _Later:
    """A prior on its way to a worker: it becomes one, and imports torch, when it is first used."""

    def __init__(self, names: tuple[str, ...], content: bytes) -> None:
        self.names, self._content = names, content

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_content":
            raise AttributeError(name)
        if "_prior" not in vars(self):
            self._prior = cloudpickle.loads(self._content)
        return getattr(self._prior, name)


class _Pickler(cloudpickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind.__module__ == "simgen.prior" and kind.__name__ == "Prior":
            return _Later, (obj.names, cloudpickle.dumps(obj))
        return super().reducer_override(obj)


class Payload(NamedTuple):
    """A pickled simulator: its bytes, or the file that holds them."""

    key: str
    content: bytes | str

    @classmethod
    def of(cls, simulator: Simulator) -> Payload:
        """Pickles a simulator by value where it comes from a script or a notebook."""
        buffer = io.BytesIO()
        _Pickler(buffer).dump(simulator)
        content = buffer.getvalue()
        return cls(hashlib.sha256(content).hexdigest(), content)

    def load(self) -> Simulator:
        """The simulator; one copy a process."""
        simulator = _cache.get(self.key)
        if simulator is None:
            content = self.content
            if isinstance(content, str):
                content = Path(content).read_bytes()
            simulator = cloudpickle.loads(content)
            _cache.clear()
            _cache[self.key] = simulator
        return simulator


def execute(payload: Payload, task: Task) -> Result:
    """Runs a task in a worker, which writes the shard itself where the coordinator can see it."""
    if task.guarded:
        from .guard import guarded

        return guarded(payload, task)
    result = run_task(payload.load(), task)
    if task.directory is None:
        return result
    directory = Path(task.directory)
    if result.host not in task.seen:
        result.probe = _probe(directory, task.token, result.host)
        return result
    fields = {**({"theta": task.own} if task.stored else {}), **result.columns}
    try:
        path = write_shard(
            directory, task.start, fields, result.status, result.failures, task.round
        )
    except OSError as error:
        if is_disk_full(error):
            raise
        return result  # the coordinator may be able to
    result.columns, result.size = {}, path.stat().st_size
    return result


def _probe(directory: Path, token: str, host: str) -> str | None:
    name = f".probe-{host}-{os.getpid()}"
    try:
        put(directory / name, token.encode())
    except OSError:
        return None
    return name
