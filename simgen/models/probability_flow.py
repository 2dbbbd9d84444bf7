r"""The probability flow of a denoiser, and its density by the instantaneous change of variables.

.. math::
    \frac{dw}{d\ell} = v(w, \ell) = \frac{s^2\, w - \sqrt{s^2 + r^2}\, D}{s^2 + r^2}, \qquad
    w = \frac{x_t / \alpha}{\sqrt{s^2 + r^2}}, \quad r = \frac\sigma\alpha = e^\ell

.. math::
    \log p(x_0) = \log p(w_T) - \tfrac12 \sum_i \log(s_i^2 + r_{\min}^2)
        + \int_{\log r_{\min}}^{\log r_{\max}} \nabla \cdot v(w, \ell)\, d\ell

In w and ell the flow is the same for every process, and that of N(0, s^2) stands still. Steps are
equal in the share u of `NoiseLevels`, ell = Q(u); few are enough, and the density is a smooth
function of x_0. The divergence is exact, one vector product a number, or Hutchinson's estimate
with fixed probes. The data are taken to lie at the smallest noise level: p is their density
blurred by r_min.

References:
    | Neural Ordinary Differential Equations (Chen et al., 2018), eq. 8
    | https://arxiv.org/abs/1806.07366
    | FFJORD (Grathwohl et al., 2019), eqs. 6-8, https://arxiv.org/abs/1810.01367
    | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2021)
    | https://arxiv.org/abs/2011.13456, eqs. 13, 39
"""

from __future__ import annotations

__all__ = ["EXACT", "log_prob", "rademacher", "velocity"]

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .denoiser import Denoiser, level
from .noise_levels import NoiseLevels
from .ode import runge_kutta
from .process import Process

EXACT = 16  # numbers up to which the divergence should be exact
SPREAD = 2.0  # of the noise levels


def velocity(
    denoiser: Denoiser, process: Process, w: Tensor, ell: Tensor, scale: Tensor
) -> Tensor:
    """dw / dl (n, *event) of w (n, *event) at log noise-to-signal ratios (n,); the scale s is ()
    or (*event).
    """
    alpha, sigma = (v.to(w) for v in process.at(ell.double().exp()))
    size = (scale**2 + level(sigma / alpha, w) ** 2).sqrt()
    denoised = denoiser(level(alpha, w) * size * w, alpha, sigma)
    return (scale / size) ** 2 * w - denoised / size


def log_prob(
    denoiser: Denoiser,
    process: Process,
    x_0: Tensor,
    steps: int = 32,
    probes: Tensor | None = None,
    base: Callable[[Tensor], Tensor] | None = None,
    scale: Tensor | float = 1.0,
) -> Tensor:
    """log p(x_0) (n,) of x_0 (n, *event), in nats; differentiable in x_0.

    Arguments:
        denoiser: E[x_0 | x_t].
        process: Its noise levels' range.
        x_0: Where.
        steps: Of order four, four evaluations each.
        probes: Vectors (m, *event) of unit variance for Hutchinson's estimate of the divergence;
            without them it is exact.
        base: log p(x_T) of x_T (n, *event); N(0, sigma_T^2) unless said.
        scale: s, the data's standard deviations (*event), or one for all.
    """
    n, size, shape = len(x_0), x_0[0].numel(), x_0.shape[1:]
    count = 1 if probes is None else len(probes)
    vectors = torch.eye(size).view(size, *shape) if probes is None else probes
    vectors = vectors.to(x_0)
    s = torch.as_tensor(scale).to(x_0)
    graph = torch.is_grad_enabled() and x_0.requires_grad

    grid = NoiseLevels(process, spread=SPREAD)

    def slope(share: Tensor, state: Tensor) -> Tensor:
        ell = grid.quantile(share.double().clamp(0, 1))
        rate = level((-grid.log_density(ell)).exp().to(state), state)
        with torch.enable_grad():
            w = state[:, :size].view(n, *shape)
            w = w if graph else w.detach().requires_grad_()
            v = velocity(denoiser, process, w, ell, s)
            divergence = _divergence(v, w, vectors, graph) / count
            joined = torch.cat([v.reshape(n, size), divergence[:, None]], 1)
        return rate * (joined if graph else joined.detach())

    first = (s**2 + process.sigma_min**2).sqrt()
    last = (s**2 + process.sigma_max**2).sqrt()
    w = (x_0 / first).reshape(n, size)
    end = runge_kutta(slope, torch.cat([w, torch.zeros_like(w[:, :1])], 1), 0.0, 1.0, steps)
    alpha, sigma = (
        v.to(x_0) for v in process.at(torch.tensor(process.sigma_max, dtype=torch.float64))
    )
    x_T, total = alpha * last * end[:, :size].view(n, *shape), end[:, size]
    if base is None:
        white = (x_T / sigma).square().reshape(n, -1).sum(1)
        start = -0.5 * white - size * (sigma.log() + 0.5 * math.log(2 * math.pi))
    else:
        start = base(x_T)
    return start + total + (alpha * last / first).log().expand(shape).sum()


def rademacher(count: int, shape: torch.Size, seed: int = 0) -> Tensor:
    """Fixed probes (count, *shape) of random signs."""
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randint(0, 2, (count, *shape), generator=generator) - 1


def _divergence(v: Tensor, w: Tensor, vectors: Tensor, graph: bool) -> Tensor:
    """Sum over the vectors e of e^T (dv/dw) e, (n,)."""
    total = v.new_zeros(len(v))
    for e in vectors:
        (product,) = torch.autograd.grad(
            v, w, e.expand_as(v), retain_graph=True, create_graph=graph
        )
        total = total + (product * e).reshape(len(v), -1).sum(1)
    return total
