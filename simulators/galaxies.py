r"""Images of distant galaxies: a bulge, a disc with spiral arms, and clumps of young stars.

.. math::
    I = I_\mathrm{bulge} + I_\mathrm{disc}(r) \left[ 1 + A \frac{r^2}{r^2 + R^2}
        \cos m \left( \varphi - \varphi_0 - \frac{\ln (r / R)}{\tan p} \right) \right]
        + \sum_k I_k \, e^{-|\beta - \beta_k|^2 / 2 s_k^2}

Bulge and disc are Sérsic profiles with common centre and ellipse; r and phi are polar coordinates
in the plane of the disc, R its half-light radius, m the number of arms, p their pitch angle.
Clumps follow the light of an exponential disc. Brightness has the unit that `StrongLens` has,
angles are in arcsec, and a pixel's value is the brightness at its centre.
"""

from __future__ import annotations

__all__ = ["GalaxySources"]

from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray as Array

from simgen import Field, Simulator

from .lensing import grid
from .sersic import sersic

NAMES = ("x", "y", "R", "e_1", "e_2", "I", "I_b", "R_b", "n_b", "A", "m", "p", "phi_0")
CLUMP = ("x", "y", "s", "I")
SLOTS, MEAN_CLUMPS = 32, 8.0


class _Frame(NamedTuple):
    """Axis ratio, and cosine and sine of the major axis's angle, each (n, 1, 1)."""

    q: Array
    c: Array
    s: Array


