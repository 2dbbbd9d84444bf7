r"""Univariate: an increasing function of one number whose parameters a network gives.

.. math::
    y = f(x; \phi), \qquad \log \frac{\partial f(x; \phi)}{\partial x}, \qquad x = f^{-1}(y; \phi)

What a masked or coupling transformation does to each variable, given others.
"""

from __future__ import annotations

__all__ = ["Affine", "Univariate"]

import math

import torch
from torch import Tensor, nn

_LARGEST = math.log(1e3)  # of the logarithm of a slope


class Univariate(nn.Module):
    """An increasing function of one number, applied to many side by side.

    Arguments:
        total: Numbers in phi.

    Attributes:
        start: phi where training begins, (total,): the identity, or near it.
        broadcasts: Whether x may have any shape and axes of phi be one where those of x are not,
            where no gradient is asked for.
    """

    start: Tensor
    broadcasts = False

    def __init__(self, total: int) -> None:
        super().__init__()
        self.total = total
        self.register_buffer("start", torch.zeros(total))

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """y (m,) and log dy/dx (m,) of x (m,) and phi (total, m)."""
        raise NotImplementedError

    def inverse(self, y: Tensor, phi: Tensor) -> Tensor:
        """x (*shape) of y (*shape), and phi (total, *shape) whose axes may be one where those of y
        are not.
        """
        raise NotImplementedError


class Affine(Univariate):
    """y = x exp(s) + m, s between -log 1000 and log 1000."""

    broadcasts = True

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """y (m,) and log dy/dx (m,)."""
        shift, scale = phi.unbind(0)
        scale = scale / (1 + (scale / _LARGEST).abs())
        return torch.addcmul(shift, x, scale.exp()), scale.expand_as(x)

    def inverse(self, y: Tensor, phi: Tensor) -> Tensor:
        """x (*shape) of y (*shape)."""
        shift, scale = phi.unbind(0)
        return (y - shift) * (-scale / (1 + (scale / _LARGEST).abs())).exp()
