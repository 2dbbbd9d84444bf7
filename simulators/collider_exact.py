r"""The exact marginal of the collider chain: p(x | theta) of one event, x = (E, c_x, n, tau).

.. math::
    p(x \mid \epsilon, a) &=
        \frac{A_- I_0 + A_+ (I_0 + 2 \epsilon I_1 + \epsilon^2 I_2)}{N(\epsilon)} \\
    I_k(E, n, \tau; a) &= \int \mathrm d u \, u^{2 k - 3} \, p(E \mid m) \, p(n, \tau \mid m, a),
        \qquad u = m / \mathrm{TeV}

with :math:`A_\pm(c_x)` the smeared angular terms. The integrals over m are Gauss-Legendre sums in
ln m; they know nothing of eps, and as functions of alpha_s their logarithms are polynomials. So
each event becomes a few numbers once, and any number of theta are cheap afterwards. Against finer
tables log p moves by 1e-4 nats at most.
"""

from __future__ import annotations

__all__ = ["EventIntegrals", "ExactMarginal"]

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy import ndarray as Array

from . import contact
from .contact import M_HIGH, M_LOW, TEV
from .detector import Detector
from .shower_table import A_HIGH, A_LOW, ShowerTable

CHUNK = 1024
"""Events worked on at once: what fits a processor's cache is fastest."""


class EventIntegrals(NamedTuple):
    """What theta is compared with: of events with any leading shape (*B).

    Arguments:
        forward: A_+, (*B,).
        backward: A_-, (*B,).
        log_I: ln I_0, ln I_1 / I_0 and ln I_2 / I_0 at the nodes of alpha_s, (*B, nodes, 3).
        inside: Whether the event has a density at all, (*B,).
    """

    forward: Array
    backward: Array
    log_I: Array
    inside: Array


