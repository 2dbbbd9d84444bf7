r"""What is counted of a shower: the joint density of n_det and tau, a compound Poisson law.

.. math::
    \nu(s) = \int \mathrm d\mu \, e^{i s f}, \quad f = \frac{k_t}{m} e^{-\eta}, \qquad
    p(n, \tau \mid m, a) = \int \frac{\mathrm d s}{2 \pi} \, e^{-i s \tau - s^2 s_\tau^2 / 2} \,
        e^{(1 - e)(\nu(s) - \mu) - e \mu} \frac{(e \, \nu(s))^n}{n!}

for counting efficiency e and tau measured with resolution s_tau. In y = ln f the Lund plane is a
line, of density

.. math::
    R(y) = \frac{2 C_F}{\pi b_0} \ln \frac{1 + 2 b_0 a [v_1 + \ln(m / m_Z)]}
        {1 + 2 b_0 a [v_0 + \ln(m / m_Z)]}, \qquad
    v_0 = \max(y, -\ln(m / k_0)), \quad v_1 = (y + B_q) / 2 .

The integral over s is a fast Fourier transform for each n, m and a. Its logarithm is kept as a
cubic spline in tau at Chebyshev nodes of ln m and a: between them it is a polynomial, good to
better than 1e-4. A density below 1e-11 of its peak in tau is lost to rounding.
"""

from __future__ import annotations

__all__ = ["A_HIGH", "A_LOW", "ChebyshevNodes", "ShowerTable"]

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy import ndarray as Array
from numpy.polynomial import chebyshev
from scipy.ndimage import spline_filter1d
from scipy.special import gammaln, roots_legendre
from scipy.stats import poisson

from . import lund
from .contact import M_HIGH, M_LOW
from .detector import Detector

A_LOW, A_HIGH = 0.10, 0.14
"""The range of alpha_s that is tabulated."""
FLOOR = 1e-13


@dataclass(frozen=True)
class ChebyshevNodes:
    """Interpolation by a polynomial through `size` Chebyshev nodes of [low, high]."""

    low: float
    high: float
    size: int

    @property
    def points(self) -> Array:
        """The nodes, (size,)."""
        middle, half = (self.high + self.low) / 2, (self.high - self.low) / 2
        return middle + half * chebyshev.chebpts1(self.size)

    @cached_property
    def _inverse(self) -> Array:
        return np.linalg.inv(chebyshev.chebvander(chebyshev.chebpts1(self.size), self.size - 1))

    def _scaled(self, x: Array) -> Array:
        return (2 * np.asarray(x) - self.low - self.high) / (self.high - self.low)

    def weights(self, x: Array) -> Array:
        """The weights (..., size) that make of values at the nodes the value at x (...)."""
        scaled = self._scaled(x)  # of which chebvander gives a single number an axis
        vander = chebyshev.chebvander(scaled, self.size - 1).reshape((*scaled.shape, self.size))
        return vander @ self._inverse

    def slopes(self, x: Array) -> Array:
        """The derivative of `weights` by x."""
        derivative = chebyshev.chebder(np.eye(self.size))
        values = np.moveaxis(chebyshev.chebval(self._scaled(x), derivative), 0, -1)
        return values @ self._inverse * (2 / (self.high - self.low))


