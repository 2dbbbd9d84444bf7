"""The figure: distance from exact draws against evaluations, a panel a problem."""

from __future__ import annotations

__all__ = ["curves"]

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from .measure import Reading

Table = Mapping[str, Sequence[Reading]]
COLOURS = {
    "adams": "#d1495b",
    "dpm++": "#e08e45",
    "heun": "#3d5a80",
    "dopri5": "#6f9bcf",
    "ddim": "#2a9d8f",
    "ddpm": "#7a7a7a",
    "euler-maruyama": "#b0b0b0",
    "predictor-corrector": "#9d8ec7",
    "langevin": "#c7a98e",
}


def curves(panels: Mapping[str, tuple[float, Table]], path: Path) -> None:
    """Draws a panel for each problem.

    Arguments:
        panels: By title, the floor and the readings of each solver.
        path: Where to write the figure.
    """
    figure = Figure(figsize=(3.6 * len(panels), 3.8), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, (floor, table)) in zip(axes, panels.items()):
        for name, readings in table.items():
            style = "-" if readings[0].displacement is not None else "--"
            x, y = [r.evaluations for r in readings], [r.distance for r in readings]
            axis.loglog(x, y, style, color=COLOURS[name], marker="o", ms=3, label=name)
        axis.axhline(floor, color="k", lw=0.8, ls=":")
        axis.text(8, floor, "exact draws", fontsize=7, va="top")
        axis.set(title=title, xlabel="evaluations of the denoiser", ylim=(0.5 * floor, 3))
    axes[0].set_ylabel("sliced Wasserstein distance")
    axes[-1].legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=150)
