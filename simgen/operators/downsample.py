r"""Downsampling: a coarse pixel sees the mean of a block of fine ones.

.. math:: y_{ij} = \frac{1}{f^2} \sum_{k, l < f} x_{f i + k, \, f j + l}
"""

from __future__ import annotations

__all__ = ["Downsample"]

from dataclasses import dataclass

from torch import Tensor

from .constant import check_axes


@dataclass(frozen=True)
class Downsample:
    """Means over blocks of f x f pixels: (..., H, W) to (..., H / f, W / f).

    Arguments:
        factor: Pixels f along a side of a block.

    Raises:
        ValueError: If the factor is not a positive whole number; or, when called, if it does not
            divide a side of the images.
    """

    factor: int

    def __post_init__(self) -> None:
        if self.factor != int(self.factor) or self.factor < 1:
            raise ValueError(f"factor must be a positive whole number; got {self.factor}")

    def __call__(self, x: Tensor) -> Tensor:
        """Coarse images (..., H / f, W / f) of x (..., H, W)."""
        check_axes("Downsample", x)
        (H, W), f = x.shape[-2:], int(self.factor)
        if H % f or W % f:
            raise ValueError(f"a factor of {f} does not divide images of {H} x {W} pixels")
        return x.reshape(*x.shape[:-2], H // f, f, W // f, f).mean((-3, -1))
