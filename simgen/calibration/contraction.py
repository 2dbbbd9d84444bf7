r"""Contraction: how much narrower the posterior is than the prior.

.. math::
    c = 1 - \frac{E_x \mathrm{Var}_q(\vartheta \mid x)}
        {E_x \mathrm{Var}_q(\vartheta \mid x) + \mathrm{Var}_x E_q(\vartheta \mid x)}, \qquad
    I = E\big[\log q(\vartheta \mid x) - \log p(\vartheta)\big]

The denominator is the variance of all posteriors together, which is the prior's if they are right.
A calibrated posterior may still say nothing: c near 0 is the prior over again. No pass or fail,
but never hidden.
"""

from __future__ import annotations

__all__ = ["UNINFORMATIVE", "contraction", "information"]

import numpy as np

UNINFORMATIVE = 0.05
"""Below this contraction a parameter is called uninformed."""


def contraction(means: np.ndarray, variances: np.ndarray, draws: int) -> np.ndarray:
    """One minus the mean posterior variance over the variance of all posteriors, shape (k,).

    Arguments:
        means: Of the draws of each pair, shape (n, k).
        variances: Of the draws of each pair, shape (n, k).
        draws: The number S of draws a pair, whose noise in the means is taken off.
    """
    within = np.mean(variances, axis=0)
    between = np.maximum(np.var(means, axis=0, ddof=1) - within / draws, 0.0)
    total = within + between
    return between / np.where(total > 0, total, 1.0)


def information(log_q: np.ndarray, log_prior: np.ndarray) -> tuple[float, float]:
    """What the posterior adds to the prior, in nats a pair, and its standard error.

    Arguments:
        log_q: log q(theta | x) of the true values, shape (n,).
        log_prior: log p(theta) of the true values, shape (n,).
    """
    gain = np.asarray(log_q, dtype=np.float64) - np.asarray(log_prior, dtype=np.float64)
    if not np.isfinite(gain).all():
        return float("-inf"), 0.0
    return float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))
