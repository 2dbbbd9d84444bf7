r"""The multi-scale layer: couplings of an image's Haar wavelets, from coarse to fine.

.. math::
    p(x) = p(x_L) \prod_{l=1}^{L} p(d_l \mid x_l), \qquad (x_l, d_l) = \mathrm{Haar}(x_{l-1})

The details d_l of each scale are transformed given the image x_l that is coarser by two; the
coarsest is transformed given nothing. Haar's transform is orthogonal, so that it adds nothing to
the determinant, and is undone afterwards: y is an image again, and noise of y white.

References:
    | Wavelet Flow (Yu, Derpanis & Brubaker, 2020), eqs. 6 and 7
    | https://arxiv.org/abs/2010.13821
    | Density estimation using Real NVP (Dinh et al., 2017), section 3.6
    | https://arxiv.org/abs/1605.08803
"""

from __future__ import annotations

__all__ = ["MultiScale", "haar", "unhaar"]

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..networks import MLP
from .base import Given
from .coupling import Coupling, alternate
from .layer import Layer
from .univariate import Univariate

_COARSEST = 4  # a grid of at most this is halved no more
_PLACES = 4  # channels that tell a network where it is
_STEERING = 64


def haar(x: Tensor) -> Tensor:
    """Means and differences of neighbours, times a root, along each axis: (n, C, *grid) →
    (n, 2^D C, *grid / 2), the coarse image first.
    """
    for axis in range(2, x.dim()):
        even, odd = x.unflatten(axis, (-1, 2)).unbind(axis + 1)
        x = torch.cat((even + odd, even - odd), 1) * 0.5**0.5
    return x


def unhaar(y: Tensor) -> Tensor:
    """The inverse of `haar`."""
    for axis in reversed(range(2, y.dim())):
        total, difference = y.chunk(2, 1)
        pair = torch.stack((total + difference, total - difference), axis + 1) * 0.5**0.5
        y = pair.flatten(axis, axis + 1)
    return y