class ShowerTable:
    """Log p(n, tau | m, alpha_s) for one detector, tabulated in about a second when made.

    Arguments:
        detector: Its efficiency and its resolution of tau are used.
        masses: Nodes in ln m.
        couplings: Nodes in alpha_s.
        fineness: Cells of the grid in tau per standard deviation of its resolution.
        span: Largest tau in the table.
    """

    def __init__(
        self,
        detector: Detector,
        masses: int = 8,
        couplings: int = 7,
        fineness: float = 3.0,
        span: float = 1.5,
    ) -> None:
        self.detector = detector
        self.masses = ChebyshevNodes(np.log(M_LOW), np.log(M_HIGH), masses)
        self.couplings = ChebyshevNodes(A_LOW, A_HIGH, couplings)
        self.step = detector.thrust / fineness
        self.before = round(6 * fineness)
        """Cells of the table below tau = 0."""
        self.cells = self.before + int(np.ceil(span / self.step))
        most = detector.efficiency * lund.mean(np.array(M_HIGH), np.array(A_HIGH))
        self.most = int(poisson.isf(1e-12, most))
        """The largest n in the table; more have a probability below 1e-12."""
        log_p = np.stack([self._build(m) for m in np.exp(self.masses.points)], -1)
        self._splines = spline_filter1d(log_p, order=3, axis=1, mode="mirror")

    def _build(self, m: float) -> Array:
        """Log p(n, tau | m, a) at the nodes of a: (n, cells, couplings)."""
        size = 2 ** int(np.ceil(np.log2(1.3 * self.cells)))
        s = 2 * np.pi * np.fft.rfftfreq(size, self.step)
        a = self.couplings.points
        nu, mu = _fourier(m, a, s), lund.mean(np.array(m), a)
        e = self.detector.efficiency
        smooth = 1j * s * self.before * self.step - (s * self.detector.thrust) ** 2 / 2
        phi = np.exp((1 - e) * (nu - mu) + smooth[:, None])  # of tau given n = 0, then given n
        rows = []
        for n in range(self.most + 1):
            p = np.fft.irfft(phi.conj(), size, axis=0)[: self.cells]
            log_p = np.log(np.maximum(p, FLOOR * p.max(0)) / self.step)
            rows.append(log_p + n * np.log(e * mu) - e * mu - gammaln(n + 1))
            phi *= nu / mu
        return np.stack(rows)

    def inside(self, n: Array, tau: Array) -> Array:
        """Whether (n, tau) lies in the table; outside, its density is below 1e-9 of the peak."""
        place = tau / self.step + self.before
        whole = (n == np.floor(n)) & (n >= 0) & (n <= self.most)
        return whole & (place >= 1) & (place < self.cells - 2)

    def __call__(self, n: Array, tau: Array) -> Array:
        """Log p(n, tau | m, alpha_s) at the nodes, (k, couplings, masses).

        Arguments:
            n: Emissions that were counted, (k,).
            tau: As measured, (k,). What is not `inside` is moved there.
        """
        place = np.clip(np.nan_to_num(tau) / self.step + self.before, 1, self.cells - 2.001)
        cell = place.astype(int)
        u = place - cell
        weights = np.stack(
            [(1 - u) ** 3, 4 - 6 * u**2 + 3 * u**3, 1 + 3 * u + 3 * u**2 - 3 * u**3, u**3], -1
        )
        rows = np.clip(np.nan_to_num(n), 0, self.most).astype(int)
        near = self._windows[rows, cell - 1]
        return np.einsum("ki,kiqj->kqj", weights / 6, near, optimize=False)

    def log_prob(self, n: Array, tau: Array, m: Array, alpha_s: Array) -> Array:
        """Log p(n, tau | m, alpha_s), all broadcasting; -inf outside the table."""
        n, tau = np.broadcast_arrays(n, tau)
        at_nodes = self(n.ravel(), tau.ravel())
        at_nodes = at_nodes.reshape((*n.shape, *at_nodes.shape[1:]))
        at_masses = np.einsum("...qj,...q->...j", at_nodes, self.couplings.weights(alpha_s))
        log_p = np.einsum("...j,...j->...", at_masses, self.masses.weights(np.log(m)))
        return np.where(self.inside(n, tau), log_p, -np.inf)

    @cached_property
    def _windows(self) -> Array:
        """The splines' coefficients in windows of four cells, (n, cells - 3, 4, ...): a view."""
        view = np.lib.stride_tricks.sliding_window_view(self._splines, 4, axis=1)
        return np.moveaxis(view, -1, 2)


@cache
def _legendre(size: int) -> tuple[Array, Array]:
    return roots_legendre(size)


def _fourier(m: float, a: Array, s: Array) -> Array:
    """nu(s) of the Lund plane, (s, a), by quadrature in y = ln f on either side of its kink."""
    log_m = np.log(m / lund.K_0)
    edges = [-2 * log_m - lund.B_Q, -log_m, lund.B_Q]
    # Enough nodes for the phase s f, which turns fastest at the largest f.
    sizes = [60, 60 + int(s[-1] * np.exp(lund.B_Q))]
    total = np.zeros((len(s), len(a)), dtype=complex)
    for low, high, size in zip(edges, edges[1:], sizes):
        x, w = _legendre(size)
        y = (low + high) / 2 + (high - low) / 2 * x
        v = np.stack([np.maximum(y, -log_m), (y + lund.B_Q) / 2])
        log_kt = v[..., None] + np.log(m)
        running = np.log(a / lund.coupling(log_kt, a))
        rate = lund.RATE / (2 * lund.B_0) * (running[1] - running[0])
        total += np.exp(1j * np.outer(s, np.exp(y))) @ (w[:, None] * (high - low) / 2 * rate)
    return total
