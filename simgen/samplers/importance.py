r"""Importance sampling: draws of a proposal, weighted by the posterior.

.. math::
    w_i = \frac{p(y \mid \vartheta_i)\, p(\vartheta_i)}{q(\vartheta_i)}, \quad
    \vartheta_i \sim q, \qquad
    \hat Z = \frac1n \sum_i w_i, \qquad
    \mathrm{ESS} = \frac{(\sum_i w_i)^2}{\sum_i w_i^2}

All draws count, those outside the support with weight zero: leaving them out, or stopping on a
batch that looks good, biases the evidence. The Pareto shape k of the largest weights says whether
the sums have settled: above 0.7 they have not.

References:
    | Pareto Smoothed Importance Sampling (Vehtari et al., 2024), sections 2 and 3
    | https://arxiv.org/abs/1507.02646
"""

from __future__ import annotations

__all__ = ["RELIABLE", "pareto_k", "weighted"]

import math

import numpy as np
import torch
from torch import Tensor

from .smc import Particles

RELIABLE = 0.7
"""The Pareto shape above which weights are no answer."""


def weighted(x: Tensor, log_target: Tensor, log_proposal: Tensor) -> Particles:
    """Draws x (n, d) of a proposal, weighted by log-densities (n,) of target and proposal.

    Raises:
        ValueError: If no draw has any weight.
    """
    log_w = log_target.double() - log_proposal.double()
    log_w = torch.where(log_w.isnan(), -math.inf, log_w)
    n, total = len(log_w), log_w.logsumexp(0)
    if not bool(total > -math.inf):
        raise ValueError("no draw of the proposal has a finite posterior density")
    if not bool(total < math.inf):
        raise ValueError("a posterior density is infinite, or a proposal's zero at its own draw")
    shares = (log_w - total).exp()
    error = math.sqrt(float((shares - 1 / n).square().sum()) * n / (n - 1))
    return Particles(x, log_w - total, float(total) - math.log(n), error, n)


def pareto_k(log_weights: Tensor) -> float:
    """The Pareto shape of the largest weights; above 0.7 their sums cannot be trusted."""
    import arviz

    finite = log_weights[log_weights > -math.inf].detach().cpu().double().numpy()
    if len(finite) < 25 or np.ptp(finite) < 1e-12:
        return -math.inf if len(finite) >= 25 else math.inf
    with np.errstate(over="ignore"):
        return float(arviz.psislw(finite)[1])
