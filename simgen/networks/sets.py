r"""A permutation-invariant encoder of sets.

.. math::
    h(x_1, \dots, x_K) = \rho\Bigl( \frac1K \sum_i \phi(x_i), \log K \Bigr)
"""

from __future__ import annotations

__all__ = ["SetEncoder"]

import torch
from torch import Tensor, nn

from .base import Configured
from .mlp import ResMLP


class SetEncoder(Configured):
    """Deep set: a network on each element, the mean over elements, a network on the mean.

    Arguments:
        features: Features of one element.
        out: Size of the encoding.
        width: Width of the element network and of its pooled output.
        blocks: Hidden layers of the element network.

    References:
        | Deep Sets (Zaheer et al., 2017), theorem 2
        | https://arxiv.org/abs/1703.06114
    """

    number: Tensor

    def __init__(self, features: int, out: int = 32, width: int = 64, blocks: int = 2) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(features, width), nn.SiLU()]
        for _ in range(blocks - 1):
            layers += [nn.Linear(width, width), nn.SiLU()]
        self.element = nn.Sequential(*layers, nn.Linear(width, width))
        # the mean of K elements varies as 1 / sqrt(K)
        self.loc = nn.Parameter(torch.zeros(width))
        self.log_scale = nn.Parameter(torch.zeros(width))
        self.register_buffer("number", torch.tensor([0.0, 5.0]))  # log K: its centre and scale
        self.head = ResMLP(width + 1, out, width=width, blocks=1)

    @torch.no_grad()
    def initialise(self, x: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Sets centre and scale of the pooled elements from training rows."""
        mean, count = self._pool(x[:2048], None if mask is None else mask[:2048])
        number = count.clamp(min=1).log()
        if len(number) > 1 and float(number.std()) > 0.1:  # of sets of one size it says nothing
            self.number.copy_(torch.stack([number.mean(), number.std()]))
        self.loc.copy_(mean.mean(0))
        self.log_scale.copy_(mean.std(0).clamp(min=1e-6).log())

    def _pool(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean over the elements that are there (n, width), and their number (n, 1)."""
        if mask is None:
            count = torch.full((len(x), 1), x.shape[1], dtype=x.dtype, device=x.device)
            return self.element(x).mean(1), count
        count = mask.sum(1, keepdim=True).to(x.dtype)
        rows, places = mask.nonzero(as_tuple=True)  # padding costs nothing
        h = self.element(x[rows, places])
        return h.new_zeros(len(x), h.shape[-1]).index_add(0, rows, h) / count.clamp(min=1), count

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encodes sets x (n, K, features), of which mask (n, K) elements are there, as (n,
        out).
        """
        mean, count = self._pool(x, mask)
        mean = (mean - self.loc) * torch.exp(-self.log_scale)
        number = (count.clamp(min=1).log() - self.number[0]) / self.number[1]
        return self.head(torch.cat([mean, number], -1))