class GalaxySources(Simulator):
    """Galaxies for learned priors of lensed sources, x: (1, N, N), without parameters or noise.

    What each is made of is recorded:

    - `z_galaxy` (13,): centre, half-light radius R, ellipticity and brightness I (at R) of the
      disc; brightness, radius and Sérsic index of the bulge; amplitude A, number m, pitch p in
      radians (negative: the arms wind the other way) and phase of the spiral arms.
    - `z_clumps` (32, 4): place, width and peak brightness of the clumps, zeros behind, and
      `z_clumps_length`: Poisson of mean 8, at most 32.

    Brightness is positive, but declares no such support: a prior of images that stands in for
    them in a linear inverse problem should be linear in them as well.

    Arguments:
        pixels: Pixels N along a side.
        side: Length of a side in arcsec.

    Raises:
        ValueError: If pixels is no positive number, or side is not positive.

    Examples:
        >>> GalaxySources(pixels=32)(5, seed=0)["x"].shape
        (5, 1, 32, 32)
    """

    def __init__(self, pixels: int = 32, side: float = 1.2) -> None:
        if int(pixels) != pixels or pixels < 1 or not 0 < side < np.inf:
            raise ValueError(f"pixels and side must be positive; got {pixels} and {side}")
        self.pixels, self.side = int(pixels), float(side)
        self.fields = {
            "x": Field((1, self.pixels, self.pixels), layout="image"),
            "z_galaxy": Field((len(NAMES),), names=NAMES),
            "z_clumps": Field((SLOTS, 4), layout="set", names=CLUMP),
        }

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws n galaxies.

        Arguments:
            theta: (n, 0).
            rng: The only source of randomness.
        """
        n = len(theta)
        galaxy = _galaxies(n, rng)
        counts = np.minimum(rng.poisson(MEAN_CLUMPS, n), SLOTS)
        clumps = _clumps(galaxy, rng) * (np.arange(SLOTS) < counts[:, None])[..., None]
        return {
            "x": self.render(galaxy, clumps),
            "z_galaxy": galaxy,
            "z_clumps": clumps,
            "z_clumps_length": counts,
        }

    def render(self, z_galaxy: Array, z_clumps: Array) -> Array:
        """The images (n, 1, N, N) of recorded galaxies (n, 13) and clumps (n, 32, 4)."""
        galaxy = np.asarray(z_galaxy, float)
        x, y = (a.numpy() for a in grid(self.pixels, self.side))
        x_0, y_0, R, e_1, e_2, brightness, I_b, R_b, n_b = galaxy[:, :9, None, None].transpose(
            1, 0, 2, 3
        )
        points = x - x_0, y - y_0
        disc = _sersic(*points, R, np.ones_like(R), e_1, e_2, brightness)
        bulge = _sersic(*points, R_b, n_b, e_1, e_2, I_b)
        image = disc * _arms(*points, galaxy) + bulge
        x_k, y_k, s_k, I_k = np.asarray(z_clumps, float)[..., None].transpose(2, 0, 1, 3)
        s_k = np.where(I_k > 0, s_k, 1.0)
        along = np.exp(-(((x[0] - x_k) / s_k) ** 2) / 2)
        across = np.exp(-(((y[:, 0] - y_k) / s_k) ** 2) / 2) * I_k
        return (image + across.transpose(0, 2, 1) @ along)[:, None]


def _galaxies(n: int, rng: np.random.Generator) -> Array:
    """Draws the parameters (n, 13) of bulges, discs and arms."""
    x, y = rng.normal(0, 0.05, (2, n))
    R = 0.1 * (0.2 / 0.1) ** rng.random(n)
    q, angle = rng.uniform(0.4, 1, n), rng.uniform(0, 2 * np.pi, n)
    e = (1 - q) / (1 + q)
    brightness = np.exp(rng.normal(0, 0.4, n))
    bulge = brightness * 2 * rng.random(n), R * rng.uniform(0.2, 0.5, n), rng.uniform(1, 2, n)
    amplitude, arms = rng.uniform(0, 0.9, n), rng.integers(2, 5, n)
    pitch = np.radians(rng.uniform(12, 35, n)) * rng.choice([-1, 1], n)
    phase = rng.uniform(0, 2 * np.pi, n)
    shape = e * np.cos(angle), e * np.sin(angle)
    return np.stack([x, y, R, *shape, brightness, *bulge, amplitude, arms, pitch, phase], -1)


def _frame(galaxy: Array) -> _Frame:
    e, angle = np.hypot(galaxy[:, 3], galaxy[:, 4]), np.arctan2(galaxy[:, 4], galaxy[:, 3]) / 2
    e, c, s = (a[:, None, None] for a in (e, np.cos(angle), np.sin(angle)))
    return _Frame((1 - e) / (1 + e), c, s)


def _clumps(galaxy: Array, rng: np.random.Generator) -> Array:
    """Draws clumps (n, 32, 4) in the discs' planes, as many as there are slots."""
    shape = (len(galaxy), SLOTS)
    R, brightness = galaxy[:, 2, None], galaxy[:, 5, None]
    q, c, s = (a[..., 0] for a in _frame(galaxy))
    radius = rng.gamma(2.0, 1 / 1.678, shape) * R
    azimuth = rng.uniform(0, 2 * np.pi, shape)
    u, v = radius * np.cos(azimuth), q * radius * np.sin(azimuth)
    place = galaxy[:, 0, None] + c * u - s * v, galaxy[:, 1, None] + s * u + c * v
    width = 0.025 * (0.05 / 0.025) ** rng.random(shape)
    return np.stack([*place, width, brightness * rng.uniform(0.3, 2, shape)], -1)


def _arms(x: Array, y: Array, galaxy: Array) -> Array:
    """What the spiral multiplies the disc by, about one, never negative."""
    q, c, s = _frame(galaxy)
    R = galaxy[:, 2, None, None]
    A, m, p, phi_0 = galaxy[:, 9:, None, None].transpose(1, 0, 2, 3)
    u, v = c * x + s * y, (c * y - s * x) / q
    r_2 = (u * u + v * v) / R**2 + 1e-20
    phase = np.arctan2(v, u) - phi_0 - np.log(r_2) / 2 / np.tan(p)
    return 1 + A * r_2 / (1 + r_2) * np.cos(m * phase)


def _sersic(*arguments: Array) -> Array:
    return sersic(*(torch.from_numpy(np.asarray(a)) for a in arguments)).numpy()
