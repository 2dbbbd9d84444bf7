r"""Exact likelihoods of maps: mode by mode if all of the sky is seen, dense behind a mask.

.. math::
    \log p = -\tfrac12 \sum_k \Bigl[ \mathrm{tr}(S_k^{-1} d_k) + \ln \det \frac{2 \pi S_k}{A_{pix}}
        \Bigr], \quad
    d_k = \frac{A_{pix}}{N^2} \hat y_k \hat y_k^\dagger, \quad S_k = P_k + N_k I

with matrices in the redshift bins, and y = x for a Gaussian field. For a lognormal one without
noise y = ln(1 + x / lambda), of mean -s^2 / 2, and log p is less by the sum of ln(x + lambda).
Behind a mask the pixels that are seen have the covariance xi(r) + sigma^2 I, which takes a
Cholesky factor for every theta.
"""

from __future__ import annotations

__all__ = ["DenseLikelihood", "SpectralLikelihood"]

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.fft import rfft2
from scipy.linalg import cho_factor, cho_solve

from .lensing_field import LensingField
from .triangular import cholesky, inverse, product

Array = np.ndarray

LARGEST = 48**2
"""Pixels, over all bins, that a dense covariance is made of."""


def gaussianised(x: Array, shift: Array | None) -> tuple[Array, Array]:
    """The Gaussian field y of x (*B, b, pixels), and the log-Jacobian (*B); -inf at x <= -lambda.

    Arguments:
        x: Noise-free convergence.
        shift: Lambda (b,); None if x is Gaussian as it is.
    """
    x = np.asarray(x, dtype=float)
    if shift is None:
        return x, np.zeros(x.shape[:-2])
    inside = np.all(x > -shift[:, None], axis=(-2, -1))
    within = np.asarray(inside)[..., None, None]
    density = np.where(within, x + shift[:, None], shift[:, None])
    log_jacobian = np.where(inside, -np.log(density).sum((-2, -1)), -np.inf)
    return np.log(density / shift[:, None]), log_jacobian


