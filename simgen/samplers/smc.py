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

Where the prior is far from Gaussian, a Gaussian's tails are too light: of a mode with little
weight, x_t often looks like a neighbour's, from where psi sees y as impossible. There a small
share of the particles is not led by y,

.. math::
    \psi_t \to (1 - \varepsilon)\, \psi_t + \varepsilon\, c_t, \qquad
    \tilde p(y \mid x_t, x_s) \to
    (1 - \varepsilon)\, \tilde p(y \mid x_t, x_s) + \varepsilon\, c_t

with c_t the evidence as known so far: a mixture of the two proposals, weighted as such.

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
from typing import Any

import torch
from torch import Tensor

from .ancestral import bridge, start
from .levels import levels
from .problem import Problem, Twist, twist

_HALF = 0.5
_UNLED = 0.2  # share of particles that y does not lead


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
    log_z = float(known.log_prob[0])
    log_w = x.new_full((n,), -math.log(n))
    family = torch.arange(n, device=x.device)
    unled = Unled(0.0, log_z)
    for high, low in grid:
        worth = unled.or_else(known.log_prob)
        u = torch.rand(n, generator=generator, dtype=x.dtype, device=x.device)
        led = u.log() < unled.rest + known.log_prob - worth
        moved = bridge(known, x, high, low, generator, led)
        foreseen = unled.or_else(foresee(known, x, moved, high, low))
        value, later = appraise(problem, known, moved, low)
        gain = float((log_w + value - foreseen).logsumexp(0))
        if not math.isfinite(gain):
            raise ValueError("no particle has a finite likelihood: is the observation possible?")
        unled = Unled.at(problem.prior, low, log_z + gain)
        total = log_w + unled.or_else(value) - foreseen
        gain = float(total.logsumexp(0))
        log_z += gain
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
    return Particles(x, log_w, log_z + problem.scale, math.sqrt(variance), families)


@dataclass(frozen=True)
class Unled:
    """The particles that y does not lead.

    Arguments:
        share: epsilon.
        worth: log c.
    """

    share: float
    worth: float

    @classmethod
    def at(cls, prior: Any, sigma: float, worth: float) -> Unled:
        """At a noise level: some where the prior is far from Gaussian."""
        where = getattr(prior, "levels", None)
        return cls(_UNLED if where is not None and where.bent(sigma) else 0.0, worth)

    @property
    def rest(self) -> float:
        """log(1 - epsilon)."""
        return math.log1p(-self.share)

    def or_else(self, value: Tensor) -> Tensor:
        """log((1 - epsilon) e^value + epsilon c) (n,)."""
        if self.share == 0:
            return value
        other = value.new_tensor(math.log(self.share) + self.worth)
        return torch.logaddexp(self.rest + value, other)


def foresee(known: Twist, x_t: Tensor, x_s: Tensor, high: float, low: float) -> Tensor:
    """log p~(y | x_t, x_s) (n,) of steps from x_t to x_s (n, d)."""
    tau = (low / high) ** 2
    return known.foreseen((x_s - tau * x_t) / (1 - tau), low**2 / (1 - tau))


def appraise(problem: Problem, known: Twist, x_s: Tensor, low: float) -> tuple[Tensor, Twist]:
    """What y is worth (n,) at x_s (n, d), and the twist there; in the end the likelihood."""
    if low > 0:
        later = twist(problem, x_s, low)
        return later.log_prob, later
    found = -0.5 * (problem.y - problem.predict(x_s)).square().sum(-1)
    return found + problem.correction(x_s), known
