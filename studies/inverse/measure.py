r"""What is measured of draws whose distribution is known.

.. math::
    \mathrm{KL}\bigl(N(\hat m, \hat C) \,\|\, N(0, I)\bigr)
        = \tfrac12 \bigl(\operatorname{tr} \hat C + |\hat m|^2 - d - \log |\hat C|\bigr), \qquad
    \mathrm{SW} = \mathbb{E}_{|a| = 1} \int_0^1 \bigl| Q_{a \cdot x}(u) - Q_{a \cdot y}(u) \bigr|
        du

the first of draws made white by the exact mean and covariance, whose floor for n exact draws is
about d (d + 3) / 4n; the second of draws x beside exact draws y, by quantiles Q of projections.
"""

from __future__ import annotations

__all__ = ["kl_floor", "kl_of_white", "sliced_w1"]

import torch
from torch import Tensor

SLICES = 1000


def kl_of_white(white: Tensor) -> float:
    """KL of the moments of draws (n, d) from those of N(0, I)."""
    n, d = white.shape
    mean = white.mean(0)
    rest = white - mean
    covariance = rest.mT @ rest / n
    logdet = float(torch.linalg.slogdet(covariance).logabsdet)
    return 0.5 * (float(covariance.trace()) + float(mean @ mean) - d - logdet)


def kl_floor(n: int, d: int, sets: int = 4) -> float:
    """The same of as many exact draws, averaged over sets."""
    generator = torch.Generator().manual_seed(0)
    draws = (torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(sets))
    return sum(map(kl_of_white, draws)) / sets


def sliced_w1(x: Tensor, y: Tensor, slices: int = SLICES) -> float:
    """Mean over random directions of the 1-d Wasserstein distance of draws (n, d)."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(x.shape[1], slices, generator=generator, dtype=torch.float64)
    axes = axes / axes.norm(dim=0)
    projected = ((v.double() @ axes).mT.contiguous().sort().values for v in (x, y))
    first, second = projected
    return float((first - second).abs().mean())
