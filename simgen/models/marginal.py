r"""The marginal layer: one increasing curve for all pixels of a channel.

.. math::
    y_p = f(x_p; c), \qquad
    \log \left| \det \frac{\partial y}{\partial x} \right| = \sum_p \log f'(x_p; c)

f is a rational-quadratic spline that goes on as straight lines at both ends. It starts as the
curve that gives the pixels of the training rows a normal distribution; a network of the context
moves its knots. Of a field that is a Gaussian field seen pixel by pixel through any curve, as a
lognormal map is, it undoes the curve.

References:
    | Neural Spline Flows (Durkan et al., 2019), eqs. 4, 5, 24, 29
    | https://arxiv.org/abs/1906.04032
    | Translation and Rotation Equivariant Normalizing Flow (Dai & Seljak, 2022), section 2
    | https://arxiv.org/abs/2202.05282
"""

from __future__ import annotations

__all__ = ["Marginal"]

import torch
from torch import Tensor, nn

from ..networks import MLP
from .base import Given
from .layer import Layer

_VALUES = 1 << 20  # pixels that the start is found on
_BEYOND = 20  # of them lie outside the outer knots, on each side
_WIDTH = 1e-3  # least width of a bin at the start


class Marginal(Layer):
    """A curve for each channel, its bins' widths and heights and its knots' slopes kept as
    logarithms.

    Arguments:
        channels: Of the image.
        context: Length of the context vector.
        bins: Pieces K of the spline.
    """

    start: Tensor

    def __init__(self, channels: int, context: int, bins: int = 16) -> None:
        super().__init__()
        self.bins = bins
        ends = torch.tensor([-4.0, -4.0])
        sizes = torch.full((2 * bins,), 8.0 / bins).log()
        start = torch.cat((ends, sizes, torch.zeros(bins + 1)))
        self.register_buffer("start", start.repeat(channels, 1))
        self.change = nn.Parameter(torch.zeros(channels, 3 * bins + 3))
        self.net = MLP(context, channels * (3 * bins + 3), (64,)) if context else None
        if self.net is not None:
            last = self.net.layers[-1]
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def initialise(self, x: Tensor, given: Given) -> None:
        """Knots at the quantiles of the pixels of x (n, C, *grid)."""
        for i, channel in enumerate(x.transpose(0, 1)):
            values = channel.reshape(-1)
            values = values[:: len(values) // _VALUES + 1].double().sort().values
            count = len(values)
            outer = torch.special.ndtri(torch.tensor(1 - min(_BEYOND / count, 0.1)).double())
            y = torch.linspace(-float(outer), float(outer), self.bins + 1, dtype=torch.float64)
            at = torch.special.ndtr(y).mul(count - 1).round().long()
            widths = values[at].diff().clamp(min=_WIDTH)
            heights = y.diff().to(widths)
            slopes = (heights[1:] + heights[:-1]) / (widths[1:] + widths[:-1])
            ends = heights[[0, -1]] / widths[[0, -1]]
            slopes = torch.cat((ends[:1], slopes, ends[1:]))
            corner = torch.stack((values[at[0]], y[0].to(values)))
            logs = torch.cat((widths, heights, slopes)).log()
            self.start[i] = torch.cat((corner, logs)).to(self.start)

    def _knots(self, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Knots x, y and slopes (n or 1, C, K + 1)."""
        phi = (self.start + self.change)[None]
        if self.net is not None and c is not None:
            phi = phi + self.net(c).view(-1, *self.change.shape)
        corner, sizes, slopes = phi.split([2, 2 * self.bins, self.bins + 1], -1)
        sizes = sizes.exp().unflatten(-1, (2, self.bins)).cumsum(-1)
        knots = corner[..., None] + nn.functional.pad(sizes, (1, 0))
        return knots[..., 0, :], knots[..., 1, :], slopes.exp()

    def call_and_ladj(self, x: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """y (n, C, *grid) and log |det| (n,) of x (n, C, *grid)."""
        flat = x.flatten(2)
        knots = self._knots(given[0])
        at_x, _, slopes = knots
        inner = flat.clamp(at_x[..., :1], at_x[..., -1:])
        x0, y0, width, height, d0, d1 = _piece(inner, 0, *knots)
        s, t = height / width, (inner - x0) / width
        u = t * (1 - t)
        below = s + (d0 + d1 - 2 * s) * u
        y = y0 + height * (s * t * t + d0 * u) / below
        ladj = 2 * (s / below).log() + (d1 * t * t + 2 * s * u + d0 * (1 - t) ** 2).log()
        outside = flat - inner
        end = torch.where(outside < 0, slopes[..., :1], slopes[..., -1:])
        return (y + outside * end).view_as(x), ladj.flatten(1).sum(-1)

    def inverse(self, y: Tensor, given: Given) -> Tensor:
        """x (s, n, C, *grid) of y (s, n, C, *grid)."""
        flat = y.flatten(3)
        knots = self._knots(given[0])
        _, at_y, slopes = knots
        inner = flat.clamp(at_y[..., :1], at_y[..., -1:])
        x0, y0, width, height, d0, d1 = _piece(inner, 1, *knots)
        s, rise = height / width, inner - y0
        bend = rise * (d0 + d1 - 2 * s)
        a, b, c = height * (s - d0) + bend, height * d0 - bend, -s * rise
        t = 2 * c / (-b - (b * b - 4 * a * c).clamp(min=0).sqrt())
        outside = flat - inner
        end = torch.where(outside < 0, slopes[..., :1], slopes[..., -1:])
        return (x0 + t * width + outside / end).view_as(y)


def _piece(v: Tensor, side: int, *knots: Tensor) -> tuple[Tensor, ...]:
    """Corner, width, height and slopes of the piece that each value v (..., C, m) lies in, along
    x (side 0) or y (side 1).
    """
    inner = knots[side][..., 1:-1]
    k = torch.zeros_like(v, dtype=torch.long)
    for j in range(inner.shape[-1]):
        k = k + (inner[..., j, None] <= v)
    values = torch.stack([knot.expand(*v.shape[:-1], -1) for knot in knots])
    left = values.gather(-1, k.expand(3, *k.shape))
    right = values.gather(-1, (k + 1).expand(3, *k.shape))
    (x0, y0, d0), (x1, y1, d1) = left.unbind(0), right.unbind(0)
    return x0, y0, x1 - x0, y1 - y0, d0, d1
