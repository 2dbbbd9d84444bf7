"""The figure of ranks: histograms that are flat where a posterior is calibrated."""

from __future__ import annotations

__all__ = ["rank_histograms"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binom

from simgen.plots.style import COLOURS, GREY

_BINS = 8


def rank_histograms(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draws a row for each calibration: projections together, and log p(y | x).

    Arguments:
        found: Summaries by title, with their ranks (truths, k + 1) and how many draws they
            are among.
        path: Where to write the figure.
    """
    figure = Figure(figsize=(6.4, 1.5 * len(found) + 0.4), layout="constrained")
    rows = figure.subplots(len(found), 2, squeeze=False, sharex=True)
    for axes, (title, one) in zip(rows, found.items()):
        ranks, draws = np.array(one["ranks"]), one["draws"]
        for ax, values, name in (
            (axes[0], ranks[:, :-1].ravel(), "u · x"),
            (axes[1], ranks[:, -1], "log p(y | x)"),
        ):
            ax.hist(
                (values + 0.5) / (draws + 1),
                np.linspace(0, 1, _BINS + 1),
                color=COLOURS[0],
                alpha=0.7,
            )
            low, high = binom.ppf([0.005, 0.995], len(values), 1 / _BINS)
            ax.axhspan(low, high, color=GREY, alpha=0.4, lw=0)
            ax.set_title(f"{title}: {name}", fontsize=8)
            ax.set_yticks([])
    for ax in rows[-1]:
        ax.set_xlabel("rank among draws, from 0 to 1")
    figure.savefig(path, dpi=130)
