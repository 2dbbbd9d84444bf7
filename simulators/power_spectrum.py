r"""The angular power spectra of weak-lensing convergence in a flat universe of constant w.

.. math::
    C^{ij}_\ell = \int \frac{d\chi}{\chi^2} W_i(\chi) W_j(\chi)\,
        P\!\left(\tfrac{\ell + 1/2}{\chi}, z\right), \quad
    W_i(\chi) = \frac{3 \Omega_m H_0^2}{2 c^2} \frac{\chi}{a}
        \int_\chi d\chi'\, n_i(\chi') \Bigl(1 - \frac{\chi}{\chi'}\Bigr)

with P the halofit spectrum of an Eisenstein-Hu linear one, normalised to sigma_8 and grown by 2F1.
Wave numbers are in h/Mpc, distances in Mpc/h; h, Omega_b and n_s are fixed, neutrinos massless,
radiation and perturbations of dark energy left out.
"""

from __future__ import annotations

__all__ = [
    "MatterSpectrum",
    "convergence_spectra",
    "growth",
    "hubble",
    "transfer",
]

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.integrate import cumulative_simpson, simpson
from scipy.interpolate import CubicSpline
from scipy.special import hyp2f1

from .source_galaxies import SourceGalaxies

LITTLE_H, OMEGA_B, N_S, T_CMB = 0.674, 0.049, 0.965, 2.7255
HUBBLE_LENGTH = 2997.92458
"""c / H_0 in Mpc/h."""

Array = np.ndarray


def hubble(z: Array, Omega_m: float, w: float) -> Array:
    """The expansion rate E(z) = H(z) / H_0 of a flat universe with constant w."""
    return np.sqrt(Omega_m * (1 + z) ** 3 + (1 - Omega_m) * (1 + z) ** (3 * (1 + w)))


def growth(a: Array | float, Omega_m: float, w: float) -> Array:
    r"""The linear growth factor, D(1) = 1.

    .. math::
        D(a) \propto a\, {}_2F_1\!\left[-\tfrac{1}{3w}, \tfrac{w-1}{2w}; 1 - \tfrac{5}{6w};
            -\tfrac{1-\Omega_m}{\Omega_m} a^{-3w}\right]

    Heath's integral is a solution for w = -1 only, and off by 2 to 14 % elsewhere in the prior.

    Arguments:
        a: Scale factors, any shape.
        Omega_m: Matter density today.
        w: Equation of state of dark energy, negative.

    References:
        | Properties of the Exact Analytic Solution of the Growth Factor (Lee & Ng, 2010)
        | https://arxiv.org/abs/0907.2108
    """
    a = np.asarray(a, dtype=float)
    first, second, third = -1 / (3 * w), (w - 1) / (2 * w), 1 - 5 / (6 * w)
    ratio = (1 - Omega_m) / Omega_m
    today = hyp2f1(first, second, third, -ratio)
    return a * hyp2f1(first, second, third, -ratio * a ** (-3 * w)) / today