class _Stage(nn.Module):
    """Couplings of the channels of one scale, after a standardisation of each.

    Arguments:
        channels: Channels K that are transformed.
        grid: Their grid.
        known: Channels that are seen besides.
        univariate: Makes the function of each entry.
        steps: Number of couplings.
        hidden: Channels of their networks.
        steering: Length of the vector that steers them.
    """

    loc: Tensor
    log_scale: Tensor

    def __init__(
        self,
        channels: int,
        grid: Sequence[int],
        known: int,
        univariate: Callable[[], Univariate],
        steps: int,
        hidden: Sequence[int],
        steering: int,
    ) -> None:
        super().__init__()
        ones = [1] * len(grid)
        self.register_buffer("loc", torch.zeros(channels, *ones))
        self.register_buffer("log_scale", torch.zeros(channels, *ones))
        self.shift = nn.Parameter(torch.zeros(channels, *ones))
        self.stretch = nn.Parameter(torch.zeros(channels, *ones))
        self.places = nn.Parameter(torch.zeros(_PLACES, *grid))
        self.couplings: Any = nn.ModuleList(
            Coupling(alternate(channels, grid, i), known + _PLACES, univariate(), hidden, steering)
            for i in range(steps)
        )

    def initialise(self, x: Tensor) -> None:
        """Mean and deviation of each channel of x (n, K, *grid)."""
        axes = (0, *range(2, x.dim()))
        self.loc.copy_(x.mean(axes).view_as(self.loc))
        self.log_scale.copy_(x.std(axes).clamp(min=1e-6).log().view_as(self.loc))

    def _known(self, x: Tensor, known: Sequence[Tensor]) -> Tensor:
        places = self.places.expand(len(x), *self.places.shape)
        return torch.cat((*known, places), 1)

    def call_and_ladj(
        self, x: Tensor, known: Sequence[Tensor], steering: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        log_scale = self.log_scale + self.stretch
        seen = self._known(x, known)
        cells = x[0, 0].numel()
        x = (x - self.loc - self.shift) * (-log_scale).exp()
        total = (-cells * log_scale.sum()).expand(len(x))
        for coupling in self.couplings:
            x, ladj = coupling.call_and_ladj(x, seen, steering)
            total = total + ladj
        return x, total

    def inverse(self, y: Tensor, known: Sequence[Tensor], steering: Tensor | None) -> Tensor:
        seen = self._known(y, known)
        for coupling in reversed(self.couplings):
            y = coupling.inverse(y, seen, steering)
        return y * (self.log_scale + self.stretch).exp() + self.loc + self.shift


class MultiScale(Layer):
    """Couplings on every scale.

    Arguments:
        shape: (C, *grid); the grid is halved while it is even and larger than 4.
        context: Length of the context vector.
        maps: Channels of the map.
        univariate: Makes the function of each entry.
        steps: Couplings on each scale.
        hidden: Channels of their networks.

    Raises:
        ValueError: If a size of the grid is odd.
    """

    def __init__(
        self,
        shape: Sequence[int],
        context: int,
        maps: int,
        univariate: Callable[[], Univariate],
        steps: int,
        hidden: Sequence[int],
    ) -> None:
        super().__init__()
        channels, *grid = shape
        if any(n % 2 for n in grid):
            raise ValueError(f"a flow over images needs even sizes; got a grid of {tuple(grid)}")
        steering = _STEERING if context else 0
        self.embed = MLP(context, steering, (_STEERING,)) if context else None
        self.channels, bands = channels, 2 ** len(grid)
        stages = []
        while all(n % 2 == 0 for n in grid) and min(grid) > _COARSEST:
            grid = [n // 2 for n in grid]
            details, known = (bands - 1) * channels, channels + bands * maps
            stages.append(_Stage(details, grid, known, univariate, steps, hidden, steering))
        stages.append(_Stage(channels, grid, maps, univariate, steps, hidden, steering))
        self.stages: Any = nn.ModuleList(stages)

    def _given(self, given: Given, draws: int) -> tuple[Tensor | None, list[list[Tensor]]]:
        """What steers the networks, and what they see of the map on each scale, for each draw."""
        c, grid = given
        steering = None if self.embed is None else self.embed(c).repeat(draws, 1)
        if grid is None:
            return steering, [[] for _ in self.stages]
        seen: list[list[Tensor]] = []
        grid = grid.repeat(draws, *[1] * (grid.dim() - 1))
        maps = grid.shape[1]
        for _ in range(len(self.stages) - 1):
            parts = haar(grid)
            grid = parts[:, :maps]
            seen.append([parts])
        return steering, [*seen, [grid]]

    @torch.no_grad()
    def initialise(self, x: Tensor, given: Given) -> None:
        """Standardises each scale."""
        for stage in list(self.stages)[:-1]:
            parts = haar(x)
            x = parts[:, : self.channels]
            stage.initialise(parts[:, self.channels :])
        self.stages[-1].initialise(x)

    def call_and_ladj(self, x: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """y (n, C, *grid) and log |det| (n,) of x (n, C, *grid)."""
        steering, seen = self._given(given, 1)
        *fine, coarsest = self.stages
        details, total = [], x.new_zeros(len(x))
        for stage, known in zip(fine, seen):
            parts = haar(x)
            x, detail = parts[:, : self.channels], parts[:, self.channels :]
            detail, ladj = stage.call_and_ladj(detail, [x, *known], steering)
            details.append(detail)
            total = total + ladj
        y, ladj = coarsest.call_and_ladj(x, seen[-1], steering)
        for detail in reversed(details):
            y = unhaar(torch.cat((y, detail), 1))
        return y, total + ladj

    def inverse(self, y: Tensor, given: Given) -> Tensor:
        """x (s, n, C, *grid) of y (s, n, C, *grid)."""
        steering, seen = self._given(given, len(y))
        *fine, coarsest = self.stages
        shape, y, details = y.shape, y.flatten(0, 1), []
        for _ in fine:
            parts = haar(y)
            y = parts[:, : self.channels]
            details.append(parts[:, self.channels :])
        x = coarsest.inverse(y, seen[-1], steering)
        for stage, known, detail in zip(reversed(fine), seen[-2::-1], reversed(details)):
            detail = stage.inverse(detail, [x, *known], steering)
            x = unhaar(torch.cat((x, detail), 1))
        return x.view(shape)
