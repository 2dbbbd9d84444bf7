"""Progress of long work: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

__all__ = ["Bar"]

import sys
import time
from types import TracebackType
from typing import Any


class Bar:
    """A rich progress bar with rate and time left; silent where there is no terminal.

    Arguments:
        title: What is being done.
        total: How many rows it takes.
        show: Whether to show it at all.
        after: Seconds of work before it appears.
    """

    def __init__(self, title: str, total: int, show: bool = True, after: float = 0.0) -> None:
        self.title, self.total = title, total
        self._progress: Any = None
        self._done, self._task, self._from = 0.0, None, time.monotonic() + after
        if show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                Progress,
                ProgressColumn,
                TextColumn,
                TimeRemainingColumn,
            )
            from rich.text import Text

            class Rate(ProgressColumn):
                def render(self, task: Any) -> Text:
                    return Text(f"{task.speed:,.0f} rows/s" if task.speed else "")

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                Rate(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )

    def __enter__(self) -> Bar:
        self._appear()
        return self

    def advance(self, rows: float, note: str = "") -> None:
        """Reports rows done and a short note."""
        self._done += rows
        self._appear()
        if self._task is not None:
            self._progress.update(self._task, completed=self._done, note=note)

    def _appear(self) -> None:
        if self._progress is not None and self._task is None and time.monotonic() >= self._from:
            self._progress.start()
            self._task = self._progress.add_task(self.title, total=self.total, note="")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._progress.stop()
