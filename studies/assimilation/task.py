r"""The task: states of a stochastic Lorenz system, of which one number is seen now and then.

.. math::
    x_{i+1} = \mathrm{RK4}(x_i) + N(0, \Delta t\, I), \qquad
    y_j = a_{j k} + N(0, s^2), \qquad a = x^{(1)} / 8, \quad i = 0 \dots 64

"low" sees every eighth state with s = 0.05, "high" every state with s = 0.25. W1 is the mean
distance in R^195, in physical units, of two sets of draws that are paired so that it is least.

References:
    | Score-based Data Assimilation (Rozet & Louppe, 2023), section 4.1
    | https://arxiv.org/abs/2306.10574
"""

from __future__ import annotations

__all__ = ["LENGTH", "RATES", "UNIT", "Rate", "truths", "wasserstein"]

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import simgen
from simulators.lorenz import Lorenz63

LENGTH = 65
UNIT = 8.0
"""Of the number that is seen."""


@dataclass(frozen=True)
class Rate:
    """How often and how well states are seen.

    Arguments:
        every: Steps between observations.
        sd: Of their noise, in the units of the observation.
    """

    every: int
    sd: float

    def observe(self, x: Tensor) -> Tensor:
        """What is seen without noise, (..., seen), of trajectories (..., length, 3)."""
        return x[..., :: self.every, 0] / UNIT

    @property
    def likelihood(self) -> simgen.GaussianLikelihood:
        """p(y | x)."""
        return simgen.GaussianLikelihood(self.observe, self.sd)

    def log_likelihood(self, y: Tensor, x: Tensor) -> Tensor:
        """log p(y | x) (n,) of trajectories (n, length, 3)."""
        return self.likelihood.log_prob(y, {"x": x})


RATES = {"low": Rate(8, 0.05), "high": Rate(1, 0.25)}


def truths(n: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """n trajectories (n, length, 3) and what is seen of each at every rate, (n, seen)."""
    x = torch.from_numpy(Lorenz63.stationary(LENGTH)(n, seed=seed)["x"]).double()
    generator = torch.Generator().manual_seed(seed)
    seen = {}
    for name, rate in RATES.items():
        y = rate.observe(x)
        seen[name] = y + rate.sd * torch.randn(y.shape, generator=generator, dtype=y.dtype)
    return x, seen


def wasserstein(a: Tensor, b: Tensor) -> float:
    """W1 of as many draws a and b, (n, ...) each."""
    cost = torch.cdist(a.flatten(1).double(), b.flatten(1).double())
    rows, columns = linear_sum_assignment(cost.numpy())
    return float(cost[rows, columns].mean())
