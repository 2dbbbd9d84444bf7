r"""Posterior: alpha_s given a set of events, by a surrogate of one event on a grid.

.. math::
    p(\alpha_s \mid x) \propto \prod_i q(\tilde x_i \mid \alpha_s), \qquad
    \tilde x = (\tau, \; n_\text{jets} + u_1, \; n_\text{charged} + 2 u_2), \qquad
    u \sim \mathcal U(-\tfrac12, \tfrac12)

Charged particles come in even numbers. Noise that fills the gaps gives x a density; it knows
nothing of alpha_s, and x can be read off the sum, so that the posterior is that of x.
"""

from __future__ import annotations

__all__ = ["SurrogatePosterior", "augment", "spread"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array
from scipy.interpolate import CubicSpline
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Uniform

from simulators.grid_posterior import GridPosterior, grid_cells

GAPS = np.array([0.0, 1.0, 2.0])


def spread(x: Array, rng: np.random.Generator) -> Array:
    """Sets of events (..., 3) with noise between the whole numbers."""
    return x + GAPS * rng.uniform(-0.5, 0.5, x.shape)


def augment(batch: Mapping[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
    """The same for a batch in training."""
    return {**batch, "x": torch.as_tensor(spread(batch["x"].numpy(), rng), dtype=torch.float32)}


@dataclass(frozen=True)
class SurrogatePosterior:
    """The posterior of alpha_s by a surrogate q(x | theta), as a Conditional gives one.

    Arguments:
        surrogate: From theta (m, 1) to a distribution over sets of events.
        low: The prior is uniform from here.
        high: To here.
        nodes: Values of alpha_s where the surrogate is called; a spline lies through these.
        cells: Of the grid.
        seed: Of the noise between whole numbers.
    """

    surrogate: Callable[[Tensor], Distribution]
    low: float = 0.10
    high: float = 0.14
    nodes: int = 33
    cells: int = 400
    seed: int = 0

    def grid(self, x: Any) -> GridPosterior:
        """The posterior given each set (*B, events, 3)."""
        x = spread(np.asarray(x, dtype=np.float64), np.random.default_rng(self.seed))
        nodes = np.linspace(self.low, self.high, self.nodes)
        q = self.surrogate(torch.as_tensor(nodes[:, None]))
        with torch.no_grad():
            log_p = q.log_prob(torch.as_tensor(x)[..., None, :, :]).double().cpu().numpy()
        theta, width = grid_cells(np.array([self.low]), np.array([self.high]), self.cells)
        fine = CubicSpline(nodes, log_p, axis=-1)(theta[:, 0])
        return GridPosterior.from_log_likelihood(theta, width, fine)

    def __call__(self, x: Any) -> Distribution:
        """The same as a torch distribution over theta (1,), batch shape B."""
        grid = self.grid(x)
        edges = torch.linspace(self.low, self.high, self.cells + 1, dtype=torch.float64)[:, None]
        cells = Independent(Uniform(edges[:-1], edges[1:], validate_args=False), 1)
        weights = Categorical(logits=torch.as_tensor(grid.weights).log())
        cells = cells.expand((*weights.batch_shape, self.cells))
        return MixtureSameFamily(weights, cells, validate_args=False)
