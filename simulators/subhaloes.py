r"""Dark subhaloes of a lens: a Poisson process of masses m and places uniform in the field.

.. math::
    \frac{\mathrm dN}{\mathrm dm} \propto m^\beta, \qquad
    \bar n = \tfrac12 f_\mathrm{sub} \, \Sigma_{cr} A / \langle m \rangle_\beta, \qquad
    b_h = \left( \frac{m}{\pi \Sigma_{cr}} \right)^{2/3} (1'')^{-1/3}, \quad
    r_{t,h} = \sqrt{b_h \cdot 1''}

f_sub is the share of the lens's mass that is in subhaloes where the convergence is 1/2, as at the
Einstein radius of an isothermal lens. Each is an isothermal sphere, truncated by the tides there,
of mass pi Sigma_cr b r_t = m. Lengths are in arcsec, masses in solar masses, in a lens at redshift
0.5 before a source at 1.5. Their mass comes on top of that of the lens.

References:
    | Mining for Dark Matter Substructure: Inferring Subhalo Population Properties from Strong
      Lenses with Machine Learning (Brehmer, Mishra-Sharma, Hermans, Louppe & Cranmer, 2019)
    | https://arxiv.org/abs/1909.02005
    | Bayesian strong gravitational-lens modelling on adaptive grids in potential corrections
      (Vegetti & Koopmans, 2009), for truncated isothermal subhaloes
    | https://arxiv.org/abs/0805.0201
"""

from __future__ import annotations

__all__ = ["SIGMA_CR", "Subhaloes"]

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

from .lensing import jaffe

SIGMA_CR = 8.676e10
"""Critical surface density in solar masses per square arcsec; H_0 = 70 km/s/Mpc, Omega_m = 0.3."""


@dataclass(frozen=True)
class Subhaloes:
    """The Poisson process of subhaloes in a square field.

    Arguments:
        side: Length of the field's side in arcsec.
        low: The least mass in solar masses.
        high: The largest one.
    """

    side: float
    low: float = 1e8
    high: float = 1e10

    @property
    def _centre(self) -> float:
        return math.log(self.low * self.high) / 2

    @property
    def _width(self) -> float:
        return math.log(self.high / self.low)

    def _log_integral(self, p: Array) -> Array:
        """The logarithm of the integral of m^p over ln m."""
        t = np.abs(p) * self._width / 2
        small = t < 1e-3
        t_ = np.where(small, 1.0, t)
        log_sinhc = np.where(small, t * t / 6, t_ + np.log(-np.expm1(-2 * t_) / (2 * t_)))
        return p * self._centre + math.log(self._width) + log_sinhc

    def _mean_log(self, p: Array) -> Array:
        """Its derivative by p: the mean of ln m under the density m^p of ln m."""
        t = p * self._width / 2
        small = np.abs(t) < 1e-3
        t_ = np.where(small, 1.0, t)
        langevin = np.where(small, t / 3, 1 / np.tanh(t_) - 1 / t_)
        return self._centre + self._width / 2 * langevin

    def mean_mass(self, beta: Array) -> Array:
        """The mean mass in solar masses for slopes beta (...)."""
        beta = np.asarray(beta, float)
        return np.exp(self._log_integral(beta + 2) - self._log_integral(beta + 1))

    def mean_number(self, f_sub: Array, beta: Array) -> Array:
        """The expected number of subhaloes in the field."""
        return np.asarray(f_sub) * SIGMA_CR / 2 * self.side**2 / self.mean_mass(beta)

    def draw(
        self, f_sub: Array, beta: Array, slots: int, rng: np.random.Generator
    ) -> tuple[Array, Array]:
        """Draws log10 m, x and y, (n, slots, 3) in float32 with zeros behind, and numbers (n,).

        Raises:
            ValueError: If there are more subhaloes than slots.
        """
        counts = rng.poisson(self.mean_number(f_sub, beta))
        if counts.max(initial=0) > slots:
            raise ValueError(f"a lens has {counts.max()} subhaloes; z_sub holds {slots}")
        shape = (len(counts), slots)
        p = (np.asarray(beta) + 1)[:, None]
        p = np.where(np.abs(p) < 1e-9, 1e-9, p)
        ln_m = math.log(self.low) + np.log1p(rng.random(shape) * np.expm1(p * self._width)) / p
        place = self.side * (rng.random((2, *shape)) - 0.5)
        z_sub = np.stack([ln_m / math.log(10), *place], -1).astype(np.float32)
        return z_sub * (np.arange(slots) < counts[:, None])[..., None], counts

    def log_prob(self, z_sub: Array, counts: Array, f_sub: Array, beta: Array) -> Array:
        """The density (n,) of the process by that of rate 1 per ln m and square arcsec."""
        mean, p = self.mean_number(f_sub, beta), np.asarray(beta) + 1
        log_rate = np.log(mean / self.side**2) - self._log_integral(p)
        return counts * log_rate - mean + p * _sum_log(z_sub, counts)

    def score(self, z_sub: Array, counts: Array, f_sub: Array, beta: Array) -> Array:
        """The gradient (n, 2) of `log_prob` by f_sub and beta."""
        excess, p = counts - self.mean_number(f_sub, beta), np.asarray(beta) + 1
        mean_log = self._mean_log(p)
        slope = mean_log - self._mean_log(p + 1)
        by_beta = excess * slope + _sum_log(z_sub, counts) - counts * mean_log
        return np.stack([excess / f_sub, by_beta], -1)

    def deflect(self, x: Tensor, y: Tensor, z_sub: Array, counts: Array) -> tuple[Tensor, Tensor]:
        """The deflections (n, N, N) of the subhaloes of n lenses at x and y (N, N)."""
        alpha = torch.zeros((2, len(z_sub), *x.shape), dtype=x.dtype)
        for i, count in enumerate(counts):
            # a few at once: what fits a processor's cache is fastest
            for some in torch.tensor(z_sub[i, :count], dtype=x.dtype).split(8):
                log_m, x_h, y_h = some.T[:, :, None, None]
                b = (10**log_m / (math.pi * SIGMA_CR)) ** (2 / 3)
                a_x, a_y = jaffe(x - x_h, y - y_h, b, torch.sqrt(b))
                alpha[0, i] += a_x.sum(0)
                alpha[1, i] += a_y.sum(0)
        return alpha[0], alpha[1]


def _sum_log(z_sub: Array, counts: Array) -> Array:
    """The sum of ln m over the subhaloes of each lens, (n,)."""
    there = np.arange(z_sub.shape[1]) < counts[:, None]
    return math.log(10) * (z_sub[..., 0].astype(float) * there).sum(1)
