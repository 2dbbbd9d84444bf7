r"""A posterior tabulated on a grid: a reference for an exact likelihood and a few parameters.

.. math::
    p_i = \frac{p(x \mid \vartheta_i)}{\sum_j p(x \mid \vartheta_j)}, \qquad
    p(x) \approx \frac{1}{m} \sum_j p(x \mid \vartheta_j)

over the centres of m equal cells of a box under a uniform prior: the midpoint rule.
"""

from __future__ import annotations

__all__ = ["GridPosterior", "grid_cells"]

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


def grid_cells(low: Array, high: Array, points: int) -> tuple[Array, Array]:
    """Centres (points^d, d) and sides (d,) of the cells of a box with corners (d,) and (d,)."""
    if points < 2:
        raise ValueError(f"points must be at least 2; got {points}")
    width = (high - low) / points
    axes = [a + w * (np.arange(points) + 0.5) for a, w in zip(low, width)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes)), width


@dataclass(frozen=True, eq=False)
class GridPosterior:
    """A posterior on cells of equal volume.

    Arguments:
        theta: Centres of the cells, shape (cells, d).
        width: Sides of a cell, shape (d,).
        weights: Probability of each cell, shape (*B, cells).
        log_evidence: The logarithm of p(x), shape (*B,).
    """

    theta: Array
    width: Array
    weights: Array
    log_evidence: Array

    @classmethod
    def from_log_likelihood(cls, theta: Array, width: Array, log_p: Array) -> GridPosterior:
        """Normalises log p(x | theta), shape (*B, cells), under a uniform prior.

        Raises:
            ValueError: If an x has no density in any cell.
        """
        peak = log_p.max(-1, keepdims=True)
        if not np.isfinite(peak).all():
            raise ValueError("an x has density zero, or none that is finite, at every theta")
        weights = np.exp(log_p - peak)
        total = weights.sum(-1, keepdims=True)
        log_evidence = (peak + np.log(total / len(theta)))[..., 0]
        return cls(theta, width, weights / total, log_evidence)

    @property
    def mean(self) -> Array:
        """Posterior means, shape (*B, d)."""
        return self.weights @ self.theta

    @property
    def sd(self) -> Array:
        """Posterior standard deviations, shape (*B, d)."""
        origin = self.theta.mean(0)
        centred = self.theta - origin
        return np.sqrt(self.weights @ centred**2 - (self.mean - origin) ** 2)

    def sample(self, n: int, seed: int = 0) -> Array:
        """Draws (n, *B, d): a cell by its probability, then uniform within it."""
        rng = np.random.default_rng(seed)
        batch, d = self.weights.shape[:-1], len(self.width)
        flat = self.weights.reshape(-1, len(self.theta))
        draws = [self.theta[rng.choice(len(self.theta), n, p=weights)] for weights in flat]
        jitter = rng.uniform(-0.5, 0.5, (n, len(flat), d)) * self.width
        return (np.stack(draws, 1) + jitter).reshape(n, *batch, d)
