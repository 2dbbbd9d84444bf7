r"""Gaussian and lognormal fields in several bins, and how their spectra depend on theta.

.. math::
    \kappa_i = \lambda_i \left( e^{G_i - s_i^2 / 2} - 1 \right), \qquad
    \xi^G_{ij} = \ln \left( 1 + \frac{\xi_{ij}}{\lambda_i \lambda_j} \right), \qquad
    G_i = \sum_{j \le i} \mathcal F^{-1} \Bigl[ L_{ij} / \sqrt{A_{pix}} \; \mathcal F w_j \Bigr],
    \quad L L^T = P

mode by mode, with P the spectra of G; of a Gaussian field kappa = G and P = C.

References:
    | Improving Lognormal Models for Cosmological Fields (Xavier, Abdalla & Joachimi, 2016)
    | https://arxiv.org/abs/1602.08503, section 3
"""

from __future__ import annotations

__all__ = ["LensingField", "Spectra"]

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.fft import irfft2

from .flat_sky import FlatSky
from .spectrum_emulator import SpectrumEmulator
from .triangular import cholesky

Array = np.ndarray


class Spectra(NamedTuple):
    """In m bins of wave numbers, for b redshift bins.

    Arguments:
        C: Spectra of kappa, (n, b, b, m).
        P: Spectra of its Gaussian field, (n, b, b, m).
        L: Their Cholesky factor.
        s2: Variance of a pixel of that field, (n, b); 0 if kappa is Gaussian.
        ratio: 1 + xi / lambda^2, (n, b, b, m); 1 if kappa is Gaussian.
    """

    C: Array
    P: Array
    L: Array
    s2: Array
    ratio: Array


@dataclass(frozen=True, eq=False)
class LensingField:
    """A convergence field.

    Arguments:
        sky: The map's geometry.
        emulator: Of C_l(theta).
        shift: Of a lognormal field, lambda of each redshift bin, (b,); None for a Gaussian one.

    Raises:
        ValueError: If the map has multipoles that the emulator lacks.
    """

    sky: FlatSky
    emulator: SpectrumEmulator
    shift: Array | None = None

    def __post_init__(self) -> None:
        self._to_modes  # noqa: B018 - refuses multipoles

    @property
    def bins(self) -> int:
        """Redshift bins b."""
        return self.emulator.source.bins

    @cached_property
    def _to_modes(self) -> Array:
        return self.emulator.interpolation(self.sky.multipoles)

    @cached_property
    def _pairs(self) -> tuple[Array, Array, Array]:
        """The bins of each pair, and the pair of two bins (b, b)."""
        first, second = np.tril_indices(self.bins)
        of = np.empty((self.bins, self.bins), dtype=int)
        of[first, second] = of[second, first] = np.arange(len(first))
        return first, second, of

    def C_l(self, theta: Array) -> Array:
        """Spectra of kappa, (n, b, b, m), for theta (n, 3)."""
        pairs = np.exp(self.emulator.log_spectrum(theta) @ self._to_modes)
        return pairs[:, self._pairs[2]] if self.bins > 1 else pairs[:, None]

    def spectra(self, theta: Array) -> Spectra:
        """What the field at theta (n, 3) is made with.

        Raises:
            ValueError: If no lognormal field has these spectra.
        """
        C = self.C_l(theta)
        if self.shift is None:
            return Spectra(C, C, cholesky(C), np.zeros((len(C), self.bins)), np.ones(1))
        ratio = 1 + self.sky.correlation(C) / np.multiply.outer(self.shift, self.shift)[..., None]
        xi = np.log(np.maximum(ratio, np.finfo(float).tiny))
        P = self.sky.spectrum(xi)
        L = cholesky(P)
        good = np.isfinite(L).all((1, 2, 3)) & (ratio > 0).all((1, 2, 3))
        if not good.all():
            raise ValueError(
                f"no lognormal field of shift {self.shift.tolist()} has the spectra of theta = "
                f"{np.asarray(theta)[~good][0].tolist()}; take a larger shift or larger pixels"
            )
        return Spectra(C, P, L, np.einsum("niim->nim", xi)[..., 0], ratio)

    def chain(self, theta: Array, spectra: Spectra, by_P: Array, by_s2: Array) -> Array:
        """The gradient by theta (n, 3), from those by P (n, b, b, m) and by s^2 (n, b)."""
        by_C, counts = by_P, self.sky.counts
        if self.shift is not None:
            # A transform M of modes has the transpose diag(counts) M diag(1 / counts).
            by_xi = counts * self.sky.spectrum(by_P / counts)
            diagonal = np.arange(self.bins)
            by_xi[:, diagonal, diagonal, 0] += by_s2
            by_xi /= spectra.ratio * np.multiply.outer(self.shift, self.shift)[..., None]
            by_C = counts * self.sky.correlation(by_xi / counts)
        by_log = by_C * spectra.C
        first, second, _ = self._pairs
        by_pair = np.where(first == second, 1.0, 2.0)[:, None] * by_log[:, first, second]
        at_knots = by_pair @ self._to_modes.T
        return np.einsum("ntpk,npk->nt", self.emulator.gradient(theta), at_knots)

    def maps(self, spectra: Spectra, white_k: Array) -> Array:
        """Kappa (n, b, N, N) of the modes of white noise (n, b, N, N / 2 + 1)."""
        dtype = white_k.real.dtype
        amplitude = (spectra.L / np.sqrt(self.sky.pixel_area)).astype(dtype)
        G_k = np.empty_like(white_k)
        for i in range(self.bins):
            G_k[:, i] = self.sky.expand(amplitude[:, i, i]) * white_k[:, i]
            for j in range(i):
                G_k[:, i] += self.sky.expand(amplitude[:, i, j]) * white_k[:, j]
        G = irfft2(G_k, (self.sky.pixels, self.sky.pixels), overwrite_x=True)
        if self.shift is None:
            return G
        G -= (spectra.s2 / 2).astype(dtype)[..., None, None]
        np.exp(G, out=G)
        G -= 1
        G *= self.shift.astype(dtype)[:, None, None]
        return G
