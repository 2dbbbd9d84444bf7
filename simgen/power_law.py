r"""Power laws that level off, fitted to few points, with all that is not known.

.. math::
    y(N) = y_\infty - A \Big(\frac{N}{N_{\max}}\Big)^{-b} + \varepsilon, \qquad
    \mathrm{Cov}\, \varepsilon = C + s^2\, \mathrm{diag}(N_{\max} / N_m)

A is what is left to gain at the largest size. C is the known covariance of the points, s the
unknown scatter of trainings, larger for small sizes, which may also lie outside the law's reach.
Exponent and scatter are averaged over a grid; asymptote and A, which enter linearly, are
integrated in closed form under flat priors.
"""

from __future__ import annotations

__all__ = ["PowerLaw", "fit_power_law"]

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

EXPONENTS = np.linspace(0.2, 1.5, 27)
SCATTERS = np.geomspace(1e-4, 1.0, 17)
DRAWS = 4000


@dataclass(frozen=True)
class PowerLaw:
    """Draws of the law, given the points.

    Attributes:
        size: The largest size N_max.
        limit: y_inf, shape (n,).
        left: A, shape (n,).
        exponent: b, shape (n,).
    """

    size: float
    limit: np.ndarray
    left: np.ndarray
    exponent: np.ndarray

    def __call__(self, sizes: float | Sequence[float] | np.ndarray) -> np.ndarray:
        """y at sizes (m,), a row a draw: shape (n, m)."""
        ratio = np.atleast_1d(np.asarray(sizes, dtype=float)) / self.size
        return self.limit[:, None] - self.left[:, None] * ratio ** -self.exponent[:, None]

    def gain(self, size: float) -> np.ndarray:
        """y(size) - y(N_max), shape (n,)."""
        return self.left * (1 - (size / self.size) ** -self.exponent)

    def needed(self, gain: float) -> np.ndarray:
        """The sizes that gain as much, shape (n,); infinite where there is less left to gain."""
        share = np.where(self.left > gain, 1 - gain / np.where(self.left > gain, self.left, 1), 0)
        with np.errstate(divide="ignore", over="ignore"):
            return self.size * share ** (-1 / self.exponent)


def fit_power_law(
    sizes: Sequence[float],
    values: Sequence[float] | np.ndarray,
    covariance: np.ndarray,
    *,
    increasing: bool = True,
    seed: int = 0,
) -> PowerLaw:
    """Draws power laws given a curve's points.

    Arguments:
        sizes: N of each point, at least three, shape (m,).
        values: y of each, shape (m,).
        covariance: Of the values, shape (m, m): those measured on the same rows move together.
        increasing: Whether A >= 0 is known.
        seed: Of the draws.

    Raises:
        ValueError: If there are fewer than three sizes, or the shapes do not match.

    References:
        | Learning Curves: Asymptotic Values and Rate of Convergence (Cortes et al., 1993)
        | https://papers.nips.cc/paper/1993
    """
    n, y = np.asarray(sizes, dtype=float), np.asarray(values, dtype=float)
    c = np.asarray(covariance, dtype=float)
    m = len(n)
    if m < 3 or len(set(n.tolist())) < m or y.shape != (m,) or c.shape != (m, m):
        raise ValueError(
            "a power law needs three sizes or more, a value each and their covariance; got "
            f"{m} sizes, values {y.shape} and a covariance {c.shape}"
        )
    largest = n.max()
    unit = np.ptp(y) + np.sqrt(np.abs(np.diag(c)).max()) + 1e-12
    weights, means, roots = [], [], []
    for b in EXPONENTS:
        x = np.stack([np.ones(m), -((n / largest) ** -b)], 1)
        for s in SCATTERS * unit:
            v = c + np.diag(s * s * largest / n + 1e-12 * unit**2)
            root = np.linalg.cholesky(v)
            x_w, y_w = np.linalg.solve(root, x), np.linalg.solve(root, y)
            precision = x_w.T @ x_w
            mean = np.linalg.solve(precision, x_w.T @ y_w)
            sigma = np.linalg.inv(precision)
            miss = y_w - x_w @ mean
            weight = (
                -np.log(np.diag(root)).sum() + np.linalg.slogdet(sigma)[1] / 2 - miss @ miss / 2
            )
            if increasing:
                weight += np.log(ndtr(mean[1] / np.sqrt(sigma[1, 1])) + 1e-300)
            weights.append(weight)
            means.append(mean)
            roots.append(sigma)
    return _drawn(largest, np.array(weights), np.array(means), np.array(roots), increasing, seed)


def _drawn(
    largest: float,
    weights: np.ndarray,
    means: np.ndarray,
    sigmas: np.ndarray,
    increasing: bool,
    seed: int,
) -> PowerLaw:
    """Draws of a cell of the grid, of A, and of the asymptote given A."""
    rng = np.random.default_rng(seed)
    chance = np.exp(weights - weights.max())
    cell = rng.choice(len(chance), DRAWS, p=chance / chance.sum())
    mean, sigma = means[cell], sigmas[cell]
    sd = np.sqrt(sigma[:, 1, 1])
    low = ndtr(-mean[:, 1] / sd) if increasing else np.zeros(DRAWS)
    u = low + (1 - low) * rng.random(DRAWS)
    left = mean[:, 1] + sd * ndtri(np.clip(u, 1e-300, 1 - 1e-16))
    left = np.maximum(left, 0.0) if increasing else left
    slope = sigma[:, 0, 1] / sigma[:, 1, 1]
    rest = np.sqrt(np.maximum(sigma[:, 0, 0] - slope * sigma[:, 0, 1], 0.0))
    limit = mean[:, 0] + slope * (left - mean[:, 1]) + rest * rng.standard_normal(DRAWS)
    return PowerLaw(float(largest), limit, left, EXPONENTS[cell // len(SCATTERS)])
