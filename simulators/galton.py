r"""Galton's board with biased nails: the smallest simulator whose likelihood sums over paths.

.. math::
    z_l \sim \mathrm{Bernoulli}\bigl(p_l(k_l)\bigr), \quad
    k_l = \sum_{j < l} z_j, \quad l = 0, \dots, L - 1, \qquad x = k_L \\
    p_l(k) = \tfrac12 + \sin\!\left(\frac{\pi l}{L}\right)
        \left[ \sigma(-10\, \vartheta\, y) - \tfrac12 \right], \qquad y = \frac{2 k - l}{L}

p is the probability of a step to the right at level l, y the ball's place from -1 to 1, sigma
the logistic function. A positive theta leads the ball back to the middle, a negative one away
from it; the nails of the middle levels feel it most. The 2^L paths are summed by recursion:

.. math::
    P_{l+1}(k) = P_l(k)\, [1 - p_l(k)] + P_l(k - 1)\, p_l(k - 1) .

The joint score of one path knows more than its bin, and averages to the bin's score,
E[joint score | x] = d log p(x | theta) / d theta: what makes gold of it.

References:
    | Mining gold from implicit models to improve likelihood-free inference (Brehmer, Louppe,
      Pavez, Cranmer, 2020), the generalised Galton board; here without side walls
    | https://arxiv.org/abs/1805.12244
"""

from __future__ import annotations

__all__ = ["Galton"]

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray as Array
from scipy.special import expit

from simgen.field import Field
from simgen.forward import Simulator

from .grid_posterior import GridPosterior, grid_cells

if TYPE_CHECKING:
    from simgen.prior import Prior

LOW, HIGH = -1.0, 1.0
"""Bounds of the uniform prior of theta."""


