r"""Weak-lensing convergence maps of a flat wCDM universe, with exact references.

.. math::
    w \sim \mathcal N(0, I), \qquad
    G = \mathcal F^{-1}\bigl[\sqrt{P(\vartheta) / A_{pix}}\; \mathcal F w\bigr], \qquad
    \kappa = G \;\text{ or }\; \lambda \bigl(e^{G - s^2/2} - 1\bigr), \qquad
    x \sim \mathcal N(\kappa, \sigma_{pix}^2 I)

with theta = (Omega_m, sigma_8, w_0). The spectrum of kappa is the emulated C_l, which defines the
simulator. Maps are periodic; the pixel's window, aliasing, masks, B-modes and reduced shear are
left out. One map hardly constrains w_0: a model that returns the prior for it would pass a
calibration, so report beside one how much narrower than the prior the posterior is.
"""

from __future__ import annotations

__all__ = ["ConvergenceMaps"]

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.fft import irfft2, rfft2

from simgen import Field, Simulator

from .flat_sky import FlatSky
from .grid_posterior import GridPosterior, grid_cells
from .spectrum_emulator import DEFAULT, NAMES, SpectrumEmulator, main

if TYPE_CHECKING:
    from simgen import Prior

Array = np.ndarray

LABELS = (r"$\Omega_m$", r"$\sigma_8$", r"$w_0$")
REFERENCE = np.array([[0.3, 0.8, -1.0]])
ARCMIN2 = np.radians(1 / 60) ** 2
RECORDABLE = ("joint_score", "z_kappa", "z_white")
CHUNK = 2**18
"""Pixels worked on at once: what fits a processor's cache is fastest."""


class _Spectra(NamedTuple):
    """Of kappa C; of its Gaussian field P and the variance s^2; ratio = 1 + xi / lambda^2."""

    C: Array
    P: Array
    s2: Array
    ratio: Array


