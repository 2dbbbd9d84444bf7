r"""A classifier of noisy data, for classifier guidance.

.. math::
    \min_\psi \; -\mathbb{E}_{t, \epsilon} \log p_\psi(y \mid x_t), \qquad
    x_t = \alpha_t x_0 + \sigma_t \epsilon

References:
    | Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol, 2021), section 4.1
    | https://arxiv.org/abs/2105.05233
"""

from __future__ import annotations

__all__ = ["NoisyClassifier"]

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..networks import ResMLP
from .denoiser import level, preconditioning
from .process import Process


class NoisyClassifier(nn.Module):
    """p(y | x_t) over classes 0 ... classes - 1.

    Arguments:
        process: What makes x_t, and the range of its noise levels.
        event: Shape of x.
        classes: Number of classes.
        width: Of the network, a residual perceptron on the flattened x and the log noise level.
        blocks: Of it.
    """

    def __init__(
        self, process: Process, event: torch.Size, classes: int, width: int = 128, blocks: int = 3
    ) -> None:
        super().__init__()
        self.process = process
        self.network = ResMLP(event.numel() + 1, classes, width=width, blocks=blocks)

    def forward(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """log p(y | x_t) of every class, (n, classes)."""
        scale, _, _ = preconditioning(alpha, sigma)
        noise = ((sigma / alpha).log() / 4).expand(len(x_t))
        flat = (level(scale, x_t) * x_t).reshape(len(x_t), -1)
        return self.network(torch.cat([flat, noise[:, None]], -1)).log_softmax(-1)

    def loss(self, x_0: Tensor, y: Tensor) -> Tensor:
        """-log p(y | x_t) (n,) of x_0 (n, *event) and classes y (n,), noise levels evenly spread
        in their logarithm.
        """
        low, high = self.process.sigma_min, self.process.sigma_max
        ratio = low * (high / low) ** torch.rand(len(x_0), device=x_0.device)
        alpha, sigma = (v.to(x_0) for v in self.process.at(ratio))
        x_t = level(alpha, x_0) * x_0 + level(sigma, x_0) * torch.randn_like(x_0)
        return nn.functional.nll_loss(self(x_t, alpha, sigma), y, reduction="none")

    def log_p(self, y: int | Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """log p(y | x_t) as a function of (x_t, alpha, sigma): y is a class, or one a row."""
        return lambda x_t, alpha, sigma: _pick(self(x_t, alpha, sigma), y)


def _pick(log_p: Tensor, y: int | Tensor) -> Tensor:
    index = torch.as_tensor(y, device=log_p.device).expand(len(log_p))
    return log_p.gather(1, index[:, None])[:, 0]
