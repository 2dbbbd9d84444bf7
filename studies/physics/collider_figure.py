"""The figure: joint against exact ratios, joint against exact scores, pulls of the histogram."""

from __future__ import annotations

__all__ = ["draw"]

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy import ndarray as Array

from simgen.plots.style import COLOURS, GREY

SHOWN = 4_000


def draw(samples: list[dict[str, Array]], results: list[dict[str, Any]], path: Path) -> None:
    """Draws three panels.

    Arguments:
        samples: Of each point, events' ratios and scores, and the histogram's counts.
        results: What `check` found there.
        path: Where to write the figure.
    """
    figure = Figure(figsize=(12.5, 3.6), layout="constrained")
    ratios, scores, pulls = figure.subplots(1, 3)
    for i, result in enumerate(results):
        rows = [row for row in result["rows"] if "r_x" in row]
        x, y, error = np.array([[row["r_x"], row["mean"], row["error"]] for row in rows]).T
        label = f"{result['detector']}, ({result['theta'][0]:g}, {result['theta'][1]:g})"
        place = x * (1 + 0.003 * (i - 1))
        ratios.errorbar(
            place, 1e3 * (y - 1), 1e3 * error, fmt="o", ms=4, color=COLOURS[i], label=label
        )
    ratios.axhline(0, color=GREY, lw=0.8)
    ratios.set(
        xlabel=r"exact ratio $r_x$", ylabel=r"$(E[r \mid \mathrm{bin}] / r_x - 1) \times 10^3$"
    )
    ratios.legend(frameon=False, fontsize=8)
    t, t_x = (samples[0][name][:SHOWN, 0] for name in ("t", "t_x"))
    scores.plot(t_x, t, ".", ms=1.5, color=COLOURS[0], alpha=0.5)
    ends = np.quantile(t_x, [0.001, 0.999])
    scores.plot(ends, ends, color=GREY, lw=0.8)
    scores.set(xlabel=r"exact score $t_x$ of $\epsilon$", ylabel="joint score $t$")
    expected = samples[0]["expected"]
    shown = np.where(expected > 20, (samples[0]["counts"] - expected) / np.sqrt(expected), np.nan)
    image = pulls.imshow(
        shown, aspect="auto", origin="lower", vmin=-4, vmax=4, cmap="RdBu_r", rasterized=True
    )
    pulls.set(xlabel=r"quantile bin of $\tau$", ylabel=r"$n_\mathrm{det}$")
    figure.colorbar(image, ax=pulls, label="(observed - expected) / sd")
    figure.savefig(path, dpi=110)
