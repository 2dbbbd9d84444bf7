"""Confidence sets: p-values of one parameter, or sets of two with the posterior beside."""

from __future__ import annotations

__all__ = ["confidence_figure"]

from typing import TYPE_CHECKING, Any

import numpy as np

from .likelihood import LEVELS, beside, contours, legend
from .style import COLOURS, GREY, TRUTH, new_figure, styled, tex

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def confidence_figure(found: Any, *, posterior: Any = None, truth: Any = None) -> Figure:
    """The set of theta that a calibrated test does not reject.

    Arguments:
        found: What `simgen.confidence_set` returned, of one or two parameters on a grid.
        posterior: Samples or draws (n, 2) of the same two parameters, as contours beside.
        truth: True values (k,).

    Raises:
        ValueError: If the set was found on points in place of a grid.
    """
    if not found.axes:
        raise ValueError("a set of given points has no figure: invert on a grid")
    figure = new_figure(4.8, 3.6 if len(found.axes) == 1 else 4.4)
    ax = figure.subplots()
    labels = [tex(a, b) for a, b in zip(found.labels or found.parameters, found.units)]
    if len(found.axes) == 1:
        axis = found.axes[0]
        ax.plot(axis, found.p_values, color=COLOURS[0])
        for level, shade in zip(LEVELS, (0.3, 0.12)):
            ax.axhline(1 - level, color=GREY, lw=0.8, ls=(0, (4, 2)))
            for low, high in found.interval(level):
                ends = np.clip([low, high], axis[0], axis[-1])
                ax.axvspan(*ends, color=COLOURS[0], alpha=shade, lw=0)
        ax.set_ylim(0, 1.05)
        ax.set_ylabel("p-value")
        if truth is not None:
            ax.axvline(float(np.ravel(truth)[0]), color=TRUTH, lw=0.9, ls=(0, (1, 1.2)))
    else:
        p = found.p_values.reshape([len(a) for a in found.axes])
        contours(ax, found.axes, p, [1 - v for v in LEVELS], COLOURS[0])
        beside(ax, found.axes, posterior, truth)
        ax.set_ylabel(labels[1])
    ax.set_xlabel(labels[0])
    legend(ax, "confidence set", posterior is not None, truth is not None)
    return figure