def transfer(k: Array, Omega_m: float) -> Array:
    """The matter transfer function with baryon acoustic oscillations, T(k -> 0) = 1.

    Arguments:
        k: Wave numbers in h/Mpc.
        Omega_m: Matter density today, of which the baryons are OMEGA_B.

    References:
        | Baryonic Features in the Matter Transfer Function (Eisenstein & Hu, 1998)
        | https://arxiv.org/abs/astro-ph/9709112, equations 2-24
    """
    omega_m, omega_b = Omega_m * LITTLE_H**2, OMEGA_B * LITTLE_H**2
    f_b = OMEGA_B / Omega_m
    f_c, heat = 1 - f_b, T_CMB / 2.7
    k = np.asarray(k, dtype=float) * LITTLE_H

    z_eq, k_eq = 2.5e4 * omega_m / heat**4, 7.46e-2 * omega_m / heat**2
    b_1 = 0.313 * omega_m**-0.419 * (1 + 0.607 * omega_m**0.674)
    b_2 = 0.238 * omega_m**0.223
    z_drag = 1291 * omega_m**0.251 / (1 + 0.659 * omega_m**0.828) * (1 + b_1 * omega_b**b_2)
    R_drag, R_eq = (31.5e3 * omega_b / heat**4 / z for z in (z_drag, z_eq))
    phase = (np.sqrt(1 + R_drag) + np.sqrt(R_drag + R_eq)) / (1 + np.sqrt(R_eq))
    sound = 2 / (3 * k_eq) * np.sqrt(6 / R_eq) * np.log(phase)
    k_silk = 1.6 * omega_b**0.52 * omega_m**0.73 * (1 + (10.4 * omega_m) ** -0.95)
    q, ks = k / (13.41 * k_eq), k * sound

    a_1 = (46.9 * omega_m) ** 0.670 * (1 + (32.1 * omega_m) ** -0.532)
    a_2 = (12.0 * omega_m) ** 0.424 * (1 + (45.0 * omega_m) ** -0.582)
    alpha_c = a_1**-f_b * a_2 ** -(f_b**3)
    c_1, c_2 = 0.944 / (1 + (458 * omega_m) ** -0.708), (0.395 * omega_m) ** -0.0266
    beta_c = 1 / (1 + c_1 * (f_c**c_2 - 1))
    f = 1 / (1 + (ks / 5.4) ** 4)
    T_c = f * _pressureless(q, 1, beta_c) + (1 - f) * _pressureless(q, alpha_c, beta_c)

    y = (1 + z_eq) / (1 + z_drag)
    root = np.sqrt(1 + y)
    G = y * (-6 * root + (2 + 3 * y) * np.log((root + 1) / (root - 1)))
    alpha_b = 2.07 * k_eq * sound * (1 + R_drag) ** -0.75 * G
    beta_b = 0.5 + f_b + (3 - 2 * f_b) * np.sqrt((17.2 * omega_m) ** 2 + 1)
    node = 8.41 * omega_m**0.435
    shifted = ks / np.cbrt(1 + (node / ks) ** 3)
    silk = np.exp(-((k / k_silk) ** 1.4))
    T_b = (
        _pressureless(q, 1, 1) / (1 + (ks / 5.2) ** 2) + alpha_b / (1 + (beta_b / ks) ** 3) * silk
    )
    return f_b * T_b * np.sinc(shifted / np.pi) + f_c * T_c


def _pressureless(q: Array, alpha: float, beta: float) -> Array:
    """Equations 19 and 20 of Eisenstein & Hu."""
    log = np.log(np.e + 1.8 * beta * q)
    return log / (log + (14.2 / alpha + 386 / (1 + 69.9 * q**1.08)) * q**2)


