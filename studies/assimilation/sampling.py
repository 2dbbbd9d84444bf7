r"""Draws of the posterior under the learned prior: down the noise levels, and at each once more.

.. math::
    x_0 \sim N(\hat x, V)\text{ given } y, \qquad x_t = x_0 + \sigma_t \epsilon, \qquad
    x_s \sim p(x_s \mid x_0, x_t)

Drawing x_0 given x_t and y, and noise on it again, is Gibbs' sampler of both at one noise level:
what a step from a higher level got wrong is forgotten, without a step size.
"""

from __future__ import annotations

__all__ = ["assimilate"]

import math

import torch
from torch import Tensor

from simgen.samplers.levels import levels
from simgen.samplers.windows import Windows

from .task import Rate

_CHUNK = 128


def assimilate(
    prior: Windows, rate: Rate, y: Tensor, n: int, steps: int, corrections: int, seed: int
) -> Tensor:
    """Draws (n, length, 3), in physical units.

    Arguments:
        prior: The learned prior.
        rate: How the states are seen.
        y: What was seen, (seen,).
        n: How many draws.
        steps: Noise levels.
        corrections: Draws at each of them before the next.
        seed: Of all random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    A = _matrix(prior, rate)
    zero = torch.zeros(1, prior.size, dtype=torch.float64)
    rest = (y.double() - rate.observe(prior.physical(zero))[0]) / rate.sd
    told = A.mT @ A

    def noise(n: int) -> Tensor:
        return torch.randn(n, prior.size, generator=generator, dtype=torch.float64)

    def restored(x: Tensor, level: float) -> Tensor:
        """x_0 (n, d) given x_t and y."""
        P, h = prior.information(x, level)
        P = P.plus(level**2 * told)
        return x + P.solve(h + level**2 * (rest - x @ A.mT) @ A) + level * P.root(noise(len(x)))

    parts = []
    for rows in torch.arange(n).split(_CHUNK):
        m = len(rows)
        x = zero.expand(m, -1)
        for high, low in levels(prior, steps):
            level = min(high, prior.farthest)
            x_0 = restored(x, level)
            for _ in range(corrections if math.isfinite(high) else 0):
                x = x_0 + level * noise(m)
                x_0 = restored(x, level)
            tau = (low / high) ** 2
            x = (1 - tau) * x_0 + tau * x + low * math.sqrt(1 - tau) * noise(m)
        parts.append(prior.physical(x))
    return torch.cat(parts)


def _matrix(prior: Windows, rate: Rate) -> Tensor:
    """What is seen of a series in the prior's own space, in units of the noise, (seen, d)."""
    unit = torch.eye(prior.size, dtype=torch.float64)
    seen = rate.observe(prior.physical(unit)) - rate.observe(prior.physical(0 * unit))
    return seen.mT / rate.sd
