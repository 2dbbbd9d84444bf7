r"""Simulation-based calibration: the rank of the truth among the draws.

.. math::
    r_i = \#\{s : \vartheta_{is} < \vartheta_i^*\}, \quad \vartheta_{is} \sim q(\vartheta \mid x_i)

Uniform over 0 ... S if q is the posterior; also if q is the prior, which is why it does not stand
alone.
"""

from __future__ import annotations

__all__ = ["count_below"]

from torch import Tensor


def count_below(draws: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """How many draws lie below the truth, and how many equal it.

    Arguments:
        draws: Values of the quantities in each draw, shape (S, B, k).
        truth: Their true values, shape (B, k).

    Returns:
        Two counts, shape (B, k).

    References:
        | Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al.,
        | 2018), alg. 1
        | https://arxiv.org/abs/1804.06788
    """
    return (draws < truth).sum(0), (draws == truth).sum(0)
