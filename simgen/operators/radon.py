r"""The Radon transform of computed tomography: integrals of an image along parallel lines.

.. math::
    y_{\theta s} = \int x(s \cos\theta - u \sin\theta, \; s \sin\theta + u \cos\theta) \, du
    = \sum_i \ell_i(\theta, s) \, x_i

for an image that is constant in each pixel. The line at the angle theta passes a pixel's centre
at the distance t and cuts it, a square of side 1, in a chord of length

.. math::
    \ell = \operatorname{clip}\Bigl(\frac{(a + b) / 2 - |t|}{a b}, \; 0, \; \frac{1}{\max(a, b)}
    \Bigr), \qquad a = |\cos\theta|, \; b = |\sin\theta|

The first coordinate increases along a row of the image, the second along a column; both are 0 at
its centre. A line along the edge between two pixels belongs half to each.

References:
    | Fast calculation of the exact radiological path for a three-dimensional CT array
      (Siddon, 1985): the same lengths, found pixel by pixel along a line
    | https://doi.org/10.1118/1.595715
"""

from __future__ import annotations

__all__ = ["Radon"]

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy import ndarray as Array
from scipy.sparse import csr_array
from torch import Tensor

from .constant import as_floating, check_axes
from .matrix import SparsePair

_FLAT = 1e-6  # least slope of a line: half of one along an edge is in each pixel


@dataclass(frozen=True, eq=False)
class Radon:
    """Line integrals of square images: (..., N, N) to (..., angles, detectors).

    Arguments:
        pixels: Pixels N along a side of the image.
        angles: The directions theta (k,) in radians.
        detectors: Lines in each direction, one pixel apart and centred on the image; None for
            as many as its diagonal needs. One passes through each pixel's centre at theta = 0 if
            they are an even number more than N.
        pixel: Length of a pixel's side, which lengths along a line are multiples of.

    Attributes:
        matrix: The lengths (angles * detectors, N^2), float64; rows and columns in
            C order.

    Raises:
        ValueError: If there are no pixels, angles or detectors.

    References:
        | The angles of skimage.transform.radon, in degrees, are -theta

    Examples:
        >>> import torch
        >>> ct = Radon(32, torch.linspace(0, math.pi, 31)[:-1])
        >>> ct(torch.ones(5, 32, 32)).shape
        torch.Size([5, 30, 46])
    """

    pixels: int
    angles: Any
    detectors: int | None = None
    pixel: float = 1.0
    matrix: csr_array = field(init=False, repr=False)
    _pair: SparsePair = field(init=False, repr=False)

    def __post_init__(self) -> None:
        angles = as_floating(self.angles).detach().double().cpu()
        if angles.ndim != 1 or not len(angles) or not angles.isfinite().all():
            raise ValueError(f"angles must be finite and (k,), in radians; got {angles}")
        object.__setattr__(self, "angles", angles)
        if self.pixels < 1 or self.lines < 1 or not self.pixel > 0:
            raise ValueError("pixels, detectors and the length of a pixel must be positive")
        object.__setattr__(self, "matrix", self._lengths())
        object.__setattr__(self, "_pair", SparsePair.of(self.matrix))

    @property
    def lines(self) -> int:
        """The number of lines in each direction."""
        if self.detectors is not None:
            return self.detectors
        return self.pixels + 2 * math.ceil((math.sqrt(2) - 1) * self.pixels / 2)

    def __call__(self, x: Tensor) -> Tensor:
        """Line integrals (..., angles, detectors) of images x (..., N, N)."""
        check_axes("Radon", x, (self.pixels, self.pixels))
        y = self._pair(x.reshape(-1, self.pixels**2))
        return y.reshape(*x.shape[:-2], len(self.angles), self.lines)

    def _lengths(self) -> csr_array:
        """The matrix, of the lengths of all lines in all pixels."""
        parts = [self._chords(i, float(theta)) for i, theta in enumerate(self.angles)]
        length, line, pixel = (np.concatenate(part) for part in zip(*parts))
        shape = (len(self.angles) * self.lines, self.pixels**2)
        return csr_array((length, (line, pixel)), shape=shape)

    def _chords(self, i: int, theta: float) -> tuple[Array, Array, Array]:
        """Lengths, lines and pixels (e,) of one angle, where they are not 0."""
        axis = np.arange(self.pixels) - (self.pixels - 1) / 2
        place = math.cos(theta) * axis + math.sin(theta) * axis[:, None]
        place = place.ravel() + (self.lines - 1) / 2
        # a pixel's half diagonal is shorter than 1: three lines at most cut it
        line = np.rint(place).astype(np.int64)[:, None] + np.arange(-1, 2)
        a, b = (max(abs(c), _FLAT) for c in (math.cos(theta), math.sin(theta)))
        length = ((a + b) / 2 - abs(line - place[:, None])) / (a * b)
        length = length.clip(0, 1 / max(a, b))
        pixel, which = np.nonzero((length > 0) & (line >= 0) & (line < self.lines))
        line, length = line[pixel, which], length[pixel, which]
        return self.pixel * length, i * self.lines + line, pixel
