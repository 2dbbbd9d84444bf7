"""What a part of the study found: rows of the table, and how they were measured."""

from __future__ import annotations

__all__ = ["Part"]

from typing import NamedTuple


class Part(NamedTuple):
    """Rows (measure, to reach, found), and in Markdown how they came about."""

    rows: list[tuple[str, str, str]]
    text: str
