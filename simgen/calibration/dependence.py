r"""Do ranks depend on x? They must not, and SBC alone cannot see it.

.. math::
    z_i = \Phi^{-1}(u_i), \quad s_i = \mathrm{sign}(\hat\vartheta(x_i) - \mathrm{median}), \qquad
    t = \frac{\sqrt n\, \overline{s z}}{\mathrm{sd}(s z)} \sim t_{n - 1}

If q is the posterior, the rank of the truth is uniform for every x, so it is so among the x that
point up and among those that point down. The prior in place of the posterior, or in place of one
parameter's, fails at once.
Student's t, so that a posterior of the wrong width alone does not fail here too.
"""

from __future__ import annotations

__all__ = ["rank_dependence"]

import numpy as np
from scipy.special import ndtri
from scipy.stats import t as student


def rank_dependence(
    ranks: np.ndarray, draws: int, side: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """The mean of s z and its two-sided p-value.

    Arguments:
        ranks: Ranks of one quantity, shape (n,), in 0 ... draws.
        draws: The number of draws that each truth was ranked among.
        side: Where x points, shape (n,): only its sign counts.
        rng: Spreads each rank over its cell.
    """
    u = np.clip((ranks + rng.random(len(ranks))) / (draws + 1), 1e-15, 1 - 1e-15)
    signed = np.where(side > 0, 1.0, -1.0) * ndtri(u)
    n, mean = len(signed), float(signed.mean())
    t = np.sqrt(n) * mean / signed.std(ddof=1)
    return mean, float(2 * student.sf(abs(t), n - 1))
