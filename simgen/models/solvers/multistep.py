r"""DPM-Solver++(2M): an exponential integrator of second order, one evaluation a step.

.. math::
    x_s = \frac{\sigma_s}{\sigma_t} x_t - \alpha_s (e^{-h} - 1)
        \Bigl( D_t + \frac{h}{2 h'} (D_t - D_{t'}) \Bigr), \qquad
    h = \log \frac{\alpha_s}{\sigma_s} - \log \frac{\alpha_t}{\sigma_t}

The linear part of the equation is solved exactly; the denoiser is extrapolated along a line
through its last two values, D_t and D_{t'}, whose step was h'. The first step, and the last one
to zero noise, are of first order.

References:
    | DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models (Lu et al.,
    | 2022), algorithm 2, https://arxiv.org/abs/2211.01095
"""

from __future__ import annotations

__all__ = ["solve"]

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..process import Process
from .base import Noise, levels, log_ratios


def solve(
    denoiser: Denoiser, process: Process, x_T: Tensor, steps: int, generator: Noise = None
) -> Tensor:
    """One evaluation a step; second order, deterministic."""
    alpha, sigma = levels(process, steps, x_T)
    ratio = log_ratios(process, steps)
    h = ratio[:-1] - ratio[1:]
    x, before = x_T, x_T
    for i in range(steps - 1):
        x_0 = denoiser(x, alpha[i], sigma[i])
        slope = x_0 if i == 0 else x_0 + float(h[i] / h[i - 1]) / 2 * (x_0 - before)
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * float(torch.expm1(-h[i])) * slope
        before = x_0
    return denoiser(x, alpha[-2], sigma[-2])
