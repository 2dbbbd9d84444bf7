"""Pools: where tasks run; in this process, in worker processes of our own, or in an executor of "
"the user's.

A worker process that dies takes its pool with it. The pool is built anew and the tasks that
were in flight run one at a time; one that ends the pool again is divided, and the last rows of
it that do so three times are recorded as failed.
"""

from __future__ import annotations

__all__ = ["Inline", "Pool"]

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import suppress
from dataclasses import replace
from typing import Any

from .forward import Simulator
from .shard import DatasetError
from .workers import Payload, Result, Task, attend, execute, run_task

_STRIKES, _PIECES = 3, 8
_LARGE = 1 << 20  # bytes of a simulator beyond which workers read it from a file
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Inline:
    """Runs tasks in this process, one after the other."""

    workers = 1

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    def run(
        self, following: Callable[[], Task | None], lost: Callable[[Task], Result]
    ) -> Iterator[tuple[Task, Result]]:
        """Runs what `following` gives until it gives None."""
        while (task := following()) is not None:
            yield task, run_task(self.simulator, replace(task, directory=None))

    def close(self) -> None:
        """Nothing to close."""


class Pool:
    """Runs tasks in worker processes.

    Arguments:
        simulator: It goes to the workers without its prior.
        workers: How many.
        executor: The user's; else a process pool that needs no guarded `__main__`.

    Raises:
        TypeError: If the simulator cannot be pickled.
    """

    def __init__(self, simulator: Simulator, workers: int, executor: Executor | None) -> None:
        try:
            self._payload = Payload.of(simulator)
        except Exception as error:
            raise TypeError(
                f"the simulator {simulator.name} cannot be sent to worker processes ({error}); "
                "use workers=1, or make what it holds picklable"
            ) from error
        self._given, self._batched = executor, simulator.batched
        self._running: dict[Future[Result], Task] = {}
        self._file: str | None = None
        if executor is None and len(self._payload.content) > _LARGE:
            self._file = _spill(self._payload.content)
            self._payload = Payload(self._payload.key, self._file)
        known = getattr(executor, "_max_workers", None)
        self.workers = known if isinstance(known, int) and known > 0 else max(1, workers)
        if executor is not None and known is None and workers == 1:
            self.workers = os.cpu_count() or 1
        self._executor: Any = executor if executor is not None else self._build()

    def _build(self) -> Executor:
        from loky import ProcessPoolExecutor

        threads = {name: os.environ.get(name, "1") for name in _THREADS}
        return ProcessPoolExecutor(
            max_workers=self.workers, initializer=attend, initargs=(os.getpid(),), env=threads
        )

    def _rebuild(self, error: BaseException) -> None:
        if self._given is not None:
            raise DatasetError(
                f"the executor broke ({error}); what is committed is kept: run the same command "
                f"again "
                "with a new executor"
            ) from error
        self._executor.shutdown(wait=True, kill_workers=True)
        self._executor = self._build()

    def run(
        self, following: Callable[[], Task | None], lost: Callable[[Task], Result]
    ) -> Iterator[tuple[Task, Result]]:
        """Runs what `following` gives until it gives None and all is done, in any order.

        Arguments:
            following: The next task.
            lost: The result of a task that no process survives.

        Raises:
            DatasetError: If a worker cannot run the simulator at all, or the user's executor
                broke.
            OSError: If a worker could not write.
        """
        running = self._running
        suspects: deque[Task] = deque()
        strikes: dict[tuple[int, int], int] = {}
        while True:
            broken: list[Task] = []
            cause: BaseException | None = None
            try:
                while task := self._next(running, suspects, following):
                    running[self._executor.submit(execute, self._payload, task)] = task
            except BrokenExecutor as error:
                assert task is not None
                suspects.appendleft(task)
                broken, cause = [], error
                finished = self._drain(running)
            else:
                if not running:
                    return
                wait(running, return_when=FIRST_COMPLETED)
                finished = [(f, running.pop(f)) for f in list(running) if f.done()]
                cause = next((e for f, _ in finished if (e := _breakage(f))), None)
                if cause is not None:
                    finished += self._drain(running)
            for future, task in finished:
                if _breakage(future):
                    broken.append(task)
                else:
                    yield task, _result(future)
            if cause is None:
                continue
            self._rebuild(cause)
            if len(broken) != 1:
                suspects.extend(sorted(broken, key=lambda task: task.start))
                continue
            (task,) = broken
            pieces = _pieces(task, self._batched)
            key = (task.start, task.stop)
            strikes[key] = strikes.get(key, 0) + 1
            if pieces:
                suspects.extendleft(reversed(pieces))
            elif strikes[key] < _STRIKES:
                suspects.appendleft(task)
            else:
                yield task, lost(task)

    def _next(
        self,
        running: dict[Future[Result], Task],
        suspects: deque[Task],
        following: Callable[[], Task | None],
    ) -> Task | None:
        if suspects:
            return None if running else suspects.popleft()
        return following() if len(running) < 2 * self.workers else None

    def _drain(self, running: dict[Future[Result], Task]) -> list[tuple[Future[Result], Task]]:
        """All that was in flight in a broken pool, with what became of it."""
        wait(running)
        out = list(running.items())
        running.clear()
        return out

    def close(self) -> None:
        """Ends our own workers, whatever they do; in the user's executor, what has not begun."""
        for future in self._running:
            future.cancel()
        if self._given is None:
            with suppress(Exception):
                self._executor.shutdown(wait=True, kill_workers=True)
        if self._file is not None:
            with suppress(OSError):
                os.unlink(self._file)


def _breakage(future: Future[Result]) -> BaseException | None:
    if future.cancelled():
        return BrokenExecutor("cancelled")
    error = future.exception()
    return error if isinstance(error, BrokenExecutor) else None


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except OSError:
        raise
    except Exception as error:
        raise DatasetError(
            f"a worker could not run the simulator: {type(error).__name__}: {error}"
        ) from error


def _pieces(task: Task, batched: bool) -> list[Task]:
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


def _spill(content: bytes | str) -> str:
    assert isinstance(content, bytes)
    with tempfile.NamedTemporaryFile(prefix="simgen-", delete=False) as file:
        file.write(content)
    return file.name
