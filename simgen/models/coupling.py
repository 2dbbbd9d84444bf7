r"""Coupling of an image: some of its entries, given the others, by a small convolutional network.

.. math::
    y_a = x_a, \qquad y_b = f\bigl(x_b; \phi(x_a, m, c)\bigr)

A map m is seen as channels beside x_a; a context vector c scales and shifts the hidden channels.

References:
    | Density estimation using Real NVP (Dinh et al., 2017), section 3.4
    | https://arxiv.org/abs/1605.08803
    | Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma & Dhariwal, 2018)
    | https://arxiv.org/abs/1807.03039
    | FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2018), eq. 2
    | https://arxiv.org/abs/1709.07871
"""

from __future__ import annotations

__all__ = ["Coupling", "alternate"]

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .univariate import Univariate

_CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def alternate(channels: int, grid: Sequence[int], i: int) -> Tensor:
    """Which entries (channels, *grid) coupling i keeps: the two colours of a checkerboard, then
    the first channels, then the last ones.
    """
    i = i % 4 if channels > 1 else i % 2
    if i < 2:
        axes = [torch.arange(n) for n in grid]
        colour = torch.stack(torch.meshgrid(*axes, indexing="ij")).sum(0) % 2
        return (colour == i).expand(channels, *grid)
    first = torch.arange(channels) < (channels + 1) // 2
    keep = first if i == 2 else ~first
    return keep.view(-1, *[1] * len(grid)).expand(channels, *grid)


class _Network(nn.Module):
    """Convolutions over a torus, the inner ones pointwise, the hidden channels steered by a
    vector; zero at the start.
    """

    def __init__(
        self, channels: int, out: int, axes: int, hidden: Sequence[int], steering: int
    ) -> None:
        super().__init__()
        convolution = _CONVOLUTIONS[axes]

        def wide(a: int, b: int) -> nn.Module:
            return convolution(a, b, 3, padding=1, padding_mode="circular")

        inner = [convolution(a, b, 1) for a, b in pairwise(hidden)]
        self.layers = nn.ModuleList([wide(channels, hidden[0]), *inner])
        self.last = wide(hidden[-1], out)
        nn.init.zeros_(self.last.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]
        self.steer = nn.ModuleList(nn.Linear(steering, 2 * h) for h in hidden if steering)
        self.ones = [1] * axes

    def forward(self, x: Tensor, steering: Tensor | None) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if steering is not None:
                scale, shift = self.steer[i](steering).view(len(x), -1, *self.ones).chunk(2, 1)
                x = torch.addcmul(x + shift, x, scale)
            x = nn.functional.silu(x)
        return self.last(x)


class Coupling(nn.Module):
    """One coupling.

    Arguments:
        keep: Which entries (K, *grid) stay and are seen.
        known: Channels that are seen besides.
        univariate: The function of each other entry.
        hidden: Channels of the network's layers.
        steering: Length of the vector that steers the network, 0 for none.
    """

    stay: Tensor
    move: Tensor
    back: Tensor
    keep: Tensor

    def __init__(
        self,
        keep: Tensor,
        known: int,
        univariate: Univariate,
        hidden: Sequence[int],
        steering: int,
    ) -> None:
        super().__init__()
        channels, axes = len(keep), keep.dim() - 1
        self.univariate = univariate
        self.network = _Network(
            channels + known, channels * univariate.total, axes, hidden, steering
        )
        stay, move = keep.flatten().nonzero()[:, 0], (~keep).flatten().nonzero()[:, 0]
        self.register_buffer("keep", keep.clone())
        self.register_buffer("stay", stay)
        self.register_buffer("move", move)
        self.register_buffer("back", torch.cat((stay, move)).argsort())
        start = univariate.start.repeat(channels)
        with torch.no_grad():
            self.network.last.bias.copy_(start)  # type: ignore[operator]

    def _phi(self, x: Tensor, known: Tensor | None, steering: Tensor | None) -> Tensor:
        """phi (total, n, moved entries) of images x (n, K, *grid)."""
        x = x * self.keep
        seen = x if known is None else torch.cat((x, known), 1)
        phi = self.network(seen, steering).view(len(x), len(self.keep), self.univariate.total, -1)
        return phi.movedim(2, 0).flatten(2)[..., self.move]

    def call_and_ladj(
        self, x: Tensor, known: Tensor | None, steering: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """y (n, K, *grid) and log |det| (n,) of x (n, K, *grid)."""
        phi = self._phi(x, known, steering)
        flat = x.flatten(1)
        moved = flat[:, self.move]
        y, ladj = self.univariate(moved.reshape(-1), phi.flatten(1))
        y = torch.cat((flat[:, self.stay], y.view_as(moved)), 1)[:, self.back]
        return y.view_as(x), ladj.view_as(moved).sum(1)

    def inverse(self, y: Tensor, known: Tensor | None, steering: Tensor | None) -> Tensor:
        """x (n, K, *grid) of y (n, K, *grid)."""
        phi = self._phi(y, known, steering)
        flat = y.flatten(1)
        moved = self.univariate.inverse(flat[:, self.move], phi)
        return torch.cat((flat[:, self.stay], moved), 1)[:, self.back].view_as(y)