@dataclass(frozen=True, eq=False)
class SpectralLikelihood:
    """Of whole, periodic maps.

    Arguments:
        field: The field behind them.
        N_l: Spectrum of their noise; 0 for none.
    """

    field: LensingField
    N_l: float

    def _data(self, x: Array) -> tuple[Array, Array, Array]:
        """What suffices of x (*B, b, N, N): d (*B, b, b, m) without the mean; mean, Jacobian."""
        sky, flat = self.field.sky, x.reshape((*x.shape[:-2], -1))
        y, log_jacobian = gaussianised(flat, self.field.shift)
        y_k = rfft2(y.reshape(x.shape))
        first, second = y_k[..., :, None, :, :], y_k[..., None, :, :, :]
        power = first.real * second.real + first.imag * second.imag
        d = sky.fold(power) * (sky.pixel_area / sky.pixels**2)
        d[..., 0] = 0
        return d, y.mean(-1), log_jacobian

    def _model(self, theta: Array) -> tuple[Array, Array, Array]:
        """Of theta (t, 3): S^-1 (t, b, b, m), log-determinants (t,), and s^2 (t, b)."""
        sky, spectra = self.field.sky, self.field.spectra(theta)
        noise = self.N_l * np.eye(self.field.bins)[..., None]
        L = cholesky(spectra.P + noise) if self.N_l else spectra.L
        L_inverse = inverse(L)
        log_L = np.log(np.einsum("tiim->tim", L)).sum(1)
        scale = self.field.bins * np.log(2 * np.pi / sky.pixel_area)
        log_determinant = (2 * log_L + scale) @ sky.counts
        return product(L_inverse.swapaxes(1, 2), L_inverse), log_determinant, spectra.s2

    def log_prob(self, x: Array, theta: Array) -> Array:
        """Log p(x | theta) of x (*B, b, N, N) and theta (*T, 3), broadcast(*B, *T)."""
        d, mean, log_jacobian = self._data(x)
        precision, log_determinant, s2 = (
            value.reshape((*theta.shape[:-1], *value.shape[1:]))
            for value in self._model(theta.reshape(-1, 3))
        )
        offset = mean + s2 / 2
        chi2 = np.einsum("...ijm,...ijm->...", d, precision)
        pull = np.einsum("...ij,...i,...j->...", precision[..., 0], offset, offset)
        return log_jacobian - (chi2 + self.field.sky.side**2 * pull + log_determinant) / 2

    def on_grid(self, x: Array, theta: Array) -> Array:
        """Log p of x (*B, b, N, N) at every theta (g, 3), (*B, g)."""
        d, mean, log_jacobian = self._data(x)
        weights = np.where(np.eye(self.field.bins), 1.0, 2.0)
        lower = np.tril_indices(self.field.bins)
        packed = (d * weights[..., None])[..., lower[0], lower[1], :]
        packed = packed.reshape((*d.shape[:-3], -1))
        out = np.empty((*mean.shape[:-1], len(theta)))
        step = max(1, 2**22 // packed.shape[-1])
        for i in range(0, len(theta), step):
            precision, log_determinant, s2 = self._model(theta[i : i + step])
            offset = mean[..., None, :] + s2 / 2
            pull = np.einsum("tij,...ti,...tj->...t", precision[..., 0], offset, offset)
            chi2 = packed @ precision[:, lower[0], lower[1]].reshape(len(s2), -1).T
            total = chi2 + self.field.sky.side**2 * pull + log_determinant
            out[..., i : i + step] = log_jacobian[..., None] - total / 2
        return out

    def score(self, x: Array, theta: Array) -> Array:
        """The gradient of log p by theta, (n, 3), of x (n, b, N, N) at theta (n, 3)."""
        sky, spectra = self.field.sky, self.field.spectra(theta)
        d, mean, _ = self._data(x)
        precision, _, _ = self._model(theta)
        offset = mean + spectra.s2 / 2
        d[..., 0] = sky.side**2 * offset[:, :, None] * offset[:, None]
        by_P = (product(product(precision, d), precision) - sky.counts * precision) / 2
        by_s2 = -0.5 * sky.side**2 * np.einsum("nij,nj->ni", precision[..., 0], offset)
        return self.field.chain(theta, spectra, by_P, by_s2)


@dataclass(frozen=True, eq=False)
class DenseLikelihood:
    """Of the pixels that a mask leaves.

    Arguments:
        field: The field behind them.
        variance: Of a pixel's noise; 0 for none.
        observed: Pixels (N, N) that are seen.
    """

    field: LensingField
    variance: float
    observed: Array

    @cached_property
    def _separations(self) -> Array:
        """The bin of the separation of two observed pixels, (p, p).

        Raises:
            ValueError: If they are too many.
        """
        rows, columns = np.nonzero(self.observed)
        if len(rows) * self.field.bins > LARGEST:
            raise ValueError(
                f"the exact likelihood behind a mask needs the covariance of all that is seen, "
                f"{len(rows) * self.field.bins} numbers a map; it goes to {LARGEST} (48 x 48 "
                "pixels in one bin): take fewer pixels or bins"
            )
        N = self.field.sky.pixels
        lags = [np.abs(v[:, None] - v) for v in (rows, columns)]
        return self.field.sky.square[tuple(np.minimum(lag, N - lag) for lag in lags)]

    def _pixels(self, x: Array) -> tuple[Array, Array]:
        """The Gaussian field at observed pixels (*B, b * p), and the log-Jacobian (*B)."""
        seen = x[..., self.observed]
        y, log_jacobian = gaussianised(seen, self.field.shift)
        return y.reshape((*seen.shape[:-2], -1)), log_jacobian

    def _factor(self, P: Array) -> Array:
        """The Cholesky factor (b * p, b * p) of the covariance of spectra P (b, b, m)."""
        b, p = self.field.bins, len(self._separations)
        blocks = self.field.sky.correlation(P)[:, :, self._separations]
        covariance = blocks.swapaxes(1, 2).reshape(b * p, b * p)
        covariance[np.diag_indices(b * p)] += self.variance
        return cho_factor(covariance, lower=True, overwrite_a=True)[0]

    def on_grid(self, x: Array, theta: Array) -> Array:
        """Log p of x (*B, b, N, N) at every theta (g, 3), (*B, g)."""
        y, log_jacobian = self._pixels(x)
        flat, spectra = y.reshape(-1, y.shape[-1]), self.field.spectra(theta)
        out = np.empty((len(flat), len(theta)))
        for i, (P, s2) in enumerate(zip(spectra.P, spectra.s2)):
            L = self._factor(P)
            offset = flat + np.repeat(s2 / 2, flat.shape[1] // len(s2))
            chi2 = np.einsum("kp,pk->k", offset, cho_solve((L, True), offset.T))
            log_determinant = 2 * np.log(np.diag(L)).sum() + len(L) * np.log(2 * np.pi)
            out[:, i] = -(chi2 + log_determinant) / 2
        return out.reshape((*y.shape[:-1], -1)) + log_jacobian[..., None]

    def log_prob(self, x: Array, theta: Array) -> Array:
        """Log p(x | theta) of x (*B, b, N, N) and theta (*T, 3), broadcast(*B, *T)."""
        batch, lead = x.shape[:-3], theta.shape[:-1]
        every = self.on_grid(x.reshape((-1, *x.shape[-3:])), theta.reshape(-1, 3))
        rows = np.arange(every.shape[0]).reshape(batch)
        columns = np.arange(every.shape[1]).reshape(lead)
        return every[np.broadcast_arrays(rows, columns)[0], columns]

    def score(self, x: Array, theta: Array) -> Array:
        """The gradient of log p by theta, (n, 3), of x (n, b, N, N) at theta (n, 3)."""
        y, _ = self._pixels(x)
        sky, spectra = self.field.sky, self.field.spectra(theta)
        b, index = self.field.bins, self._separations
        by_P, by_s2 = np.empty_like(spectra.P), np.empty_like(spectra.s2)
        for n, (P, s2) in enumerate(zip(spectra.P, spectra.s2)):
            L = self._factor(P)
            precision = cho_solve((L, True), np.eye(len(L)))
            alpha = precision @ (y[n] + np.repeat(s2 / 2, len(index)))
            blocks = (np.outer(alpha, alpha) - precision).reshape(b, len(index), b, -1) / 2
            by_s2[n] = -0.5 * alpha.reshape(b, -1).sum(1)
            for i, j in np.ndindex(b, b):
                by_xi = np.bincount(index.ravel(), blocks[i, :, j].ravel(), len(sky.counts))
                by_P[n, i, j] = sky.counts * sky.correlation(by_xi / sky.counts)
        return self.field.chain(theta, spectra, by_P, by_s2)
