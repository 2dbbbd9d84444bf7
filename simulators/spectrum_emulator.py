r"""An emulator of the convergence power spectra: Chebyshev in theta, a cubic spline in log l.

.. math::
    \ln C^p_\ell(\vartheta) =
        \sum_{abcj} c_{abcpj}\, T_a(u_1)\, T_b(u_2)\, T_c(u_3)\, S_j(\ln \ell), \qquad
    u_i = \frac{2 \vartheta_i - l_i - h_i}{h_i - l_i} \in [-1, 1]

for every pair p of redshift bins. It is smooth, and costs microseconds where the integral over
the line of sight costs tens of milliseconds. A file holds the coefficients as a product of two
matrices, which for several bins is a twentieth of their size.
"""

from __future__ import annotations

__all__ = ["MAX_BINS", "NAMES", "SpectrumEmulator", "default_file", "main"]

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.polynomial import chebyshev
from scipy.interpolate import CubicSpline

from .power_spectrum import convergence_spectra
from .source_galaxies import SourceGalaxies

Array = np.ndarray

MAX_BINS = 5
"""Coefficients for so many redshift bins come with the package."""

LOW, HIGH = (0.15, 0.5, -1.6), (0.45, 1.1, -0.4)
NODES, KNOTS, MULTIPOLES = (8, 8, 6), 60, (10.0, 20_000.0)
NAMES = ("Omega_m", "sigma_8", "w_0")
HOW = "make one with `python -m simulators.cosmology --out FILE`"


def default_file(bins: int = 1) -> Path:
    """The file of the package's coefficients for so many redshift bins."""
    suffix = "" if bins == 1 else f"_{bins}"
    return Path(__file__).parent / "data" / f"convergence_spectrum{suffix}.npz"


@dataclass(frozen=True, eq=False)
class SpectrumEmulator:
    """ln C_l(theta) inside a box of theta = (Omega_m, sigma_8, w_0).

    Arguments:
        coefficients: Chebyshev coefficients of ln C_l at the knots, (a, b, c, pairs, knots).
        log_l: The knots in ln l, shape (knots,).
        low: Lower corner of the box, shape (3,).
        high: Upper corner of the box, shape (3,).
        source: The galaxies' redshift distribution.
    """

    coefficients: Array
    log_l: Array
    low: Array
    high: Array
    source: SourceGalaxies

    @classmethod
    def build(
        cls,
        source: SourceGalaxies | None = None,
        nodes: Sequence[int] = NODES,
        knots: int = KNOTS,
    ) -> SpectrumEmulator:
        """Interpolates the direct C_l at a product of Chebyshev nodes, in some 20 CPU-seconds."""
        source = source or SourceGalaxies()
        log_l = np.log(np.geomspace(*MULTIPOLES, knots))
        low, high = np.array(LOW), np.array(HIGH)
        points = [chebyshev.chebpts1(n) for n in nodes]
        u = np.stack(np.meshgrid(*points, indexing="ij"), -1).reshape(-1, 3)
        theta = (low + high) / 2 + u * (high - low) / 2
        values = [
            np.log(convergence_spectra(np.exp(log_l), (Omega_m, sigma_8, w), source))
            for Omega_m, sigma_8, w in theta.tolist()
        ]
        solved = np.stack(values).reshape((*nodes, -1, knots))
        for axis, (x, n) in enumerate(zip(points, nodes)):
            inverse = np.linalg.inv(chebyshev.chebvander(x, n - 1))
            solved = np.moveaxis(np.tensordot(inverse, solved, (1, axis)), 0, axis)
        return cls(solved, log_l, low, high, source)

    def save(self, path: str | Path) -> None:
        """Writes one .npz file, in single precision, without what adds less than 1e-5."""
        a, b, c, *rest = self.coefficients.shape
        left, size, right = np.linalg.svd(self.coefficients.reshape(a * b * c, -1), False)
        rank = int((size > 1e-5).sum())
        np.savez(
            path,
            left=(left[:, :rank] * size[:rank]).reshape(a, b, c, rank).astype(np.float32),
            right=right[:rank].reshape(rank, *rest).astype(np.float32),
            log_l=self.log_l,
            low=self.low,
            high=self.high,
            **{f"source_{k}": v for k, v in asdict(self.source).items()},
        )

    @classmethod
    def load(cls, path: str | Path | None = None) -> SpectrumEmulator:
        """Reads what `save` wrote; the package's own for one bin unless said.

        Raises:
            ValueError: If the file is not there or lacks an array.
        """
        path = default_file() if path is None else path
        if not Path(path).is_file():
            raise ValueError(f"there is no emulator of C_l at {path}; {HOW}")
        with np.load(path) as file:
            source = [f"source_{k}" for k in SourceGalaxies.__dataclass_fields__]
            missing = sorted({"left", "right", "log_l", "low", "high", *source} - {*file.files})
            if missing:
                raise ValueError(f"{path} lacks {', '.join(missing)}; {HOW}")
            galaxies = SourceGalaxies(*(file[k].item() for k in source))
            coefficients = np.tensordot(file["left"].astype(float), file["right"], 1)
            return cls(coefficients, file["log_l"], file["low"], file["high"], galaxies)

    def _scaled(self, theta: Array) -> Array:
        theta = np.asarray(theta, dtype=float)
        if theta.ndim != 2 or theta.shape[1] != 3:
            raise ValueError(f"theta must be (n, 3), {', '.join(NAMES)}; got {theta.shape}")
        u = (2 * theta - self.low - self.high) / (self.high - self.low)
        # Parameters stored as float32 may lie past the box by a rounding.
        outside = ~(np.abs(u) <= 1 + 1e-5)
        if outside.any():
            row, i = np.argwhere(outside)[0]
            raise ValueError(
                f"{NAMES[i]} = {theta[row, i]:.6g} is outside the emulated range "
                f"[{self.low[i]}, {self.high[i]}] of C_l; keep the prior inside it"
            )
        return u

    def _contract(self, *basis: Array) -> Array:
        """The polynomials of three bases (n, a), (n, b), (n, c) at the knots."""
        first, second, third = basis
        product = first[:, :, None, None] * second[:, None, :, None] * third[:, None, None, :]
        size = product[0].size
        flat = product.reshape(-1, size) @ self.coefficients.reshape(size, -1)
        return flat.reshape(-1, *self.coefficients.shape[3:])

    def log_spectrum(self, theta: Array) -> Array:
        """The logarithm of C_l at the knots, shape (n, pairs, knots), for theta (n, 3)."""
        u = self._scaled(theta).T
        return self._contract(*map(_polynomials, u, self.coefficients.shape))

    def gradient(self, theta: Array) -> Array:
        """The derivative of ln C_l at the knots by theta, shape (n, 3, pairs, knots)."""
        u = self._scaled(theta).T
        values = [_polynomials(v, n) for v, n in zip(u, self.coefficients.shape)]
        slopes = [_derivatives(v, n) for v, n in zip(u, self.coefficients.shape)]
        scale = 2 / (self.high - self.low)
        columns = [
            scale[i] * self._contract(*values[:i], slopes[i], *values[i + 1 :]) for i in range(3)
        ]
        return np.stack(columns, 1)

    def interpolation(self, multipoles: Array) -> Array:
        """The spline from the knots to multipoles l (m,), as a matrix (knots, m).

        Raises:
            ValueError: If a multipole lies outside the emulated range.
        """
        multipoles = np.asarray(multipoles, dtype=float)
        low, high = np.exp(self.log_l[[0, -1]])
        if multipoles.min() < low * (1 - 1e-9) or multipoles.max() > high * (1 + 1e-9):
            raise ValueError(
                f"multipoles {multipoles.min():.4g} to {multipoles.max():.4g} are not all within "
                f"the emulated {low:.4g} to {high:.4g}; choose a smaller map or larger pixels"
            )
        return CubicSpline(self.log_l, np.eye(len(self.log_l)))(np.log(multipoles)).T

    def __call__(self, multipoles: Array, theta: Array) -> Array:
        """C_l, shape (n, pairs, m), at multipoles (m,) for theta (n, 3)."""
        return np.exp(self.log_spectrum(theta) @ self.interpolation(multipoles))


