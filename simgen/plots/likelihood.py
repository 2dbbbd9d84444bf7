"""Profile likelihoods: a curve with its intervals, or contours of two parameters."""

from __future__ import annotations

__all__ = ["profile_figure"]

from typing import TYPE_CHECKING, Any

import numpy as np

from .marginals import _as_samples, _pair
from .style import COLOURS, GREY, TRUTH, new_figure, styled, tex

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS = (0.68, 0.95)
_TOP = 10.0


@styled
def profile_figure(profile: Any, *, posterior: Any = None, truth: Any = None) -> Figure:
    """Twice the log-likelihood ratio, with Wilks's intervals.

    Arguments:
        profile: What `simgen.profile` returned.
        posterior: Samples or draws (n, k) of the same two parameters, as contours beside.
        truth: True values (k,).
    """
    figure = new_figure(4.8, 3.6 if len(profile.axes) == 1 else 4.2)
    ax = figure.subplots()
    labels = [tex(a, b) for a, b in zip(profile.labels or profile.parameters, profile.units)]
    if len(profile.axes) == 1:
        _curve(ax, profile)
        ax.set_xlabel(labels[0])
        ax.set_ylabel(r"$-2\,\log\,$likelihood ratio")
        if truth is not None:
            ax.axvline(float(np.ravel(truth)[0]), color=TRUTH, lw=0.9, ls=(0, (1, 1.2)))
    else:
        thresholds = [profile.threshold(v) for v in LEVELS]
        contours(ax, profile.axes, -profile.statistic, [-t for t in thresholds], COLOURS[0])
        beside(ax, profile.axes, posterior, truth)
        ax.set_xlabel(labels[0])
        ax.set_ylabel(labels[1])
    legend(ax, "likelihood ratio (Wilks)", posterior is not None, truth is not None)
    return figure


def _curve(ax: Axes, profile: Any) -> None:
    axis, t = profile.axes[0], profile.statistic
    ax.plot(axis, t, color=COLOURS[0])
    near = axis[t <= _TOP]
    margin = 0.08 * (near.max() - near.min() or 1.0)
    ax.set_xlim(near.min() - margin, near.max() + margin)
    ax.set_ylim(0, _TOP)
    for level, shade in zip(LEVELS, (0.3, 0.12)):
        c = profile.threshold(level)
        ax.axhline(c, color=GREY, lw=0.8, ls=(0, (4, 2)))
        ax.annotate(
            f"{level:.0%}", (1, c), (-2, 2), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", color="#4a5568", fontsize=8,
        )  # fmt: skip
        for low, high in profile.interval(level):
            ax.axvspan(low, high, ymax=c / _TOP, color=COLOURS[0], alpha=shade, lw=0)


def contours(ax: Axes, axes: Any, height: Any, levels: Any, colour: str) -> None:
    """Filled regions of a height (g, h) above falling levels: the first is the smallest."""
    from matplotlib.colors import to_rgba

    shades = [to_rgba(colour, 0.18), to_rgba(colour, 0.45)]
    finite = np.where(np.isfinite(height), height, np.nanmin(height[np.isfinite(height)]))
    rising = list(levels)[::-1]
    top = max(float(finite.max()), rising[-1]) + 1e-9
    ax.contourf(axes[0], axes[1], finite.T, [*rising, top], colors=shades)
    ax.contour(axes[0], axes[1], finite.T, rising, colors=[colour], linewidths=1.1)
    ax.set_xlim(axes[0][0], axes[0][-1])
    ax.set_ylim(axes[1][0], axes[1][-1])


def beside(ax: Axes, axes: Any, posterior: Any, truth: Any) -> None:
    """Contours of a posterior's draws, and the truth."""
    if posterior is not None:
        spans = [(a[0], a[-1]) for a in axes]
        _pair(ax, _as_samples(posterior), 1, 0, spans, COLOURS[1], False)
    if truth is not None:
        values = np.ravel(truth)
        ax.plot(values[0], values[1], "o", color=TRUTH, ms=4)


def legend(ax: Axes, what: str, posterior: bool, truth: bool) -> None:
    """What the colours are."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=COLOURS[0], lw=2.2, label=f"{what}, 68 % and 95 %")]
    if posterior:
        handles.append(Line2D([], [], color=COLOURS[1], lw=1.2, label="posterior, 68 % and 95 %"))
    if truth:
        handles.append(
            Line2D([], [], color=TRUTH, ls=(0, (1, 1.2)), marker="o", ms=3.2, label="truth")
        )
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1)
