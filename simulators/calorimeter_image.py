r"""A calorimeter of two layers in (eta, phi): partons leave hits, cells report energies.

.. math::
    f \sim \mathrm{Beta}(2, 3), \qquad
    h_{c} \sim \mathrm{Poisson}\left(
        \sum_{\mathrm{partons}} \frac E \varepsilon
        \left[ f w^\mathrm{em}_l + (1 - f) w^\mathrm{had}_l \right] g_c \right) \\
    x_c = E_c + \mathcal N(0, A^2 E_c + B^2 E_c^2 + s^2), \qquad E_c = \varepsilon \, h_c

f is the electromagnetic fraction of a parton's shower; its depth follows Longo and Sestili,
dE/dX = E b (bX)^{a-1} e^{-bX} / Gamma(a), in radiation lengths X, and the rest of the shower a
profile of the same form in interaction lengths; w_1 is the part before the end of the first
layer, w_2 the remainder. A Gaussian about the parton's direction spreads the hits over the cells,
g_c. Partons beyond the detector's ends are lost. Energies are in GeV.

References:
    | Monte Carlo calculation of photon-initiated electromagnetic showers in lead glass (Longo,
      Sestili, 1975)
    | https://doi.org/10.1016/0029-554X(75)90679-5
    | Parametrization of the longitudinal development of hadronic showers in sampling calorimeters
      (Bock, Hansl-Kozanecka, Shah, 1981)
    | https://doi.org/10.1016/0029-554X(81)90539-1
"""

from __future__ import annotations

__all__ = ["Calorimeter"]

from dataclasses import dataclass

import numpy as np
from numpy import ndarray as Array
from scipy.special import gammainc


@dataclass(frozen=True)
class Calorimeter:
    """Geometry and resolution.

    Arguments:
        pixels: Cells along eta and along phi.
        eta_max: The detector covers |eta| < eta_max.
        hit: epsilon, the energy of one hit, GeV.
        stochastic: A, GeV^(1/2).
        constant: B.
        noise: s, of each cell, GeV.
        spread: The lateral width of a shower in eta and phi, in the first and the second layer.
        radiation: Depth of the first layer in radiation lengths.
        interaction: The same in interaction lengths.
        critical: The critical energy, GeV.
        angle: The resolution of a parton's direction when it is measured alone, rad.
    """

    pixels: int = 32
    eta_max: float = 3.0
    hit: float = 0.25
    stochastic: float = 0.5
    constant: float = 0.03
    noise: float = 0.05
    spread: tuple[float, float] = (0.05, 0.12)
    radiation: float = 20.0
    interaction: float = 1.0
    critical: float = 0.0075
    angle: float = 0.02

    def resolution(self, energy: Array) -> Array:
        """sigma_E / E without the noise, at an energy in GeV."""
        return np.sqrt(self.stochastic**2 / energy + self.constant**2)

    def first_layer(self, energy: Array, em_fraction: Array) -> Array:
        """The share of a shower's energy that the first layer sees.

        Arguments:
            energy: Of the parton, GeV.
            em_fraction: f, both broadcast.
        """
        em = np.log(np.maximum(em_fraction * energy / self.critical, 1.0))
        had = np.log(np.maximum((1 - em_fraction) * energy, 1.0))
        # the maximum of the electromagnetic profile is at ln(E / E_c) - 1/2, with b = 1/2
        shape = 1 + np.maximum(em - 0.5, 0.0) / 2
        share_em = gammainc(shape, self.radiation / 2)
        share_had = gammainc(0.62 + 0.32 * had, (0.91 - 0.024 * had) * self.interaction)
        return np.asarray(em_fraction * share_em + (1 - em_fraction) * share_had)

    def deposit(self, momenta: Array, counts: Array, rng: np.random.Generator) -> Array:
        """Draws the hits in each cell, (n, 2, pixels, pixels), whole numbers.

        Arguments:
            momenta: (px, py, pz, E) of the partons, GeV, (n, K, 4), massless.
            counts: How many there are in each event, (n,).
            rng: The source of randomness.
        """
        n, slots = momenta.shape[:2]
        event, slot = np.nonzero(np.arange(slots) < counts[:, None])
        px, py, pz, energy = momenta[event, slot].T
        fraction = rng.beta(2.0, 3.0, len(energy))
        first = self.first_layer(energy, fraction)
        mean = np.stack([first, 1 - first], -1) * (energy / self.hit)[:, None]
        hits = rng.poisson(mean).ravel()
        eta = np.arcsinh(pz / np.maximum(np.hypot(px, py), 1e-12))
        width = np.repeat(np.tile(self.spread, len(energy)), hits)
        offset = rng.standard_normal((2, len(width)), dtype=np.float32) * width
        eta, phi = (np.repeat(np.repeat(v, 2), hits) for v in (eta, np.arctan2(py, px)))
        row = np.floor((eta + offset[0] + self.eta_max) * (self.pixels / (2 * self.eta_max)))
        column = np.floor((phi + offset[1]) * (self.pixels / (2 * np.pi))) % self.pixels
        plane = np.repeat(2 * np.repeat(event, 2) + np.tile([0, 1], len(energy)), hits)
        inside = (row >= 0) & (row < self.pixels)
        cell = (plane[inside] * self.pixels + row[inside].astype(int)) * self.pixels
        cell += column[inside].astype(int)
        size = n * 2 * self.pixels**2
        hits = np.bincount(cell, minlength=size).astype(np.int32)
        return hits.reshape(n, 2, self.pixels, self.pixels)

    def image(self, hits: Array, rng: np.random.Generator) -> Array:
        """Draws the cells' energies in GeV, float32, given their hits of any shape."""
        energy = np.float32(self.hit) * np.asarray(hits, dtype=np.float32)
        variance = self.stochastic**2 * energy + (self.constant * energy) ** 2 + self.noise**2
        return energy + np.sqrt(variance) * rng.standard_normal(energy.shape, dtype=np.float32)

    def measure(self, momenta: Array, rng: np.random.Generator) -> Array:
        """Draws what is seen of partons one by one: momenta (..., 3), zero where there is none.

        The energy's logarithm and the direction have Gaussian errors; cells play no part.

        Arguments:
            momenta: (px, py, pz, E), GeV, massless, (..., 4); zeros where there is none.
            rng: The source of randomness.
        """
        energy = momenta[..., 3:]
        sigma = self.resolution(np.maximum(energy, self.hit))
        scale = np.exp(sigma * rng.standard_normal(energy.shape))
        tilt = self.angle * energy * rng.standard_normal(momenta[..., :3].shape)
        moved = momenta[..., :3] + tilt
        norm = np.linalg.norm(moved, axis=-1, keepdims=True)
        return scale * energy * moved / np.where(norm > 0, norm, 1.0)
