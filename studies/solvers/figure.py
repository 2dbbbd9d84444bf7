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
    """Draws a column for each problem: distances above, displacements below.

    Arguments:
        panels: By title, the floor and the readings of each solver.
        path: Where to write the figure.
    """
    figure = Figure(figsize=(3.6 * len(panels), 6.4), layout="constrained")
    axes = figure.subplots(2, len(panels), sharey="row", sharex=True, squeeze=False)
    for i, (title, (floor, table)) in enumerate(panels.items()):
        top, bottom = axes[:, i]
        for name, readings in table.items():
            x, flow = [r.evaluations for r in readings], readings[0].displacement is not None
            settings = {"color": COLOURS[name], "marker": "o", "ms": 3, "label": name}
            top.loglog(x, [r.distance for r in readings], "-" if flow else "--", **settings)
            if flow:
                bottom.loglog(x, [r.displacement for r in readings], **settings)
        top.axhline(floor, color="k", lw=0.8, ls=":")
        top.text(8, 0.9 * floor, "exact draws", fontsize=7, va="top")
        top.set(title=title, ylim=(0.4 * floor, 3))
        bottom.set(xlabel="evaluations of the denoiser", ylim=(1e-5, 3))
    axes[0, 0].set_ylabel("sliced Wasserstein distance")
    axes[1, 0].set_ylabel("distance to the exact flow")
    axes[0, -1].legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=150)