class ExactMarginal:
    """The density of x for one detector; its tables take half a second when first asked for.

    Arguments:
        detector: Its resolutions and its efficiency.
        nodes: Of the quadrature over m; by the detector's resolution unless said.
        table: The density of what is counted of a shower; the default one unless said.
    """

    def __init__(
        self, detector: Detector, nodes: int | None = None, table: ShowerTable | None = None
    ) -> None:
        self.detector = detector
        self.nodes = nodes or max(32, int(2 / detector.energy_width(np.array(M_HIGH))))
        self.table = table or ShowerTable(detector)

    @cached_property
    def _quadrature(self) -> tuple[Array, Array, Array]:
        """Of the nodes: m, ln(weight du) - 3 ln u, and 1, u^2, u^4 (nodes, 3)."""
        x, w = np.polynomial.legendre.leggauss(self.nodes)
        half = np.log(M_HIGH / M_LOW) / 2
        m = M_LOW * np.exp(half * (1 + x))
        u = m / TEV
        return m, np.log(half * w) - 2 * np.log(u), u[:, None] ** np.array([0, 2, 4])

    @cached_property
    def _to_nodes(self) -> Array:
        """From the table's masses to those of the quadrature, (masses, nodes)."""
        return self.table.masses.weights(np.log(self._quadrature[0])).T

    def integrals(self, x: Array) -> EventIntegrals:
        """What is needed of events x (*B, 4): two microseconds each.

        Raises:
            ValueError: If the last axis is not (E_vis, cos theta*, n_det, tau).
        """
        x = np.asarray(x, dtype=np.float64)
        if x.ndim < 1 or x.shape[-1] != 4:
            raise ValueError(
                f"x must be (..., 4): E_vis, cos_theta, n_det, tau; got shape {x.shape}"
            )
        energy, c_x, n, tau = x.reshape(-1, 4).T
        within = (energy > 0) & self.table.inside(n, tau)
        parts = [
            self._log_integrals(*(v[i : i + CHUNK] for v in (energy, n, tau)))
            for i in range(0, max(len(x.reshape(-1, 4)), 1), CHUNK)
        ]
        log_I = np.concatenate(parts)
        with np.errstate(over="ignore", under="ignore"):
            forward, backward = self.detector.smeared(c_x)
        within &= np.isfinite(log_I).all((1, 2)) & (forward + backward > 0)
        log_I = np.where(within[:, None, None], log_I, 0)
        return EventIntegrals(
            *(v.reshape((*x.shape[:-1], *v.shape[1:])) for v in (forward, backward, log_I, within))
        )

    def _log_integrals(self, energy: Array, n: Array, tau: Array) -> Array:
        """`EventIntegrals.log_I` of a chunk of events."""
        m, log_weight, powers = self._quadrature
        log_energy = self.detector.log_energy(energy[:, None], m) + log_weight
        log_p = self.table(n, tau) @ self._to_nodes + log_energy[:, None]
        peak = log_p.max((1, 2), keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            log_I = np.log(np.exp(log_p - peak) @ powers)
            log_I[..., 1:] -= log_I[..., :1]
            log_I[..., :1] += peak
        return log_I

    def log_prob(self, events: EventIntegrals, theta: Array) -> Array:
        """Log p(x | theta) of events (*B) at theta (*T, 2): shape broadcast(*B, *T).

        Raises:
            ValueError: If alpha_s is outside the tabulated range.
        """
        eps, a = _split(theta)
        log_0, I_1, I_2 = self._at(events, self.table.couplings.weights(a))
        total = events.backward + events.forward * (1 + eps * (2 * I_1 + eps * I_2))
        with np.errstate(divide="ignore", invalid="ignore"):
            log_p = log_0 + np.log(total) - contact.log_norm(eps)
        return np.where(events.inside, log_p, -np.inf)

    def score(self, events: EventIntegrals, theta: Array) -> Array:
        """The gradient of `log_prob` by theta, (*broadcast(*B, *T), 2); 0 where p is 0."""
        eps, a = _split(theta)
        _, I_1, I_2 = self._at(events, self.table.couplings.weights(a))
        by_a = np.einsum("...qk,...q->k...", events.log_I, self.table.couplings.slopes(a))
        total = events.backward + events.forward * (1 + eps * (2 * I_1 + eps * I_2))
        share = events.forward / np.where(events.inside, total, 1)
        by_eps = 2 * share * (I_1 + eps * I_2) - contact.log_norm_slope(eps)
        by_a = by_a[0] + share * eps * (2 * I_1 * by_a[1] + eps * I_2 * by_a[2])
        return np.where(events.inside[..., None], np.stack([by_eps, by_a], -1), 0)

    def _at(self, events: EventIntegrals, weights: Array) -> tuple[Array, Array, Array]:
        """Ln I_0, I_1 / I_0 and I_2 / I_0 by weights (..., nodes) of the nodes of alpha_s."""
        log_0, log_1, log_2 = np.einsum("...qk,...q->k...", events.log_I, weights)
        return log_0, np.exp(log_1), np.exp(log_2)

    def on_grid(self, events: EventIntegrals, eps: Array, alpha_s: Array) -> Array:
        """Log-likelihoods of sets (*B, k) of k events at eps (g,) and alpha_s (h,): (*B, g, h)."""
        *batch, k = events.inside.shape
        weights = self.table.couplings.weights(_split(np.stack([0 * alpha_s, alpha_s], -1))[1])
        flat = EventIntegrals(*(v.reshape(-1, k, *v.shape[len(batch) + 1 :]) for v in events))
        out = np.empty((len(flat.inside), len(eps), len(alpha_s)))
        for i, one in enumerate(zip(*flat)):
            log_0, I_1, I_2 = (
                v[None] for v in self._at(_with_axis(EventIntegrals(*one)), weights)
            )
            e, forward = eps[:, None, None], one[0][:, None]
            total = one[1][:, None] + forward * (1 + e * (2 * I_1 + e * I_2))
            log_p = np.log(total, out=total).sum(1) + log_0.sum(1)
            out[i] = log_p - k * contact.log_norm(eps)[:, None]
        out[~flat.inside.all(1)] = -np.inf
        return out.reshape(*batch, len(eps), len(alpha_s))

    def log_prob_given(self, x: Array, m: Array, c: Array, alpha_s: Array) -> Array:
        """Log p(x | z_p, alpha_s) of x (..., 4) at z_p = (m, c), which broadcast."""
        energy, c_x, n, tau = np.moveaxis(np.asarray(x, dtype=np.float64), -1, 0)
        shower = self.table.log_prob(n, tau, m, alpha_s)
        return self.detector.log_energy(energy, m) + self.detector.log_axis(c_x, c) + shower


def _with_axis(events: EventIntegrals) -> EventIntegrals:
    """With an axis for theta behind the events'."""
    return EventIntegrals(*(v[:, None] for v in events))


def _split(theta: Array) -> tuple[Array, Array]:
    """Eps and alpha_s (*T,) of theta (*T, 2)."""
    theta = np.asarray(theta, dtype=np.float64)
    a = theta[..., 1]
    # Parameters stored as float32 may lie past the range by a rounding.
    if not np.all((a >= A_LOW * (1 - 1e-6)) & (a <= A_HIGH * (1 + 1e-6))):
        raise ValueError(
            f"the exact density is tabulated for alpha_s from {A_LOW} to {A_HIGH}; got values "
            f"from {a.min()} to {a.max()}"
        )
    return theta[..., 0], a
