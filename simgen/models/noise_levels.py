r"""Noise levels: which ones a model trains on, and which ones a solver walks through.

.. math::
    \ell = \log \frac{\sigma}{\alpha} = Q(u), \quad u \in [0, 1]: \qquad
    \frac{1}{1 + e^{-(\ell - \mu) / s}} = a + u (b - a)

Q is the quantile function of a logistic distribution cut off at the ends of the process's range:
dense where noise and data are comparable, sparse where one of them drowns the other. Training
spreads its levels evenly over it,

.. math::
    \ell_{ij} = Q\Bigl( \frac{1}{L} \Bigl( j + \frac{\pi_j(i) + U_{ij}}{n} \Bigr) \Bigr), \qquad
    i = 1 \dots n, \quad j = 0 \dots L - 1:

row i sees L levels, one in each of L equal shares, and the n rows of a batch divide each share
evenly (pi_j is a random permutation). Every l_ij by itself is distributed as Q says, so that each
row's loss is unbiased, while a batch's mean varies far less.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | https://arxiv.org/abs/2206.00364, section 5
    | Variational Diffusion Models (Kingma et al., 2021), appendix I.1
    | https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

__all__ = ["NOISES", "NoiseLevels", "stratified"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .process import Process

NOISES = ("logistic", "uniform", "time")
"""Distributions of the noise levels."""


@dataclass(frozen=True)
class NoiseLevels:
    """A distribution of l = log(sigma / alpha) over the range of a process.

    Arguments:
        process: The process.
        kind: "logistic", "uniform" in l, or "time": uniform in the process's t.
        location: Centre mu of the logistic distribution, from the process's log scale on.
        spread: Its scale s.
    """

    process: Process
    kind: str = "logistic"
    location: float = 0.0
    spread: float = 2.0

    def quantile(self, u: Tensor) -> Tensor:
        """The l of which a share u (...) is smaller, float64."""
        u = u.double()
        low, high = self._ends
        if self.kind == "uniform":
            return low + u * (high - low)
        if self.kind == "time":
            first, last = self._times
            return -self.process.log_snr(first + u * (last - first)) / 2
        a, b = (1 / (1 + math.exp(-(v - self._centre) / self.spread)) for v in (low, high))
        return self._centre + self.spread * torch.logit(a + u * (b - a))

    def log_density(self, ell: Tensor) -> Tensor:
        """log of the density of l (...), float64."""
        ell = ell.double()
        low, high = self._ends
        if self.kind == "uniform":
            return torch.full_like(ell, -math.log(high - low))
        if self.kind == "time":
            first, last = self._times
            t = self.process.time(-2 * ell)
            # dl / dt = g^2 / (2 sigma^2)
            rate = (self.process.diffusion(t) / self.process.sigma(t)).square() / 2
            return -(rate * (last - first)).log()
        a, b = (1 / (1 + math.exp(-(v - self._centre) / self.spread)) for v in (low, high))
        z = (ell - self._centre) / self.spread
        return logsigmoid(z) + logsigmoid(-z) - math.log(self.spread * (b - a))

    @property
    def _ends(self) -> tuple[float, float]:
        return math.log(self.process.sigma_min), math.log(self.process.sigma_max)

    @property
    def _centre(self) -> float:
        return math.log(self.process.typical) + self.location

    @property
    def _times(self) -> tuple[Tensor, Tensor]:
        first, last = self.process.time(-2 * torch.tensor(self._ends, dtype=torch.float64))
        return first, last


def stratified(rows: int, levels: int, device: torch.device) -> Tensor:
    """Uniform numbers (levels, rows), evenly spread over each row's levels and over the rows."""
    order = torch.rand(levels, rows, device=device).argsort(1)
    within = (order + torch.rand(levels, rows, device=device)) / rows
    return (torch.arange(levels, device=device)[:, None] + within) / levels
