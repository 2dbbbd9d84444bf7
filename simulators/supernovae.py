r"""Type Ia supernovae: how far standard candles are, in a flat universe with dark energy.

.. math::
    m(z) = M + 5 \log_{10} \frac{d_L(z)}{10\,\mathrm{pc}}, \qquad
    d_L = (1 + z_\mathrm{hel}) \frac{c}{H_0} \int_0^{z_\mathrm{cmb}} \frac{dz'}{E(z')}, \qquad
    E^2 = \Omega_m (1 + z)^3 + (1 - \Omega_m) (1 + z)^{3 (1 + w_0)}

.. math::
    x \sim N(m, C), \qquad C = C_\mathrm{sys} + \operatorname{diag}(\sigma^2), \qquad
    M \sim N(-19.3, 0.5^2)

Radiation is left out. H_0 = 70 km/s/Mpc is a convention: it shifts all magnitudes alike, and M
absorbs it. The prior of M is so wide that, of the Pantheon sample, a flat one moves the posterior
of (Omega_m, w_0) by less than 0.01 of its standard deviation.

References:
    | The Complete Light-curve Sample of Spectroscopically Confirmed SNe Ia from Pan-STARRS1 and
      Cosmological Constraints from the Combined Pantheon Sample (Scolnic et al., 2018), eqs. 3-8
    | https://arxiv.org/abs/1710.00845
"""

from __future__ import annotations

__all__ = ["GridPosterior", "Supernovae", "distance_modulus", "read_pantheon"]

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray as Array

from simgen.field import Field
from simgen.forward import Simulator

if TYPE_CHECKING:
    from simgen.prior import Prior

SPEED_OF_LIGHT = 299792.458
"""In km/s."""
HUBBLE = 70.0
"""In km/s/Mpc."""
FILES = ("lcparam_DS17f.txt", "sys_DS17f.txt")
SOURCE = (
    "the binned Pantheon sample is published at https://github.com/dscolnic/Pantheon "
    f"(Scolnic et al. 2018, arXiv:1710.00845): put {FILES[0]} (redshifts, magnitudes) and "
    f"{FILES[1]} (systematic covariance) into a folder and give it as data"
)


def distance_modulus(
    z: Array, omega_m: Array, w_0: Array, z_hel: Array | None = None, nodes: int = 20
) -> Array:
    r"""Distance modulus of a flat wCDM universe by Gauss-Legendre quadrature.

    .. math::
        \mu = 5 \log_{10} \Big[(1 + z_\mathrm{hel}) \frac{c}{H_0} \int_0^z \frac{dz'}{E(z')}
            \Big/ 10\,\mathrm{pc} \Big]

    Arguments:
        z: Redshifts in the frame of the microwave background, shape (k,).
        omega_m: Matter densities today over the critical one, shape (...), in [0, 1].
        w_0: Equation of state of dark energy, shape (...).
        z_hel: Heliocentric redshifts (k,), for the factor (1 + z); z unless said.
        nodes: Quadrature points; with 20, up to z = 2.5, the modulus is good to 1e-6 mag.

    Returns:
        Magnitudes, shape (..., k).
    """
    z = np.asarray(z, float)
    t, weight = np.polynomial.legendre.leggauss(nodes)
    a = 1 + z[:, None] * (t + 1) / 2
    omega, w = (np.asarray(p, float)[..., None, None] for p in (omega_m, w_0))
    e_2 = a**3 * (omega + (1 - omega) * np.exp(3 * w * np.log(a)))
    comoving = z / 2 * (weight / np.sqrt(e_2)).sum(-1)
    d_l = (1 + (z if z_hel is None else np.asarray(z_hel, float))) * comoving
    return 5 * np.log10(d_l * SPEED_OF_LIGHT / HUBBLE) + 25


