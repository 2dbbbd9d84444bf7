"""Programs: one run of an executable in a scratch directory, without a shell, to its end.

Standard input and output are files of the scratch directory, so that neither fills a pipe or the
memory. Whatever the program has started ends with it. Directories of runs that were killed are
removed by later ones.
"""

from __future__ import annotations

__all__ = ["CommandError", "error_tail", "run_program", "scratch_directory"]

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..storage.locking import is_alive

_TAIL = 1500  # bytes of standard error to report
_LEFT = 3600.0  # seconds after which what a dead process has left is removed
_swept: set[str] = set()


class CommandError(RuntimeError):
    """Why a program gave no result: its exit code, and the end of its standard error."""


@contextmanager
def scratch_directory(root: str | None = None, keep_failed: bool = False) -> Iterator[Path]:
    """A directory for one run, removed behind it.

    Arguments:
        root: Where it is made; the system's place for temporary files unless said.
        keep_failed: Whether it stays when the run fails; the error then says where.
    """
    root = root or tempfile.gettempdir()
    os.makedirs(root, exist_ok=True)
    if root not in _swept:
        _swept.add(root)
        _sweep(Path(root))
    path = Path(tempfile.mkdtemp(prefix=f"simgen-{_host()}-{os.getpid()}-", dir=root))
    try:
        yield path
    except (CommandError, TimeoutError) as error:
        if not keep_failed:
            raise
        kept = path.rename(path.with_name(f"failed-{path.name}"))
        raise type(error)(f"[kept in {kept}] {error}") from None
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _host() -> str:
    return re.sub(r"\W", "_", socket.gethostname())


def _sweep(root: Path) -> None:
    """Removes the directories of processes of this host that are gone."""
    with suppress(OSError):
        for path in root.glob(f"simgen-{_host()}-*-*"):
            pid = path.name.split("-")[-2]
            old = time.time() - path.stat().st_mtime > _LEFT
            if old and pid.isdigit() and not is_alive(int(pid)):
                shutil.rmtree(path, ignore_errors=True)


def run_program(
    argv: Sequence[str],
    directory: Path,
    given: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> None:
    """Runs a program in a directory, where `stdout` and `stderr` are then files.

    Arguments:
        argv: The program and its arguments.
        directory: Where it runs.
        given: Its standard input.
        env: Environment variables beside those that are there.
        timeout: Seconds that it may take.

    Raises:
        CommandError: If it cannot be started, or its exit code is not 0.
        TimeoutError: If it takes too long; it is ended then.
    """
    (directory / "stdin").write_bytes(given)
    with (
        open(directory / "stdin", "rb") as stdin,
        open(directory / "stdout", "wb") as stdout,
        open(directory / "stderr", "wb") as stderr,
    ):
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=directory,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise CommandError(f"{argv[0]} cannot be started: {error}") from None
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(
                f"{argv[0]} took longer than {timeout:g} s{error_tail(directory)}"
            ) from None
        finally:  # and at Ctrl-C
            _end(process)
    if code:
        raise CommandError(f"{argv[0]} ended with {_reason(code)}{error_tail(directory)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a program, and all of its session."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(code: int) -> str:
    if code > 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def error_tail(directory: Path) -> str:
    """The end of standard error, as the end of a message."""
    with open(directory / "stderr", "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        text = file.read().decode("utf-8", "replace").strip()
    return f": {text}" if text else ""
