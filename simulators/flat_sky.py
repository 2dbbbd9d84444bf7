r"""A square, periodic piece of flat sky and its Fourier modes.

.. math::
    \ell = \frac{2 \pi}{L} |n|, \qquad
    \langle |\hat x_n|^2 \rangle = \frac{N^2}{A_{pix}} C_\ell, \qquad
    \xi(r) = \frac{1}{L^2} \sum_n C_n e^{i \ell_n r}

with L the side, N pixels along it, A_pix a pixel's area. A spectrum that is symmetric under
reflections and the exchange of axes is one number for each bin (i, j), N/2 >= i >= j >= 0, of wave
numbers: all that isotropic fields need.
"""

from __future__ import annotations

__all__ = ["FlatSky"]

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.fft import dctn

Array = np.ndarray


@dataclass(frozen=True)
class FlatSky:
    """A square map.

    Arguments:
        pixels: Pixels N along a side, even.
        side_deg: Length of a side in degrees.

    Raises:
        ValueError: If N is odd or the side is not positive.
    """

    pixels: int
    side_deg: float

    def __post_init__(self) -> None:
        if self.pixels < 4 or self.pixels % 2:
            raise ValueError(f"pixels must be even and at least 4; got {self.pixels}")
        if not 0 < self.side_deg < np.inf:
            raise ValueError(f"side_deg must be positive; got {self.side_deg}")

    @property
    def side(self) -> float:
        """Length of a side in radians."""
        return float(np.radians(self.side_deg))

    @property
    def pixel_area(self) -> float:
        """Area of a pixel in steradians."""
        return (self.side / self.pixels) ** 2

    @cached_property
    def _pairs(self) -> tuple[Array, Array]:
        return np.tril_indices(self.pixels // 2 + 1)

    @cached_property
    def square(self) -> Array:
        """The bin of each wave number in the quadrant, shape (N/2 + 1, N/2 + 1)."""
        i, j = np.indices((self.pixels // 2 + 1,) * 2)
        high, low = np.maximum(i, j), np.minimum(i, j)
        return high * (high + 1) // 2 + low

    @cached_property
    def _half_plane(self) -> Array:
        """The bin of each mode of rfft2, shape (N, N/2 + 1)."""
        rows = np.abs(np.fft.fftfreq(self.pixels, 1 / self.pixels)).round().astype(int)
        return self.square[rows]

    @cached_property
    def multipoles(self) -> Array:
        """The multipole of each bin, shape (bins,); the mean, bin 0, is given the fundamental one.

        A mean without variance would make every density of maps degenerate.
        """
        i, j = self._pairs
        multipoles = 2 * np.pi / self.side * np.hypot(i, j)
        multipoles[0] = multipoles[1]
        return multipoles

    @cached_property
    def counts(self) -> Array:
        """How many of the N^2 real modes each bin holds, shape (bins,)."""
        return self.fold(np.ones((self.pixels, self.pixels // 2 + 1)))

    def expand(self, values: Array) -> Array:
        """From bins (..., bins) to the modes of rfft2, (..., N, N/2 + 1)."""
        return np.take(values, self._half_plane, axis=-1)

    def fold(self, values: Array) -> Array:
        """Sums over the modes of rfft2 (..., N, N/2 + 1) and their conjugates in each bin."""
        half = self.pixels // 2
        quadrant = values[..., : half + 1, :].copy()
        quadrant[..., 1:half, :] += values[..., :half:-1, :]
        quadrant[..., 1:half] *= 2
        i, j = self._pairs
        flat = quadrant.reshape(*quadrant.shape[:-2], -1)
        sums = flat[..., i * (half + 1) + j]
        mirrored = flat[..., j * (half + 1) + i]
        mirrored[..., i == j] = 0
        return sums + mirrored

    def _transform(self, values: Array) -> Array:
        """The discrete Fourier transform of a symmetric array, bins to bins."""
        i, j = self._pairs
        return dctn(np.take(values, self.square, axis=-1), type=1, axes=(-2, -1))[..., i, j]

    def correlation(self, spectrum: Array) -> Array:
        """From C_l in bins to the correlation at separations in bins; separation 0 is bin 0."""
        return self._transform(spectrum) / self.side**2

    def spectrum(self, correlation: Array) -> Array:
        """From the correlation in bins to C_l in bins: the inverse of `correlation`."""
        return self._transform(correlation) * self.pixel_area
