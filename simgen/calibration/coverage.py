r"""Expected coverage: how much of the posterior is denser than the truth.

.. math::
    \alpha_i = \frac1S \#\{s : q(\vartheta_{is} \mid x_i) > q(\vartheta_i^* \mid x_i)\}

The smallest region of highest density that holds the truth has mass alpha_i. One value a pair,
uniform if q is the posterior; its mean over contexts would hide what single pairs show.
"""

from __future__ import annotations

__all__ = ["count_denser"]

import torch
from torch import Tensor


def count_denser(log_q: Tensor, log_q_truth: Tensor) -> tuple[Tensor, Tensor]:
    """How many draws have a higher density than the truth, and how many the same.

    Arguments:
        log_q: log q of the draws, shape (S, B).
        log_q_truth: log q of the truth, shape (B,); -inf where q excludes it.

    Returns:
        Two counts, shape (B,).

    Raises:
        ValueError: If a log-density is NaN.

    References:
        | A Trust Crisis In Simulation-Based Inference? Your Posterior Approximations Can Be
        | Unfaithful
        | (Hermans et al., 2021), equation 5
        | https://arxiv.org/abs/2110.06581
    """
    if torch.isnan(log_q).any() or torch.isnan(log_q_truth).any():
        where = "the draws" if torch.isnan(log_q).any() else "the true values"
        raise ValueError(f"log_prob of {where} is NaN: coverage needs a number or -inf")
    return (log_q > log_q_truth).sum(0), (log_q == log_q_truth).sum(0)
