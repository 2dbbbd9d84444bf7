r"""Weak-lensing convergence maps of a flat wCDM universe, with exact references.

.. math::
    w \sim \mathcal N(0, I), \qquad
    G = \mathcal F^{-1}\bigl[L(\vartheta) / \sqrt{A_{pix}} \; \mathcal F w\bigr], \qquad
    \kappa = G \;\text{ or }\; \lambda \bigl(e^{G - s^2/2} - 1\bigr), \qquad
    x \sim \mathcal N(\kappa, \sigma_{pix}^2 I)

with theta = (Omega_m, sigma_8, w_0) and L the Cholesky factor of the spectra of redshift bins,
mode by mode. The spectra of kappa are the emulated C_l, which define the simulator. Maps are
periodic; the pixel's window, aliasing, B-modes and reduced shear are left out. One map in one bin
hardly constrains w_0: a model that returns the prior for it would pass a calibration, so report
beside one how much narrower than the prior the posterior is.
"""

from __future__ import annotations

__all__ = ["ConvergenceMaps"]

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.fft import rfft2

from simgen import Field, Simulator

from .flat_sky import FlatSky
from .grid_posterior import GridPosterior, grid_cells
from .lensing_field import LensingField, Spectra
from .map_likelihood import DenseLikelihood, SpectralLikelihood
from .map_score import joint_score
from .sky_masks import mask_of, rows_of
from .spectrum_emulator import MAX_BINS, NAMES, SpectrumEmulator, default_file, main

if TYPE_CHECKING:
    from simgen import Prior

Array = np.ndarray

LABELS = (r"$\Omega_m$", r"$\sigma_8$", r"$w_0$")
REFERENCE = np.array([[0.3, 0.8, -1.0]])
ARCMIN2 = np.radians(1 / 60) ** 2
RECORDABLE = ("joint_score", "z_kappa", "z_white")
CHUNK = 2**18
"""Pixels worked on at once: what fits a processor's cache is fastest."""


