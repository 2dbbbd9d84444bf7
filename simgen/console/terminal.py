"""Terminal: what a command shows, and how it ends.

Bad input is one line and exit code 2, an interruption is 130, and there is no traceback without
--debug.
"""

from __future__ import annotations

__all__ = ["again", "display", "end", "say", "show"]

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from .inspection import Section

INTERRUPTED, BAD_INPUT, FAILED = 130, 2, 1
_UsageError: Any = typer.BadParameter.__mro__[1]


def say(text: str) -> None:
    """Prints a line at once."""
    print(text, flush=True)


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def display(value: Any) -> None:
    """Prints something that rich can render."""
    _console().print(value)


def show(sections: Iterable[Section]) -> None:
    """Prints titled tables."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = _console()
    for section in sections:
        console.print(Text(section.title, "bold"))
        table = Table(*section.header, box=box.SIMPLE, show_header=any(section.header))
        for row in section.rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)


@contextlib.contextmanager
def again() -> Iterator[None]:
    """Work that the same command goes on with, once interrupted: says so."""
    try:
        yield
    except KeyboardInterrupt:
        print("simgen: run the same command again to go on", file=sys.stderr)
        raise


def end(app: Callable[..., Any], arguments: Sequence[str] | None = None) -> None:
    """Runs a typer application and ends the process with its exit code.

    Arguments:
        app: The application.
        arguments: The words of the command; those of this process unless given.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("simgen: %(message)s"))
    logging.getLogger("simgen").addHandler(handler)
    try:
        code = _run(app, words)
    finally:
        logging.getLogger("simgen").removeHandler(handler)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.exit(code)


def _run(app: Callable[..., Any], words: list[str]) -> int:
    debug = "--debug" in words
    try:
        result = app(args=[word for word in words if word != "--debug"], standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except _UsageError as error:
        return _complain(error.format_message(), BAD_INPUT)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, (ValueError, TypeError, OSError, ImportError)):
            return _complain(_sentence(error), BAD_INPUT)
        text = f"{type(error).__name__}: {_sentence(error)} (--debug shows where)"
        return _complain(text, FAILED)


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _complain(text: str, code: int) -> int:
    print(f"simgen: {' '.join(text.split())}", file=sys.stderr)
    return code
