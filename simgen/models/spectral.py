r"""The spectral layer: a stationary Gaussian model of an image, each wave vector by itself.

.. math::
    Y_{k,i} = e^{a_i(k; c)} \Bigl( X_{k,i} - \sum_{j < i} R_{ij}(k) X_{k,j}
        - \sum_j B_{ij}(k) M_{k,j} \Bigr), \qquad
    \log \left| \det \frac{\partial y}{\partial x} \right| = \sum_k \sum_i a_i(k; c)

X and M are the discrete Fourier transforms of the image and of the map that is given; all
coefficients are real and even in k, so that y is real. Started from the spectra of training rows
it makes the density of a stationary Gaussian field exact before training, and given a map the
field's Wiener filter; the power at each wavelength follows the context.

References:
    | Translation and Rotation Equivariant Normalizing Flow (Dai & Seljak, 2022), eq. 5
    | https://arxiv.org/abs/2202.05282
    | Extrapolation, Interpolation, and Smoothing of Stationary Time Series (Wiener, 1949)
"""

from __future__ import annotations

__all__ = ["SpectralGaussian"]

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..networks import MLP
from .base import Given
from .layer import Layer

_BANDS = 8  # of |k|, besides k = 0, whose power a context moves
_FLOOR = 1e-6  # least power of a mode, relative to the mean


