"""The whole torture: a campaign of 20,000 rows through sixty kills and more."""

from __future__ import annotations

__all__ = ["kills"]

import shutil
from pathlib import Path

from .table import Part
from .torture import torture

LONGEST = 4.0  # seconds between kills


def kills(folder: Path, rows: int = 20_000, count: int = 64, pause: float = 16e-3) -> Part:
    """Kills at random instants, of the coordinator and of workers in turn."""
    toll = torture(folder, rows, count, pause, longest=LONGEST)
    for name in ("torture", "peace"):
        shutil.rmtree(folder / name)
    return Part(
        [
            (
                "kills survived / rows lost / rows duplicated",
                "≥ 60 / 0 / 0",
                f"{toll.kills} / {toll.lost} / {toll.duplicated}",
            ),
            (
                "shards that differ from an uninterrupted campaign's / were ever rewritten",
                "0 / 0",
                f"{toll.different} / {toll.rewritten}",
            ),
        ],
        f"Kills: {rows:,} rows of an exponential time of mean {1e3 * pause:g} ms, of which "
        f"{toll.failed} fail, with two workers; SIGKILL of the coordinator ({toll.coordinators}) "
        f"or of a random worker ({toll.workers}) after times that are uniform up to "
        f"{LONGEST:g} s; "
        f"{toll.seconds:.0f} s in all. Whole files are compared, byte by byte.",
    )
