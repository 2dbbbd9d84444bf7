"""The figure: maps of each family at the same parameters, and their summaries over the truth."""

from __future__ import annotations

__all__ = ["draw"]

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy import ndarray as Array

from simgen.plots.style import COLOURS, GREY

from .judge import SUMMARIES, Judgement

LABELS = {"power spectrum": r"$\ell$", "one-point PDF": r"$\kappa$", "peak counts": r"$\kappa$"}


def draw(
    maps: dict[str, Array],
    judged: dict[str, dict[str, Judgement]],
    chance: dict[str, Judgement],
    paths: list[Path],
    shown: int = 4,
) -> None:
    """Draws maps (rows: the simulator, then the families), and deviations with their errors.

    Arguments:
        maps: Maps (n, 1, N, N) by name, the simulator's first.
        judged: Deviations by family.
        chance: Of a second set of simulations: what no emulator can beat.
        paths: Where to write the figure, by extension.
        shown: Maps a row.
    """
    figure = Figure(figsize=(12.5, 1.45 * len(maps) + 0.4), layout="constrained")
    sides: Any = figure.subfigures(1, 2, width_ratios=(shown * 1.35, 6.6))
    left, right = sides
    low, high = np.quantile(next(iter(maps.values())), [0.01, 0.995])
    panels = left.subplots(len(maps), shown, squeeze=False)
    for row, (name, values) in zip(panels, maps.items()):
        for axes, value in zip(row, values):
            axes.imshow(value[0], vmin=low, vmax=high, cmap="magma", interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=8)
    for axes, summary in zip(right.subplots(3, 1), SUMMARIES):
        band = chance[summary]
        axes.fill_between(
            band.centre, -2 * band.sigma, 2 * band.sigma, color=GREY, alpha=0.4, lw=0
        )
        axes.axhline(0, color=GREY, lw=0.8)
        step = np.diff(band.centre).min() / (2 * max(len(judged), 1))
        for i, (name, found) in enumerate(judged.items()):
            one = found[summary]
            axes.errorbar(
                one.centre + (i - (len(judged) - 1) / 2) * step,
                one.deviation,
                one.sigma,
                fmt="o",
                ms=3,
                lw=1,
                color=COLOURS[i % len(COLOURS)],
                label=name,
            )
        axes.set(xlabel=LABELS[summary], ylabel=f"{summary}\nemulated / simulated - 1")
        axes.yaxis.label.set_fontsize(8)
    right.axes[0].legend(fontsize=7, ncols=2)
    for path in paths:
        figure.savefig(path, dpi=130)
