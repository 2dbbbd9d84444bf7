"""The figure: trends with alpha_s, posterior means against truth, and coverage."""

from __future__ import annotations

__all__ = ["draw"]

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy import ndarray as Array
from scipy.stats import binom

from simgen.plots.style import COLOURS, GREY

from .trend import ALPHAS, SHAPES, Means, growth


def draw(
    trends: dict[str, Means],
    truth: Array,
    moments: dict[str, tuple[Array, Array]],
    ranks: dict[str, Array],
    path: Path,
) -> None:
    """Draws the figure.

    Arguments:
        trends: Means of shapes by generator.
        truth: alpha_s (n,).
        moments: Posterior means and deviations (n,) by method.
        ranks: Of the truths among their posteriors' draws, as shares (n,), by method.
        path: Where to write it.
    """
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    top: Any
    bottom: Any
    top, bottom = figure.subplots(2, 3)
    for i, (axes, shape) in enumerate(zip(top, SHAPES)):
        for k, (name, found) in enumerate(trends.items()):
            level = growth(found)[0][i]
            axes.errorbar(
                ALPHAS + 4e-4 * (k - (len(trends) - 1) / 2),
                found.mean[:, i] / level,
                found.error[:, i] / level,
                fmt="o-",
                ms=3.5,
                lw=1,
                color=COLOURS[k],
                label=name,
            )
        axes.set(xlabel=r"$\alpha_s$", ylabel="mean, relative to 0.12", title=shape)
    top[0].legend(frameon=False, fontsize=8)
    low, high = ALPHAS[0], ALPHAS[-1]
    for k, (axes, (name, (mean, sd))) in enumerate(zip(bottom, moments.items())):
        axes.plot([low, high], [low, high], color=GREY, lw=1)
        axes.errorbar(truth, mean, sd, fmt="o", ms=2, lw=0.5, color=COLOURS[k])
        axes.set(xlabel=r"true $\alpha_s$", ylabel="posterior mean and deviation", title=name)
    _coverage(bottom[2], ranks)
    figure.savefig(path, dpi=130)


def _coverage(axes: Any, ranks: dict[str, Array]) -> None:
    """Shares of truths within central intervals, less the nominal ones, and their 95 % band."""
    level = np.linspace(0.02, 0.98, 49)
    n = len(next(iter(ranks.values())))
    band = [binom.ppf(q, n, level) / n - level for q in (0.025, 0.975)]
    axes.fill_between(level, *band, color=GREY, alpha=0.3, lw=0)
    axes.axhline(0, color=GREY, lw=1)
    for k, (name, rank) in enumerate(ranks.items()):
        inside = np.abs(rank[:, None] - 0.5) <= level / 2
        axes.plot(level, inside.mean(0) - level, color=COLOURS[k], label=name)
    axes.legend(frameon=False, fontsize=8)
    axes.set(xlabel="central interval", ylabel="coverage - nominal", title=f"{n} truths")
