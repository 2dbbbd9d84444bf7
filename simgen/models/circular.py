r"""Circular splines: a bijection of the circle, for angles and phases.

.. math::
    y = S\bigl(w(x) ; \phi\bigr) + \operatorname{atan2}(b, 1 + a), \qquad
    w(x) = (x + \pi) \bmod 2 \pi - \pi

S is a rational-quadratic spline of [-pi, pi] onto itself whose slopes agree at the two ends; the
rotation, by an angle that depends on what is given, can turn round any number of times as that
does, which a plain number could not.

References:
    | Normalizing Flows on Tori and Spheres (Rezende et al., 2020), sections 2.1.2 and 2.2
    | https://arxiv.org/abs/2002.02428
"""

from __future__ import annotations

__all__ = ["CircularSpline", "wrap"]

import math

import torch
from torch import Tensor

from .spline import rational_quadratic, rational_quadratic_inverse
from .univariate import Univariate


def wrap(x: Tensor) -> Tensor:
    """Angles in [-pi, pi)."""
    turned = torch.remainder(x + math.pi, 2 * math.pi) - math.pi
    return torch.where((x >= -math.pi) & (x < math.pi), x, turned)


class CircularSpline(Univariate):
    """A spline of K bins on the circle, then a rotation; the identity where all parameters are
    zero.

    Arguments:
        bins: K.
    """

    def __init__(self, bins: int) -> None:
        super().__init__(3 * bins + 2)

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """y (m,) in [-pi, pi) and log dy/dx (m,) of angles x (m,)."""
        y, ladj = rational_quadratic(wrap(x), phi[:-2], math.pi, circular=True)
        return wrap(y + torch.atan2(phi[-1], 1 + phi[-2])), ladj

    def inverse(self, y: Tensor, phi: Tensor) -> Tensor:
        """x (*shape) in [-pi, pi) of angles y (*shape)."""
        y = wrap(y - torch.atan2(phi[-1], 1 + phi[-2]))
        return wrap(rational_quadratic_inverse(y, phi[:-2], math.pi, circular=True))
