"""The figure: 68 % and 95 % contours of the exact and of the learned posterior, overlaid."""

from __future__ import annotations

__all__ = ["contours", "on_grid"]

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy import ndarray as Array
from torch.distributions import Distribution

from simulators.supernovae import GridPosterior

LEVELS = (0.95, 0.68)
SHADES = ("#b9cde5", "#6f9bcf")
EXACT, LEARNED = SHADES[1], "#d1495b"


def contours(
    exact: GridPosterior,
    learned: GridPosterior,
    published: tuple[Array, Array],
    paths: list[Path],
) -> None:
    """Draws the contours and the marginals.

    Arguments:
        exact: The posterior on its grid.
        learned: The learned posterior on the same grid.
        published: Means and standard deviations of the published analysis.
        paths: Where to write the figure, by extension.
    """
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots(
        2, 2, gridspec_kw={"width_ratios": (4, 1), "height_ratios": (1, 4)}, sharex="col"
    )
    main, top, side = axes[1, 0], axes[0, 0], axes[1, 1]
    axes[0, 1].remove()
    levels = [*_levels(exact), exact.mass.max()]
    main.contourf(*exact.axes, exact.mass.T, levels, colors=SHADES)
    main.contour(*learned.axes, learned.mass.T, _levels(learned), colors=LEARNED, linewidths=1.5)
    mean, sd = published
    main.errorbar(*mean, sd[1], sd[0], "k.", capsize=3, lw=1)
    main.set(xlim=(0, 0.6), ylim=(-2.2, -0.4), xlabel=r"$\Omega_m$", ylabel="$w_0$")
    handles = [
        Patch(color=EXACT, label="exact, on a grid"),
        Line2D([], [], color=LEARNED, label="learned from simulations"),
        Line2D([], [], color="k", marker=".", label="Scolnic et al. 2018"),
    ]
    main.legend(handles=handles, loc="lower left", frameon=False)
    for i, axis in enumerate((top, side)):
        (grid, density), curve = (exact.axes[i], exact.marginal(i)), learned.marginal(i)
        if axis is top:
            axis.fill_between(grid, density, color=SHADES[0], lw=0)
            axis.plot(grid, curve, color=LEARNED)
        else:
            axis.fill_betweenx(grid, density, color=SHADES[0], lw=0)
            axis.plot(curve, grid, color=LEARNED)
        axis.axis("off")
    side.set_ylim(main.get_ylim())
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _levels(posterior: GridPosterior) -> list[float]:
    return [posterior.level(probability) for probability in LEVELS]


def on_grid(posterior: Distribution, axes: tuple[Array, ...]) -> GridPosterior:
    """A density by its values on a grid (cell centres), normalised there."""
    theta = torch.as_tensor(np.stack(np.meshgrid(*axes, indexing="ij"), -1))
    with torch.no_grad():
        mass = posterior.log_prob(theta).double().exp().numpy()
    return GridPosterior(axes, mass / mass.sum())
