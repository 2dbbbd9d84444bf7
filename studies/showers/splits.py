r"""A shower as splits: its energy into layers, a layer's into rings, a ring's into cells.

.. math::
    p = \frac{e - E}{\sqrt{E}}, \qquad
    \rho_k = \frac{e_k}{e_1 + \dots + e_{k-1} + \epsilon e}, \quad k = 2 \dots K, \qquad
    e = \sum_k e_k

The pull p of the whole energy has one width at all energies. A ratio is zero where a part is, and
positive without a bound else; from a whole and its ratios the parts follow from the last to the
first, and have its sum. What a split depends on is the state of its whole: the shower's energy,
its own, and where it lies in the shower.

References:
    | CaloFlow: Fast and Accurate Generation of Calorimeter Showers with Normalizing Flows
      (Krause and Shih, 2021), section III: energies first, then shares
    | https://arxiv.org/abs/2106.05285
"""

from __future__ import annotations

__all__ = [
    "LAYER_STATE",
    "RING_STATE",
    "layer_states",
    "parts_of",
    "pull_of",
    "ratios_of",
    "ring_states",
    "whole_of",
]

import numpy as np
from numpy import ndarray as Array

LAYER_STATE = ("log10_E", "log10_layer", "number", "age", "spread", "offset")
"""Of a layer: log10 of the incident energy in GeV and of its own in MeV, its depth, its depth
over the shower's mean depth, the shower's length, and the axis's distance from the centre."""
RING_STATE = (*LAYER_STATE, "log10_ring", "ring")
"""Of a ring: what its layer has, log10 of its own energy in MeV, and its number."""
_FIRST = 1e-4  # epsilon: the first part may be empty


def pull_of(e: Array, E: Array) -> Array:
    """The pull (n,) of whole energies (n,) at incident energies (n,), MeV."""
    return (e - E) / np.sqrt(E)


def whole_of(pull: Array, E: Array) -> Array:
    """The inverse of `pull_of`; not below zero."""
    return np.maximum(E + np.sqrt(E) * pull, 0)


def ratios_of(parts: Array) -> Array:
    """Ratios (n, K - 1) of parts (n, K), of which one at least is not zero."""
    before = parts.cumsum(1)[:, :-1] + _FIRST * parts.sum(1, keepdims=True)
    return parts[:, 1:] / before


def parts_of(ratios: Array, whole: Array, threshold: float = 0.0) -> Array:
    """Parts (n, K) of whole energies (n,), from ratios (n, K - 1).

    Arguments:
        ratios: Not negative.
        whole: What the parts sum to.
        threshold: What is not above it goes to the other parts, but for the largest.
    """
    left = whole.copy()
    parts = np.empty((len(whole), ratios.shape[1] + 1))
    for k in range(ratios.shape[1], 0, -1):
        ratio = ratios[:, k - 1]
        # left = before + ratio (before + epsilon whole)
        before = np.maximum(left - ratio * _FIRST * whole, 0) / (1 + ratio)
        parts[:, k], left = left - before, before
    parts[:, 0] = left
    parts[(parts <= threshold) & (parts < parts.max(1, keepdims=True))] = 0
    total = parts.sum(1)
    return parts * (whole / np.where(total > 0, total, 1))[:, None]


def layer_states(energies: Array, theta: Array) -> Array:
    """The state of each layer, (n, layers, 6), of their energies (n, layers) in MeV and the
    showers' parameters (n, 2); of an empty layer it means nothing.
    """
    n, layers = energies.shape
    number = np.arange(layers) + 0.5
    share = energies / np.maximum(energies.sum(1, keepdims=True), 1e-30)
    mean = np.maximum(share @ number, 0.5)
    spread = np.sqrt(np.maximum(share @ number**2 - mean**2, 0))
    columns = [
        np.repeat(theta[:, :1], layers, 1),
        np.log10(np.maximum(energies, 1e-3)),
        np.tile(number, (n, 1)),
        number / mean[:, None],
        np.repeat(spread[:, None], layers, 1),
        number * np.tan(np.radians(theta[:, 1:])),
    ]
    return np.stack(columns, -1)


def ring_states(rings: Array, state: Array) -> Array:
    """The state of each ring, (n, rings, 8), of their energies (n, rings) in MeV and the states
    of their layers (n, 6); of an empty ring it means nothing.
    """
    n, count = rings.shape
    own = np.stack(
        [np.log10(np.maximum(rings, 1e-3)), np.tile(np.arange(count) + 0.5, (n, 1))], -1
    )
    return np.concatenate([np.repeat(state[:, None], count, 1), own], -1)