def _polynomials(u: Array, n: int) -> Array:
    return chebyshev.chebvander(u, n - 1)


def _derivatives(u: Array, n: int) -> Array:
    """T_k'(u) for k < n, shape (len(u), n)."""
    return chebyshev.chebval(u, chebyshev.chebder(np.eye(n))).T


def main(arguments: Sequence[str] | None = None) -> None:
    """Builds the emulator of C_l, writes it, and prints its error at random cosmologies."""
    default = SourceGalaxies()
    parser = argparse.ArgumentParser(
        prog="python -m simulators.cosmology", description=main.__doc__
    )
    parser.add_argument("--bins", type=int, default=1, help="redshift bins of as many galaxies")
    parser.add_argument("--out", help="the .npz file to write; the package's unless said")
    parser.add_argument(
        "--source",
        nargs=3,
        type=float,
        metavar=("A", "B", "Z0"),
        default=[default.a, default.b, default.z_0],
        help="n(z) = z^A exp(-(z / Z0)^B)",
    )
    parser.add_argument(
        "--sigma-z",
        type=float,
        default=default.sigma_z,
        help="of photometric redshifts, over 1 + z",
    )
    options = parser.parse_args(arguments)
    a, b, z_0 = options.source
    source = SourceGalaxies(a, b, z_0, bins=options.bins, sigma_z=options.sigma_z)
    path = options.out or default_file(options.bins)
    SpectrumEmulator.build(source).save(path)
    emulator = SpectrumEmulator.load(path)
    rng = np.random.default_rng(0)
    multipoles = np.geomspace(*MULTIPOLES, 101)
    theta = rng.uniform(emulator.low, emulator.high, (20, 3))
    rows = [(Omega_m, sigma_8, w) for Omega_m, sigma_8, w in theta.tolist()]
    direct = [convergence_spectra(multipoles, row, source) for row in rows]
    error = np.abs(emulator(multipoles, theta) / np.stack(direct) - 1)
    print(f"wrote {path}; error of C_l at 20 random cosmologies: max {error.max():.2e}")
