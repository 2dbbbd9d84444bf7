"""Learning curves: what more simulations are worth."""

from __future__ import annotations

__all__ = ["learning_figure"]

from typing import TYPE_CHECKING, Any

import numpy as np

from .style import COLOURS, GREY, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AHEAD = 16.0  # times the simulations there are


@styled
def learning_figure(curve: Any) -> Figure:
    """Held-out log-probability and coverage by number of simulations, with the fitted laws.

    Arguments:
        curve: What `learning_curve` returned.
    """
    figure = new_figure(8.4, 3.3)
    left, right = figure.subplots(1, 2)
    sizes = np.array(curve.sizes, float)
    grid = np.geomspace(sizes[0], AHEAD * sizes[-1], 80)
    apart = curve.log_prob - curve.log_prob[:, -1:]
    rows = np.sqrt(len(apart))
    gained = curve.law(grid) - curve.law(sizes[-1:])
    _band(left, grid, gained)
    left.errorbar(sizes, apart.mean(0), apart.std(0) / rows, fmt="o", ms=4, color=COLOURS[0])
    low, high = apart.mean(0).min(), float(np.quantile(gained[:, -1], 0.95))
    left.set_ylim(low - 0.15 * (high - low) - 1e-3, high + 0.15 * (high - low) + 1e-3)
    middle = curve.needed()[0]
    if np.isfinite(middle) and sizes[-1] + middle <= grid[-1]:
        left.axvline(sizes[-1] + middle, color=COLOURS[1], lw=1.0, ls="--")
        left.axhline(curve.gain, color=COLOURS[1], lw=1.0, ls="--", label=f"+{curve.gain:g} nats")
    left.set_ylabel("held-out log-probability,\nless that of all simulations [nats]")
    _band(right, grid, np.clip(curve.coverage_law(grid), 0, 1))
    mean = curve.covered.mean(0)
    error = np.sqrt(np.maximum(mean * (1 - mean), 1e-4)) / rows
    right.errorbar(sizes, mean, error, fmt="o", ms=4, color=COLOURS[0])
    right.axhline(0.9, color=GREY, lw=0.9, label="as it should be")
    right.set_ylabel("truths in regions of 90 %")
    for ax in (left, right):
        ax.axvline(sizes[-1], color=GREY, lw=0.8, ls=":")
        ax.set_xscale("log")
        ax.set_xlabel("simulations")
        ax.legend(loc="lower right")
    return figure


def _band(ax: Axes, grid: np.ndarray, draws: np.ndarray) -> None:
    """The law's median, its 68 % and its 95 % band."""
    for low, high, colour in ((0.025, 0.975, "#e2e8f0"), (0.16, 0.84, "#cbd5e0")):
        limits = np.quantile(draws, [low, high], axis=0)
        label = "68 % and 95 %" if low > 0.1 else None
        ax.fill_between(grid, *limits, color=colour, lw=0, label=label)
    ax.plot(grid, np.median(draws, 0), color=COLOURS[0], lw=1.2)
