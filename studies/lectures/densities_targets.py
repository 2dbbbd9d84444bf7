r"""Two densities of two numbers that are known exactly: a bent fork and a checkerboard.

.. math::
    p(x_1) = \mathcal{N}(0, 1), \qquad
    p(x_2 \mid x_1) = \tfrac12 \sum_{\pm}
        \mathcal{N}\bigl(x_2;\, c(x_1) \pm m(x_1),\, s^2\bigr)

.. math::
    p(x) = \tfrac18 \text{ on the eight dark unit squares of } [-2, 2]^2, \text{ else } 0
"""

from __future__ import annotations

__all__ = ["Checkerboard", "Fork"]

import math
from dataclasses import dataclass

import numpy as np
from numpy import ndarray as Array


@dataclass(frozen=True)
class Fork:
    """One branch on the left, two on the right, along a wave: smooth, and no conditional Gaussian.

    Arguments:
        spread: s, the standard deviation of a branch.
    """

    spread: float = 0.3

    def centre(self, first: Array) -> Array:
        """c(x_1), halfway between the branches."""
        return np.sin(1.5 * first)

    def half(self, first: Array) -> Array:
        """m(x_1), half of the distance between the branches."""
        return 0.6 * np.logaddexp(0, 2 * first)

    def sample(self, n: int, seed: int) -> Array:
        """Draws (n, 2)."""
        rng = np.random.default_rng(seed)
        first, noise = rng.standard_normal((2, n))
        side = rng.choice([-1.0, 1.0], n)
        second = self.centre(first) + side * self.half(first) + self.spread * noise
        return np.stack((first, second), -1)

    def log_prob(self, x: Array) -> Array:
        """log p(x), (...,), of x (..., 2)."""
        first, rest = x[..., 0], x[..., 1] - self.centre(x[..., 0])
        branches = [((rest + k * self.half(first)) / self.spread) ** 2 for k in (-1, 1)]
        second = np.logaddexp(*(-0.5 * b for b in branches)) - math.log(2 * self.spread)
        return second - 0.5 * first**2 - math.log(2 * math.pi)

    def best_gaussian(self, x: Array) -> Array:
        """log q(x), (...,), of the q nearest to p whose q(x_2 | x_1) is Gaussian: it has p's
        moments, c(x_1) and s^2 + m(x_1)^2.
        """
        first, rest = x[..., 0], x[..., 1] - self.centre(x[..., 0])
        variance = self.spread**2 + self.half(first) ** 2
        return -0.5 * (first**2 + rest**2 / variance + np.log(variance)) - math.log(2 * math.pi)


@dataclass(frozen=True)
class Checkerboard:
    """Uniform on every second unit square of a board round the origin.

    Arguments:
        squares: On a side, an even number.
    """

    squares: int = 4

    @property
    def entropy(self) -> float:
        """The logarithm of the dark area, in nats."""
        return math.log(self.squares**2 / 2)

    def sample(self, n: int, seed: int) -> Array:
        """Draws (n, 2)."""
        rng = np.random.default_rng(seed)
        row = rng.integers(self.squares, size=n)
        column = 2 * rng.integers(self.squares // 2, size=n) + row % 2
        return np.stack((row, column), -1) - self.squares / 2 + rng.random((n, 2))

    def inside(self, x: Array) -> Array:
        """Whether x (..., 2) lies on a dark square, (...,)."""
        cell = np.floor(x + self.squares / 2)
        board = ((cell >= 0) & (cell < self.squares)).all(-1)
        return board & (cell.sum(-1) % 2 == 0)

    def log_prob(self, x: Array) -> Array:
        """log p(x), (...,), of x (..., 2): -inf off the dark squares."""
        return np.where(self.inside(x), -self.entropy, -math.inf)
