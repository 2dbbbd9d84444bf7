r"""Networks between target, latent and given: encoders and decoders of vectors and of images.

.. math::
    h = f(x, c, m), \qquad r = g(z, c, m)

with c a context vector and m a map on the image's grid. A vector's network is a linear map plus
a residual network that starts at zero; an image's is convolutional, the map goes into the encoder
as channels and into the decoder as features at every resolution, and both vectors act on every
block.
"""

from __future__ import annotations

__all__ = ["Conditioner", "Prepared", "SkipMLP", "decoder", "encoder"]

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..field import Field
from ..networks.codec import GridDecoder, GridEncoder, coarse_size, default_depth
from ..networks.mlp import ResMLP
from .base import Given

_SUMMARY = 64  # numbers that sum up a map where a vector is needed


@dataclass(frozen=True)
class Sizes:
    """Width and depth of the networks.

    Arguments:
        width: Of a vector's residual stream.
        blocks: Residual blocks, 0 for linear maps; at every resolution for images.
        channels: Of an image's finest resolution.
        depth: Halvings of an image; down to sides of 4 unless said.
        periodic: Whether an image's edges meet.
    """

    width: int = 128
    blocks: int = 2
    channels: int = 32
    depth: int | None = None
    periodic: bool = False

    def halvings(self, size: tuple[int, ...]) -> int:
        """Of an image with these sides."""
        return default_depth(size) if self.depth is None else self.depth


@dataclass(frozen=True)
class Prepared:
    """What is given, read once for all draws: context (n, c), map (n, C, *size), its features."""

    context: Tensor | None = None
    grid: Tensor | None = None
    levels: tuple[Tensor, ...] = ()

    def repeat(self, k: int) -> Prepared:
        """Of rows repeated k times as a whole: (k n, ...)."""
        if k == 1:
            return self

        def many(x: Tensor) -> Tensor:
            return x.expand(k, *x.shape).reshape(-1, *x.shape[1:])

        return Prepared(
            None if self.context is None else many(self.context),
            None if self.grid is None else many(self.grid),
            tuple(many(x) for x in self.levels),
        )


class Conditioner(nn.Module):
    """Reads what is given; a map also as features, and as numbers that join the context.

    Attributes:
        size: Length of the context vector.
        channels: Of the map, 0 for none.
    """

    def __init__(self, given: Mapping[str, Field], sizes: Sizes) -> None:
        super().__init__()
        unknown = set(given) - {"context", "map"}
        if unknown:
            raise ValueError(f"given holds context and map; got {', '.join(sorted(unknown))}")
        self.size = given["context"].size if "context" in given else 0
        self.channels = given["map"].shape[0] if "map" in given else 0
        if self.channels:
            size = given["map"].shape[1:]
            depth = sizes.halvings(size)
            self.encoder = GridEncoder(
                self.channels, 16, sizes.channels, depth, sizes.blocks or 1, len(size),
                periodic=sizes.periodic,
            )  # fmt: skip
            self.summary = nn.Linear(16 * math.prod(coarse_size(size, depth)), _SUMMARY)
            self.size += _SUMMARY

    def forward(self, given: Given) -> Prepared:
        """Of context (n, c) and map (n, C, *size)."""
        context, grid = given
        if not self.channels:
            return Prepared(context)
        assert grid is not None
        levels = self.encoder.levels(grid)
        summary = self.summary(self.encoder.last(nn.functional.silu(levels[-1])).flatten(1))
        context = summary if context is None else torch.cat([context, summary], -1)
        return Prepared(context, grid, tuple(levels))


