r"""Muon pairs around the Z: their masses, the detector's resolution, a background.

.. math::
    p(m \mid \mu, \sigma, b) = (1 - b) \frac{V(m - \mu)}{I} + \frac{b}{40\,\mathrm{GeV}}, \qquad
    I = \int_{70}^{110} V(m - \mu)\, dm, \qquad 70 \le m \le 110\ \mathrm{GeV}

V is the Voigt profile: the Breit-Wigner shape of the Z, of full width Gamma = 2.495 GeV, seen with
a Gaussian resolution sigma. With w the Faddeeva function and g ~ N(0, 1),

.. math::
    V(u) = \frac{\operatorname{Re} w(z)}{\sigma \sqrt{2 \pi}}, \quad
    z = \frac{u + i \Gamma / 2}{\sigma \sqrt 2}, \quad w'(z) = \frac{2i}{\sqrt\pi} - 2 z\, w(z),
    \qquad I = E\bigl[ F(110 - \mu - \sigma g) - F(70 - \mu - \sigma g) \bigr],
    \quad F(u) = \frac1\pi \arctan \frac{2 u}{\Gamma},

the expectation by Gauss-Hermite quadrature. Masses in GeV.

References:
    | Review of Particle Physics (Particle Data Group, 2022), mass and width of the Z
    | https://doi.org/10.1093/ptep/ptac097
    | NIST Digital Library of Mathematical Functions, 7.10 (derivatives of w) and 7.19 (Voigt)
    | https://dlmf.nist.gov/7
"""

from __future__ import annotations

__all__ = ["M_Z", "WIDTH", "WINDOW", "Dimuon", "peak_in_window", "voigt"]

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray as Array
from scipy.special import wofz

from simgen import Field, Simulator

from .grid_posterior import GridPosterior, grid_cells

if TYPE_CHECKING:
    from simgen import Prior

M_Z, WIDTH = 91.188, 2.495
"""World averages of mass and full width of the Z, GeV."""
WINDOW = (70.0, 110.0)
SPAN = WINDOW[1] - WINDOW[0]
LABELS = {"peak": r"$\mu$", "scale": "$s$", "resolution": r"$\sigma$", "background": "$b$"}
RECORDABLE = ("z_truth", "joint_score")
SOURCE = (
    "dimuon.h5 holds `mass` (n,) in GeV, made of uproot-Zmumu.root of "
    "https://github.com/scikit-hep/scikit-hep-testdata (CMS 2010 open data)"
)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(64)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def voigt(u: Array, sigma: Array, gamma: Array) -> tuple[Array, Array]:
    """The Voigt profile V(u), shape (...), and its gradient by (u, sigma, gamma), (..., 3).

    Arguments:
        u: Distance from the peak.
        sigma: Standard deviation of the Gaussian.
        gamma: Full width at half maximum of the Breit-Wigner.
    """
    z = (u + 0.5j * gamma) / (sigma * math.sqrt(2))
    w, height = wofz(z), 1 / (sigma * math.sqrt(2 * math.pi))
    slope = (2j / math.sqrt(math.pi) - 2 * z * w) / (sigma * math.sqrt(2))
    by_sigma = -w / sigma - slope * z * math.sqrt(2)
    gradient = np.stack([slope.real, by_sigma.real, -slope.imag / 2], -1)
    return w.real * height, gradient * height[..., None]


def peak_in_window(mu: Array, sigma: Array, gamma: Array) -> tuple[Array, Array]:
    """The share I of a Voigt profile inside the window, (...), and its gradient by (mu, sigma,
    gamma), (..., 3).
    """
    shift, half = mu[..., None] + sigma[..., None] * NODES, gamma[..., None] / 2
    share, gradient = np.zeros(np.shape(mu)), np.zeros((*np.shape(mu), 3))
    for sign, edge in ((1, WINDOW[1]), (-1, WINDOW[0])):
        u = edge - shift
        f = half / math.pi / (u**2 + half**2)
        share += sign * (np.arctan(u / half) / math.pi) @ WEIGHTS
        parts = [f, f * NODES, f * u / (2 * half)]
        gradient -= sign * np.stack([part @ WEIGHTS for part in parts], -1)
    return share, gradient


