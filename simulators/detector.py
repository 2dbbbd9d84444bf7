r"""The detector: what is measured of an event's mass, axis, number of emissions and tau.

.. math::
    p(x \mid z_d) = \frac{1}{E} \mathcal N(\ln E; \ln m, s_E^2) \, \mathcal N(c_x; c, s_c^2) \,
        [n_x = n] \, \mathcal N(\tau_x; \tau, s_\tau^2), \qquad s_E^2 = A^2 / m + B^2

for x = (E, c_x, n_x, tau_x), a density in E, c_x and tau_x and a probability of n_x.
"""

from __future__ import annotations

__all__ = ["DETECTORS", "Detector"]

from dataclasses import dataclass

import numpy as np
from numpy import ndarray as Array
from scipy.special import ndtr


@dataclass(frozen=True)
class Detector:
    """Resolutions and efficiency.

    Arguments:
        axis: s_c, the resolution of cos theta*.
        energy: A, the stochastic term of the relative energy resolution, GeV^(1/2).
        efficiency: e, the probability that an emission is counted.
        thrust: s_tau, the resolution of tau.
        constant: B, the constant term of the relative energy resolution.
    """

    axis: float
    energy: float
    efficiency: float
    thrust: float
    constant: float = 0.03

    def energy_width(self, m: Array) -> Array:
        """s_E, the standard deviation of ln E at mass m (GeV)."""
        return np.sqrt(self.energy**2 / m + self.constant**2)

    def observe(self, m: Array, c: Array, n: Array, tau: Array, rng: np.random.Generator) -> Array:
        """Draws x (k, 4) given the record of k events, each quantity (k,)."""
        noise = rng.standard_normal((3, len(m)))
        energy = m * np.exp(self.energy_width(m) * noise[0])
        return np.stack([energy, c + self.axis * noise[1], n, tau + self.thrust * noise[2]], -1)

    def log_energy(self, energy: Array, m: Array) -> Array:
        """Log p(E | m), a density in GeV; -inf for E <= 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            log_e = np.log(energy)
            log_p = _log_normal(log_e, np.log(m), self.energy_width(m)) - log_e
        return np.where(energy > 0, log_p, -np.inf)

    def log_axis(self, c_x: Array, c: Array) -> Array:
        """Log p(c_x | c)."""
        return _log_normal(c_x, c, self.axis)

    def log_prob(self, x: Array, m: Array, c: Array, n: Array, tau: Array) -> Array:
        """Log p(x | z_d) of x (..., 4), the quantities of z_d broadcasting with (...)."""
        energy, c_x, n_x, tau_x = np.moveaxis(np.asarray(x, dtype=float), -1, 0)
        log_p = self.log_energy(energy, m) + self.log_axis(c_x, c)
        log_p = log_p + _log_normal(tau_x, tau, self.thrust)
        return np.where(n_x == n, log_p, -np.inf)

    def smeared(self, c_x: Array) -> tuple[Array, Array]:
        r"""The two angular terms of the hard process as the detector sees them.

        .. math::
            A_\pm(c_x) = \int_{-1}^1 (1 \pm c)^2 \, \mathcal N(c_x; c, s_c^2) \, \mathrm d c
        """
        return _forward(c_x, self.axis), _forward(-c_x, self.axis)


DETECTORS = {
    "sharp": Detector(axis=0.05, energy=0.5, efficiency=0.8, thrust=0.006),
    "coarse": Detector(axis=0.5, energy=3.0, efficiency=0.5, thrust=0.02),
}


def _log_normal(x: Array, mean: Array, width: Array | float) -> Array:
    return -0.5 * ((x - mean) / width) ** 2 - np.log(width) - 0.5 * np.log(2 * np.pi)


def _forward(x: Array, s: float) -> Array:
    """The integral of (1 + c)^2 N(c; x, s^2) over |c| < 1, in z = (c - x) / s."""
    low, high = (-1 - x) / s, (1 - x) / s
    # Of tails to the right of x, the difference of the small numbers.
    flip = np.where(low > 0, -1, 1)
    mass = np.abs(ndtr(flip * high) - ndtr(flip * low))
    at_low, at_high = (np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) for z in (low, high))
    first, second = at_low - at_high, mass + low * at_low - high * at_high
    total = (1 + x) ** 2 * mass + 2 * (1 + x) * s * first + s**2 * second
    return np.maximum(total, 0)
