r"""Adams and Bashforth's method of third order, along the angle between data and noise.

.. math::
    \frac{dw}{d\psi} = -F, \qquad
    w = \frac{y}{\sqrt{s^2 + r^2}}, \quad y = \frac{x_t}{\alpha}, \quad
    r = \frac{\sigma}{\alpha}, \quad \psi = \arctan \frac{r}{s}, \qquad
    F = \frac{\sqrt{s^2 + r^2}}{s\, r} \Bigl( D - \frac{s^2}{s^2 + r^2}\, y \Bigr)

is the probability flow in coordinates in which the flow of N(0, s^2 I) stands still: F is what a
preconditioned network predicts (`preconditioning`), and s the process's scale. What is integrated
is only how the data differ from a Gaussian. A parabola through the last three values of F is
extrapolated over the step; its first two steps are of lower order.

References:
    | Fast Sampling of Diffusion Models with Exponential Integrator (Zhang & Chen, 2023)
    | https://arxiv.org/abs/2204.13902
    | Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models (Lu & Song, 2025),
    | section 3, https://arxiv.org/abs/2410.11081
"""

from __future__ import annotations

__all__ = ["solve"]

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..process import Process
from .base import Noise, levels, log_ratios

ORDER = 3
SPREAD = 1.5  # of the noise levels: by error at 16 steps on mixtures of Gaussians


def solve(
    denoiser: Denoiser, process: Process, x_T: Tensor, steps: int, generator: Noise = None
) -> Tensor:
    """One evaluation a step; third order, deterministic."""
    alpha, sigma = levels(process, steps, x_T, SPREAD)
    scale = torch.as_tensor(process.scale, dtype=torch.float64, device=x_T.device)
    ratio = log_ratios(process, steps, SPREAD).exp().to(x_T.device)
    ratio = ratio.view(-1, *[1] * scale.dim())
    angle = (ratio / scale).atan()
    size = (ratio**2 + scale**2).sqrt()
    of_denoised, of_state = (size / (scale * ratio)).to(x_T), (scale / ratio).to(x_T)
    size = size.to(x_T)
    w = x_T / (alpha[0] * size[0])
    slopes: list[Tensor] = []
    for i in range(steps - 1):
        x_0 = denoiser(alpha[i] * size[i] * w, alpha[i], sigma[i])
        slopes = [of_denoised[i] * x_0 - of_state[i] * w, *slopes[: ORDER - 1]]
        weights = _weights(angle[i + 1 - len(slopes) : i + 1].flip(0), angle[i + 1]).to(x_T)
        for weight, slope in zip(weights, slopes):
            w = w - weight * slope
    return denoiser(alpha[-2] * size[-1] * w, alpha[-2], sigma[-2])


def _weights(nodes: Tensor, end: Tensor) -> Tensor:
    """Of the integral from the first of the nodes (m, ...) to the end (...) of the polynomial
    through them, (m, ...).
    """
    length = end - nodes[0]
    powers = torch.arange(len(nodes), dtype=nodes.dtype, device=nodes.device)
    table = (((nodes - nodes[0]) / length).movedim(0, -1)[..., None, :]) ** powers[:, None]
    moments = (1 / (powers + 1)).expand(table.shape[:-1])
    return length * torch.linalg.solve(table, moments).movedim(-1, 0)
