r"""Annealed Langevin dynamics: a few Langevin steps at each noise level, from much to little.

.. math::
    x \leftarrow x + \delta_i\, \nabla \log p(x_{t_i}) + \sqrt{2 \delta_i}\, z, \qquad
    \delta_i = \tfrac12 \epsilon\, \sigma_i^2

Between levels x is only rescaled, alpha_s / alpha_t. It needs many levels: nothing but the
dynamics brings x from one noise level to the next.

References:
    | Generative Modeling by Estimating Gradients of the Data Distribution (Song & Ermon, 2019)
    | https://arxiv.org/abs/1907.05600, algorithm 1
"""

from __future__ import annotations

__all__ = ["solve"]

from torch import Tensor

from ..denoiser import Denoiser
from ..process import Process
from .base import Noise, levels
from .predictor_corrector import langevin

EPSILON = 0.3
REPEATS = 5


def solve(
    denoiser: Denoiser, process: Process, x_T: Tensor, steps: int, generator: Noise = None
) -> Tensor:
    """One evaluation and one noise a step, of which five stay at one level."""
    count = max(2, steps // REPEATS)
    alpha, sigma = levels(process, count, x_T)
    x = x_T
    for i in range(count):
        delta = EPSILON * sigma[i] ** 2 / 2
        repeats = steps - (count - 1) * (steps // count) if i == 0 else steps // count
        for _ in range(repeats - (i == count - 1)):
            x = langevin(denoiser, x, alpha[i], sigma[i], delta, generator)
        if i < count - 1:
            x = x * (alpha[i + 1] / alpha[i])
    return denoiser(x, alpha[-2], sigma[-2])
