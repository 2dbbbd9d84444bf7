r"""An encoder of vectors: the vector itself, its linear regression on the target, and a network's features.

.. math::
    h(x) = \bigl(x, \; s, \; f(x, s)\bigr), \quad s = W x + b, \qquad
    (W, b) = \arg\min \textstyle\sum_i \| u_i - W x_i - b \|^2 + \lambda \|W\|^2

Where the columns of x are strongly correlated, as binned data with a common offset are, standardising each of them
leaves the informative combinations tiny; regression finds them in closed form before any training.
"""

from __future__ import annotations

__all__ = ["VectorEncoder"]

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import Configured


class VectorEncoder(Configured):
    """Features of a vector for the many small networks of a flow: (n, features) → (n, size).

    Arguments:
        features: Columns of x.
        targets: Columns of the target that are regressed.
        out: Features that the network adds.
        hidden: Widths of its layers.
        keep: Whether x itself is passed on; by default up to 64 columns are.
    """

    def __init__(
        self,
        features: int,
        targets: int,
        out: int = 32,
        hidden: Sequence[int] = (128, 128, 128),
        keep: bool | None = None,
    ) -> None:
        super().__init__()
        self.keep = features <= 64 if keep is None else keep
        self.register_buffer("weight", torch.zeros(features, targets))
        self.register_buffer("bias", torch.zeros(targets))
        widths = [features + targets, *hidden]
        layers: list[nn.Module] = []
        for a, b in zip(widths, widths[1:]):
            layers += [nn.Linear(a, b), nn.ReLU()]
        last = nn.Linear(widths[-1], out)
        nn.init.zeros_(last.weight)  # at the start the features are those of the regression alone
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(*layers, last)

    @torch.no_grad()
    def initialise(self, x: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Solves the regression on training rows x (n, features), target (n, targets)."""
        x, u = x.double(), target.double()
        mean_x, mean_u = x.mean(0), u.mean(0)
        gram = (x - mean_x).T @ (x - mean_x) / len(x)
        ridge = 1e-8 * gram.diagonal().mean().clamp(min=1e-12)
        gram = gram + ridge * torch.eye(len(gram), dtype=x.dtype, device=x.device)
        weight = torch.linalg.solve(gram, (x - mean_x).T @ (u - mean_u) / len(x))
        scale = ((x - mean_x) @ weight).std(0).clamp(min=1e-6)
        self.weight.copy_(weight / scale)
        self.bias.copy_(-(mean_x @ weight) / scale)

    def forward(self, x: Tensor) -> Tensor:
        """Encodes x (n, features)."""
        regression = x.double() @ self.weight.double() + self.bias.double()
        known = torch.cat([x, regression.to(x.dtype)], -1)
        h = self.net(known)
        return torch.cat([known if self.keep else known[:, x.shape[1] :], h], -1)
