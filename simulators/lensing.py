r"""Strong gravitational lensing in one plane: deflections, ray tracing, and how images form.

.. math::
    \beta = \theta - \alpha(\theta), \qquad
    \alpha = R_E \frac{\sqrt q}{f} \left( \arctan \frac{f u}{\psi} ,\;
        \operatorname{artanh} \frac{f v}{\psi} \right)
        + \begin{pmatrix} \gamma_1 & \gamma_2 \\ \gamma_2 & -\gamma_1 \end{pmatrix} \theta, \qquad
    \psi^2 = q^2 u^2 + v^2, \quad f^2 = 1 - q^2

for a singular isothermal ellipsoid (u along its major axis, v along its minor one) and external
shear about the origin. Angles are in arcsec. An ellipse of axis ratio q whose major axis is at the
angle phi from x has the ellipticity :math:`e_1 + i e_2 = (1 - q) / (1 + q) \, e^{2 i \phi}`, which
knows no special direction at q = 1. All functions are of torch tensors that broadcast, and
differentiable, at q = 1 and in the centre too.

References:
    | A Catalog of Mass Models for Gravitational Lensing (Keeton, 2001), eqs. 34 and 35
    | https://arxiv.org/abs/astro-ph/0102341
    | Isothermal elliptical gravitational lens models (Kormann, Schneider & Bartelmann, 1994)
    | https://ui.adsabs.harvard.edu/abs/1994A%26A...284..285K
"""

from __future__ import annotations

__all__ = [
    "LENS",
    "bilinear",
    "blur",
    "ellipticity",
    "gaussian_psf",
    "grid",
    "jaffe",
    "shear",
    "sie",
    "sie_convergence",
    "trace",
]

import math

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.functional import grid_sample

LENS = ("R_E", "e_1", "e_2", "gamma_1", "gamma_2", "x_l", "y_l")
"""The parameters of a lens, in the order of the last axis of theta_lens."""
TINY = 1e-20
Vector = tuple[Tensor, Tensor]


def grid(pixels: int, side: float, dtype: torch.dtype = torch.float64) -> Vector:
    """The coordinates x and y (N, N) of the centres of N x N pixels of a square about the origin.

    y is constant along a row, x along a column; both increase with the index.
    """
    axis = side * ((torch.arange(pixels, dtype=dtype) + 0.5) / pixels - 0.5)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def ellipticity(q: Tensor, phi: Tensor) -> Vector:
    """The components e_1 and e_2 of axis ratios q in (0, 1] at angles phi in radians."""
    e = (1 - q) / (1 + q)
    return e * torch.cos(2 * phi), e * torch.sin(2 * phi)