class Galton(Simulator):
    """The bin x (1,) of a ball after `levels` nails given theta = (pull,) in [-1, 1].

    Beside x, from 0 to `levels`, a row has `z_path` (levels,), 1 for each step to the right, and
    `joint_score` (1,), the gradient of log p(x, z | theta).

    Arguments:
        levels: How many nails a ball meets.

    Raises:
        ValueError: If levels is no positive number.

    Examples:
        >>> board = Galton(levels=10)
        >>> fields = board([[0.5], [-0.5]], seed=0)
        >>> fields["z_path"].shape
        (2, 10)
        >>> bool((fields["z_path"].sum(1) == fields["x"][:, 0]).all())
        True
        >>> board.probabilities([0.0]).round(3)[:4]
        array([0.001, 0.01 , 0.044, 0.117])
    """

    def __init__(self, levels: int = 20) -> None:
        if levels < 1 or levels != int(levels):
            raise ValueError(f"levels must be a positive whole number; got {levels!r}")
        self.levels = int(levels)
        self.fields = {
            "x": Field((1,), support=(0, self.levels), discrete=True, names=("bin",)),
            "z_path": Field((self.levels,), support=(0, 1), discrete=True),
            "joint_score": Field((1,), names=("d_pull",)),
        }

    @cached_property
    def prior(self) -> Prior:  # type: ignore[override]
        """Uniform; made on first use, so that workers import no torch."""
        from torch.distributions import Uniform

        from simgen.prior import Prior

        return Prior(pull=Uniform(LOW, HIGH), labels=(r"$\vartheta$",))

    @property
    def names(self) -> tuple[str, ...]:
        """The name of the parameter."""
        return ("pull",)

    def step(self, level: int, k: Array, theta: Array) -> tuple[Array, Array]:
        """The probability p of a step to the right and its derivative by theta.

        Arguments:
            level: l.
            k: Steps to the right so far.
            theta: The parameter, broadcast against k.
        """
        y = (2 * k - level) / self.levels
        strength = np.sin(np.pi * level / self.levels)
        back = expit(-10 * theta * y)
        return 0.5 + strength * (back - 0.5), -10 * strength * y * back * (1 - back)

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws x, the path and the joint score for theta (n, 1)."""
        pull = np.asarray(theta, dtype=float)[:, 0]
        u = rng.random((self.levels, len(pull)))
        path = np.empty((len(pull), self.levels), dtype=np.int8)
        k, score = np.zeros(len(pull), dtype=np.int64), np.zeros(len(pull))
        for level in range(self.levels):
            p, slope = self.step(level, k, pull)
            right = u[level] < p
            path[:, level] = right
            score += np.where(right, slope / p, -slope / (1 - p))
            k += right
        return {"x": k[:, None], "z_path": path, "joint_score": score[:, None]}

    def joint_log_likelihood(self, fields: Mapping[str, Array], theta: Array) -> Array:
        """Log p(x, z | theta) of each row, (n,).

        Arguments:
            fields: `z_path` (n, levels), as simulated; x is its sum.
            theta: (n, 1), or (1,) for all rows.
        """
        path = np.asarray(fields["z_path"]).astype(np.int64)
        pull = np.broadcast_to(np.asarray(theta, dtype=float), (len(path), 1))[:, 0]
        k, log_p = np.zeros(len(path), dtype=np.int64), np.zeros(len(path))
        for level in range(self.levels):
            p, _ = self.step(level, k, pull)
            right = path[:, level]
            log_p += np.log(np.where(right, p, 1 - p))
            k += right
        return log_p

    def probabilities(self, theta: Array) -> Array:
        """The exact p(x | theta) of all bins, shape (*T, levels + 1), for theta (*T, 1)."""
        return self._recursion(theta)[0]

    def log_likelihood(self, x: Array, theta: Array) -> Array:
        """The exact log p(x | theta), -inf for what is no bin.

        Arguments:
            x: Bins (*B, 1).
            theta: Parameters (*T, 1).

        Returns:
            Shape broadcast(*B, *T), float64.
        """
        P, _, inside = self._at(x, theta)
        with np.errstate(divide="ignore"):
            return np.log(np.where(inside, P, 0.0))

    def score(self, x: Array, theta: Array) -> Array:
        """The gradient (*B, 1) of `log_likelihood` by theta, at bins x."""
        P, slope, _ = self._at(x, theta)
        return (slope / P)[..., None]

    def exact_posterior(self, x: Array, points: int = 1000) -> GridPosterior:
        """The exact posterior of theta on a grid of cells under the uniform prior.

        Arguments:
            x: One bin (1,), or a batch (n, 1).
            points: The number of cells.
        """
        theta, width = grid_cells(np.array([LOW]), np.array([HIGH]), points)
        log_p = self.log_likelihood(np.asarray(x)[..., None, :], theta)
        return GridPosterior.from_log_likelihood(theta, width, log_p)

    def _at(self, x: Array, theta: Array) -> tuple[Array, Array, Array]:
        """Probability of a bin, its derivative, and whether it is a bin, of x broadcast."""
        x = np.asarray(x)[..., 0]
        inside = (x >= 0) & (x <= self.levels) & (x == np.floor(x))
        bins = np.where(inside, x, 0).astype(np.int64)
        P, slope = self._recursion(theta)
        shape = np.broadcast_shapes(bins.shape, P.shape[:-1])
        index = np.broadcast_to(bins, shape)[..., None]
        P, slope = (
            np.take_along_axis(np.broadcast_to(v, (*shape, self.levels + 1)), index, -1)[..., 0]
            for v in (P, slope)
        )
        return P, slope, np.broadcast_to(inside, shape)

    def _recursion(self, theta: Array) -> tuple[Array, Array]:
        """p(x | theta) and its derivative, each (*T, levels + 1), for theta (*T, 1)."""
        theta = np.asarray(theta, dtype=float)
        if theta.shape[-1:] != (1,):
            raise ValueError(f"theta must be (..., 1); got {theta.shape}")
        P = np.zeros((*theta.shape[:-1], self.levels + 1))
        P[..., 0] = 1
        slope = np.zeros_like(P)
        for level in range(self.levels):
            here = slice(0, level + 1)
            p, dp = self.step(level, np.arange(level + 1), theta)
            flow, dflow = P[..., here] * p, slope[..., here] * p + P[..., here] * dp
            P[..., here] -= flow
            slope[..., here] -= dflow
            P[..., 1 : level + 2] += flow
            slope[..., 1 : level + 2] += dflow
        return P, slope
