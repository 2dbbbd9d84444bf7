r"""Learned posteriors against exact ones on a grid: divergence, contraction, contours.

.. math::
    \mathbb E_{p(\vartheta, x)} \left[ \log p(\vartheta \mid x) - \log q(\vartheta \mid x) \right]
        = \mathbb E_{p(x)} \, \mathrm{KL} \left( p(\cdot \mid x) \,\|\, q(\cdot \mid x) \right)

A model that returned the prior would be calibrated: the contraction, the posterior's standard
deviation over the prior's, says what the data taught.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy import ndarray as Array
from scipy.interpolate import RegularGridInterpolator

import simgen
from simgen.plots.style import COLOURS, GREY
from simulators.grid_posterior import GridPosterior

Exact = Callable[[Array], GridPosterior]
"""The exact posteriors of a few observations (n, *event)."""


def marginal(grid: GridPosterior, columns: Sequence[int]) -> tuple[list[Array], Array]:
    """Centres along some parameters, and the marginal density (*B, points, ...) over them."""
    axes = [np.unique(column) for column in grid.theta.T]
    shape = [len(a) for a in axes]
    batch = grid.weights.shape[:-1]
    others = tuple(len(batch) + i for i in range(len(axes)) if i not in columns)
    volume = np.prod([grid.width[i] for i in columns])
    density = grid.weights.reshape(*batch, *shape).sum(others) / volume
    return [axes[i] for i in columns], density


def log_prob(grid: GridPosterior, theta: Array, columns: Sequence[int]) -> Array:
    """Log p(theta | x) (n,) of rows theta (n, columns): linear between the centres of cells."""
    axes, density = marginal(grid, columns)
    found = [
        float(RegularGridInterpolator(axes, row, bounds_error=False, fill_value=None)(value)[0])
        for row, value in zip(density, theta)
    ]
    return np.log(np.maximum(found, 1e-12))


def compare(
    posterior: simgen.Conditional,
    exact: Exact,
    fresh: Mapping[str, Array],
    columns: Sequence[int],
    chunk: int = 64,
) -> dict[str, Any]:
    """Divergence and contraction over fresh rows of theta (n, d) and x.

    Arguments:
        posterior: p(theta's columns | x).
        exact: Makes exact posteriors of a chunk of x.
        fresh: theta and x.
        columns: Of theta, that the posterior is of.
        chunk: Rows at once.
    """
    theta, x = fresh["theta"], fresh["x"]
    prior = posterior.prior
    assert prior is not None
    prior_sd = prior.variance.sqrt().numpy()[list(columns)]
    log_p, log_q, sd, drawn = [], [], [], []
    for i in range(0, len(theta), chunk):
        rows = slice(i, i + chunk)
        grid, q = exact(x[rows]), posterior(x[rows])
        some = theta[rows][:, columns]
        log_p.append(log_prob(grid, some, columns))
        log_q.append(q.log_prob(torch.as_tensor(some)).numpy())
        sd.append(grid.sd[:, columns] / prior_sd)
        drawn.append(q.sample((500,), seed=i).std(0).numpy() / prior_sd)
    gap = np.concatenate(log_p) - np.concatenate(log_q)
    volume = np.log(12**0.5 * prior_sd).sum()  # of a uniform prior
    return {
        "divergence": float(gap.mean()),
        "error": float(gap.std() / len(gap) ** 0.5),
        "information": float(np.concatenate(log_p).mean() + volume),
        "contraction_exact": np.concatenate(sd).mean(0).tolist(),
        "contraction_learned": np.concatenate(drawn).mean(0).tolist(),
    }


def contours(
    path: Path,
    posterior: simgen.Conditional,
    exact: Exact,
    fresh: Mapping[str, Array],
    labels: Sequence[str],
) -> None:
    """Draws 68 and 95 % of the first two parameters of five rows, exact and learned."""
    figure = Figure(figsize=(12.5, 2.8), layout="constrained")
    for panel, i in zip(figure.subplots(1, 5, sharey=True, sharex=True), range(5)):
        axes, densities = marginal(exact(fresh["x"][i : i + 1]), (0, 1))
        mesh = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        log_q = posterior(fresh["x"][i]).log_prob(torch.as_tensor(mesh.reshape(-1, 2)))
        learned = np.exp(log_q.numpy()).reshape(mesh.shape[:2])
        for density, colour, width in ((densities[0], GREY, 3.0), (learned, COLOURS[0], 1.2)):
            order = np.sort(density.ravel())[::-1]
            total = np.cumsum(order) / order.sum()
            levels = sorted(order[np.searchsorted(total, share)] for share in (0.95, 0.68))
            panel.contour(*axes, density.T, levels, colors=[colour], linewidths=width)
        panel.plot(*fresh["theta"][i, :2], "x", color=COLOURS[1])
        panel.set(xlabel=labels[0])
    figure.axes[0].set_ylabel(labels[1])
    figure.savefig(path, dpi=110)


def table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines of Markdown."""

    def shares(values: Sequence[float]) -> str:
        return ", ".join(f"{v:.3f}" for v in values)

    return [
        "Divergence: expected KL of the learned from the exact posterior in nats, with what the "
        "exact one knows beyond the prior beside it. Contraction: the posterior's standard "
        "deviation over the prior's.",
        "",
        "| posterior | divergence | exact, nats beyond the prior | contraction exact | learned "
        "| training, CPU-s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {r['expression'].replace('|', 'given')} | {r['divergence']:.3f} ± {r['error']:.3f}"
            f" | {r['information']:.2f} | {shares(r['contraction_exact'])} "
            f"| {shares(r['contraction_learned'])} | {r['training_cpu_s']} |"
            for r in results
        ),
    ]
