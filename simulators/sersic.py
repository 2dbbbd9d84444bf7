r"""Sérsic profiles: the surface brightness of galaxies.

.. math::
    I(r) = I_e \exp\left[ -b_n \left( (r / R_e)^{1/n} - 1 \right) \right], \qquad
    r^2 = u^2 + v^2 / q^2

with u along the major axis, so that R_e is the half-light radius along it; n = 1 is an exponential
disc, n = 4 de Vaucouleurs' law. b_n, which makes half of the light come from within R_e, is a
series in 1/n.

References:
    | Analytical properties of the R^{1/m} luminosity law (Ciotti & Bertin, 1999), eq. 18
    | https://arxiv.org/abs/astro-ph/9911078
"""

from __future__ import annotations

__all__ = ["b_n", "sersic", "sersic_flux"]

import torch
from torch import Tensor

TINY = 1e-20


def b_n(n: Tensor) -> Tensor:
    """The six-term series of b_n: half the light to 1.3e-4 at n = 0.5, 1.3e-5 at 1, 8e-8 at 4."""
    k = 1 / n
    return (
        2 * n
        - 1 / 3
        + k * (4 / 405 + k * (46 / 25515 + k * (131 / 1148175 - k * (2194697 / 30690717750))))
    )


def sersic(
    x: Tensor, y: Tensor, R_e: Tensor, n: Tensor, e_1: Tensor, e_2: Tensor, I_e: Tensor
) -> Tensor:
    """The brightness at a point of a galaxy at the origin; arguments broadcast.

    Arguments:
        x: Coordinate in arcsec.
        y: The other one.
        R_e: Half-light radius along the major axis in arcsec.
        n: Sérsic index.
        e_1: Ellipticity, as in `simulators.lensing`.
        e_2: Its other component.
        I_e: Brightness at R_e.
    """
    # z - e conj(z) has the length (1 - |e|) r, whatever the major axis is
    u = x - e_1 * x - e_2 * y
    v = y - e_2 * x + e_1 * y
    e = torch.sqrt(e_1 * e_1 + e_2 * e_2 + TINY)
    r_2 = (u * u + v * v) / ((1 - e) * R_e) ** 2
    return I_e * torch.exp(-b_n(n) * ((r_2 + TINY) ** (0.5 / n) - 1))


def sersic_flux(R_e: Tensor, n: Tensor, e_1: Tensor, e_2: Tensor, I_e: Tensor) -> Tensor:
    r"""The total flux :math:`2 \pi n q R_e^2 I_e \, e^{b_n} b_n^{-2n} \Gamma(2n)`."""
    e = torch.sqrt(e_1 * e_1 + e_2 * e_2 + TINY)
    q, b = (1 - e) / (1 + e), b_n(n)
    log_gamma = b - 2 * n * torch.log(b) + torch.lgamma(2 * n)
    return 2 * torch.pi * n * q * R_e**2 * I_e * torch.exp(log_gamma)
