r"""Linear-regression summaries of a vector: what least squares knows, before any training.

.. math::
    h(x) = (x, \; W x + b), \qquad (W, b) = \arg\min \sum_i \| u_i - W x_i - b \|^2 + \lambda \|W\|^2

Where the columns of x are strongly correlated, as binned data with a common offset are, standardising each of them
leaves the informative combinations tiny; regression finds them in closed form.
"""

from __future__ import annotations

__all__ = ["Summaries"]

import torch
from torch import Tensor

from .base import Configured


class Summaries(Configured):
    """Appends to x (n, features) its regression on the target: (n, features + targets).

    Arguments:
        features: Columns of x.
        targets: Columns of the target that are regressed.
    """

    def __init__(self, features: int, targets: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(features, targets))
        self.register_buffer("bias", torch.zeros(targets))

    @torch.no_grad()
    def initialise(self, x: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Solves the regression on training rows x (n, features), target (n, targets)."""
        x, u = x.double(), target.double()
        n = len(x)
        mean_x, mean_u = x.mean(0), u.mean(0)
        gram = (x - mean_x).T @ (x - mean_x) / n
        ridge = 1e-8 * gram.diagonal().mean().clamp(min=1e-12)
        gram = gram + ridge * torch.eye(len(gram), dtype=x.dtype, device=x.device)
        weight = torch.linalg.solve(gram, (x - mean_x).T @ (u - mean_u) / n)
        scale = ((x - mean_x) @ weight).std(0).clamp(min=1e-6)
        self.weight.copy_(weight / scale)
        self.bias.copy_(-(mean_x @ weight) / scale)

    def forward(self, x: Tensor) -> Tensor:
        """Appends the summaries."""
        fit = x.double() @ self.weight.double() + self.bias.double()
        return torch.cat([x, fit.to(x.dtype)], -1)
