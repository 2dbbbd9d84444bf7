r"""Ancestral sampling: each step draws from the chain's tractable posterior at x_0 = D(x_t).

.. math::
    x_s \sim q(x_s \mid x_t, x_0 = D(x_t)) = N\Bigl(
        \frac{\alpha_{ts} \sigma_s^2}{\sigma_t^2} x_t
        + \frac{\alpha_s \sigma_{ts}^2}{\sigma_t^2} D(x_t), \;
        \frac{\sigma_{ts}^2 \sigma_s^2}{\sigma_t^2} I \Bigr), \qquad
    \alpha_{ts} = \frac{\alpha_t}{\alpha_s}, \quad
    \sigma_{ts}^2 = \sigma_t^2 - \alpha_{ts}^2 \sigma_s^2

References:
    | Denoising Diffusion Probabilistic Models (Ho et al., 2020), algorithm 2, eqs. 6-7
    | https://arxiv.org/abs/2006.11239
    | Variational Diffusion Models (Kingma et al., 2021), appendix A.2
    | https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

__all__ = ["solve", "step"]

from torch import Tensor

from ..denoiser import Denoiser
from ..process import Process
from .base import Noise, levels, normal


def step(
    x_t: Tensor, x_0: Tensor, alpha: Tensor, sigma: Tensor, generator: Noise = None
) -> Tensor:
    """x_s given x_t and E[x_0 | x_t]; alpha and sigma hold the values at t and at s."""
    share = (sigma[1] / sigma[0]) ** 2 * (alpha[0] / alpha[1])  # the mean's weight of x_t
    new = 1 - share * alpha[0] / alpha[1]  # sigma_ts^2 / sigma_t^2
    mean = share * x_t + alpha[1] * new * x_0
    return mean + sigma[1] * new.sqrt() * normal(x_t, generator)


def solve(
    denoiser: Denoiser, process: Process, x_T: Tensor, steps: int, generator: Noise = None
) -> Tensor:
    """One evaluation and one noise a step."""
    alpha, sigma = levels(process, steps, x_T)
    x = x_T
    for i in range(steps):
        x_0 = denoiser(x, alpha[i], sigma[i])
        x = step(x, x_0, alpha[i : i + 2], sigma[i : i + 2], generator)
    return x
