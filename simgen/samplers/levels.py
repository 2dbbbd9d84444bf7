r"""Noise levels: many where the prior is far from Gaussian, few where it is not.

.. math::
    r(\sigma) = \operatorname{sd}_{x_t} \frac{v^\top V(x_t)\, v}{\sigma^2}, \quad
    V = \mathrm{Cov}[x_0 \mid x_t]; \qquad
    \frac{d n}{d \log \sigma} \propto \sqrt{r / \max r} + \tfrac{3}{20}

Steps that know V are exact for a Gaussian prior, whose V is the same everywhere. How much V
varies among draws of the prior, in random directions v, is the third cumulant of x_0 given x_t, of
which a step of length h in log sigma makes an error of order h^3: the sum over steps is least
where they are as dense as a root of its size.
"""

from __future__ import annotations

__all__ = ["DenoisingPrior", "Levels", "levels"]

import itertools
import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..covariance import Covariance

_LEVELS, _ROWS, _DIRECTIONS = 32, 128, 4
_FLOOR = 0.15  # of the largest density of levels, anywhere
_GAUSSIAN = 1e-6  # a variation of V that is rounding
_BENT = 0.02  # of the largest variation of V, beyond which the prior is far from Gaussian


class DenoisingPrior(Protocol):
    """What a prior has to offer: rows (n, d) of numbers about which noise is white.

    Attributes:
        size: d.
        smallest: A noise level below which x_0 is as good as Gaussian.
        largest: A noise level beside which all of it is as good as Gaussian.
        farthest: The largest noise level that the denoiser knows.
        evaluations: How many rows have been denoised.
    """

    size: int
    smallest: float
    largest: float
    farthest: float
    evaluations: int
    dtype: torch.dtype
    device: torch.device

    def mean(self, x_t: Tensor, sigma: float) -> Tensor:
        """E[x_0 | x_t] (n, d)."""

    def moments(self, x_t: Tensor, sigma: float) -> tuple[Tensor, Covariance]:
        """E[x_0 | x_t] (n, d), and Cov[x_0 | x_t] as an operator on rows."""


@dataclass(frozen=True)
class Levels:
    """Where levels belong.

    Arguments:
        log_sigma: Levels, upwards, (k,).
        density: How many levels there should be about each, (k,), in any unit.
        low, high: The levels between which the prior is far from Gaussian; equal where it never
            is.
    """

    log_sigma: Tensor
    density: Tensor
    low: float
    high: float

    @classmethod
    def even(cls, prior: DenoisingPrior) -> Levels:
        """By equal factors, of a prior of which no more is known."""
        ends = torch.tensor([prior.smallest, prior.largest], dtype=torch.float64).log()
        return cls(ends, torch.ones(2, dtype=torch.float64), prior.largest, prior.largest)

    @classmethod
    def of(cls, prior: DenoisingPrior) -> Levels:
        """By what V does at draws of the prior, where it has a V for each row."""
        if getattr(prior, "shared", True) or not hasattr(prior, "draw"):
            return cls.even(prior)
        generator = torch.Generator().manual_seed(0)
        x = prior.draw(_ROWS, generator).to(prior.device)
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
        shape = (_DIRECTIONS, 1, prior.size)
        v = torch.randn(shape, generator=generator, dtype=torch.float64).to(x)
        v = (v / v.norm(dim=-1, keepdim=True)).expand(-1, _ROWS, -1)
        ends = math.log(prior.smallest), math.log(prior.largest)
        log_sigma = torch.linspace(*ends, _LEVELS, dtype=torch.float64)
        found = []
        for sigma in log_sigma.exp().tolist():
            _, V = prior.moments(x + sigma * noise, sigma)
            found.append(float((V(v) * v).sum(-1).var(-1).mean().sqrt()) / sigma**2)
        rate = torch.tensor(found, dtype=torch.float64)
        largest = float(rate.max())
        if not _GAUSSIAN < largest < math.inf:
            return cls.even(prior)
        where = log_sigma[rate > _BENT * largest].exp()
        density = (rate / largest).sqrt() + _FLOOR
        return cls(log_sigma, density, float(where[0]), float(where[-1]))

    def bent(self, sigma: float) -> bool:
        """Whether the prior is far from Gaussian at a level."""
        return self.low < self.high and self.low <= sigma <= self.high

    def choose(self, count: int) -> list[float]:
        """So many levels, downwards."""
        widths = self.log_sigma.diff()
        steps = (self.density[1:] + self.density[:-1]) / 2 * widths
        total = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
        places = torch.linspace(1, 0, count, dtype=torch.float64) * total[-1]
        i = torch.searchsorted(total, places).clamp(1, len(widths))
        share = (places - total[i - 1]) / steps[i - 1]
        return (self.log_sigma[i - 1] + share * widths[i - 1]).exp().tolist()


def levels(prior: DenoisingPrior, steps: int) -> list[tuple[float, float]]:
    """The noise levels between which each step goes: from infinity, through levels from above the
    prior's largest scale to below its finest, to zero.

    Arguments:
        prior: The prior; one that has `levels` says where they belong.
        steps: How many.
    """
    if steps < 1:
        raise ValueError(f"steps must be 1 or more; got {steps}")
    where = getattr(prior, "levels", None) or Levels.even(prior)
    return list(itertools.pairwise([math.inf, *where.choose(steps - 1), 0.0]))
