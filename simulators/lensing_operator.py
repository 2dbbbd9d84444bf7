r"""The linear operator of a lens: a pixelised source to its lensed and blurred image.

.. math::
    \mu = A s, \qquad A = P \, L(\theta_\text{lens}), \qquad
    (L s)_{ij} = s\bigl(\theta_{ij} - \alpha_\text{lens}(\theta_{ij})\bigr)

with P the point-spread function and s interpolated between its pixels, dark beyond. A pixel's
value is the brightness at its centre. Lengths are in arcsec.
"""

from __future__ import annotations

__all__ = ["LensOperator", "lens_operator"]

from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray as Array
from scipy.sparse import csr_array
from torch import Tensor

from .lensing import LENS, bilinear, blur, gaussian_psf, grid, trace


@dataclass(frozen=True)
class LensOperator:
    """The linear map from a pixelised source to its lensed and blurred image.

    Made by `lens_operator`. It is differentiable in the source, and in theta_lens where that asks
    for a gradient.

    Arguments:
        beta_x: Where rays meet the source plane, (*B, N, N), arcsec.
        beta_y: The other coordinate.
        source_side: Length of the source's side in arcsec.
        kernel: The point-spread function (k, k).
    """

    beta_x: Tensor
    beta_y: Tensor
    source_side: float
    kernel: Tensor

    def __call__(self, source: Tensor) -> Tensor:
        """Images (*broadcast(S, B), 1, N, N) of sources (*S, 1, N_s, N_s), in their precision."""
        if source.ndim < 3 or source.shape[-3] != 1 or source.shape[-1] != source.shape[-2]:
            raise ValueError(f"a source must be (..., 1, N_s, N_s); got {tuple(source.shape)}")
        beta_x, beta_y, kernel = (a.to(source) for a in (self.beta_x, self.beta_y, self.kernel))
        return blur(bilinear(source, beta_x, beta_y, self.source_side), kernel)

    def matrix(self, source_pixels: int = 32) -> csr_array:
        """The same map of one lens as a matrix (N^2, N_s^2), rows and columns in C order.

        Raises:
            ValueError: If the operator is of several lenses.
        """
        if self.beta_x.ndim != 2:
            raise ValueError(f"one lens has one matrix; there are {self.beta_x.shape[:-2]}")
        beta_x, beta_y, kernel = (
            a.detach().double().cpu().numpy() for a in (self.beta_x, self.beta_y, self.kernel)
        )
        lensing = _bilinear_matrix(beta_x, beta_y, self.source_side, source_pixels)
        return csr_array(_blur_matrix(kernel, self.beta_x.shape[-1]) @ lensing)


def lens_operator(
    theta_lens: Tensor,
    pixels: int = 64,
    side: float = 3.2,
    source_side: float = 1.2,
    psf: float | Tensor = 0.1,
) -> LensOperator:
    """The linear operator from a pixelised source to its image, as a function of torch tensors.

    Arguments:
        theta_lens: (*B, 7): R_E, e_1, e_2, gamma_1, gamma_2, x_l, y_l. If it asks for a gradient,
            make a new operator for each backward pass.
        pixels: Pixels N along a side of the image.
        side: Length of its side in arcsec.
        source_side: Length of the source's side in arcsec.
        psf: Full width at half maximum of a Gaussian point-spread function in arcsec, 0 for none;
            or a kernel (k, k) on the image's pixels, k odd.

    Raises:
        ValueError: If a shape is wrong.

    Examples:
        >>> A = lens_operator(torch.tensor([1.0, 0.1, 0.0, 0.02, 0.0, 0.0, 0.0]))
        >>> A(torch.ones(5, 1, 32, 32)).shape, A.matrix().shape
        (torch.Size([5, 1, 64, 64]), (4096, 1024))
    """
    theta_lens = torch.as_tensor(theta_lens)
    if theta_lens.ndim < 1 or theta_lens.shape[-1] != len(LENS):
        raise ValueError(
            f"theta_lens must be (..., {len(LENS)}): {', '.join(LENS)}; "
            f"got shape {tuple(theta_lens.shape)}"
        )
    kernel = psf if isinstance(psf, Tensor) else gaussian_psf(psf, side / pixels)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
        raise ValueError(f"psf must be a kernel (k, k), k odd; got {tuple(kernel.shape)}")
    x, y = (a.to(theta_lens) for a in grid(pixels, side))
    return LensOperator(*trace(x, y, theta_lens), float(source_side), kernel)


def _bilinear_matrix(beta_x: Array, beta_y: Array, side: float, n: int) -> csr_array:
    """Interpolation at points (N, N) between the n x n pixel centres of a square."""
    place = [(b.ravel() / side + 0.5) * n - 0.5 for b in (beta_x, beta_y)]
    low = [np.floor(p).astype(np.int64) for p in place]
    entries = []
    for i in (0, 1):
        for j in (0, 1):
            column, row = low[0] + i, low[1] + j
            weight = (1 - np.abs(place[0] - column)) * (1 - np.abs(place[1] - row))
            inside = (column >= 0) & (column < n) & (row >= 0) & (row < n)
            ray = np.flatnonzero(inside)
            entries.append((weight[inside], ray, (row * n + column)[inside]))
    weight, ray, pixel = (np.concatenate(part) for part in zip(*entries))
    return csr_array((weight, (ray, pixel)), shape=(beta_x.size, n * n))


def _blur_matrix(kernel: Array, n: int) -> csr_array:
    """Convolution of n x n pixels, dark beyond, with a kernel (k, k)."""
    reach = len(kernel) // 2
    row, column = np.indices((n, n))
    entries = []
    for (k, j), weight in np.ndenumerate(kernel):
        from_row, from_column = row - (k - reach), column - (j - reach)
        inside = (from_row >= 0) & (from_row < n) & (from_column >= 0) & (from_column < n)
        to = (row * n + column)[inside]
        entries.append((np.full(len(to), weight), to, (from_row * n + from_column)[inside]))
    weight, to, origin = (np.concatenate(part) for part in zip(*entries))
    return csr_array((weight, (to, origin)), shape=(n * n, n * n))
