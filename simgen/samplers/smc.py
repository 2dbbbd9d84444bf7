r"""Twisted sequential Monte Carlo: particles steered by y, weighted for what steering got wrong.

.. math::
    \psi_t(x_t) = N\bigl(y; f(\hat x), I + A V A^\top\bigr), \qquad
    x_s \sim \tilde p(x_s \mid x_t, y), \qquad
    w = \frac{\tilde p(x_s \mid x_t)\, \psi_s(x_s)}{\psi_t(x_t)\, \tilde p(x_s \mid x_t, y)}
      = \frac{\psi_s(x_s)}{\tilde p(y \mid x_t, x_s)}

with p~ the Gaussian of the denoiser's mean and covariance (`ancestral`): the weight compares what
y is worth at x_s with what x_t foresaw. For a Gaussian prior and linear data they agree, all
weights are one and the evidence is exact. The last weight holds the likelihood itself. Particles
are resampled systematically when their effective number falls below a half, and

.. math::
    \hat Z = \psi_\infty \prod_t \frac1N \sum_i w_t^i

is unbiased for the evidence under the chain of steps p~, which tends to the prior as the steps
get finer.

References:
    | Practical and Asymptotically Exact Conditional Sampling in Diffusion Models (Wu et al.,
    | 2023), eqs. 8-11, https://arxiv.org/abs/2306.17775
    | An Introduction to Sequential Monte Carlo (Chopin & Papaspiliopoulos, 2020), algorithm 10.3
    | https://doi.org/10.1007/978-3-030-47845-2
"""

from __future__ import annotations

__all__ = ["Particles", "smc", "systematic"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .ancestral import bridge, start
from .problem import Problem, Twist, levels, twist

_HALF = 0.5


@dataclass(frozen=True)
class Particles:
    """Weighted draws, and the evidence.

    Arguments:
        x: The particles (n, d).
        log_weights: Their weights' logarithms (n,), normalised.
        log_evidence: log p(y).
        error: Its standard error, from the families of particles that descend from each first.
        families: Effective number of independent draws: of particles of the first step, by the
            weight of their descendants.
    """

    x: Tensor
    log_weights: Tensor
    log_evidence: float
    error: float
    families: float

    @property
    def ess(self) -> float:
        """Effective number of draws: by the last weights, and by families."""
        return min(effective(self.log_weights), self.families)


def effective(log_weights: Tensor) -> float:
    """The effective number of draws of normalised weights."""
    return math.exp(-float(torch.logsumexp(2 * log_weights, 0)))


def systematic(log_weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Indices (..., n) of draws by weight (..., m): evenly spaced, from one uniform number."""
    lead, m = log_weights.shape[:-1], log_weights.shape[-1]
    device = log_weights.device
    u = torch.rand(*lead, 1, generator=generator, dtype=torch.float64, device=device)
    steps = (torch.arange(n, device=device) + u) / n
    edges = log_weights.double().exp().cumsum(-1)
    return torch.searchsorted(edges / edges[..., -1:], steps).clamp(max=m - 1)


def smc(problem: Problem, n: int, steps: int, generator: torch.Generator) -> Particles:
    """n weighted particles.

    Arguments:
        problem: The prior and what was observed.
        n: How many particles.
        steps: How many noise levels; more of them make the chain of steps closer to the prior.
        generator: Of all random numbers.
    """
    x, grid = start(problem, n), levels(problem.prior, steps)
    known = twist(problem, x, problem.prior.farthest)
    log_evidence = float(known.log_prob[0]) + problem.scale
    log_w = x.new_full((n,), -math.log(n))
    family = torch.arange(n, device=x.device)
    for high, low in grid:
        moved = bridge(known, x, high, low, generator)
        step, later = weigh(problem, known, x, moved, high, low)
        total = log_w + step
        gain = float(total.logsumexp(0))
        if not math.isfinite(gain):
            raise ValueError("no particle has a finite likelihood: is the observation possible?")
        log_evidence += gain
        log_w = total - gain
        x, known = moved, later
        if low > 0 and effective(log_w) < _HALF * n:
            keep = systematic(log_w, n, generator)
            x, family = x[keep], family[keep]
            known = twist(problem, x, low)
            log_w = x.new_full((n,), -math.log(n))
    shares = torch.zeros(n, dtype=torch.float64, device=x.device)
    shares.scatter_add_(0, family, log_w.double().exp())
    variance = float((shares - 1 / n).square().sum())
    families = 1 / float(shares.square().sum())
    return Particles(x, log_w, log_evidence, math.sqrt(variance), families)


def weigh(
    problem: Problem, known: Twist, x_t: Tensor, x_s: Tensor, high: float, low: float
) -> tuple[Tensor, Twist]:
    """The log-weights (n,) of steps from x_t to x_s (n, d), and the twist at x_s."""
    tau = (low / high) ** 2
    foreseen = known.foreseen((x_s - tau * x_t) / (1 - tau), low**2 / (1 - tau))
    if low > 0:
        later = twist(problem, x_s, low)
        return later.log_prob - foreseen, later
    found = -0.5 * (problem.y - problem.predict(x_s)).square().sum(-1)
    return found + problem.correction(x_s) - foreseen, known
