r"""Are ranks uniform? Four exact tests, each strong where another is weak.

.. math::
    u_i = \frac{r_i + v_i}{S + 1}, \quad v_i \sim U(0, 1), \qquad z_i = \Phi^{-1}(u_i), \qquad
    \sqrt n\, \bar z \sim \mathcal N(0, 1), \qquad \sum_i z_i^2 \sim \chi^2_n

If the draws are right, u is uniform and z normal, exactly and independently from pair to pair. The
mean of z sees a shift, its mean square a wrong width, Kolmogorov-Smirnov and the simultaneous band
any other shape.
"""

from __future__ import annotations

__all__ = ["Uniformity", "assess", "normal_scores", "randomised_ranks"]

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import chi2, kstest

from .bands import band_p_value


@dataclass(frozen=True)
class Uniformity:
    """What the tests found.

    Attributes:
        statistic: Largest distance of the empirical distribution from uniform (Kolmogorov-
            Smirnov).
        p_value: Of all tests together (Bonferroni).
        tests: The p-value of each test by name.
        shift: Mean of z: how many posterior standard deviations the truth lies above the draws.
        width: Width of the draws over the width they should have, 1 / rms(z - shift).
    """

    statistic: float
    p_value: float
    tests: dict[str, float]
    shift: float
    width: float


def randomised_ranks(below: np.ndarray, ties: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ranks of the truth, uniform over 0 ... S also where draws tie with it.

    Arguments:
        below: How many draws are below the truth, any shape.
        ties: How many draws equal it, same shape.
        rng: Breaks the ties.
    """
    below, ties = np.asarray(below, dtype=int), np.asarray(ties, dtype=int)
    return below + rng.integers(0, ties + 1)


def normal_scores(ranks: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """z of ranks in 0 ... draws, any shape: exactly N(0, 1) if the ranks are uniform."""
    u = (ranks + rng.random(np.shape(ranks))) / (draws + 1)
    return ndtri(np.clip(u, 1e-15, 1 - 1e-15))


def assess(ranks: np.ndarray, draws: int, rng: np.random.Generator) -> Uniformity:
    """Tests ranks (n,) in 0 ... draws for uniformity.

    Arguments:
        ranks: One rank a pair; pairs are independent.
        draws: The number S of draws that each truth was ranked among.
        rng: Spreads each rank over its cell.

    References:
        | Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al.,
        | 2018)
        | https://arxiv.org/abs/1804.06788
    """
    n = len(ranks)
    u = np.clip((ranks + rng.random(n)) / (draws + 1), 1e-15, 1 - 1e-15)
    z = ndtri(u)
    square = float(z @ z)
    distance, p_ks = kstest(u, "uniform")
    tests = {
        "ks": float(p_ks),
        "band": band_p_value(ranks, draws),
        "shift": float(2 * ndtr(-np.sqrt(n) * abs(z.mean()))),
        "spread": float(min(2 * min(chi2.cdf(square, n), chi2.sf(square, n)), 1.0)),
    }
    p_value = min(len(tests) * min(tests.values()), 1.0)
    return Uniformity(float(distance), p_value, tests, float(z.mean()), float(1 / z.std()))
