"""The figure: the real masses with the model, 68 % and 95 % contours of exact and learned."""

from __future__ import annotations

__all__ = ["panels"]

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy import ndarray as Array
from scipy.stats import gaussian_kde

from simulators.dimuon import M_Z, WINDOW, Dimuon
from simulators.grid_posterior import GridPosterior

LEVELS = (0.95, 0.68)
SHADES = ("#b9cde5", "#6f9bcf")
LEARNED = "#d1495b"


def panels(
    observed: Array,
    simulators: dict[str, Dimuon],
    exact: dict[str, GridPosterior],
    draws: dict[str, Array],
    paths: list[Path],
) -> None:
    """Draws the masses, and the posterior of the first two parameters of each simulator.

    Arguments:
        observed: The masses (k, 1).
        simulators: By parametrisation, "peak" first.
        exact: Their exact posteriors.
        draws: Learned draws (n, 3).
        paths: Where to write the figure, by extension.
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, *axes = figure.subplots(1, 1 + len(simulators))
    _masses(left, observed, simulators["peak"], exact["peak"])
    for axis, (name, simulator) in zip(axes, simulators.items()):
        _contours(axis, exact[name], draws[name])
        labels = simulator.prior.labels
        axis.set(xlabel=f"{name} {labels[0]}", ylabel=f"resolution {labels[1]} [GeV]")
    axes[0].set_xlabel(r"peak $\mu$ [GeV]")
    axes[0].axvline(M_Z, color="k", lw=1, ls=":")
    axes[1].axvline(1.0, color="k", lw=1, ls=":")
    handles = [
        Patch(color=SHADES[1], label="exact, on a grid"),
        Line2D([], [], color=LEARNED, label="learned from simulations"),
        Line2D([], [], color="k", lw=1, ls=":", label=f"{M_Z} GeV"),
    ]
    axes[0].legend(handles=handles, loc="upper left", frameon=False, fontsize=8)
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _masses(axis: Axes, observed: Array, simulator: Dimuon, exact: GridPosterior) -> None:
    edges = np.linspace(*WINDOW, 41)
    counts, _ = np.histogram(observed[:, 0], edges)
    centres = (edges[1:] + edges[:-1]) / 2
    axis.errorbar(centres, counts, np.sqrt(counts), fmt="k.", ms=3, lw=0.8, label="real events")
    m = np.linspace(*WINDOW, 400)
    scale = len(observed) * (edges[1] - edges[0])
    axis.plot(m, scale * simulator.density(m, exact.mean), color=SHADES[1], label="exact mean")
    axis.set(xlabel="mass of the muon pair [GeV]", ylabel="events / GeV", xlim=WINDOW)
    axis.legend(frameon=False, fontsize=8)


def _contours(axis: Axes, exact: GridPosterior, draws: Array) -> None:
    points = round(len(exact.theta) ** (1 / 3))
    grid = exact.theta.reshape(points, points, points, 3)
    x, y = grid[:, 0, 0, 0], grid[0, :, 0, 1]
    mass = exact.weights.reshape(points, points, points).sum(-1)
    learned = gaussian_kde(draws[:, :2].T)(grid[:, :, 0, :2].reshape(-1, 2).T)
    axis.contourf(x, y, mass.T, [*_levels(mass), mass.max()], colors=SHADES)
    smooth = learned.reshape(points, points)
    axis.contour(x, y, smooth.T, _levels(smooth), colors=LEARNED)


def _levels(mass: Array) -> list[float]:
    """The density on the contours of the highest-density regions."""
    ordered = np.sort(mass, axis=None)[::-1]
    inside = ordered.cumsum() / ordered.sum()
    return [float(ordered[np.searchsorted(inside, level)]) for level in LEVELS]
