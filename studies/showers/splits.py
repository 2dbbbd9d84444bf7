r"""A shower as splits: its energy into layers, a layer's into rings, a ring's into cells.

.. math::
    p = \frac{e - E}{\sqrt{E}}, \qquad
    \rho_k = \frac{h_k}{h_1 + \dots + h_{k-1}}, \qquad
    h_k = \max(e_k - e_{min}, 0), \qquad e = \sum_k e_k

The pull p of the whole energy has one width at all energies. Parts e_k are read as excesses h_k
over the threshold, and a ratio is zero exactly where a part is; the first that is not zero has
nothing before it, and one for a ratio. From a whole and its ratios the parts follow, have its sum
and are above the threshold, whatever the ratios are. What a split depends on is the state of its
whole: of a shower, its energy and profile; given these, of a layer and a ring, energy, age and
place.

References:
    | CaloFlow: Fast and Accurate Generation of Calorimeter Showers with Normalizing Flows
      (Krause and Shih, 2021), section III: energies first, then shares
    | https://arxiv.org/abs/2106.05285
"""

from __future__ import annotations

__all__ = [
    "LAYER_STATE",
    "RING_STATE",
    "SHOWER_STATE",
    "layer_states",
    "parts_of",
    "pull_of",
    "ratios_of",
    "ring_states",
    "shower_states",
    "whole_of",
]

import numpy as np
from numpy import ndarray as Array
from scipy.special import gammainc

from simulators.calorimeter import LAYERS, CalorimeterShower

DEPTH, THRESHOLD = CalorimeterShower().layer_depth, CalorimeterShower().threshold
SHOWER_STATE = ("log10_E", "angle", "T", "alpha", *(f"log10_odds_{i}" for i in range(LAYERS)))
"""Of a shower: theta, its profile, and log10 of each layer's expected energy over that of the
layers before."""
LAYER_STATE = (
    "log10_E",
    "log10_expected",
    "age",
    "log10_age",
    "offset",
    "log10_offset",
    "log10_layer",
)
"""Of a layer: log10 of the incident energy in GeV, and of the layer's expected one in MeV; its
depth over that of the maximum; the axis's distance from the centre, in X_0; log10 of its energy
in MeV."""
RING_STATE = (*LAYER_STATE[:-1], "log10_ring", "ring")
"""Of a ring: what its layer has, log10 of its own energy in MeV, and its number."""
_LEAST = 1e-6  # of an excess over the threshold, MeV
_NEAR = 0.1  # of an offset, X_0: about the radius of a shower's core


def pull_of(e: Array, E: Array) -> Array:
    """The pull (n,) of whole energies (n,) at incident energies (n,), MeV."""
    return (e - E) / np.sqrt(E)


def whole_of(pull: Array, E: Array) -> Array:
    """The inverse of `pull_of`; not below the threshold of a cell."""
    return np.maximum(E + np.sqrt(E) * pull, 1.01 * THRESHOLD)


def ratios_of(parts: Array) -> Array:
    """Ratios (n, K) of parts (n, K)."""
    excess = np.where(parts > 0, np.maximum(parts - THRESHOLD, _LEAST), 0)
    before = _before(excess)
    return np.where(before > 0, excess / np.where(before > 0, before, 1), excess > 0)


def parts_of(ratios: Array, whole: Array) -> Array:
    """Parts (n, K) of whole energies (n,), from ratios (n, K).

    Where the whole is too little for as many parts above the threshold, those of least excess are
    zero; where all ratios are zero, the first part has it all.
    """
    excess, total = np.zeros(ratios.shape), np.zeros(len(whole))
    for k, ratio in enumerate(ratios.T):
        excess[:, k] = np.where(total > 0, ratio * total, ratio > 0)
        total += excess[:, k]
    excess[total == 0, 0] = 1.0
    most = np.maximum(np.ceil(whole / THRESHOLD) - 1, 1)
    scarce = (excess > 0).sum(1) > most
    rank = (-excess[scarce]).argsort(1).argsort(1)
    excess[scarce] *= rank < most[scarce, None]
    floor = THRESHOLD * (excess > 0)
    rest = np.maximum(whole - floor.sum(1), 0)
    parts = floor + excess * (rest / excess.sum(1))[:, None]
    return parts * (whole / parts.sum(1))[:, None]


def _before(parts: Array) -> Array:
    """The sum of what is before each part (n, K)."""
    return np.concatenate([np.zeros_like(parts[:, :1]), parts.cumsum(1)[:, :-1]], 1)


def shower_states(theta: Array, profile: Array) -> Array:
    """The states of showers, (n, 28), of their parameters (n, 2) and profiles (n, 2)."""
    expected = _expected(theta, profile)
    before = _before(expected)
    before[:, 0] = expected.sum(1)
    return np.concatenate([theta, profile, np.log10(expected / before)], 1)


def _expected(theta: Array, profile: Array) -> Array:
    """The gamma profile's energies of layers (n, layers) in MeV, at parameters (n, 2) and shapes
    (n, 2), T and alpha.
    """
    T, alpha = profile.T[:, :, None]
    edges = DEPTH * np.arange(LAYERS + 1) / np.cos(np.radians(theta[:, 1:]))
    shares = np.diff(gammainc(alpha, (alpha - 1) / T * edges))
    return 1e3 * 10 ** theta[:, :1] * np.maximum(shares, 1e-12)


def layer_states(energies: Array, theta: Array, profile: Array) -> Array:
    """The state of each layer, (n, layers, 7), of their energies (n, layers) in MeV, and the
    showers' parameters (n, 2) and profiles (n, 2); of an empty layer it means nothing.
    """
    angle = np.radians(theta[:, 1:])
    depth = DEPTH * (np.arange(LAYERS) + 0.5) / np.cos(angle)
    age, offset = depth / profile[:, :1], depth * np.sin(angle)
    columns = [
        np.repeat(theta[:, :1], LAYERS, 1),
        np.log10(_expected(theta, profile)),
        age,
        np.log10(age),
        offset,
        np.log10(offset + _NEAR),
        np.log10(np.maximum(energies, THRESHOLD)),
    ]
    return np.stack(columns, -1)


def ring_states(rings: Array, state: Array) -> Array:
    """The state of each ring, (n, rings, 8), of their energies (n, rings) in MeV and the states
    of their layers (n, 7); of an empty ring it means nothing.
    """
    n, count = rings.shape
    own = [np.log10(np.maximum(rings, THRESHOLD)), np.tile(np.arange(count) + 0.5, (n, 1))]
    inherited = np.repeat(state[:, None, :-1], count, 1)
    return np.concatenate([inherited, np.stack(own, -1)], -1)