def read_pantheon(folder: str | Path) -> dict[str, Array]:
    """Reads the binned Pantheon sample.

    Arguments:
        folder: Where lcparam_DS17f.txt and sys_DS17f.txt are.

    Returns:
        `z` (CMB frame), `z_hel`, `magnitude` (k,), and `covariance` (k, k), statistical plus
        systematic.

    Raises:
        ValueError: If a file is missing or the two do not fit together; it says where they are
            published.
    """
    parameters, systematics = (Path(folder) / name for name in FILES)
    for path in (parameters, systematics):
        if not path.is_file():
            raise ValueError(f"there is no {path}: {SOURCE}")
    try:
        columns = np.loadtxt(parameters, usecols=(1, 2, 4, 5), ndmin=2)
        count, *entries = np.loadtxt(systematics)
        systematic = np.array(entries).reshape(int(count), int(count))
    except (ValueError, IndexError) as error:
        raise ValueError(f"the files in {folder} are not Pantheon's ({error}): {SOURCE}") from None
    if len(columns) != len(systematic):
        raise ValueError(
            f"{parameters} has {len(columns)} supernovae, but {systematics} is for "
            f"{len(systematic)}; give two files of the same release"
        )
    z, z_hel, magnitude, sd = columns.T
    return {
        "z": z,
        "z_hel": z_hel,
        "magnitude": magnitude,
        "covariance": systematic + np.diag(sd**2),
    }