class ConvergenceMaps(Simulator):
    r"""Maps of the lensing convergence in one redshift bin, x: (1, N, N).

    Theta is (Omega_m, sigma_8, w_0) under uniform priors (0.15, 0.45), (0.5, 1.1), (-1.6, -0.4).
    The joint score is :math:`\nabla_\vartheta \log p(x, z \mid \vartheta)` for these latents z:

    - "white": the white noise w; x is Gaussian about the map kappa that theta makes of it;
    - "field": the map kappa, so that theta acts through :math:`p(\kappa \mid \vartheta)`;
    - "mixed": of each mode the one of smaller variance, white where C_l < 2 N_l at a fixed theta.

    Without noise nothing is latent: the joint score is the score itself.

    Arguments:
        pixels: Pixels N along a side, even.
        side_deg: Length of a side in degrees.
        field: "gaussian" or "lognormal".
        n_gal: Galaxies per square arcminute.
        sigma_e: Dispersion of a component of their ellipticity; a pixel's noise is
            :math:`\sigma_e / \sqrt{n_{gal} A_{pix}}`.
        noise: Whether x has shape noise.
        shift: Of a lognormal field, the lambda above: kappa > -lambda. It does not depend on
            theta, or the support of x would.
        latents: The latents of the joint score.
        record: Fields beside x: "joint_score" (3,), "z_kappa" (1, N, N), "z_white" (1, N, N).
        spectrum: An emulator's file, made for another redshift distribution; else the package's.

    Raises:
        ValueError: If an option is unknown or not positive, or the map has multipoles that the
            emulator lacks.

    References:
        | Multivariate Lognormal Models of the Convergence (Xavier, Abdalla & Joachimi, 2016)
        | https://arxiv.org/abs/1602.08503, section 3
        | Mining Gold from Implicit Models (Brehmer, Louppe, Pavez & Cranmer, 2020)
        | https://arxiv.org/abs/1805.12244

    Examples:
        >>> simulator = ConvergenceMaps(pixels=16)
        >>> fields = simulator([[0.3, 0.8, -1.0], [0.2, 0.9, -1.2]], seed=0)
        >>> fields["x"].shape, fields["joint_score"].shape
        ((2, 1, 16, 16), (2, 3))
        >>> simulator.exact_posterior(fields["x"]).mean.shape
        (2, 3)
    """

    names = NAMES  # type: ignore[assignment]

    def __init__(
        self,
        pixels: int = 64,
        side_deg: float = 5.0,
        field: str = "gaussian",
        n_gal: float = 27.0,
        sigma_e: float = 0.26,
        noise: bool = True,
        shift: float = 0.03,
        latents: str = "white",
        record: Sequence[str] = ("joint_score",),
        spectrum: str | None = None,
    ) -> None:
        record = [record] if isinstance(record, str) else list(record)
        _choice("field", field, ("gaussian", "lognormal"))
        _choice("latents", latents, ("white", "field", "mixed"))
        for name in record:
            _choice("record", name, RECORDABLE)
        for name, value in (("n_gal", n_gal), ("sigma_e", sigma_e), ("shift", shift)):
            if not 0 < value < np.inf:
                raise ValueError(f"{name} must be positive; got {value}")
        self.pixels, self.side_deg, self.field = int(pixels), float(side_deg), field
        self.n_gal, self.sigma_e, self.noise = float(n_gal), float(sigma_e), bool(noise)
        self.shift, self.latents, self.record = float(shift), latents, record
        self.spectrum = None if spectrum is None else str(spectrum)

        self.sky = FlatSky(self.pixels, self.side_deg)
        self.emulator = SpectrumEmulator.load(DEFAULT if spectrum is None else spectrum)
        self._to_bins = self.emulator.interpolation(self.sky.multipoles)
        self.sigma_pix = self.sigma_e / np.sqrt(self.n_gal * self.sky.pixel_area / ARCMIN2)
        self.N_l = self.sigma_pix**2 * self.sky.pixel_area if self.noise else 0.0
        self._white = np.full(len(self.sky.multipoles), self.noise and latents == "white")
        if self.noise and latents == "mixed":
            self._white = self.C_l(REFERENCE)[0] < 2 * self.N_l
        shape, lognormal = (1, self.pixels, self.pixels), field == "lognormal"
        support = (-self.shift, None) if lognormal else None
        every = {
            "joint_score": Field((3,), names=NAMES),
            "z_kappa": _image(shape, support),
            "z_white": _image(shape),
        }
        self.fields = {
            "x": _image(shape, None if self.noise else support),
            **{name: every[name] for name in record},
        }

    @cached_property
    def prior(self) -> Prior:  # type: ignore[override]
        """Uniform in the emulator's box; made on first use, so that workers import no torch."""
        from torch.distributions import Uniform

        from simgen import Prior

        bounds = zip(self.emulator.low.tolist(), self.emulator.high.tolist())
        factors = {name: Uniform(low, high) for name, (low, high) in zip(NAMES, bounds)}
        return Prior(factors, labels=LABELS)

    def C_l(self, theta: Array) -> Array:
        """The spectrum of kappa, shape (n, bins), at `sky.multipoles`, for theta (n, 3)."""
        return np.exp(self.emulator.log_spectrum(theta) @ self._to_bins)

    def _spectra(self, theta: Array) -> _Spectra:
        C = self.C_l(theta)
        if self.field == "gaussian":
            return _Spectra(C, C, np.zeros(len(C)), np.ones(1))
        ratio = 1 + self.sky.correlation(C) / self.shift**2
        xi = np.log(np.maximum(ratio, np.finfo(float).tiny))
        P = self.sky.spectrum(xi)
        bad = (P <= 0).any(-1) | (ratio <= 0).any(-1)
        if bad.any():
            raise ValueError(
                f"no lognormal field of shift {self.shift} has the spectrum of theta = "
                f"{np.asarray(theta)[bad][0].tolist()}; take a larger shift or larger pixels"
            )
        return _Spectra(C, P, xi[:, 0], ratio)

    def _chain(self, theta: Array, spectra: _Spectra, by_P: Array, by_s2: Array) -> Array:
        """The gradient by theta (n, 3), from those by ln P (n, bins) and by s^2 (n,)."""
        C, P, _, ratio = spectra
        by_C, counts = by_P, self.sky.counts
        if self.field == "lognormal":
            # A transform M of bins has the transpose diag(counts) M diag(1 / counts).
            by_xi = counts * self.sky.spectrum(by_P / (P * counts))
            by_xi[:, 0] += by_s2
            by_xi /= ratio * self.shift**2
            by_C = C * counts * self.sky.correlation(by_xi / counts)
        at_knots = by_C @ self._to_bins.T
        return (self.emulator.gradient(theta) @ at_knots[..., None])[..., 0]

    def signal(self, theta: Array, white: Array) -> Array:
        """The noise-free maps kappa (n, N, N) of theta (n, 3) and white noise w (n, N, N)."""
        return self._signal(self._spectra(theta), rfft2(white))

    def _signal(self, spectra: _Spectra, white_k: Array) -> Array:
        dtype = white_k.real.dtype
        amplitude = self.sky.expand(np.sqrt(spectra.P / self.sky.pixel_area).astype(dtype))
        G = irfft2(amplitude * white_k, (self.pixels, self.pixels), overwrite_x=True)
        if self.field == "gaussian":
            return G
        G -= (spectra.s2 / 2).astype(dtype)[:, None, None]
        np.exp(G, out=G)
        G -= 1
        G *= dtype.type(self.shift)
        return G

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws maps for theta (n, 3)."""
        theta = np.asarray(theta, dtype=float)
        step = max(1, CHUNK // self.pixels**2)
        starts = range(0, max(len(theta), 1), step)
        parts = [self._simulate(theta[i : i + step], rng) for i in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        shape = (len(theta), self.pixels, self.pixels)
        white = rng.standard_normal(shape, np.float32)
        pull = (
            rng.standard_normal(shape, np.float32) if self.noise else np.zeros(shape, np.float32)
        )
        spectra = self._spectra(theta)
        white_k = rfft2(white)
        kappa = self._signal(spectra, white_k)
        out = {"x": (kappa + np.float32(self.sigma_pix) * pull if self.noise else kappa)[:, None]}
        if "joint_score" in self.record:
            out["joint_score"] = self._joint_score(theta, spectra, white_k, kappa, pull)
        if "z_kappa" in self.record:
            out["z_kappa"] = kappa[:, None]
        if "z_white" in self.record:
            out["z_white"] = white[:, None]
        return out

    def joint_score(self, x: Array, white: Array, theta: Array) -> Array:
        """The joint score (n, 3) of noisy maps and their latents, in the maps' precision.

        Arguments:
            x: Maps (n, 1, N, N).
            white: The white noise (n, 1, N, N) behind them, whichever the latents are.
            theta: The parameters (n, 3) that the maps were made with.
        """
        spectra, white_k = self._spectra(theta), rfft2(white[:, 0])
        kappa = self._signal(spectra, white_k)
        pull = (x[:, 0] - kappa) / self.sigma_pix
        return self._joint_score(theta, spectra, white_k, kappa, pull)

    def _joint_score(
        self, theta: Array, spectra: _Spectra, white_k: Array, kappa: Array, pull: Array
    ) -> Array:
        r"""The joint score from its derivatives by ln P, mode by mode, and by s^2.

        Half of :math:`\mathrm{Re}\, \bar v_k G_k` for a white mode, with v the derivative of
        log p(x | kappa) by G; for a field mode half of
        :math:`|G_k|^2 / \langle |G_k|^2 \rangle - 1`.
        """
        N2, A_pix = self.pixels**2, self.sky.pixel_area
        amplitude = np.sqrt(spectra.P / A_pix)
        by_P = np.zeros_like(amplitude)
        by_s2 = -0.5 * white_k[:, 0, 0].real / amplitude[:, 0]
        if self._white.any():
            v = pull * pull.dtype.type(1 / self.sigma_pix)
            if self.field == "lognormal":
                v *= kappa + kappa.dtype.type(self.shift)
            v_k = rfft2(v)
            cross = self.sky.fold(v_k.real * white_k.real + v_k.imag * white_k.imag)
            by_P = np.where(self._white, cross * amplitude, 0) / (2 * N2)
            if self._white[0]:
                by_s2 = -0.5 * v_k[:, 0, 0].real
        if not self._white.all():
            power = self.sky.fold(white_k.real**2 + white_k.imag**2) / N2
            by_P = np.where(self._white, by_P, (power - self.sky.counts) / 2)
        return self._chain(theta, spectra, by_P, by_s2)

    def _statistics(self, x: Array) -> tuple[Array, Array, Array]:
        """What suffices: power (*B, bins) without the mean; the mean and log-Jacobian (*B,)."""
        shape = (1, self.pixels, self.pixels)
        if self.field == "lognormal" and self.noise:
            raise ValueError(
                "the likelihood of a lognormal field seen through noise has no closed form; "
                "take noise=False or field='gaussian'"
            )
        x = np.asarray(x, dtype=float)
        if x.shape[-3:] != shape:
            raise ValueError(f"x must be (..., {', '.join(map(str, shape))}); got {x.shape}")
        y, log_jacobian = x[..., 0, :, :], np.zeros(x.shape[:-3])
        if self.field == "lognormal":
            inside = np.all(y > -self.shift, axis=(-2, -1))
            within = np.asarray(inside)[..., None, None]
            density = np.where(within, y + self.shift, self.shift)
            log_jacobian = np.where(inside, -np.log(density).sum((-2, -1)), -np.inf)
            y = np.log(density / self.shift)
        y_k = rfft2(y)
        d = self.sky.fold(y_k.real**2 + y_k.imag**2) * (self.sky.pixel_area / self.pixels**2)
        d[..., 0] = 0
        return d, y.mean((-2, -1)), log_jacobian

    def _model(self, theta: Array) -> tuple[Array, Array, Array]:
        """The variance S of each bin (n, bins), the log-determinant (n,), and s^2 (n,)."""
        spectra = self._spectra(theta)
        S = spectra.P + self.N_l
        log_determinant = np.log(2 * np.pi * S / self.sky.pixel_area) @ self.sky.counts
        return S, log_determinant, spectra.s2

    def log_likelihood(self, x: Array, theta: Array) -> Array:
        r"""The exact log p(x | theta), of a Gaussian field or of a lognormal one without noise.

        .. math::
            \log p = -\tfrac12 \sum_k
                \Bigl[\frac{d_k}{S_k} + \ln \frac{2 \pi S_k}{A_{pix}}\Bigr], \quad
            d_k = \frac{A_{pix}}{N^2} |\hat x_k|^2, \quad S_k = C_k + N_k

        and for a lognormal field that of :math:`\ln(1 + x / \lambda)`, of mean :math:`-s^2/2`,
        less :math:`\sum \ln(x + \lambda)`.

        Arguments:
            x: Maps, shape (*B, 1, N, N).
            theta: Parameters, shape (*T, 3).

        Returns:
            Shape broadcast(*B, *T), float64.

        Raises:
            ValueError: If the field is lognormal and noisy, a shape is wrong, or theta is outside
                the prior.
        """
        theta = np.asarray(theta, dtype=float)
        d, mean, log_jacobian = self._statistics(x)
        S, log_determinant, s2 = (
            value.reshape((*theta.shape[:-1], *value.shape[1:]))
            for value in self._model(theta.reshape(-1, theta.shape[-1]))
        )
        chi2 = np.einsum("...i,...i->...", d, 1 / S)
        chi2 = chi2 + self.sky.side**2 * (mean + s2 / 2) ** 2 / S[..., 0]
        return log_jacobian - (chi2 + log_determinant) / 2

    def score(self, x: Array, theta: Array) -> Array:
        """The gradient of `log_likelihood` by theta, (n, 3), for x (n, 1, N, N), theta (n, 3)."""
        d, mean, _ = self._statistics(x)
        spectra = self._spectra(theta)
        S = spectra.P + self.N_l
        offset = self.sky.side**2 * (mean + spectra.s2 / 2)
        d[:, 0] = offset**2 / self.sky.side**2
        by_P = (d / S - self.sky.counts) * spectra.P / S / 2
        return self._chain(theta, spectra, by_P, -0.5 * offset / S[:, 0])

    def exact_posterior(self, x: Array, points: int = 30) -> GridPosterior:
        """The exact posterior of theta on a grid of points^3 cells under the uniform prior.

        Arguments:
            x: One map (1, N, N), or a batch (n, 1, N, N); many at once share the cost of the grid.
            points: Cells along each parameter.

        Raises:
            ValueError: As `log_likelihood`.
        """
        theta, width = grid_cells(self.emulator.low, self.emulator.high, points)
        d, mean, log_jacobian = self._statistics(x)
        log_p = np.empty((*mean.shape, len(theta)))
        for i in range(0, len(theta), 1024):
            S, log_determinant, s2 = self._model(theta[i : i + 1024])
            offset = self.sky.side**2 * (mean[..., None] + s2 / 2) ** 2 / S[:, 0]
            chi2 = d @ (1 / S).T + offset
            log_p[..., i : i + 1024] = log_jacobian[..., None] - (chi2 + log_determinant) / 2
        return GridPosterior.from_log_likelihood(theta, width, log_p)


def _image(shape: tuple[int, ...], support: Any = None) -> Field:
    return Field(shape, layout="image", support=support)


def _choice(what: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{what} must be one of {', '.join(known)}; got {value!r}")


if __name__ == "__main__":
    main()
