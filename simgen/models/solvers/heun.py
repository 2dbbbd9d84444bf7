r"""The probability-flow equation by Heun's method, in the units of the data.

.. math::
    y = x_t / \alpha, \quad r = \sigma / \alpha, \qquad
    \frac{dy}{dr} = \frac{y - D(\alpha y, \alpha, \sigma)}{r}

which is the same equation for every process. A trapezium a step, and an Euler step to r = 0.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | https://arxiv.org/abs/2206.00364, algorithm 1
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
    """Two evaluations a step, one in the last; second order, deterministic."""
    alpha, sigma = levels(process, steps, x_T)
    ratio = sigma / alpha

    def slope(y: Tensor, i: int) -> Tensor:
        return (y - denoiser(alpha[i] * y, alpha[i], sigma[i])) / ratio[i]

    y = x_T / alpha[0]
    for i in range(steps - 1):
        length = ratio[i + 1] - ratio[i]
        first = slope(y, i)
        second = slope(y + length * first, i + 1)
        y = y + length * (first + second) / 2
    return denoiser(alpha[-2] * y, alpha[-2], sigma[-2])
