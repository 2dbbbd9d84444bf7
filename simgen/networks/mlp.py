"""Multilayer perceptrons, plain and residual, on vectors."""

from __future__ import annotations

__all__ = ["MLP", "ResMLP"]

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from .base import Configured


class MLP(Configured):
    """Linear layers with SiLU between them: (..., features) → (..., out).

    Arguments:
        features: Size of the input vector.
        out: Size of the output vector.
        hidden: Widths of the hidden layers.
    """

    def __init__(self, features: int, out: int, hidden: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        widths = [features, *hidden]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], out))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layers."""
        return self.layers(x)


class ResMLP(Configured):
    """Residual blocks x + W SiLU(W' norm(x)) between two linear layers: (..., features) → (...,
    out).

    Arguments:
        features: Size of the input vector.
        out: Size of the output vector.
        width: Width of the residual stream.
        blocks: Number of residual blocks.

    References:
        | Deep Residual Learning for Image Recognition (He et al., 2016), eq. 1
        | https://arxiv.org/abs/1512.03385
    """

    def __init__(self, features: int, out: int, width: int = 128, blocks: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(features, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
            )
            for _ in range(blocks)
        )
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the blocks."""
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)