class SpectralGaussian(Layer):
    """Whitening of an image given a map and a context.

    What training rows solve is kept apart from what training adds to it, so that the decay of
    weights draws towards that start.

    Arguments:
        channels: Of the image.
        grid: Its size along each axis.
        context: Length of the context vector.
        maps: Channels of the map.
    """

    mode: Tensor
    count: Tensor
    bands: Tensor
    before: Tensor
    start: Tensor
    offset: Tensor
    centre: Tensor
    regression: Tensor
    tilt: Tensor
    level: Tensor

    def __init__(self, channels: int, grid: Sequence[int], context: int, maps: int) -> None:
        super().__init__()
        self.channels, self.maps, self.grid = channels, maps, tuple(grid)
        self.axes = tuple(range(-len(self.grid), 0))
        mode, count, bands = _tables(self.grid)
        self.register_buffer("mode", mode)
        self.register_buffer("count", count)
        self.register_buffer("bands", bands)
        modes, ones = int(mode.max()) + 1, [1] * len(self.grid)
        self.register_buffer("start", torch.zeros(channels, modes))
        self.register_buffer("offset", torch.zeros(channels, *ones))
        self.change = nn.Parameter(torch.zeros(channels, modes))
        self.bias = nn.Parameter(torch.zeros(channels, *ones))
        self.lower = None
        if channels + maps > 1:  # channel i follows those of the map and those before it
            sources = maps + channels
            self.register_buffer("centre", torch.zeros(maps, *ones))
            before = torch.arange(sources) < maps + torch.arange(channels)[:, None]
            self.register_buffer("before", before[..., None])
            self.register_buffer("regression", torch.zeros(channels, sources, modes))
            self.lower = nn.Parameter(torch.zeros(channels, sources, modes))
        self.net = None
        if context:
            self.net = MLP(context, channels * (_BANDS + 1), (64,))
            nn.init.zeros_(self.net.layers[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.net.layers[-1].bias)  # type: ignore[arg-type]
            self.register_buffer("tilt", torch.zeros(context, channels * (_BANDS + 1)))
            self.register_buffer("level", torch.zeros(context))

    def _transform(self, x: Tensor) -> Tensor:
        """The Fourier modes (..., f) of fields (..., *grid)."""
        return torch.fft.rfftn(x, dim=self.axes, norm="ortho").flatten(-len(self.grid))

    def _back(self, modes: Tensor) -> Tensor:
        half = (*self.grid[:-1], self.grid[-1] // 2 + 1)
        modes = modes.unflatten(-1, half)
        return torch.fft.irfftn(modes, s=self.grid, dim=self.axes, norm="ortho")

    def _log_gain(self, c: Tensor | None) -> Tensor:
        """a (n or 1, C, f)."""
        gain = (self.start + self.change)[:, self.mode][None]
        if self.net is None or c is None:
            return gain
        moved = self.net(c) + (c - self.level) @ self.tilt
        return gain + moved.view(len(c), self.channels, -1) @ self.bands

    def _sources(self, modes: Tensor, grid: Tensor | None) -> Tensor:
        """The modes of map and image (..., C' + C, f)."""
        if grid is None:
            return modes
        known = self._transform(grid - self.centre)
        return torch.cat((known.expand(*modes.shape[:-2], -1, -1), modes), -2)

    def _matrix(self) -> Tensor:
        """R and B side by side (C, C' + C, f)."""
        assert self.lower is not None
        return ((self.regression + self.lower) * self.before)[..., self.mode]

    def call_and_ladj(self, x: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """y (n, C, *grid) and log |det| (n,) of x (n, C, *grid)."""
        modes = self._transform(x - self.offset - self.bias)
        if self.lower is not None:
            modes = modes - _product(self._matrix(), self._sources(modes, given[1]))
        gain = self._log_gain(given[0])
        ladj = (gain * self.count).sum((1, 2)).expand(len(x))
        return self._back(modes * gain.exp()), ladj

    def inverse(self, y: Tensor, given: Given) -> Tensor:
        """x (s, n, C, *grid) of y (s, n, C, *grid)."""
        modes = self._transform(y) * (-self._log_gain(given[0])).exp()
        if self.lower is not None:
            matrix = self._matrix()
            for i in range(self.channels):
                sources = self._sources(modes, given[1])[..., : self.maps + i, :]
                more = _product(matrix[i : i + 1, : self.maps + i], sources)
                modes = torch.cat(
                    (modes[..., :i, :], modes[..., i : i + 1, :] + more, modes[..., i + 1 :, :]),
                    -2,
                )
        return self._back(modes) + self.offset + self.bias

    @torch.no_grad()
    def initialise(self, x: Tensor, given: Given) -> None:
        """Spectra, regressions and what the context does to the power, of rows (n, C, *grid)."""
        c, grid = given
        every = (0, *self.axes)
        self.offset.copy_(x.mean(every).view_as(self.offset))
        if grid is not None:
            self.centre.copy_(grid.mean(every).view_as(self.centre))
        if self.lower is not None:
            modes = self._sources(self._transform(x - self.offset), grid)
            spectra = torch.einsum("nif,njf->ijf", modes, modes.conj()).real.double() / len(x)
            self.regression.copy_(_regressions(self._averaged(spectra), self.channels))
        self._whiten(x, (c, grid))
        if self.net is not None and c is not None:
            y, _ = self.call_and_ladj(x, (c, grid))
            power = self._transform(y).abs().square() * self.count
            weight = self.bands / (self.bands * self.count).sum(1, keepdim=True)
            bands = (power @ weight.t()).clamp(min=1e-12).log().flatten(1).double()
            c64 = c.double()
            self.level.copy_(c64.mean(0))
            c64 = c64 - c64.mean(0)
            gram = c64.T @ c64
            gram = gram + 1e-4 * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram)).to(
                gram
            )
            self.tilt.copy_(-0.5 * torch.linalg.solve(gram, c64.T @ (bands - bands.mean(0))))
            self._whiten(x, (c, grid))

    def _whiten(self, x: Tensor, given: Given) -> None:
        """Divides each mode by its power."""
        y, _ = self.call_and_ladj(x, given)
        power = self._averaged(self._transform(y).abs().square().double().mean(0))
        self.start.sub_(0.5 * power.clamp(min=_FLOOR * power.mean()).log())

    def _averaged(self, values: Tensor) -> Tensor:
        """Means (..., modes) over the entries (..., f) of one wave vector."""
        count = self.count.to(values)
        total = values.new_zeros(*values.shape[:-1], self.start.shape[-1])
        number = total.new_zeros(total.shape[-1]).index_add(0, self.mode, count)
        return total.index_add(-1, self.mode, values * count) / number


def _product(matrix: Tensor, modes: Tensor) -> Tensor:
    """Real matrices (i, j, f) times complex vectors (..., j, f)."""
    return torch.view_as_complex(
        torch.einsum("ijf,...jfr->...ifr", matrix, torch.view_as_real(modes)).contiguous()
    )


def _regressions(spectra: Tensor, channels: int) -> Tensor:
    """Coefficients (C, sources, modes) of each channel on the sources before it, from their
    spectra (sources, sources, modes).
    """
    sources = len(spectra)
    spectra = spectra.movedim(-1, 0)
    found = spectra.new_zeros(channels, sources, len(spectra))
    for i in range(channels):
        k = sources - channels + i
        if k:
            gram = spectra[:, :k, :k]
            ridge = 1e-6 * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 1e-12
            gram = gram + ridge * torch.eye(k).to(gram)
            found[i, :k] = torch.linalg.solve(gram, spectra[:, :k, k]).t()
    return found


def _tables(grid: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """For each entry f of the half transform: its wave vector's number, k and -k being one; the
    modes it stands for; the weights (bands + 1, f) of bands of |k|.
    """
    axes = [torch.fft.fftfreq(n, 1 / n).round().long() for n in grid[:-1]]
    axes.append(torch.arange(grid[-1] // 2 + 1))
    k = torch.cartesian_prod(*axes).view(-1, len(grid))
    sizes = torch.tensor(grid)
    up, down = k % sizes, -k % sizes
    strides = torch.tensor([math.prod(grid[i + 1 :]) for i in range(len(grid))])
    code = torch.minimum((up * strides).sum(1), (down * strides).sum(1))
    mode = code.unique(return_inverse=True)[1]
    alone = (k[:, -1] == 0) | (2 * k[:, -1] == grid[-1])
    size = (k / sizes).square().sum(1).sqrt()
    zero = size == 0
    place = size.clamp(min=float(size[~zero].min())).log()
    place = (place - place.min()) / (place.max() - place.min()).clamp(min=1e-9) * (_BANDS - 1)
    hats = (1 - (place - torch.arange(_BANDS)[:, None]).abs()).clamp(min=0) * ~zero
    return mode, torch.where(alone, 1.0, 2.0), torch.cat((zero[None].float(), hats))
