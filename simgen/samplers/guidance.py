r"""Guidance as it is published: the denoiser's mean moved towards y, then steps by the mean alone.

.. math::
    x_s = (1 - \tau) D_y + \tau x_t + \sigma_s \sqrt{1 - \tau}\, \epsilon, \qquad
    \tau = \sigma_s^2 / \sigma_t^2

with D_y = x^ + J^T-weighted data, of which the methods differ by what stands for V = Cov[x_0|x_t]:

.. math::
    \begin{aligned}
    \text{moment matching} &: & D_y &= \hat x + V A^\top (I + A V A^\top)^{-1} (y - f(\hat x)) \\
    \Pi\text{GDM} &: & D_y &= \hat x + \sigma^2 J^\top A^\top (I + r^2 A A^\top)^{-1}
        (y - f(\hat x)), \quad r^2 = \sigma^2 / (1 + \sigma^2 / s^2) \\
    \text{DiffPIR} &: & D_y &= \hat x + \sigma^2 A^\top (I + \sigma^2 A A^\top)^{-1}
        (y - f(\hat x)) \\
    \text{DPS} &: & x_s &\to x_s - \nabla_{x_t} \lVert y - f(\hat x) \rVert
    \end{aligned}

All are approximate, and narrower than the posterior at few steps: baselines. Every draw is steered
by itself alone, whatever the batch. Data are in units of their noise, s is the prior's largest
standard deviation.

References:
    | Learning Diffusion Priors from Observations by Expectation Maximization (Rozet et al., 2024),
    | eqs. 19-20, https://arxiv.org/abs/2405.13712
    | Pseudoinverse-Guided Diffusion Models for Inverse Problems (Song et al., 2023), eqs. 5-7
    | https://openreview.net/forum?id=9_gsMA8MRKQ
    | Denoising Diffusion Models for Plug-and-Play Image Restoration (Zhu et al., 2023), eqs. 11-13
    | https://arxiv.org/abs/2305.08995
    | Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023), eq. 16
    | https://arxiv.org/abs/2209.14687
"""

from __future__ import annotations

__all__ = ["GUIDANCE", "guided"]

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .ancestral import start
from .levels import levels
from .problem import Problem, along, cholesky, inner, solve, twist

Guide = Callable[[Problem, Tensor, float], tuple[Tensor, Tensor]]
"""Of rows x_t (n, d) at a noise level: the mean given y, and what x_s is moved by, (n, d) each."""


def guided(
    problem: Problem, n: int, steps: int, generator: torch.Generator, guide: Guide
) -> Tensor:
    """n draws (n, d) by one of `GUIDANCE`."""
    x = start(problem, n)
    for high, low in levels(problem.prior, steps):
        mean, shift = guide(problem, x, min(high, problem.prior.farthest))
        tau = (low / high) ** 2
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x = (1 - tau) * mean + tau * x + low * math.sqrt(1 - tau) * noise + shift
    return x


def moment_matching(problem: Problem, x_t: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """The denoiser's own covariance, and its system solved exactly."""
    return twist(problem, x_t, sigma).guided(), torch.zeros_like(x_t)


def pseudoinverse(problem: Problem, x_t: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """An isotropic covariance for the data, the denoiser's derivative for the way back."""
    spread = (problem.prior.largest / 10) ** 2
    isotropic = sigma**2 / (1 + sigma**2 / spread)
    mean, V = problem.prior.moments(x_t, sigma)
    found, slopes = problem.slopes(mean)
    factor = cholesky(isotropic * inner(slopes, slopes))
    weights = solve(factor, problem.y - found)
    return mean + V(along(slopes, weights)), torch.zeros_like(x_t)


def proximal(problem: Problem, x_t: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """An isotropic covariance for both."""
    with torch.no_grad():
        mean = problem.prior.mean(x_t, sigma)
    found, slopes = problem.slopes(mean)
    factor = cholesky(sigma**2 * inner(slopes, slopes))
    weights = solve(factor, problem.y - found)
    return mean + sigma**2 * along(slopes, weights), torch.zeros_like(x_t)


def steepest(problem: Problem, x_t: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """A step of length one down the misfit, by the denoiser's derivative."""
    with torch.enable_grad():
        x = x_t.detach().requires_grad_()
        mean = problem.prior.mean(x, sigma)
        misfit = (problem.y - problem.predict(mean)).norm(dim=-1)
        (slope,) = torch.autograd.grad(misfit.sum(), x)
    return mean.detach(), -problem.unit * slope


GUIDANCE: dict[str, Guide] = {
    "moment-matching": moment_matching,
    "pigdm": pseudoinverse,
    "diffpir": proximal,
    "dps": steepest,
}
"""Published methods by name."""
