"""A convolutional encoder of series."""

from __future__ import annotations

__all__ = ["SeriesEncoder"]

from itertools import pairwise

import torch
from torch import Tensor, nn

from .base import Configured
from .mlp import ResMLP


class SeriesEncoder(Configured):
    """Strided one-dimensional convolutions, then mean and last value over time: (n, K, features)
    → (n, out).

    Arguments:
        features: Features at one time.
        out: Size of the encoding.
        width: Channels.
        depth: Strided layers; each halves the length.
    """

    def __init__(self, features: int, out: int = 32, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        widths = [features + 1, *[width] * depth]
        self.layers = nn.ModuleList(
            nn.Conv1d(a, b, kernel_size=5, stride=2, padding=2) for a, b in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(depth))
        self.head = ResMLP(2 * width, out, width=width, blocks=1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encodes series x (n, K, features), of which mask (n, K) times are there, as (n, out)."""
        there = torch.ones(x.shape[:2], dtype=x.dtype, device=x.device) if mask is None else mask
        h = torch.cat([x, there.to(x.dtype)[..., None]], -1).movedim(-1, 1)
        for layer, norm in zip(self.layers, self.norms):
            h = nn.functional.silu(norm(layer(h)))
        return self.head(torch.cat([h.mean(-1), h[..., -1]], -1))
