"""Training curves, and the distances from uniform that a verdict rests on."""

from __future__ import annotations

__all__ = ["loss_curves", "verdict_figure"]

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import COLOURS, GREY, new_figure, styled, tex

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    "ranks": ("Ranks of the truth", "rank among the draws (fraction)"),
    "coverage": ("Expected coverage", "credibility level"),
    "tarp": ("TARP", "credibility level"),
    "c2st": ("Classifier", "rank of the truth by its score"),
    "local": ("Local", "rank (fraction)"),
    "near": ("Near the observation", "rank among the draws (fraction)"),
}


@styled
def loss_curves(history: Any) -> Figure:
    """Training and validation loss by epoch; a ring marks the weights that were kept.

    Arguments:
        history: A dict of lists, epoch, train_loss, validation_loss, or a list of such rows.
    """
    from matplotlib.ticker import MaxNLocator

    columns = _columns(history)
    figure = new_figure(6.0, 3.2)
    ax = figure.subplots()
    values = {
        k: np.asarray(columns[k], float) for k in ("train_loss", "validation_loss") if k in columns
    }
    if not values or not any(len(v) for v in values.values()):
        raise ValueError(f"history holds no losses; it has {', '.join(columns) or 'nothing'}")
    length = max(len(v) for v in values.values())
    epoch = np.asarray(columns.get("epoch", range(1, length + 1)), float)
    style = {"train_loss": (GREY, "training"), "validation_loss": (COLOURS[0], "validation")}
    for name, loss in values.items():
        colour, label = style[name]
        ax.plot(
            epoch[: len(loss)],
            loss,
            color=colour,
            label=label,
            marker="o" if length == 1 else None,
        )
    kept = values.get("validation_loss")
    if kept is not None and np.isfinite(kept).any():
        best = int(np.nanargmin(kept))
        ax.plot(epoch[best], kept[best], "o", mfc="none", mec=COLOURS[0], ms=8, label="best")
    finite = np.concatenate([v[np.isfinite(v)] for v in values.values()])
    if len(finite) > 8:
        tail = np.concatenate([v[len(v) // 10 :] for v in values.values()])
        low, high = np.nanmin(finite), np.nanmax(tail[np.isfinite(tail)])
        if high > low and np.nanmax(finite) > high + 2 * (high - low):
            ax.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch")
    ax.set_ylabel("loss [nats]")
    ax.grid(alpha=0.25, lw=0.6)
    ax.legend()
    return figure


def _columns(history: Any) -> dict[str, list[Any]]:
    if isinstance(history, Mapping):
        return {k: list(v) for k, v in history.items() if isinstance(v, Sequence | np.ndarray)}
    rows = list(history)
    return {k: [row.get(k, np.nan) for row in rows] for k in (rows[0] if rows else {})}


@styled
def verdict_figure(verdict: Any) -> Figure:
    """Ranks of every check: empirical distributions less uniform, with 95 % bands.

    Arguments:
        verdict: What `calibrate` returned.
    """
    panels = [(check, ranks) for check, ranks in verdict.ranks.items() if ranks]
    if not panels:
        raise ValueError("this verdict keeps no ranks to plot")
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    figure = new_figure(3.5 * columns, 3.1 * lines)
    axes = figure.subplots(lines, columns, squeeze=False)
    for ax, (check, ranks) in zip(axes.flat, panels):
        title, xlabel = TITLES.get(check, (check, "rank (fraction)"))
        if check == "local":
            title, ranks = _by_place(ranks)
        _rank_panel(ax, ranks, verdict.draws)
        ax.set_title(title)
        ax.set_xlabel(xlabel)
    for ax in list(axes.flat)[len(panels) :]:
        ax.remove()
    for row in axes:
        row[0].set_ylabel("ECDF - uniform")
    return figure


def _by_place(ranks: Mapping[str, Sequence[int]]) -> tuple[str, dict[str, Sequence[int]]]:
    """A title, and ranks by third, of keys "quantity | place | third"."""
    parts = [key.split(" | ") for key in ranks]
    mean = "the posterior mean of "
    place = parts[0][1]
    where = f"mean of {tex(place[len(mean) :])}" if place.startswith(mean) else tex(place)
    title = f"Local: {tex(parts[0][0])} by {where}"
    return title, {part[2]: values for part, values in zip(parts, ranks.values())}


def _rank_panel(ax: Axes, ranks: Mapping[str, Sequence[int]], draws: int) -> None:
    from ..calibration.bands import band

    n = len(next(iter(ranks.values())))
    limits = band(n, draws)
    z = np.concatenate([[0.0], limits.z, [1.0]])
    low = np.concatenate([[0.0], limits.low - limits.z, [0.0]])
    high = np.concatenate([[0.0], limits.high - limits.z, [0.0]])
    ax.fill_between(z, low, high, color="#e2e8f0", lw=0, label="95 % band")
    ax.axhline(0, color=GREY, lw=0.8)
    grid = np.arange(draws + 2) / (draws + 1)
    many = len(ranks) > len(COLOURS)
    top = max(abs(low).max(), high.max())
    for i, (name, values) in enumerate(ranks.items()):
        share = np.searchsorted(np.sort(values), np.arange(draws + 2), side="left") / len(values)
        colour = COLOURS[i % len(COLOURS)]
        label = None if many or not name else tex(name)
        ax.plot(grid, share - grid, color=colour, lw=1.3, alpha=0.5 if many else 1.0, label=label)
        top = max(top, float(np.abs(share - grid).max()))
    ax.set_xlim(0, 1)
    ax.set_ylim(-1.15 * top, (1.6 if any(ranks) and not many else 1.3) * top)
    count = 1 + (0 if many else sum(bool(k) for k in ranks))
    ax.legend(
        loc="upper center",
        ncols=2 if count == 4 else min(count, 3),
        columnspacing=1.0,
        handlelength=1.3,
    )