class ConvergenceMaps(Simulator):
    r"""Maps of the lensing convergence in b redshift bins, x: (b, N, N).

    Theta is (Omega_m, sigma_8, w_0) under uniform priors (0.15, 0.45), (0.5, 1.1), (-1.6, -0.4).
    The joint score is :math:`\nabla_\vartheta \log p(x, z \mid \vartheta)` for these latents z:

    - "white": the white noise w; x is Gaussian about the map kappa that theta makes of it;
    - "field": the map kappa, so that theta acts through :math:`p(\kappa \mid \vartheta)`;
    - "mixed": of each mode the one of smaller variance, white where C_l < 2 N_l at a fixed theta.

    Without noise kappa is the latent: of whole maps the joint score is then the score itself.

    Arguments:
        pixels: Pixels N along a side, even.
        side_deg: Length of a side in degrees.
        bins: Redshift bins b, 1 to 5, of as many galaxies each.
        field: "gaussian" or "lognormal".
        n_gal: Galaxies per square arcminute, of all bins together.
        sigma_e: Dispersion of a component of their ellipticity; a pixel's noise is
            :math:`\sigma_e / \sqrt{n_{gal} A_{pix} / b}`.
        noise: Whether x has shape noise.
        mask: What is observed; elsewhere x is 0. "disc" or "stars" (see `sky_masks`), an array
            (N, N) that is true where the sky is observed, or N rows of N digits 0 and 1.
        shift: Of a lognormal field, the lambda above: kappa > -lambda. One a bin, or a number: of
            the average bin, in proportion to a bin's mean redshift. It does not depend on theta,
            or the support of x would.
        latents: The latents of the joint score.
        record: Fields beside x: "joint_score" (3,), "z_kappa" (b, N, N), "z_white" (b, N, N).
        spectrum: An emulator's file, made for another redshift distribution; else the package's.

    Raises:
        ValueError: If an option is unknown or not positive, or the map has multipoles that the
            emulator lacks.

    References:
        | Improving Lognormal Models for Cosmological Fields (Xavier, Abdalla & Joachimi, 2016)
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
        bins: int = 1,
        field: str = "gaussian",
        n_gal: float = 27.0,
        sigma_e: float = 0.26,
        noise: bool = True,
        mask: Any = None,
        shift: float | Sequence[float] = 0.03,
        latents: str = "white",
        record: Sequence[str] = ("joint_score",),
        spectrum: str | None = None,
    ) -> None:
        record = [record] if isinstance(record, str) else list(record)
        _choice("field", field, ("gaussian", "lognormal"))
        _choice("latents", latents, ("white", "field", "mixed"))
        _choice("bins", bins, range(1, MAX_BINS + 1))
        for name in record:
            _choice("record", name, RECORDABLE)
        for name, value in (("n_gal", n_gal), ("sigma_e", sigma_e), ("shift", np.min(shift))):
            if not 0 < value < np.inf:
                raise ValueError(f"{name} must be positive; got {value}")
        self.bins = int(bins)
        self.emulator = _emulator(spectrum, self.bins)
        shifts = _shifts(shift, self.emulator.source.means)
        self.pixels, self.side_deg, self.field = int(pixels), float(side_deg), field
        self.n_gal, self.sigma_e, self.noise = float(n_gal), float(sigma_e), bool(noise)
        self.shift = shifts.tolist() if np.ndim(shift) else float(np.asarray(shift))
        self.latents, self.record = latents, record
        self.spectrum = None if spectrum is None else str(spectrum)

        self.sky = FlatSky(self.pixels, self.side_deg)
        self.observed = None if mask is None else mask_of(mask, self.pixels)
        self.mask = mask
        if self.observed is not None and not isinstance(mask, str):
            self.mask = rows_of(self.observed)
        self._field = LensingField(
            self.sky, self.emulator, shifts if field == "lognormal" else None
        )
        per_bin = self.n_gal / self.bins
        self.sigma_pix = self.sigma_e / np.sqrt(per_bin * self.sky.pixel_area / ARCMIN2)
        self.N_l = self.sigma_pix**2 * self.sky.pixel_area if self.noise else 0.0
        self._white = np.full(len(self.sky.multipoles), self.noise and latents == "white")
        if self.noise and latents == "mixed":
            total = np.einsum("iim->m", self._field.C_l(REFERENCE)[0])
            self._white = total < 2 * self.bins * self.N_l
        shape, low = (self.bins, self.pixels, self.pixels), (-shifts).tolist()
        support = None
        if field == "lognormal":
            support = (low[0] if self.bins == 1 else tuple(low), None)
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
        """Spectra of kappa at `sky.multipoles`, (n, bins, bins, m), for theta (n, 3)."""
        return self._field.C_l(theta)

    def signal(self, theta: Array, white: Array) -> Array:
        """The noise-free maps kappa of theta (n, 3) and white noise w, both (n, bins, N, N)."""
        return self._field.maps(self._field.spectra(theta), rfft2(white))

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws maps for theta (n, 3)."""
        theta = np.asarray(theta, dtype=float)
        step = max(1, CHUNK // (self.bins * self.pixels**2))
        starts = range(0, max(len(theta), 1), step)
        parts = [self._simulate(theta[i : i + step], rng) for i in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        shape = (len(theta), self.bins, self.pixels, self.pixels)
        white = rng.standard_normal(shape, np.float32)
        pull = (
            rng.standard_normal(shape, np.float32) if self.noise else np.zeros(shape, np.float32)
        )
        spectra = self._field.spectra(theta)
        white_k = rfft2(white)
        kappa = self._field.maps(spectra, white_k)
        x = kappa + np.float32(self.sigma_pix) * pull if self.noise else kappa
        if self.observed is not None:
            x, pull = x * self.observed, pull * self.observed
        out = {"x": x}
        if "joint_score" in self.record:
            out["joint_score"] = self._joint_score(theta, spectra, white_k, kappa, pull)
        if "z_kappa" in self.record:
            out["z_kappa"] = kappa
        if "z_white" in self.record:
            out["z_white"] = white
        return out

    def joint_score(self, x: Array, white: Array, theta: Array) -> Array:
        """The joint score (n, 3) of noisy maps and their latents, in the maps' precision.

        Arguments:
            x: Maps (n, bins, N, N).
            white: The white noise (n, bins, N, N) behind them, whichever the latents are.
            theta: The parameters (n, 3) that the maps were made with.
        """
        spectra, white_k = self._field.spectra(theta), rfft2(white)
        kappa = self._field.maps(spectra, white_k)
        pull = (x - kappa) / self.sigma_pix
        pull = pull if self.observed is None else pull * self.observed
        return self._joint_score(theta, spectra, white_k, kappa, pull)

    def _joint_score(
        self, theta: Array, spectra: Spectra, white_k: Array, kappa: Array, pull: Array
    ) -> Array:
        v = pull * pull.dtype.type(1 / self.sigma_pix)
        return joint_score(self._field, self._white, theta, spectra, white_k, kappa, v)

    @property
    def answers(self) -> tuple[str, ...]:
        """Likelihood and posterior, but of a lognormal field seen through noise."""
        return () if self.field == "lognormal" and self.noise else super().answers

    @cached_property
    def _likelihood(self) -> SpectralLikelihood | DenseLikelihood:
        if self.field == "lognormal" and self.noise:
            raise ValueError(
                "the likelihood of a lognormal field seen through noise has no closed form; "
                "take noise=False or field='gaussian'"
            )
        if self.observed is None:
            return SpectralLikelihood(self._field, self.N_l)
        variance = self.sigma_pix**2 if self.noise else 0.0
        return DenseLikelihood(self._field, variance, self.observed)

    def _maps(self, x: Array) -> Array:
        shape = (self.bins, self.pixels, self.pixels)
        x = np.asarray(x, dtype=float)
        if x.shape[-3:] != shape:
            raise ValueError(f"x must be (..., {', '.join(map(str, shape))}); got {x.shape}")
        return x

    def log_likelihood(self, x: Array, theta: Array) -> Array:
        """The exact log p(x | theta), of a Gaussian field or of a lognormal one without noise.

        Behind a mask, where x is not looked at, it is a dense computation: 0.3 CPU-seconds for
        each theta and 48 x 48 pixels.

        Arguments:
            x: Maps, shape (*B, bins, N, N).
            theta: Parameters, shape (*T, 3).

        Returns:
            Shape broadcast(*B, *T), float64.

        Raises:
            ValueError: If the field is lognormal and noisy, more than 48 x 48 pixels of all bins
                are seen past a mask, a shape is wrong, or theta is outside the prior.
        """
        return self._likelihood.log_prob(self._maps(x), np.asarray(theta, dtype=float))

    def score(self, x: Array, theta: Array) -> Array:
        """The gradient of `log_likelihood` by theta, (n, 3), of n maps at n theta."""
        return self._likelihood.score(self._maps(x), np.asarray(theta, dtype=float))

    def exact_posterior(self, x: Array, points: int = 30) -> GridPosterior:
        """The exact posterior of theta on a grid of points^3 cells under the uniform prior.

        Arguments:
            x: One map (bins, N, N), or a batch (n, bins, N, N); many share the cost of the grid.
            points: Cells along each parameter.

        Raises:
            ValueError: As `log_likelihood`.
        """
        theta, width = grid_cells(self.emulator.low, self.emulator.high, points)
        log_p = self._likelihood.on_grid(self._maps(x), theta)
        return GridPosterior.from_log_likelihood(theta, width, log_p)


def _emulator(path: str | None, bins: int) -> SpectrumEmulator:
    """The emulator of a file, or the package's for so many bins."""
    emulator = SpectrumEmulator.load(default_file(bins) if path is None else path)
    if emulator.source.bins != bins:
        raise ValueError(f"{path} has C_l of {emulator.source.bins} bins; bins is {bins}")
    return emulator


def _shifts(shift: float | Sequence[float], redshifts: Array) -> Array:
    """Lambda of each bin, (bins,), of so many mean redshifts."""
    if np.ndim(shift) == 0:
        return np.asarray(shift, dtype=float) * redshifts / redshifts.mean()
    if np.shape(shift) != redshifts.shape:
        raise ValueError(
            f"shift must be a number, or one for each of {len(redshifts)} bins; got {shift}"
        )
    return np.asarray(shift, dtype=float)


def _image(shape: tuple[int, ...], support: Any = None) -> Field:
    return Field(shape, layout="image", support=support)


def _choice(what: str, value: Any, known: Sequence[Any]) -> None:
    if value not in known:
        raise ValueError(f"{what} must be one of {', '.join(map(str, known))}; got {value!r}")


if __name__ == "__main__":
    main()
