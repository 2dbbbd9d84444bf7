r"""The reverse stochastic differential equation by Euler and Maruyama.

.. math::
    dx = \bigl( f(t)\, x - g^2(t)\, \nabla \log p(x_t) \bigr) dt + g(t)\, d\bar w

from t = 1 back to 0. Weak order one in the step.

References:
    | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2021)
    | https://arxiv.org/abs/2011.13456, eq. 6
"""

from __future__ import annotations

__all__ = ["solve"]

from torch import Tensor

from ..denoiser import Denoiser, score
from ..process import Process
from .base import Noise, levels, log_ratios, normal


def solve(
    denoiser: Denoiser, process: Process, x_T: Tensor, steps: int, generator: Noise = None
) -> Tensor:
    """One evaluation and one noise a step."""
    alpha, sigma = levels(process, steps, x_T)
    t = process.time(-2 * log_ratios(process, steps))
    drift, diffusion = process.drift(t).to(x_T), process.diffusion(t).to(x_T)
    lengths = (t[:-1] - t[1:]).to(x_T)
    x = x_T
    for i in range(steps - 1):
        slope = score(denoiser(x, alpha[i], sigma[i]), x, alpha[i], sigma[i])
        backward = diffusion[i] ** 2 * slope - drift[i] * x
        spread = diffusion[i] * lengths[i].sqrt()
        x = x + backward * lengths[i] + spread * normal(x, generator)
    return denoiser(x, alpha[-2], sigma[-2])