class Supernovae(Simulator):
    r"""Magnitudes x (k,) of type Ia supernovae given theta = (Omega_m, w_0), flat wCDM.

    Priors: Omega_m ~ U(0, 0.7), w_0 ~ U(-2.5, -1/3): dark energy that accelerates, with room
    around what the Pantheon sample allows. The offset M is drawn anew for each row and kept as
    `z_M`.

    Arguments:
        data: Folder of the binned Pantheon sample (see `read_pantheon`); its magnitudes become
            `observed`.
        z: In place of data: redshifts (k,).
        covariance: With z: covariance (k, k) of the magnitudes, mag^2.
        w_0: Fixes the equation of state, e.g. -1 for a cosmological constant; theta is then
            (Omega_m,).

    Attributes:
        observed: The published magnitudes (k,), or None.

    Raises:
        ValueError: If the files are missing, the shapes do not agree, or the covariance is not
            positive definite.
    """

    M_mean = -19.3
    M_sd = 0.5

    def __init__(
        self,
        data: str | Path | None = None,
        *,
        z: Sequence[float] | Array | None = None,
        covariance: Array | None = None,
        w_0: float | None = None,
    ) -> None:
        if data is not None and (z is not None or covariance is not None):
            raise ValueError("give either data or z and covariance, not both")
        if data is not None:
            sample = read_pantheon(data)
        elif z is not None and covariance is not None:
            sample = {"z": np.asarray(z, float), "covariance": np.asarray(covariance, float)}
        else:
            raise ValueError(f"Supernovae needs data, or z and covariance; {SOURCE}")
        self.z = sample["z"]
        self.z_hel = sample.get("z_hel", self.z)
        self.observed = sample.get("magnitude")
        self.covariance = sample["covariance"]
        self.w_0 = w_0
        k = len(self.z)
        if self.covariance.shape != (k, k):
            raise ValueError(
                f"covariance must be {(k, k)} for {k} redshifts; got {self.covariance.shape}"
            )
        if not (self.z > 0).all():
            raise ValueError(f"redshifts must be positive; the smallest is {self.z.min()}")
        try:
            self._root = np.linalg.cholesky(self.covariance)
        except np.linalg.LinAlgError:
            raise ValueError("the covariance of the magnitudes is not positive definite") from None
        self.fields = {"x": Field((k,), units=("mag",) * k), "z_M": Field((), units=("mag",))}

    @cached_property
    def prior(self) -> Prior:  # type: ignore[override]
        """The prior over (Omega_m, w_0), or over Omega_m alone."""
        from torch.distributions import Uniform

        from simgen.prior import Prior

        factors = {"Omega_m": Uniform(0.0, 0.7), "w_0": Uniform(-2.5, -1 / 3)}
        labels = (r"$\Omega_m$", "$w_0$")
        if self.w_0 is not None:
            del factors["w_0"]
        return Prior(factors, labels=labels[: len(factors)])

    @property
    def settings(self) -> dict[str, Any]:
        """What behaviour depends on: a hash of the redshifts and covariance, and w_0."""
        digest = hashlib.sha256()
        for array in (self.z, self.z_hel, self.covariance):
            digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return {"sample": digest.hexdigest()[:16], "supernovae": len(self.z), "w_0": self.w_0}

    def modulus(self, theta: Array) -> Array:
        """Distance moduli (..., k) of theta (..., d)."""
        theta = np.asarray(theta, float)
        w_0 = theta[..., 1] if self.w_0 is None else np.full(theta.shape[:-1], self.w_0)
        return distance_modulus(self.z, theta[..., 0], w_0, self.z_hel)

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws x (n, k) and the offset z_M (n,)."""
        n = len(theta)
        offset = rng.normal(self.M_mean, self.M_sd, n)
        noise = rng.standard_normal((n, len(self.z))) @ self._root.T
        return {"x": self.modulus(theta) + offset[:, None] + noise, "z_M": offset}

    def log_likelihood(self, x: Array, theta: Array) -> Array:
        r"""Log p(x | theta), shape (...), exact: x given theta is Gaussian with covariance

        .. math:: C + 0.5^2\, 1 1^\top .

        Arguments:
            x: Magnitudes, shape (..., k).
            theta: Parameters, shape (..., d); leading dimensions broadcast.
        """
        residual = np.asarray(x, float) - self.M_mean - self.modulus(theta)
        root = np.linalg.cholesky(self.covariance + self.M_sd**2)
        white = residual @ np.linalg.inv(root).T
        log_determinant = 2 * np.log(np.diag(root)).sum()
        k = len(self.z)
        return -((white**2).sum(-1) + log_determinant + k * math.log(2 * math.pi)) / 2

    def exact_posterior(self, x: Array, cells: int = 400) -> GridPosterior:
        """The posterior given one observation x (k,), on a grid of `cells` a parameter."""
        prior = self.prior
        low, high = prior.low.numpy(), prior.high.numpy()
        centres = low + (high - low) * (np.arange(cells)[:, None] + 0.5) / cells
        axes = tuple(centres.T)
        theta = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        parts = np.array_split(theta.reshape(-1, len(axes)), -(-theta.size // 1000))
        log_p = np.concatenate([self.log_likelihood(x, part) for part in parts])
        log_p = log_p.reshape(theta.shape[:-1])
        mass = np.exp(log_p - log_p.max())
        return GridPosterior(axes, mass / mass.sum())


@dataclass(frozen=True)
class GridPosterior:
    """A density on a regular grid, constant in each cell.

    Arguments:
        axes: The centres of the cells along each parameter.
        mass: The probability of each cell, summing to one; one axis a parameter.
    """

    axes: tuple[Array, ...]
    mass: Array

    def marginal(self, i: int) -> Array:
        """The probabilities of the cells along parameter i."""
        return self.mass.sum(axis=tuple(j for j in range(self.mass.ndim) if j != i))

    @property
    def mean(self) -> Array:
        """The mean, shape (d,)."""
        return np.array([self.marginal(i) @ axis for i, axis in enumerate(self.axes)])

    @property
    def sd(self) -> Array:
        """The standard deviation of each parameter, shape (d,)."""
        second = np.array([self.marginal(i) @ axis**2 for i, axis in enumerate(self.axes)])
        return np.sqrt(second - self.mean**2)

    def level(self, probability: float) -> float:
        """The mass of a cell on the contour of the highest-density region of this probability."""
        mass = np.sort(self.mass, axis=None)[::-1]
        return float(mass[np.searchsorted(mass.cumsum(), probability)])

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """Draws (n, d): a cell by its mass, a place in it uniformly."""
        cell = np.unravel_index(
            rng.choice(self.mass.size, n, p=self.mass.ravel()), self.mass.shape
        )
        width = np.array([axis[1] - axis[0] for axis in self.axes])
        centre = np.stack([axis[i] for axis, i in zip(self.axes, cell)], -1)
        return centre + width * rng.uniform(-0.5, 0.5, centre.shape)
