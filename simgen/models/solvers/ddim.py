r"""DDIM: the probability-flow equation by its exponential integrator of first order.

.. math::
    x_s = \alpha_s D(x_t) + \sigma_s\, \frac{x_t - \alpha_t D(x_t)}{\sigma_t}

References:
    | Denoising Diffusion Implicit Models (Song et al., 2021), eq. 12 with eta = 0
    | https://arxiv.org/abs/2010.02502
"""

from __future__ import annotations

__all__ = ["solve"]

from torch import Tensor

from ..denoiser import Denoiser
from ..process import Process
from .base import Noise, levels


def solve(
    denoiser: Denoiser, process: Process, x_T: Tensor, steps: int, generator: Noise = None
) -> Tensor:
    """One evaluation a step; first order, deterministic."""
    alpha, sigma = levels(process, steps, x_T)
    x = x_T
    for i in range(steps):
        x_0 = denoiser(x, alpha[i], sigma[i])
        x = alpha[i + 1] * x_0 + sigma[i + 1] / sigma[i] * (x - alpha[i] * x_0)
    return x
