"""Pools: where tasks run; in this process, in worker processes of our own, in any executor.

A worker process that dies takes its pool with it: the pool is built anew, and what was in flight
runs under guard (see `guard`), as does everything once that has happened often. So does all that
runs on a cluster (dask), which itself runs the tasks of a worker that is lost again.
"""

from __future__ import annotations

__all__ = ["Inline", "Pool"]

import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..forward import Simulator
from ..storage.shard import DatasetError
from .workers import Payload, Result, Task, attend, execute, run_task, written

_TRUST = 3  # breaks of a pool after which all its tasks run under guard
_FRUITLESS = 20  # breaks in a row without a result, after which there is no hope
_LARGE = 1 << 20  # bytes of a simulator beyond which workers read it from a file
_COUNT = 1.0  # seconds between looks at how many workers a cluster has
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


Following = Callable[[], Task | None]
"""Gives the next task."""


class Inline:
    """Runs tasks in this process, one after the other."""

    workers = 1

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    def run(self, following: Following) -> Iterator[tuple[Task, Result]]:
        """Runs what `following` gives until it gives None."""
        while (task := following()) is not None:
            yield task, run_task(self.simulator, replace(task, directory=None))

    def close(self) -> None:
        """Nothing to close."""


class Pool:
    """Runs tasks in worker processes.

    Arguments:
        simulator: It goes to the workers without its prior.
        workers: How many; of a user's executor, where that does not say.
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
        self._given = executor
        self._breaks = 0 if _client(executor) is None else _TRUST
        self._running: dict[Future[Result], Task] = {}
        self._file: str | None = None
        if executor is None and len(self._payload.content) > _LARGE:
            self._file = _spill(self._payload.content)
            self._payload = Payload(self._payload.key, self._file)
        self._workers = max(1, workers)
        if executor is not None and workers == 1:
            self._workers = os.cpu_count() or 1
        self._counted = -_COUNT
        self._executor: Any = executor if executor is not None else self._build()

    @property
    def workers(self) -> int:
        """How many workers there are now: those of a cluster come and go."""
        now = time.monotonic()
        if self._given is not None and now >= self._counted + _COUNT:
            self._workers, self._counted = _size(self._given) or self._workers, now
        return self._workers

    def _build(self) -> Executor:
        from loky import ProcessPoolExecutor

        threads = {name: os.environ.get(name, "1") for name in _THREADS}
        return ProcessPoolExecutor(
            max_workers=self._workers, initializer=attend, initargs=(os.getpid(),), env=threads
        )

    def _rebuild(self, error: BaseException) -> None:
        if self._given is not None:
            raise DatasetError(
                f"the executor broke ({error}); what is committed is kept: run the same command "
                "again with a new executor"
            ) from error
        self._breaks += 1
        self._executor.shutdown(wait=True, kill_workers=True)
        self._executor = self._build()

    def run(self, following: Following) -> Iterator[tuple[Task, Result]]:
        """Runs what `following` gives until it gives None and all is done, in any order.

        Arguments:
            following: The next task.

        Raises:
            DatasetError: If a worker cannot run the simulator at all, or every worker ends, or
                the user's executor broke.
            OSError: If a worker could not write.
        """
        running = self._running
        again: deque[Task] = deque()
        fruitless = 0
        while True:
            cause: BaseException | None = None
            try:
                while task := self._next(again, following):
                    task = replace(task, guarded=task.guarded or self._breaks >= _TRUST)
                    running[self._executor.submit(execute, self._payload, task)] = task
            except BrokenExecutor as error:
                assert task is not None
                again.appendleft(task)
                cause = error
                finished = self._drain(running)
            else:
                if not running:
                    return
                wait(running, return_when=FIRST_COMPLETED)
                finished = [(f, running.pop(f)) for f in list(running) if f.done()]
                cause = next((e for f, _ in finished if (e := _breakage(f))), None)
                if cause is not None:
                    finished += self._drain(running)
            fruitless += 1
            for future, task in finished:
                # a worker may have died after it had committed
                result = written(task) if _is_lost(future) else _result(future)
                if result is None:
                    again.append(replace(task, guarded=True))
                else:
                    fruitless = 0
                    yield task, result
            if fruitless >= _FRUITLESS:
                raise DatasetError(
                    f"workers end whatever they do ({cause or 'the cluster loses them'}); what is "
                    "committed is kept"
                )
            if cause is not None:
                self._rebuild(cause)

    def _next(self, again: deque[Task], following: Following) -> Task | None:
        if len(self._running) >= 2 * self.workers:
            return None
        return again.popleft() if again else following()

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


def _is_lost(future: Future[Result]) -> bool:
    """Whether a task's worker has died, or several on a cluster, which gives it up then."""
    return bool(_breakage(future)) or type(future.exception()).__name__ == "KilledWorker"


def _client(executor: Any) -> Any:
    """The client of a cluster's executor, dask's; None of any other."""
    client = getattr(executor, "_client", None)
    return client if hasattr(client, "nthreads") else None


def _size(executor: Any) -> int | None:
    """The workers of an executor; None if it does not say."""
    if (client := _client(executor)) is not None:
        return sum(client.nthreads().values()) or None
    known = getattr(executor, "_max_workers", None)
    return known if isinstance(known, int) and known > 0 else None


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except OSError:
        raise
    except Exception as error:
        raise DatasetError(
            f"a worker could not run the simulator: {type(error).__name__}: {error}"
        ) from error


def _spill(content: bytes | str) -> str:
    assert isinstance(content, bytes)
    with tempfile.NamedTemporaryFile(prefix="simgen-", delete=False) as file:
        file.write(content)
    return file.name