class Dimuon(Simulator):
    r"""Masses x (events, 1) of muon pairs between 70 and 110 GeV, independent events.

    Theta is (peak, resolution, background): where the Z appears, in [88, 94] GeV, the resolution
    sigma in [0.5, 3] GeV, and the share of the background among the events, in [0.01, 0.3];
    uniform priors. With `parameters="scale"` the mass of the Z is known, 91.188 GeV, and theta is
    (scale, resolution, background): every mass is read as s times what it is, s ~ N(1, 0.01^2),
    so that mu = 91.188 s and Gamma = 2.495 s. What else can be recorded:

    - `z_truth` (events, 2): whether an event is a Z (1) or background (0), and its mass before
      the resolution.
    - `joint_score` (3,): the gradient of log p(x, z_truth | theta), summed over the events.

    Arguments:
        events: Events in a set.
        parameters: "peak" or "scale".
        record: Fields beside x; joint_score unless said.

    Raises:
        ValueError: If an option is unknown, or events is not positive.

    Examples:
        >>> simulator = Dimuon(events=100)
        >>> x = simulator([[91.0, 1.5, 0.1]], seed=0)["x"]
        >>> simulator.exact_posterior(x[0], points=20).mean.shape
        (3,)
    """

    def __init__(
        self,
        events: int = 500,
        parameters: str = "peak",
        record: Sequence[str] = ("joint_score",),
    ) -> None:
        if events < 1:
            raise ValueError(f"events must be positive; got {events}")
        if parameters not in ("peak", "scale"):
            raise ValueError(f"parameters must be peak or scale; got {parameters!r}")
        self.events, self.parameters = int(events), parameters
        self.record = [record] if isinstance(record, str) else list(record)
        if not set(self.record) <= set(RECORDABLE):
            raise ValueError(f"record must be names among z_truth, joint_score; got {record!r}")
        names = tuple(f"d_{name}" for name in self.names)
        every = {
            "z_truth": _set(self.events, ("is_Z", "mass"), ("", "GeV")),
            "joint_score": Field((3,), names=names),
        }
        x = _set(self.events, ("mass",), ("GeV",), support=WINDOW)
        self.fields = {"x": x, **{name: every[name] for name in self.record}}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return (self.parameters, "resolution", "background")

    @cached_property
    def prior(self) -> Prior:  # type: ignore[override]
        """The prior over theta; made on first use, so that workers import no torch."""
        from torch.distributions import Normal, Uniform

        from simgen import Prior

        first = Uniform(88.0, 94.0) if self.parameters == "peak" else Normal(1.0, 0.01)
        factors = {
            self.parameters: first,
            "resolution": Uniform(0.5, 3.0),
            "background": Uniform(0.01, 0.3),
        }
        units = ("GeV" if self.parameters == "peak" else "", "GeV", "")
        return Prior(factors, labels=tuple(LABELS[name] for name in factors), units=units)

    @staticmethod
    def observed(folder: str | Path) -> Array:
        """The real masses (k, 1) that lie in the window, of `dimuon.h5` in a folder.

        Raises:
            ValueError: If the file is missing or another one.
        """
        import h5py

        path = Path(folder) / "dimuon.h5"
        if not path.is_file():
            raise ValueError(f"there is no {path}: {SOURCE}")
        try:
            with h5py.File(path) as file:
                mass = np.asarray(file["mass"], dtype=float)
        except (OSError, KeyError) as error:
            raise ValueError(f"{path} is not the sample ({error}): {SOURCE}") from None
        return mass[(mass >= WINDOW[0]) & (mass <= WINDOW[1]), None]

    def shape(self, theta: Any) -> tuple[Array, Array, Array, Array]:
        """Peak mu, resolution sigma, width Gamma and background b, each (...), of theta (..., 3).

        Raises:
            ValueError: If theta has another shape, or is outside the model.
        """
        theta = np.asarray(theta, dtype=float)
        if theta.shape[-1:] != (3,):
            raise ValueError(f"theta must be (..., 3), {', '.join(self.names)}; got {theta.shape}")
        first, sigma, b = np.moveaxis(theta, -1, 0)
        scale = first if self.parameters == "scale" else np.ones_like(first)
        mu = first * M_Z if self.parameters == "scale" else first
        inside = (mu > WINDOW[0]) & (mu < WINDOW[1]) & (sigma > 0) & (b >= 0) & (b <= 1)
        if not inside.all():
            raise ValueError(
                "the peak must be inside the window, the resolution positive and the background "
                f"in [0, 1]; got {theta[~inside][0].tolist()}"
            )
        return mu, sigma, scale * WIDTH, b

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws x, and of the latents those in `record`, for theta (n, 3)."""
        n = len(theta)
        size = (n, self.events)
        mu, sigma, gamma, b = (value[:, None] for value in self.shape(theta))
        is_z = rng.random(size) >= b
        truth = rng.uniform(*WINDOW, size)
        x = truth.copy()
        row, column = np.nonzero(is_z)
        while len(row):
            true = mu[row, 0] + gamma[row, 0] / 2 * rng.standard_cauchy(len(row))
            seen = true + sigma[row, 0] * rng.standard_normal(len(row))
            truth[row, column], x[row, column] = true, seen
            outside = (seen < WINDOW[0]) | (seen > WINDOW[1])
            row, column = row[outside], column[outside]
        fields = {"x": x[..., None], "z_truth": np.stack([is_z, truth], -1)}
        out = {name: fields[name] for name in ("x", *self.record) if name in fields}
        if "joint_score" in self.record:
            out["joint_score"] = self._joint_score(fields, theta)
        return out

    def _joint_score(self, fields: Mapping[str, Array], theta: Array) -> Array:
        mu, sigma, gamma, b = self.shape(theta)
        share, by_shape = peak_in_window(mu, sigma, gamma)
        mu, sigma, gamma = mu[:, None], sigma[:, None], gamma[:, None]
        is_z, truth = np.moveaxis(fields["z_truth"], -1, 0)
        count, u = is_z.sum(1), truth - mu
        lorentz = u**2 + gamma**2 / 4
        terms = [
            2 * u / lorentz,
            ((fields["x"][..., 0] - truth) / sigma) ** 2 / sigma - 1 / sigma,
            1 / gamma - gamma / 2 / lorentz,
        ]
        by = np.stack([(is_z * term).sum(1) for term in terms], -1)
        by -= count[:, None] * by_shape / share[:, None]
        return self._by_theta(by, (self.events - count) / b - count / (1 - b))

    def _by_theta(self, by_shape: Array, by_b: Array) -> Array:
        """The gradient by theta, from those by (mu, sigma, Gamma) (..., 3) and by b (...)."""
        by_mu, by_sigma, by_gamma = np.moveaxis(by_shape, -1, 0)
        by_first = M_Z * by_mu + WIDTH * by_gamma if self.parameters == "scale" else by_mu
        return np.stack([by_first, by_sigma, by_b], -1)

    def joint_log_likelihood(self, fields: Mapping[str, Array], theta: Array) -> Array:
        """Log p(x, z_truth | theta) of each set, (n,), up to a constant.

        Arguments:
            fields: `x` and `z_truth`, as simulated.
            theta: (n, 3), or (3,) for all rows.

        Raises:
            ValueError: If z_truth was not recorded, or theta is outside the model.
        """
        if "z_truth" not in fields:
            raise ValueError(
                f"the joint likelihood needs z_truth, and there are {', '.join(fields)}: "
                "simulate with Dimuon(record=['z_truth'])"
            )
        mu, sigma, gamma, b = self.shape(theta)
        share, _ = peak_in_window(mu, sigma, gamma)
        log_z = np.log((1 - b) * gamma / sigma / share)
        is_z, truth = np.moveaxis(np.asarray(fields["z_truth"], dtype=float), -1, 0)
        pull = (np.asarray(fields["x"], dtype=float)[..., 0] - truth) / sigma[..., None]
        lorentz = (truth - mu[..., None]) ** 2 + gamma[..., None] ** 2 / 4
        each = log_z[..., None] - np.log(lorentz) - pull**2 / 2
        return np.where(is_z > 0, each, np.log(b)[..., None]).sum(-1)

    def density(self, m: Array, theta: Array) -> Array:
        """p(m | theta) per GeV, shape broadcast(*B, *T), of masses m (*B) and theta (*T, 3)."""
        m = np.asarray(m, dtype=float)
        mu, sigma, gamma, b = self.shape(theta)
        share, _ = peak_in_window(mu, sigma, gamma)
        p = (1 - b) * voigt(m - mu, *np.broadcast_arrays(sigma, gamma))[0] / share + b / SPAN
        return np.where((m >= WINDOW[0]) & (m <= WINDOW[1]), p, 0.0)

    def log_likelihood(self, x: Array, theta: Array) -> Array:
        """The exact log p(x | theta), shape broadcast(*B, *T), -inf outside the window.

        Arguments:
            x: Sets of masses, shape (*B, k, 1), of any k.
            theta: Parameters, shape (*T, 3).
        """
        p = self.density(_masses(x), np.asarray(theta, dtype=float)[..., None, :])
        with np.errstate(divide="ignore"):
            return np.log(p).sum(-1)

    def score(self, x: Array, theta: Array) -> Array:
        """The gradient of `log_likelihood` by theta, shape broadcast(*B, *T) + (3,)."""
        mu, sigma, gamma, b = self.shape(np.asarray(theta, dtype=float)[..., None, :])
        share, by_share = peak_in_window(mu, sigma, gamma)
        m, sigma, gamma = np.broadcast_arrays(_masses(x), sigma, gamma)[:3]
        V, by_V = voigt(m - mu, sigma, gamma)
        by_V = by_V * [-1, 1, 1]  # by mu in place of u
        z, flat = V / share, 1 / SPAN
        p = (1 - b) * z + b * flat
        by = (by_V - z[..., None] * by_share) / share[..., None] * ((1 - b) / p)[..., None]
        return self._by_theta(by.sum(-2), ((flat - z) / p).sum(-1))

    def exact_posterior(self, x: Array, points: int = 64) -> GridPosterior:
        """The exact posterior of theta on points^3 cells around its mass.

        A coarse grid over the prior finds the region, mean ± 6 standard deviations, twice.

        Arguments:
            x: One set of masses, shape (k, 1).
            points: Cells along each parameter.
        """
        low, high = self.prior.low.numpy(), self.prior.high.numpy()
        if self.parameters == "scale":
            low[0], high[0] = 0.93, 1.07
        coarse = min(points, 32)
        for _ in range(2):
            grid = self._on_grid(x, low, high, coarse)
            reach = 6 * grid.sd + grid.width
            low, high = np.maximum(grid.mean - reach, low), np.minimum(grid.mean + reach, high)
        return self._on_grid(x, low, high, points)

    def _on_grid(self, x: Array, low: Array, high: Array, points: int) -> GridPosterior:
        import torch

        theta, width = grid_cells(low, high, points)
        log_p = self.prior.log_prob(torch.from_numpy(theta)).numpy()
        shapes = theta.reshape(-1, points, 3)
        signal = shapes[:, 0] * [1, 1, 0]
        z = self.density(_masses(x), signal[:, None])
        parts = [np.log(z + b * (1 / SPAN - z)).sum(-1) for b in shapes[0, :, 2]]
        log_p = log_p + np.stack(parts, -1).ravel() + np.log(high - low).sum()
        return GridPosterior.from_log_likelihood(theta, width, log_p)


def _masses(x: Any) -> Array:
    """Masses (..., k) of sets (..., k, 1)."""
    masses = np.asarray(x, dtype=float)
    if masses.shape[-1:] != (1,) or masses.ndim < 2:
        raise ValueError(f"x must be sets of masses (..., events, 1); got {masses.shape}")
    return masses[..., 0]


def _set(events: int, names: tuple[str, ...], units: tuple[str, ...], **more: Any) -> Field:
    shape = (events, len(names))
    return Field(shape, layout="set", iid=True, names=names, units=units, **more)
