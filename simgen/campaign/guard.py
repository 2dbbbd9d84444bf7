"""Guard: tasks in a child of a worker, so that a row that ends its process ends no worker.

A pool breaks with its worker, and a cluster replaces those that die, but not for ever, and not
without running again what else they held. So a worker hands a task to a process of its own, one a
thread, in whose main thread calls can be timed out; where that dies the task is divided, and rows
that end it alone three times are recorded as failed.
"""

from __future__ import annotations

__all__ = ["guarded", "serve"]

import os
import signal
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from typing import IO, Any

import cloudpickle

from .workers import LATE, Payload, Result, Task, attend, execute, join, killed, pieces, written

_COMMAND = "from simgen.campaign.guard import serve; serve()"
_STRIKES = 3
_LENGTH = struct.Struct("<Q")
_local = threading.local()


def guarded(payload: Payload, task: Task) -> Result:
    """Runs a task in this thread's child, divided around the rows that end it."""
    child: _Child = vars(_local).setdefault("child", _Child())
    whole = replace(task, guarded=False)
    try:
        return child.run(payload, whole)
    except EOFError:
        if (result := written(task)) is not None:
            return result
    batched = payload.load().batched
    waiting = pieces(whole, batched)[::-1] or [replace(whole, directory=None)]
    outcomes: list[tuple[Task, Result]] = []
    strikes = 0
    while waiting:
        one = waiting.pop()
        try:
            outcomes.append((one, child.run(payload, one)))
            strikes = 0
        except EOFError as error:
            parts = pieces(one, batched)
            waiting += parts[::-1]
            if parts:
                continue
            strikes += 1
            if strikes < _STRIKES:
                waiting.append(one)
            else:
                kind = "timeout" if error.args[1] == LATE else "killed"
                outcomes.append((one, killed(one, batched, error.args[0], kind)))
                strikes = 0
    return join(outcomes, task.layout)


class _Child:
    """A process that runs tasks; another takes its place when it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._key = ""

    def run(self, payload: Payload, task: Task) -> Result:
        """The result of a task.

        Raises:
            EOFError: If the process ended; it says how, and with which code.
        """
        if self._process is None or self._process.poll() is not None:
            path = os.pathsep.join(entry for entry in sys.path if entry)
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
            )
            self._key = ""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        known = payload.key == self._key
        try:
            _send(process.stdin, (Payload(payload.key, b"") if known else payload, task))
            self._key = payload.key
            answer = _receive(process.stdout)
        except (EOFError, BrokenPipeError):
            code = process.wait()
            self.close()
            raise EOFError(_how(code), code) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def __del__(self) -> None:
        self.close()


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return "it did not heed its timeout" if code == LATE else f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"{name}, perhaps for want of memory" if name == "SIGKILL" else name


def _send(file: IO[bytes], message: Any) -> None:
    content = cloudpickle.dumps(message)
    file.write(_LENGTH.pack(len(content)))
    file.write(content)
    file.flush()


def _receive(file: IO[bytes]) -> Any:
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (size,) = _LENGTH.unpack(head)
    content = file.read(size)
    if len(content) < size:
        raise EOFError
    return cloudpickle.loads(content)


def serve() -> None:
    """What such a process does: tasks from stdin, results to stdout, until there are no more."""
    attend(os.getppid())
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a simulator prints is no result
    while True:
        try:
            payload, task = _receive(sys.stdin.buffer)
        except EOFError:
            return
        answer: Any
        try:
            answer = execute(payload, task)
        except Exception as error:
            answer = error
        _send(out, answer)
