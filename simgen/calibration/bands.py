r"""Simultaneous bands for the empirical distribution of ranks.

.. math::
    X_k = \#\{i : r_i < g_k\} \sim \mathrm{Bin}(n, z_k), \qquad z_k = \frac{g_k}{S + 1}, \qquad
    P\big(\ell_k(\gamma) \le X_k \le u_k(\gamma)\ \forall k\big) = 1 - \alpha

Ranks among S draws are discrete and uniform if the draws are right, and the counts X_k then a
binomial process: the chance that it stays inside pointwise limits of level gamma is computed
exactly, so that the band, and the p-value of the worst point, hold for any number of pairs.
"""

from __future__ import annotations

__all__ = ["Band", "band", "band_p_value", "ecdf_grid"]

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import binom, poisson

POINTS = 63


@dataclass(frozen=True)
class Band:
    """Limits ``low``, ``high`` (K,) of the empirical distribution at the points ``z`` (K,)."""

    z: np.ndarray
    low: np.ndarray
    high: np.ndarray


def ecdf_grid(draws: int) -> np.ndarray:
    """The thresholds g (K,), whole numbers in 1 ... draws, at which ranks are counted."""
    return np.unique(np.round(np.linspace(0, draws + 1, POINTS + 2)).astype(int))[1:-1]


def _limits(n: int, z: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Counts whose two-sided binomial p-value is above gamma, as inclusive limits (K,)."""
    level = gamma / 2 * (1 + 1e-9)
    return binom.ppf(level, n, z).astype(int), n - binom.ppf(level, n, 1 - z).astype(int)


def _inside(n: int, z: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """P(low_k <= X_k <= high_k for all k), by a Poisson process given that it ends at n."""
    mass, first = np.ones(1), 0
    for dz, a, b in zip(np.diff(z, prepend=0.0), low, high):
        if a > b:
            return 0.0
        steps = poisson.pmf(np.arange(b - first + 1), n * dz) if b >= first else np.zeros(1)
        reached = np.convolve(mass, steps)
        start = a - first
        mass = np.zeros(b - a + 1)
        piece = reached[max(start, 0) : b - first + 1]
        mass[max(-start, 0) : max(-start, 0) + len(piece)] = piece
        first = a
    last = poisson.pmf(n - first - np.arange(len(mass)), n * (1 - z[-1]))
    return float(min(mass @ last / poisson.pmf(n, n), 1.0))


def band_p_value(ranks: np.ndarray, draws: int) -> float:
    r"""p-value of the point of the empirical distribution that strays furthest from uniform.

    .. math::
        \gamma = \min_k 2 \min\{P(X_k \le x_k), P(X_k \ge x_k)\}, \qquad
        p = P(\gamma \text{ of uniform ranks} \le \gamma)

    Arguments:
        ranks: Whole numbers in 0 ... draws, shape (n,).
        draws: The number S of draws that each truth was ranked among.

    References:
        | Graphical Test for Discrete Uniformity and its Applications in Goodness-of-Fit Evaluation
        | and Multiple
        | Sample Comparison (Säilynoja, Bürkner & Vehtari, 2022), algorithm 1
        | https://arxiv.org/abs/2103.10522
    """
    n, grid = len(ranks), ecdf_grid(draws)
    z = grid / (draws + 1)
    counts = np.searchsorted(np.sort(ranks), grid, side="left")
    tails = np.minimum(binom.cdf(counts, n, z), binom.sf(counts - 1, n, z))
    gamma = min(2 * float(tails.min()), 1.0)
    bound = len(grid) * gamma
    # Below this, one minus a probability has no digits left, and the union bound is close.
    if bound < 1e-9:
        return bound
    return min(max(1 - _inside(n, z, *_limits(n, z, gamma)), 0.0), bound, 1.0)


@lru_cache(maxsize=64)
def band(n: int, draws: int, alpha: float = 0.05) -> Band:
    """The band that n uniform ranks leave anywhere with probability at most alpha.

    Arguments:
        n: The number of pairs.
        draws: The number of draws that each truth was ranked among.
        alpha: The chance of leaving the band anywhere.
    """
    z = ecdf_grid(draws) / (draws + 1)
    low, high = np.log(alpha / (2 * len(z))), np.log(alpha)
    for _ in range(24):
        middle = (low + high) / 2
        inside = _inside(n, z, *_limits(n, z, float(np.exp(middle))))
        low, high = (middle, high) if inside >= 1 - alpha else (low, middle)
    a, b = _limits(n, z, float(np.exp(low)))
    return Band(z, a / n, b / n)
