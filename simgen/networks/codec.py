r"""Convolutional encoder and decoder of images of any size, on one, two or three spatial axes.

.. math::
    s_{i+1} = \lceil s_i / 2 \rceil, \qquad
    h \leftarrow h + f\bigl( (1 + a(c)) \odot \mathrm{norm}(h) + b(c) \bigr)

Each level halves every side, rounded up; the decoder goes back through the same sides, so that
no size has to be a power of two. A context vector c acts on every block by a scale and a shift
of each channel.

References:
    | FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2018), eq. 2
    | https://arxiv.org/abs/1709.07871
"""

from __future__ import annotations

__all__ = ["GridDecoder", "GridEncoder", "coarse_size", "default_depth"]

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from .base import Configured
from .unet import convolution, group_norm


def default_depth(size: Sequence[int]) -> int:
    """How many halvings bring the longest side down to at most 4."""
    return max(0, (max(size) - 1).bit_length() - 2)


def coarse_size(size: Sequence[int], depth: int) -> tuple[int, ...]:
    """The sides after a number of halvings, each rounded up."""
    return tuple(-(-s // 2**depth) for s in size)


def _widths(width: int, depth: int) -> list[int]:
    """Channels of each level, finest first: doubled at each halving, up to four times."""
    return [width * min(2**i, 4) for i in range(depth + 1)]


class _Block(nn.Module):
    """h + conv(SiLU(norm(conv(SiLU(norm(h)))))), the second norm scaled and shifted by the
    context.
    """

    def __init__(self, axes: int, width: int, context: int, periodic: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(
            group_norm(width),
            nn.SiLU(),
            convolution(axes, width, width, periodic),
        )
        self.norm = group_norm(width)
        self.last = nn.Sequential(nn.SiLU(), convolution(axes, width, width, periodic))
        self.film = nn.Linear(context, 2 * width) if context else None

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        inner = self.norm(self.first(h))
        if self.film is not None:
            film = self.film(context).view(*inner.shape[:2], 2, *[1] * (h.dim() - 2))
            scale, shift = film.unbind(2)
            inner = inner * (1 + scale) + shift
        return h + self.last(inner)


class GridEncoder(Configured):
    """Residual convolutions, halving the grid at each level: (n, channels, *size) → (n, out,
    *coarse).

    Arguments:
        channels: Channels of the image.
        out: Channels of the code.
        width: Channels of the finest level; they double at each halving, up to four times.
        depth: Number of halvings.
        blocks: Residual blocks a level.
        axes: Spatial axes, 1 to 3.
        context: Length of the context vector; 0 for none.
        periodic: Whether the grid's edges meet.

    Raises:
        ValueError: If there are more than three axes, or none.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        width: int = 32,
        depth: int = 2,
        blocks: int = 1,
        axes: int = 2,
        context: int = 0,
        periodic: bool = False,
    ) -> None:
        super().__init__()
        if axes not in (1, 2, 3):
            raise ValueError(f"an image has 1, 2 or 3 spatial axes; got {axes}")
        widths = _widths(width, depth)
        self.widths = widths
        self.first = convolution(axes, channels, width, periodic)
        self.blocks = nn.ModuleList(
            nn.ModuleList(_Block(axes, w, context, periodic) for _ in range(blocks))
            for w in widths
        )
        self.down = nn.ModuleList(
            convolution(axes, a, b, periodic, stride=2) for a, b in pairwise(widths)
        )
        self.last = convolution(axes, widths[-1], out, periodic)

    def levels(self, x: Tensor, context: Tensor | None = None) -> list[Tensor]:
        """Features of images (n, channels, *size) at every level, finest first; level i has
        `widths[i]` channels.
        """
        h, out = self.first(x), []
        for i, blocks in enumerate(self.blocks):
            h = self.down[i - 1](h) if i else h
            for block in blocks:  # type: ignore
                h = block(h, context)
            out.append(h)
        return out

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Encodes images (n, channels, *size), given context vectors (n, context)."""
        return self.last(nn.functional.silu(self.levels(x, context)[-1]))


class GridDecoder(Configured):
    """The way back: (n, channels, *coarse) → (n, out, *size), coarse = `coarse_size(size,
    depth)`.

    Arguments:
        channels: Channels of the code.
        out: Channels of the image.
        size: Sides of the image.
        width: Channels of the finest level.
        depth: Number of doublings.
        blocks: Residual blocks a level.
        context: Length of the context vector; 0 for none.
        skip: Whether features of another image, of a `GridEncoder` of the same width and depth,
            are added at every level.
        periodic: Whether the grid's edges meet.

    Raises:
        ValueError: If there are more than three sides, or none.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        size: Sequence[int],
        width: int = 32,
        depth: int = 2,
        blocks: int = 1,
        context: int = 0,
        skip: bool = False,
        periodic: bool = False,
    ) -> None:
        super().__init__()
        axes, widths = len(size), _widths(width, depth)[::-1]
        if axes not in (1, 2, 3):
            raise ValueError(f"an image has 1, 2 or 3 spatial axes; got {axes}")
        self.sides = [coarse_size(size, i) for i in reversed(range(depth))]
        self.first = convolution(axes, channels, widths[0], periodic)
        self.blocks = nn.ModuleList(
            nn.ModuleList(_Block(axes, w, context, periodic) for _ in range(blocks))
            for w in widths
        )
        self.up = nn.ModuleList(convolution(axes, a, b, periodic) for a, b in pairwise(widths))
        self.skips = nn.ModuleList(
            convolution(axes, w, w, size=1) for w in (widths if skip else [])
        )
        self.last = convolution(axes, width, out, periodic)

    def forward(
        self,
        h: Tensor,
        context: Tensor | None = None,
        levels: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Decodes (n, channels, *coarse), given context vectors (n, context) and features of
        another image, finest first.
        """
        h = self.first(h)
        for i, blocks in enumerate(self.blocks):
            if i:
                h = self.up[i - 1](nn.functional.interpolate(h, size=self.sides[i - 1]))
            if levels is not None and len(self.skips):
                h = h + self.skips[i](levels[-1 - i])
            for block in blocks:  # type: ignore
                h = block(h, context)
        return self.last(nn.functional.silu(h))
