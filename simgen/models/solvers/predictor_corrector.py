r"""Predictor and corrector: an ancestral step, then a step of Langevin dynamics at the new level.

.. math::
    x \leftarrow x + \delta\, \nabla \log p(x_t) + \sqrt{2 \delta}\, z, \qquad
    \delta = 2\, (\rho \sigma)^2

Song et al. set delta by the norms of score and noise, averaged over the batch; both are near
their expectations, sqrt(d) / sigma and sqrt(d), which leave rows independent.

References:
    | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2021)
    | https://arxiv.org/abs/2011.13456, algorithms 1, 4, 5 and appendix G
"""

from __future__ import annotations

__all__ = ["langevin", "solve"]

from torch import Tensor

from ..denoiser import Denoiser, score
from ..process import Process
from . import ancestral
from .base import Noise, levels, normal

SIGNAL_TO_NOISE = 0.16  # rho, Song et al.'s choice


def langevin(
    denoiser: Denoiser,
    x: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    delta: Tensor,
    generator: Noise = None,
) -> Tensor:
    """One step of unadjusted Langevin dynamics of size delta towards p(x_t)."""
    slope = score(denoiser(x, alpha, sigma), x, alpha, sigma)
    return x + delta * slope + (2 * delta).sqrt() * normal(x, generator)


def solve(
    denoiser: Denoiser, process: Process, x_T: Tensor, steps: int, generator: Noise = None
) -> Tensor:
    """Two evaluations and two noises a step."""
    alpha, sigma = levels(process, steps, x_T)
    x = x_T
    for i in range(steps - 1):
        x_0 = denoiser(x, alpha[i], sigma[i])
        x = ancestral.step(x, x_0, alpha[i : i + 2], sigma[i : i + 2], generator)
        delta = 2 * (SIGNAL_TO_NOISE * sigma[i + 1]) ** 2
        x = langevin(denoiser, x, alpha[i + 1], sigma[i + 1], delta, generator)
    return denoiser(x, alpha[-2], sigma[-2])
