"""Locks: one coordinator a part of a dataset.

A lock is a file with host, process and heartbeat of its holder. The operating system releases
it with the process, however that ends; where it cannot lock (some network file systems), and
across hosts, the heartbeat says whether the holder lives.
"""

from __future__ import annotations

__all__ = ["Lock", "LockHeld", "holder", "is_alive"]

import errno
import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

try:
    import fcntl
except ImportError:  # not POSIX: heartbeats alone
    fcntl = None  # type: ignore[assignment]

BEAT, STALE = 10.0, 90.0
"""Seconds between heartbeats, and the age at which a silent holder counts as dead."""

_ours: set[str] = set()  # POSIX locks do not exclude threads of one process
_guard = threading.Lock()


class LockHeld(RuntimeError):
    """Someone holds the lock; `holder` says who: host, pid, since, heartbeat."""

    def __init__(self, path: Path, holder: dict[str, Any]) -> None:
        self.holder = holder
        age = max(0.0, time.time() - holder.get("heartbeat", time.time()))
        super().__init__(
            f"process {holder.get('pid')} on {holder.get('host')} holds {path.name} "
            f"(since {holder.get('since')}, heartbeat {age:.0f} s ago)"
        )


def _record(descriptor: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def is_alive(pid: int) -> bool:
    """Whether a process of this host is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _take(descriptor: int) -> bool | None:
    """Whether the system's lock was free and is ours now; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EAGAIN) else None
    return True


def _living(taken: bool | None, record: dict[str, Any]) -> bool:
    """Whether the holder that a lock file names is still there."""
    if not taken and taken is not None:
        return True
    if not record:
        return False
    if record.get("host") == socket.gethostname():
        return taken is None and is_alive(int(record["pid"])) and record["pid"] != os.getpid()
    return time.time() - float(record.get("heartbeat", 0.0)) < STALE


def holder(path: Path) -> dict[str, Any] | None:
    """Who holds the lock at this path; None if nobody, or nobody who is still alive."""
    with _guard:
        if str(path.resolve()) in _ours:
            return {"host": socket.gethostname(), "pid": os.getpid()}
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:
            return None
        try:
            taken = _take(descriptor)
            record = _record(descriptor)
            return record if _living(taken, record) else None
        finally:
            os.close(descriptor)


class Lock:
    """A lock file, held from `acquire` to `release`, or within a with-statement.

    Arguments:
        path: The file; it is there only while the lock is held (or its holder died).
        wait: Seconds to wait for another holder before giving up.

    Raises:
        LockHeld: If another process, or another thread of this one, holds it.
    """

    def __init__(self, path: Path, wait: float = 0.0) -> None:
        self.path = Path(path)
        self.wait = wait
        self._descriptor = -1
        self._stop = threading.Event()
        self._since = ""

    def acquire(self) -> None:
        """Takes the lock; that of a dead holder is taken over."""
        until = time.monotonic() + self.wait
        while True:
            try:
                return self._acquire()
            except LockHeld:
                if time.monotonic() >= until:
                    raise
                time.sleep(0.05)

    def _acquire(self) -> None:
        key = str(self.path.resolve())
        with _guard:
            if key in _ours:
                raise LockHeld(self.path, {"host": socket.gethostname(), "pid": os.getpid()})
            while True:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
                taken = _take(descriptor)
                record = _record(descriptor)
                if _living(taken, record):
                    os.close(descriptor)
                    raise LockHeld(self.path, record)
                try:
                    if os.fstat(descriptor).st_ino == os.stat(self.path).st_ino:
                        break
                except FileNotFoundError:  # its last holder has just removed it
                    pass
                os.close(descriptor)
            _ours.add(key)
        self._descriptor = descriptor
        self._since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._stop.clear()
        self._beat()
        threading.Thread(target=self._beats, daemon=True, name="simgen-lock").start()

    def _beat(self) -> None:
        record = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": self._since,
            "heartbeat": time.time(),
        }
        content = json.dumps(record).encode().ljust(256)
        try:
            os.pwrite(self._descriptor, content, 0)
        except OSError:  # a full disk must not cost the lock
            pass

    def _beats(self) -> None:
        stop = self._stop
        while not stop.wait(BEAT):
            with _guard:
                if stop.is_set():
                    return
                self._beat()

    def release(self) -> None:
        """Gives the lock back and removes its file."""
        with _guard:
            if self._descriptor < 0:
                return
            self._stop.set()
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                pass
            os.close(self._descriptor)
            self._descriptor = -1
            _ours.discard(str(self.path.resolve()))

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
