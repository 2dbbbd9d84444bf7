r"""The parton shower: soft and collinear emissions as a Poisson process on the primary Lund plane.

.. math::
    \mathrm d\mu = 2 \, \frac{2 C_F}{\pi} \alpha(k_t) \, \mathrm d\ln k_t \, \mathrm d\eta,
        \qquad k_t > k_0, \quad 0 < \eta < \ln(m / k_t) + B_q \\
    \alpha(k_t) = \frac{a}{1 + b_0 a \ln(k_t^2 / m_Z^2)}, \qquad a = \alpha_s(m_Z)

The leading 2 counts the two hemispheres, folded onto eta > 0. There is no recoil and no splitting
of emitted gluons: the mean number of emissions, and with it the density of a shower, is a closed
form.

References:
    | The Lund Jet Plane (Dreyer, Salam, Soyez, 2018)
    | https://arxiv.org/abs/1807.04758
"""

from __future__ import annotations

__all__ = [
    "MAX_EMISSIONS",
    "POLE",
    "Emissions",
    "coupling",
    "draw",
    "log_prob",
    "mean",
    "mean_slope",
    "score",
    "sum_events",
]

from typing import NamedTuple

import numpy as np
from numpy import ndarray as Array

C_F, B_Q = 4 / 3, -3 / 4
B_0 = (33 - 2 * 5) / (12 * np.pi)
M_Z, K_0 = 91.188, 1.0
"""The mass of the Z, where alpha_s is quoted, and the cut-off in kt; GeV."""
RATE = 2 * 2 * C_F / np.pi
"""Emissions per unit of alpha, ln kt and eta, in both hemispheres."""
POLE = 1 / (2 * B_0 * np.log(M_Z / K_0))
"""The alpha_s(m_Z) that puts the Landau pole on the cut-off."""
MAX_EMISSIONS = 64


class Emissions(NamedTuple):
    """The emissions of n events, one event after another.

    Arguments:
        counts: How many each event has, (n,).
        ln_kt: ln(kt / GeV), (counts.sum(),).
        eta: (counts.sum(),).
    """

    counts: Array
    ln_kt: Array
    eta: Array


def sum_events(values: Array, counts: Array) -> Array:
    """Sums values (counts.sum(),) over the emissions of each event, (n,)."""
    event = np.repeat(np.arange(len(counts)), counts)
    return np.bincount(event, weights=values, minlength=len(counts))


def _triangle(m: Array, alpha_s: Array) -> tuple[Array, Array]:
    """T = ln(m / k_0) + B_q, the triangle's side, and D, how far ln k_0 is above the pole."""
    return np.log(m / K_0) + B_Q, 1 / (2 * B_0 * alpha_s) - np.log(M_Z / K_0)


def coupling(ln_kt: Array, alpha_s: Array) -> Array:
    """The running coupling alpha(kt) at ln(kt / GeV), given alpha_s(m_Z); both broadcast."""
    return alpha_s / (1 + 2 * B_0 * alpha_s * (ln_kt - np.log(M_Z)))


def mean(m: Array, alpha_s: Array) -> Array:
    r"""The mean number of emissions.

    .. math::
        \mu(m, a) = \frac{2 C_F}{\pi b_0} \left[ (T + D) \ln(1 + T / D) - T \right], \qquad
        T = \ln(m / k_0) + B_q, \quad D = \frac{1}{2 b_0 a} - \ln(m_Z / k_0)

    Arguments:
        m: Mass, GeV.
        alpha_s: alpha_s(m_Z), below `POLE`; both broadcast.
    """
    T, D = _triangle(m, alpha_s)
    return RATE / (2 * B_0) * ((T + D) * np.log1p(T / D) - T)


def mean_slope(m: Array, alpha_s: Array) -> Array:
    r"""The derivative of `mean` by alpha_s: (alpha / a)^2 integrated over the Lund plane.

    .. math::
        \frac{\partial \mu}{\partial a} = \frac{C_F}{\pi b_0^2 a^2}
        \left[ T / D - \ln(1 + T / D) \right]
    """
    T, D = _triangle(m, alpha_s)
    return RATE / (2 * B_0 * alpha_s) ** 2 * (T / D - np.log1p(T / D))


def log_prob(emissions: Emissions, m: Array, alpha_s: Array) -> Array:
    r"""The log-density of each event's emissions, (n,), relative to a unit Poisson measure.

    .. math::
        \sum_i \ln\left[ 2 \, \tfrac{2 C_F}{\pi} \alpha(k_{t,i}) \right] - \mu(m, a)

    Arguments:
        emissions: Of n events.
        m: Mass (n,), GeV.
        alpha_s: alpha_s(m_Z), (n,).
    """
    alpha = coupling(emissions.ln_kt, np.repeat(alpha_s, emissions.counts))
    return sum_events(np.log(RATE * alpha), emissions.counts) - mean(m, alpha_s)


def score(emissions: Emissions, m: Array, alpha_s: Array) -> Array:
    r"""The derivative of `log_prob` by alpha_s, (n,).

    .. math::
        \sum_i \alpha(k_{t,i}) / a^2 - \partial \mu / \partial a
    """
    alpha = coupling(emissions.ln_kt, np.repeat(alpha_s, emissions.counts))
    return sum_events(alpha, emissions.counts) / alpha_s**2 - mean_slope(m, alpha_s)


def draw(m: Array, alpha_s: Array, rng: np.random.Generator) -> Emissions:
    """Draws the emissions of n events, of float32 precision.

    A process of density alpha(kt) on the square around the Lund triangle, drawn by inverse CDF, is
    thinned to it.

    Arguments:
        m: Mass (n,), GeV.
        alpha_s: alpha_s(m_Z), (n,).
        rng: The source of randomness.

    Raises:
        ValueError: If an event has more emissions than `MAX_EMISSIONS`; none is ever dropped.
    """
    T, D = _triangle(m, alpha_s)
    log_ratio = np.log1p(T / D)
    proposed = rng.poisson(RATE / (2 * B_0) * T * log_ratio)
    event = np.repeat(np.arange(len(m)), proposed)
    above = D[event] * np.expm1(rng.random(len(event)) * log_ratio[event])
    T_event = T[event]
    eta = rng.random(len(event)) * T_event
    kept = eta < T_event - above
    counts = np.bincount(event[kept], minlength=len(m))
    if counts.max(initial=0) > MAX_EMISSIONS:
        worst = int(counts.argmax())
        raise ValueError(
            f"an event at m = {m[worst]:.0f} GeV and alpha_s = {alpha_s[worst]:.4f} has "
            f"{counts[worst]} emissions, and z_s holds {MAX_EMISSIONS}; dropping any would bias "
            "the score, so lower alpha_s"
        )
    ln_kt = np.log(K_0) + above[kept]
    return Emissions(
        counts, *(v.astype(np.float32).astype(np.float64) for v in (ln_kt, eta[kept]))
    )
