r"""Blurring: convolution of an image with a point-spread function.

.. math::
    y_{ij} = \sum_{k, l} P_{kl} \, x_{i - k, \, j - l}, \qquad
    P_{kl} \propto e^{-(k^2 + l^2) / 2 w^2} \text{ of a Gaussian of width } w,
    \quad \sum_{k, l} P_{kl} = 1

with k and l counted from the kernel's centre. Beyond the image it is dark ("zero"), or the image
repeats ("periodic"). It is done by FFT, exactly but for rounding.
"""

from __future__ import annotations

__all__ = ["Blur", "GaussianBlur", "gaussian_psf"]

from dataclasses import dataclass, field
from typing import Any

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.functional import pad

from .constant import Constant, as_floating, check_axes

BOUNDARIES = ("zero", "periodic")


@dataclass(frozen=True, eq=False)
class Blur:
    """Convolution of images with a fixed kernel: (..., H, W) to (..., H, W).

    Arguments:
        kernel: The point-spread function (k, l), k and l odd, its centre in the middle; used as
            it is, so of sum 1 to conserve light. Or several, (*K, k, l), which broadcast against
            the axes before H: (C, k, l) has one a channel.
        boundary: What is beyond the image: "zero" or "periodic".

    Raises:
        ValueError: If the kernel has an even side or the boundary is unknown.

    Examples:
        >>> Blur(gaussian_psf(1.0, 9), boundary="periodic")(torch.ones(2, 3, 8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """

    kernel: Any
    boundary: str = "zero"
    _kernel: Constant = field(init=False, repr=False)

    def __post_init__(self) -> None:
        kernel = as_floating(self.kernel)
        if kernel.ndim < 2 or kernel.shape[-2] % 2 == 0 or kernel.shape[-1] % 2 == 0:
            raise ValueError(f"kernel must be (k, l), k and l odd; got {tuple(kernel.shape)}")
        _check_boundary(self.boundary)
        object.__setattr__(self, "kernel", kernel)
        object.__setattr__(self, "_kernel", Constant(kernel))

    def __call__(self, x: Tensor) -> Tensor:
        """Blurred images of x (..., H, W)."""
        check_axes("Blur", x)
        return _convolve(x, self._kernel.like(x), self.boundary)


@dataclass(frozen=True)
class GaussianBlur:
    """Blurring by a Gaussian of a width that is given with the image, and may be unknown.

    Arguments:
        size: Pixels along a side of the kernel, odd, where it is cut off; None for a kernel that
            reaches from one end of the image to the other.
        boundary: What is beyond the image: "zero" or "periodic".

    Examples:
        >>> GaussianBlur()(torch.ones(2, 8, 8), width=torch.tensor([0.5, 2.0])).shape
        torch.Size([2, 8, 8])
    """

    size: int | None = None
    boundary: str = "zero"

    def __post_init__(self) -> None:
        _check_boundary(self.boundary)

    def __call__(self, x: Tensor, width: float | Tensor) -> Tensor:
        """Blurred images of x (..., H, W), differentiable in the width.

        Arguments:
            x: Images (n, ..., H, W).
            width: Standard deviation of the Gaussian in pixels: a number, or one a row, (n,) or
                (n, 1).
        """
        check_axes("GaussianBlur", x)
        width = torch.as_tensor(width, dtype=x.dtype, device=x.device)
        lead = x.shape[:-2]
        if width.ndim > 1 and width.numel() == len(width):  # a parameter by name is (n, 1)
            width = width.flatten()
        if width.ndim > len(lead) or any(w not in (1, n) for w, n in zip(width.shape, lead)):
            raise ValueError(
                f"width must be a number or one a row, ({', '.join(map(str, lead[:1]))},); "
                f"got {tuple(width.shape)}"
            )
        size = self.size or 2 * max(x.shape[-2:]) - 1
        kernel = gaussian_psf(width.view(*width.shape, *[1] * (len(lead) - width.ndim)), size)
        return _convolve(x, kernel, self.boundary)


def gaussian_psf(width: float | Tensor, size: int) -> Tensor:
    """A Gaussian point-spread function (*B, size, size), sampled at pixel centres, of sum 1.

    Arguments:
        width: Standard deviation in pixels, (*B); differentiable.
        size: Pixels along a side, odd.

    Raises:
        ValueError: If a width is not positive, or the size is even.
    """
    width = as_floating(width)
    if not (width > 0).all():
        raise ValueError(f"width must be positive, in pixels; got {width.min().item():.4g}")
    if size % 2 == 0 or size < 1:
        raise ValueError(f"size must be an odd number of pixels; got {size}")
    offsets = torch.arange(size, dtype=width.dtype, device=width.device) - size // 2
    profile = (-0.5 * (offsets / width[..., None]) ** 2).softmax(-1)
    return profile[..., :, None] * profile[..., None, :]


def _check_boundary(boundary: str) -> None:
    if boundary not in BOUNDARIES:
        raise ValueError(f"boundary must be one of {BOUNDARIES}; got {boundary!r}")


def _convolve(x: Tensor, kernel: Tensor, boundary: str) -> Tensor:
    """Convolution of images (..., H, W) with centred kernels (..., k, l), which broadcast."""
    H, W = x.shape[-2:]
    if not x.numel():  # FFTs refuse no rows
        return x
    if boundary == "periodic":
        kernel = _wrapped(_wrapped(kernel, H, -2), W, -1)
        product = torch.fft.rfft2(x) * torch.fft.rfft2(kernel)
        return torch.fft.irfft2(product, s=(H, W))
    kernel = _cropped(_cropped(kernel, H, -2), W, -1)
    reach = [k // 2 for k in kernel.shape[-2:]]
    # what wraps around falls on the rows and columns that are cut away
    shape = [next_fast_len(n + r, real=True) for n, r in zip((H, W), reach)]
    product = torch.fft.rfft2(x, s=shape) * torch.fft.rfft2(kernel, s=shape)
    full = torch.fft.irfft2(product, s=shape)
    return full[..., reach[0] : reach[0] + H, reach[1] : reach[1] + W]


def _wrapped(kernel: Tensor, n: int, axis: int) -> Tensor:
    """The kernel along an axis on a circle of n pixels, its centre at 0."""
    k = kernel.shape[axis]
    kernel = kernel.movedim(axis, -1)
    folds = pad(kernel, (0, -k % n)).unflatten(-1, (-1, n)).sum(-2)
    return folds.roll(-(k // 2), -1).movedim(-1, axis)


def _cropped(kernel: Tensor, n: int, axis: int) -> Tensor:
    """The kernel along an axis without what reaches from no pixel of n to another."""
    excess = max(0, kernel.shape[axis] // 2 - (n - 1))
    return kernel.narrow(axis, excess, kernel.shape[axis] - 2 * excess)