def _axes(e_1: Tensor, e_2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The axis ratio, and cosine and sine of the angle of the major axis.

    A lens rounder than the root of the machine's precision is given that ellipticity: an error of
    1.5e-8 in float64, as large as that of the derivatives by rounding there.
    """
    least = math.sqrt(torch.finfo(e_1.dtype).eps)
    e_1 = e_1 + least * (torch.hypot(e_1.detach(), e_2.detach()) < least)
    e, phi = torch.hypot(e_1, e_2), torch.atan2(e_2, e_1) / 2
    return (1 - e) / (1 + e), torch.cos(phi), torch.sin(phi)


def sie(x: Tensor, y: Tensor, R_E: Tensor, e_1: Tensor, e_2: Tensor) -> Vector:
    """The deflection of a singular isothermal ellipsoid at the origin.

    Arguments:
        x: Coordinate in arcsec.
        y: The other one.
        R_E: Einstein radius in arcsec: the critical ellipse has the area pi R_E^2.
        e_1: Ellipticity of the convergence, along the axes.
        e_2: Ellipticity along the diagonals.

    Returns:
        alpha_x and alpha_y in arcsec, of the shape that the arguments broadcast to; 0 in the
        centre.
    """
    q, c, s = _axes(e_1, e_2)
    f = torch.sqrt(1 - q * q)
    u, v = c * x + s * y, c * y - s * x
    psi = torch.sqrt((q * u) ** 2 + v * v + TINY)
    amplitude = R_E * torch.sqrt(q) / f
    alpha_u = amplitude * torch.atan(f * u / psi)
    alpha_v = amplitude * torch.atanh(f * v / psi)
    return c * alpha_u - s * alpha_v, s * alpha_u + c * alpha_v


def sie_convergence(x: Tensor, y: Tensor, R_E: Tensor, e_1: Tensor, e_2: Tensor) -> Tensor:
    r"""The convergence :math:`\kappa = \sqrt q \, R_E / 2 \psi` of the same lens."""
    q, c, s = _axes(e_1, e_2)
    u, v = c * x + s * y, c * y - s * x
    return R_E * torch.sqrt(q) / 2 / torch.sqrt((q * u) ** 2 + v * v + TINY)


def shear(x: Tensor, y: Tensor, gamma_1: Tensor, gamma_2: Tensor) -> Vector:
    """The deflection by external shear about the origin."""
    return gamma_1 * x + gamma_2 * y, gamma_2 * x - gamma_1 * y


def jaffe(x: Tensor, y: Tensor, b: Tensor, r_t: Tensor) -> Vector:
    r"""The deflection of a truncated isothermal sphere (pseudo-Jaffe) at the origin.

    .. math::
        \kappa = \frac b 2 \left( \frac 1 r - \frac 1 {\sqrt{r^2 + r_t^2}} \right), \qquad
        \alpha = b \, \frac{r + r_t - \sqrt{r^2 + r_t^2}}{r}

    Its mass is finite, pi b r_t in units of the critical surface density.

    Arguments:
        x: Coordinate in arcsec.
        y: The other one.
        b: Einstein radius without truncation, in arcsec.
        r_t: Radius of truncation in arcsec.
    """
    r_2 = x * x + y * y + TINY
    r = torch.sqrt(r_2)
    # (r + r_t - root) / r^2 without the difference of nearly equal numbers, far out or within
    factor = 2 * b * r_t / (r * (r + r_t + torch.sqrt(r_2 + r_t * r_t)))
    return factor * x, factor * y


def trace(x: Tensor, y: Tensor, theta_lens: Tensor) -> Vector:
    """Where rays meet the source plane: an isothermal ellipsoid and external shear.

    Arguments:
        x: Coordinates (N, N) in the image plane, arcsec.
        y: The other ones.
        theta_lens: (*B, 7), as in `LENS`: R_E, e_1, e_2, gamma_1, gamma_2 and the lens's position.

    Returns:
        beta_x and beta_y (*B, N, N) in arcsec.
    """
    R_E, e_1, e_2, gamma_1, gamma_2, x_l, y_l = theta_lens[..., None, None].unbind(-3)
    a, b = sie(x - x_l, y - y_l, R_E, e_1, e_2)
    c, d = shear(x, y, gamma_1, gamma_2)
    return x - a - c, y - b - d


def bilinear(source: Tensor, beta_x: Tensor, beta_y: Tensor, side: float) -> Tensor:
    """The brightness of pixelised sources at points, interpolated between centres of pixels.

    Outside the source's square all is dark, in its outer half pixel brightness falls off linearly.

    Arguments:
        source: (*S, 1, N_s, N_s), a square of the source plane about the origin.
        beta_x: Where rays meet it, (*B, N, N); *S and *B broadcast.
        beta_y: The other coordinate.
        side: Length of the square's side in arcsec.

    Returns:
        (*broadcast(S, B), 1, N, N).
    """
    points = torch.stack([beta_x, beta_y], -1) * (2 / side)
    shape = torch.broadcast_shapes(source.shape[:-3], beta_x.shape[:-2])
    if beta_x.ndim == 2:
        rows = source.reshape(1, -1, *source.shape[-2:])
        points = points[None]
    else:
        rows = source.expand(*shape, -1, -1, -1).reshape(-1, 1, *source.shape[-2:])
        points = points.expand(*shape, -1, -1, -1).reshape(-1, *points.shape[-3:])
    image = grid_sample(rows, points, align_corners=False)
    return image.reshape(*shape, 1, *image.shape[-2:])


def gaussian_psf(fwhm: float, pixel: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """A Gaussian point-spread function (k, k) of sum 1, cut off at four standard deviations.

    Arguments:
        fwhm: Full width at half maximum in arcsec; 0 for none.
        pixel: Length of a pixel's side in arcsec.
        dtype: Of the result.
    """
    sigma = fwhm / pixel / math.sqrt(8 * math.log(2))
    reach = math.ceil(4 * sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=dtype)
    profile = torch.exp(-((offsets / max(sigma, 1e-6)) ** 2) / 2)
    profile = profile / profile.sum()
    return profile[:, None] * profile


def blur(image: Tensor, kernel: Tensor) -> Tensor:
    """Convolution of images (..., N, N) with a kernel (k, k), k odd, by FFT.

    Beyond the image it is dark: what is scattered there is lost, and nothing comes from there.
    """
    if kernel.numel() == 1:
        return image * kernel.reshape(())
    n, k = image.shape[-1], kernel.shape[-1]
    shape = (next_fast_len(n + k - 1, real=True),) * 2
    product = torch.fft.rfft2(image, s=shape) * torch.fft.rfft2(kernel, s=shape)
    first = k // 2
    return torch.fft.irfft2(product, s=shape)[..., first : first + n, first : first + n]