class SkipMLP(nn.Module):
    """A linear map plus a residual network that starts at zero: (..., features) → (..., out).

    Arguments:
        features: Size of the input.
        out: Size of the output.
        sizes: Width and number of blocks; the linear map alone without blocks.
    """

    def __init__(self, features: int, out: int, sizes: Sizes) -> None:
        super().__init__()
        self.linear = nn.Linear(features, out)
        self.net = ResMLP(features, out, sizes.width, sizes.blocks) if sizes.blocks else None
        if self.net is not None:
            for parameter in self.net.last[1].parameters():  # type: ignore[union-attr]
                nn.init.zeros_(parameter)

    @torch.no_grad()
    def start(self, weight: Tensor, bias: Tensor) -> None:
        """Sets the linear map, as far as weight (rows, columns) and bias (rows,) go, else 0."""
        self.linear.weight.zero_()
        self.linear.weight[: weight.shape[0], : weight.shape[1]] = weight.to(self.linear.weight)
        self.linear.bias.zero_()
        self.linear.bias[: len(bias)] = bias.to(self.linear.bias)

    def forward(self, *parts: Tensor | None) -> Tensor:
        """Of vectors that stand side by side; those that are None don't."""
        x = torch.cat([p for p in parts if p is not None], -1)
        return self.linear(x) if self.net is None else self.linear(x) + self.net(x)


class _VectorEncoder(nn.Module):
    def __init__(self, features: int, context: int, out: int, sizes: Sizes) -> None:
        super().__init__()
        self.net = SkipMLP(features + context, out, sizes)

    def forward(self, x: Tensor, given: Prepared) -> Tensor:
        return self.net(x, given.context)


class _VectorDecoder(nn.Module):
    def __init__(self, latent: int, context: int, shape: torch.Size, sizes: Sizes) -> None:
        super().__init__()
        self.shape = shape
        self.net = SkipMLP(latent + context, shape.numel(), sizes)

    def forward(self, z: Tensor, given: Prepared) -> Tensor:
        return self.net(z, given.context).view(-1, *self.shape)


class _GridEncoder(nn.Module):
    def __init__(self, event: torch.Size, condition: Conditioner, out: int, sizes: Sizes) -> None:
        super().__init__()
        size = event[1:]
        depth = sizes.halvings(size)
        self.net = GridEncoder(
            event[0] + condition.channels, sizes.channels, sizes.channels, depth,
            sizes.blocks or 1, len(size), condition.size, sizes.periodic,
        )  # fmt: skip
        self.last = nn.Linear(sizes.channels * math.prod(coarse_size(size, depth)), out)

    def forward(self, x: Tensor, given: Prepared) -> Tensor:
        if given.grid is not None:
            x = torch.cat([x, given.grid], 1)
        return self.last(nn.functional.silu(self.net(x, given.context)).flatten(1))


class _GridDecoder(nn.Module):
    def __init__(
        self, latent: int, condition: Conditioner, shape: torch.Size, sizes: Sizes
    ) -> None:
        super().__init__()
        outputs, channels, *size = shape
        depth, vector = sizes.halvings(tuple(size)), latent + condition.size
        self.shape, self.coarse = shape, coarse_size(size, depth)
        self.first = nn.Linear(vector, sizes.channels * math.prod(self.coarse))
        self.net = GridDecoder(
            sizes.channels, outputs * channels, size, sizes.channels, depth, sizes.blocks or 1,
            vector, bool(condition.channels), sizes.periodic,
        )  # fmt: skip

    def forward(self, z: Tensor, given: Prepared) -> Tensor:
        vector = z if given.context is None else torch.cat([z, given.context], -1)
        h = self.first(vector).view(len(z), -1, *self.coarse)
        return self.net(h, vector, given.levels or None).view(-1, *self.shape)


def encoder(event: torch.Size, condition: Conditioner, out: int, sizes: Sizes) -> nn.Module:
    """(x (n, *event), prepared) → (n, out)."""
    if len(event) == 1:
        return _VectorEncoder(event[0], condition.size, out, sizes)
    return _GridEncoder(event, condition, out, sizes)


def decoder(
    latent: int, condition: Conditioner, event: torch.Size, outputs: int, sizes: Sizes
) -> nn.Module:
    """(z (n, latent), prepared) → (n, outputs, *event)."""
    shape = torch.Size((outputs, *event))
    if len(event) == 1:
        return _VectorDecoder(latent, condition.size, shape, sizes)
    return _GridDecoder(latent, condition, shape, sizes)
