"""Measured coverage of confidence sets across the parameter space."""

from __future__ import annotations

__all__ = ["coverage_figure"]

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import GREY, cycle, new_figure, styled, tex

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def coverage_figure(coverage: Any) -> Figure:
    """Coverage by parameter, a panel a level and parameter, with the simultaneous 95 % band.

    Arguments:
        coverage: What `simgen.check_coverage` returned; or a dict of several at the same places
            by name, such as calibrated sets and Wilks's.
    """
    named = isinstance(coverage, Mapping)
    several = dict(coverage) if named else {"": coverage}
    first = next(iter(several.values()))
    d, levels = len(first.names), first.levels
    figure = new_figure(3.3 * d + 0.4, 2.5 * len(levels) + 0.3 * named)
    axes = figure.subplots(len(levels), d, squeeze=False, sharex="col", sharey="row")
    for row, (level, line) in enumerate(zip(levels, axes)):
        for i, ax in enumerate(line):
            for colour, (name, c) in zip(cycle(len(several)), several.items()):
                at = np.isfinite(c.theta[:, i])
                ax.plot(
                    c.theta[at, i], c.share[at, row], "o", ms=3, color=colour, alpha=0.8, mew=0,
                    label=name or None,
                )  # fmt: skip
            at = np.isfinite(first.theta[:, i])
            order = np.argsort(first.theta[at, i])
            x = first.theta[at, i][order]
            low, high = ((v[:, row] / first.trials)[at][order] for v in (first.low, first.high))
            ax.fill_between(x, low, high, color="#e2e8f0", lw=0, zorder=0)
            ax.axhline(level, color=GREY, lw=0.8)
            if row == len(levels) - 1:
                ax.set_xlabel(tex(first.names[i]))
        line[0].set_ylabel(f"coverage of {level:.0%} sets")
    if named:
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(several))
    return figure