@dataclass(frozen=True)
class MatterSpectrum:
    r"""The matter power spectrum at any redshift, linear and halofit.

    As dimensionless :math:`\Delta^2(k) = k^3 P(k) / 2\pi^2`.

    Arguments:
        Omega_m: Matter density today.
        sigma_8: Linear fluctuation today in spheres of 8 Mpc/h.
        w: Equation of state of dark energy.
    """

    Omega_m: float
    sigma_8: float
    w: float = -1.0

    def _shape(self, k: Array) -> Array:
        return k ** (N_S + 3) * transfer(k, self.Omega_m) ** 2

    @cached_property
    def _amplitude(self) -> float:
        log_k = np.linspace(np.log(1e-4), np.log(1e2), 8001)
        x = 8 * np.exp(log_k)
        tophat = 3 * (np.sin(x) - x * np.cos(x)) / x**3
        return self.sigma_8**2 / simpson(self._shape(np.exp(log_k)) * tophat**2, x=log_k)

    def linear(self, k: Array) -> Array:
        """The linear Delta^2(k) today; k in h/Mpc."""
        return self._amplitude * self._shape(k)

    @cached_property
    def _smoothing(self) -> tuple[CubicSpline, CubicSpline]:
        """From ln sigma^2(R) today, Gaussian window: ln R, and (n_eff, curvature) at that R."""
        log_k = np.linspace(np.log(1e-4), np.log(1e6), 2001)
        log_R = np.linspace(np.log(30.0), np.log(1e-4), 241)
        delta = self.linear(np.exp(log_k))
        y = np.exp(2 * (log_k + log_R[:, None]))
        weighted = delta * np.exp(-y)
        moments = [simpson(weighted * f, x=log_k) for f in (np.ones(()), -2 * y, 4 * y * (y - 1))]
        sigma2, first, second = moments
        slope = first / sigma2
        effective = np.stack([-3 - slope, slope**2 - second / sigma2], -1)
        return CubicSpline(np.log(sigma2), log_R), CubicSpline(np.log(sigma2), effective)

    def halofit(self, k: Array, z: Array) -> Array:
        """The nonlinear Delta^2 at wave number k [h/Mpc] and redshift z, which broadcast.

        References:
            | Revising the Halofit Model for the Nonlinear Matter Power Spectrum
            | (Takahashi, Sato, Nishimichi, Taruya & Oguri, 2012)
            | https://arxiv.org/abs/1208.2701, appendix
        """
        k, z = np.asarray(k, dtype=float), np.asarray(z, dtype=float)
        D = growth(1 / (1 + z), self.Omega_m, self.w)
        linear = D**2 * self.linear(k)
        radius, effective = self._smoothing
        # sigma(R) = 1 has no root once fluctuations are small: there any k_sigma >> k does.
        where = np.clip(-2 * np.log(D), radius.x[0], radius.x[-1])
        y = k * np.exp(radius(where))
        n, C = np.moveaxis(effective(where), -1, 0)
        Omega = self.Omega_m * (1 + z) ** 3 / hubble(z, self.Omega_m, self.w) ** 2
        dark = (1 - Omega) * (1 + self.w)

        a_n = 10 ** (
            np.polynomial.polynomial.polyval(n, [1.5222, 2.8553, 2.3706, 0.9903, 0.2250])
            - 0.6038 * C
            + 0.1749 * dark
        )
        b_n = 10 ** (-0.5642 + 0.5864 * n + 0.5716 * n**2 - 1.5474 * C + 0.2279 * dark)
        c_n = 10 ** (0.3698 + 2.0404 * n + 0.8161 * n**2 + 0.5869 * C)
        gamma = 0.1971 - 0.0843 * n + 0.8460 * C
        alpha = np.abs(6.0835 + 1.3373 * n - 0.1959 * n**2 - 5.5274 * C)
        quartic = [2.0379, -0.7354, 0.3157, 1.2490, 0.3980]
        beta = np.polynomial.polynomial.polyval(n, quartic) - 0.1682 * C
        nu = 10 ** (5.2105 + 3.6902 * n)
        f_1, f_2, f_3 = Omega**-0.0307, Omega**-0.0585, Omega**0.0743

        cut = np.exp(-y / 4 - y**2 / 8)
        two_halo = linear * (1 + linear) ** beta / (1 + alpha * linear) * cut
        denominator = 1 + b_n * y**f_2 + (c_n * f_3 * y) ** (3 - gamma)
        one_halo = a_n * y ** (3 * f_1) / denominator / (1 + nu / y**2)
        return two_halo + one_halo


def convergence_spectra(
    multipoles: Array,
    theta: tuple[float, float, float],
    source: SourceGalaxies | None = None,
    steps: int = 400,
) -> Array:
    """The convergence power spectra C_l of all pairs of bins, in Limber's approximation.

    Arguments:
        multipoles: Multipoles l, shape (m,).
        theta: (Omega_m, sigma_8, w_0).
        source: The galaxies' redshift distribution.
        steps: Intervals of the line-of-sight quadrature, even.

    Returns:
        C_l, shape (pairs, m), of the bins (0, 0), (1, 0), (1, 1), (2, 0) ...

    References:
        | Extended Limber Approximation (LoVerde & Afshordi, 2008)
        | https://arxiv.org/abs/0809.5112
    """
    source = source or SourceGalaxies()
    Omega_m, sigma_8, w = theta
    t = np.linspace(0, 1, steps + 1)
    z, dz = source.z_max * t**2, 2 * source.z_max * t
    speed = HUBBLE_LENGTH / hubble(z, Omega_m, w)
    chi = cumulative_simpson(speed * dz, x=t, initial=0)

    density = source.densities(z) * dz
    density /= simpson(density, x=t)[:, None]
    behind = cumulative_simpson(density, x=t, initial=0)
    ratio = density / np.where(chi > 0, chi, 1)
    closer = cumulative_simpson(ratio, x=t, initial=0)
    q = (behind[:, -1:] - behind) - chi * (closer[:, -1:] - closer)
    kernel = 1.5 * Omega_m * (1 + z) * q / HUBBLE_LENGTH**2

    k = (np.asarray(multipoles, dtype=float)[:, None] + 0.5) / chi[1:]
    P = 2 * np.pi**2 * MatterSpectrum(Omega_m, sigma_8, w).halofit(k, z[1:]) / k**3
    first, second = np.tril_indices(source.bins)
    weight = (kernel[first] * kernel[second] * speed * dz)[:, 1:]
    integrand = np.pad(weight[:, None] * P, ((0, 0), (0, 0), (1, 0)))
    return simpson(integrand, x=t)
