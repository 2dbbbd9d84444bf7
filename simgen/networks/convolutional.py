"""A convolutional encoder of images."""

from __future__ import annotations

__all__ = ["ConvEncoder"]

from itertools import pairwise

import torch
from torch import Tensor, nn

from .base import Configured
from .mlp import ResMLP


class _Block(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(1, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="circular"),
            nn.GroupNorm(1, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1, padding_mode="circular"),
        )
        self.down = nn.Conv2d(width, out, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(x + self.body(x))


class ConvEncoder(Configured):
    """Residual convolutions, halving the grid each time, then the mean over the grid: (n, c, H,
    W) → (n, out).

    Arguments:
        channels: Channels of the image.
        out: Size of the encoding.
        width: Channels after the first layer; they double at each halving, up to four times.
        depth: Number of halvings; the grid must be at least 2^depth wide.

    References:
        | Identity Mappings in Deep Residual Networks (He et al., 2016), fig. 1b
        | https://arxiv.org/abs/1603.05027
    """

    def __init__(self, channels: int, out: int = 32, width: int = 16, depth: int = 3) -> None:
        super().__init__()
        widths = [width * min(2**i, 4) for i in range(depth + 1)]
        self.first = nn.Conv2d(channels, width, 3, padding=1, padding_mode="circular")
        self.blocks = nn.Sequential(*[_Block(a, b) for a, b in pairwise(widths)])
        self.head = ResMLP(2 * widths[-1], out, width=64, blocks=1)

    def forward(self, x: Tensor) -> Tensor:
        """Encodes images (n, channels, H, W) as (n, out)."""
        h = self.blocks(self.first(x))
        mean, square = h.mean((-2, -1)), h.square().mean((-2, -1))
        return self.head(nn.functional.silu(torch.cat([mean, (square + 1e-6).log()], -1)))
