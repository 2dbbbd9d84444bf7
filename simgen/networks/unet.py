r"""A U-Net: residual convolutions on ever coarser grids and back, steered by time and context.

.. math::
    h_i = D_i(h_{i-1}), \qquad u_i = U_i\bigl(h_i, \uparrow u_{i+1}\bigr)

D and U are residual blocks whose features time and context scale and shift; the coarsest levels
attend to all of the grid. Halving a grid of m cells leaves ⌈m / 2⌉, and the way up returns to
exactly the size it came from, so that any size goes.

References:
    | U-Net (Ronneberger et al., 2015), https://arxiv.org/abs/1505.04597
    | Denoising Diffusion Probabilistic Models (Ho et al., 2020), appendix B
    | https://arxiv.org/abs/2006.11239
    | Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol, 2021), eq. 6
    | https://arxiv.org/abs/2105.05233
"""

from __future__ import annotations

__all__ = ["UNet", "convolution", "group_norm"]

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from .attention import SelfAttention
from .base import Configured
from .film import Steering

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def convolution(
    dims: int, channels: int, out: int, periodic: bool = False, stride: int = 1, size: int = 3
) -> nn.Module:
    """A convolution in one to three dimensions that keeps the grid, or halves it by its stride."""
    layer: Any = _CONVOLUTIONS[dims - 1]
    mode = "circular" if periodic else "zeros"
    return layer(channels, out, size, stride=stride, padding=size // 2, padding_mode=mode)


def group_norm(width: int) -> nn.GroupNorm:
    """Normalises groups of at least four channels, eight groups at most."""
    groups = max(g for g in (1, 2, 4, 8) if g == 1 or (width % g == 0 and width // g >= 4))
    return nn.GroupNorm(groups, width)


class _Block(nn.Module):
    """Two convolutions beside a shortcut; the second sees features scaled and shifted."""

    def __init__(self, dims: int, width: int, out: int, periodic: bool) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = group_norm(width), group_norm(out)
        self.conv_1 = convolution(dims, width, out, periodic)
        self.conv_2 = convolution(dims, out, out, periodic)
        nn.init.zeros_(self.conv_2.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.conv_2.bias)  # type: ignore[arg-type]
        same = width == out
        self.skip = nn.Identity() if same else convolution(dims, width, out, size=1)
        self.films = 2 * out

    def forward(self, h: Tensor, film: Tensor) -> Tensor:
        scale, shift = film.view(*film.shape, *[1] * (h.dim() - 2)).chunk(2, 1)
        inner = self.norm_2(self.conv_1(silu(self.norm_1(h))))
        return self.skip(h) + self.conv_2(silu(torch.addcmul(shift, inner, 1 + scale)))


class _Attention(nn.Module):
    """Self-attention over all cells of a grid."""

    films = 0

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = group_norm(width)
        self.attention = SelfAttention(width, heads)

    def forward(self, h: Tensor, film: Tensor) -> Tensor:
        cells = self.norm(h).flatten(2).transpose(1, 2)
        return h + self.attention(cells).transpose(1, 2).view_as(h)


class UNet(Configured):
    """A U-Net on grids of one to three dimensions and any size: x (n, channels, *spatial), t
    (n,), c (n, context), map (n, grid, *spatial) → (n, channels, *spatial). It starts at zero.

    Arguments:
        channels: Channels of x.
        context: Length of the context vector; 0 for none.
        grid: Channels of the map; 0 for none.
        dims: Spatial axes: 1, 2 or 3.
        widths: Channels at each level, finest first; each level halves the grid.
        blocks: Residual blocks a level, on the way down and on the way up.
        attention: How many levels, coarsest first, have self-attention.
        heads: Heads of the attention.
        periodic: Whether the grid closes on itself, as a torus does.
        steering: Width of the embedding of time and context.

    Raises:
        ValueError: If there are more than three dimensions, or none.
    """

    def __init__(
        self,
        channels: int,
        context: int = 0,
        grid: int = 0,
        dims: int = 2,
        widths: Sequence[int] = (32, 64, 128),
        blocks: int = 1,
        attention: int = 1,
        heads: int = 4,
        periodic: bool = False,
        steering: int = 128,
    ) -> None:
        super().__init__()
        if dims not in (1, 2, 3):
            raise ValueError(f"dims must be 1, 2 or 3; got {dims}")

        def level(width: int, out: int, depth: int) -> nn.ModuleList:
            layers: list[nn.Module] = []
            for i in range(blocks):
                layers.append(_Block(dims, out if i else width, out, periodic))
                if len(widths) - depth <= attention:
                    layers.append(_Attention(out, heads))
            return nn.ModuleList(layers)

        pairs = list(pairwise(widths))
        self.first = convolution(dims, channels + grid, widths[0], periodic)
        self.down = nn.ModuleList(level(w, w, i) for i, w in enumerate(widths))
        self.coarsen = nn.ModuleList(convolution(dims, a, b, periodic, 2) for a, b in pairs)
        self.refine = nn.ModuleList(convolution(dims, b, a, periodic) for a, b in pairs)
        self.up = nn.ModuleList(level(2 * a, a, i) for i, (a, _) in enumerate(pairs))
        self.norm = group_norm(widths[0])
        self.last = convolution(dims, widths[0], channels, periodic)
        nn.init.zeros_(self.last.weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]
        self.steering = Steering(context, steering)
        levels = [*self.down, *reversed(self.up)]
        self._films = [layer.films for layers in levels for layer in layers]  # type: ignore
        self.film = nn.Linear(steering, sum(self._films))

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor | None = None,
        grid: Tensor | None = None,
    ) -> Tensor:
        """Applies the network to x (n, channels, *spatial) at times (n,)."""
        films = iter(self.film(self.steering(time, context)).split(self._films, -1))
        h = self.first(x if grid is None else torch.cat([x, grid], 1))
        skips: list[Tensor] = []
        for i, layers in enumerate(self.down):
            if i:
                skips.append(h)
                h = self.coarsen[i - 1](h)
            for layer in layers:  # type: ignore[attr-defined]
                h = layer(h, next(films))
        for refine, layers in zip(reversed(self.refine), reversed(self.up)):
            skip = skips.pop()
            h = torch.cat([skip, refine(interpolate(h, size=skip.shape[2:]))], 1)
            for layer in layers:  # type: ignore[attr-defined]
                h = layer(h, next(films))
        return self.last(silu(self.norm(h)))
