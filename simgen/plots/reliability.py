"""The reliability diagram: how often what was given a probability happened."""

from __future__ import annotations

__all__ = ["reliability_figure"]

from typing import TYPE_CHECKING, Any

from .style import COLOURS, GREY, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def reliability_figure(found: Any) -> Figure:
    """Frequencies against probabilities, a panel a class, with bands of 95 %.

    Arguments:
        found: What `simgen.calibration.reliability` returned.
    """
    names = list(dict.fromkeys(row["class"] for row in found.table))
    figure = new_figure(3.2 * len(names), 3.1)
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for i, (ax, name) in enumerate(zip(axes, names)):
        rows = [row for row in found.table if row["class"] == name]
        x = [row["predicted"] for row in rows]
        ax.fill_between(
            x,
            [row["low"] for row in rows],
            [row["high"] for row in rows],
            color="#e2e8f0",
            lw=0,
            label="95 % if right",
        )
        ax.plot([0, 1], [0, 1], color=GREY, lw=0.8)
        ax.plot(x, [row["happened"] for row in rows], "o-", ms=3.5, lw=1, color=COLOURS[i % 6])
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability given", title=name)
        ax.set_aspect("equal")
    axes[0].set_ylabel("share that was true")
    axes[0].legend(loc="upper left")
    return figure
