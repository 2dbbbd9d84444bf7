r"""The hard process: a pair of quarks, with a contact term in one helicity amplitude.

.. math::
    p(m, c \mid \epsilon) = \frac{(1 + \epsilon u^2)^2 (1 + c)^2 + (1 - c)^2}{u^3 \, N(\epsilon)},
        \qquad u = m / \mathrm{TeV}, \quad c = \cos\theta^* \\
    N(\epsilon) = \tfrac 8 3 \left[ 2 M_0 + 2 \epsilon M_2 + \epsilon^2 M_4 \right], \qquad
        M_k = \int u^{k - 3} \, \mathrm d u

The density is quadratic in eps: a mixture of three components, of which the interference is
negative for eps < 0.

References:
    | New Tests for Quark and Lepton Substructure (Eichten, Lane, Peskin, 1983)
    | https://doi.org/10.1103/PhysRevLett.50.811
"""

from __future__ import annotations

__all__ = ["M_HIGH", "M_LOW", "TEV", "draw", "log_norm", "log_norm_slope", "log_prob", "score"]

import numpy as np
from numpy import ndarray as Array

TEV = 1000.0
"""One TeV in GeV."""
M_LOW, M_HIGH = 200.0, 1000.0
"""The range of the mass m, GeV."""


def _moment(k: int) -> float:
    """M_k over the mass range."""
    low, high = M_LOW / TEV, M_HIGH / TEV
    return float(np.log(high / low)) if k == 2 else (high ** (k - 2) - low ** (k - 2)) / (k - 2)


M_0, M_2, M_4 = (_moment(k) for k in (0, 2, 4))


def log_norm(eps: Array) -> Array:
    """Log N(eps), with u as the integration variable."""
    return np.log(8 / 3 * (2 * M_0 + 2 * eps * M_2 + eps**2 * M_4))


def log_norm_slope(eps: Array) -> Array:
    """The derivative of `log_norm` by eps."""
    return (2 * M_2 + 2 * eps * M_4) / (2 * M_0 + 2 * eps * M_2 + eps**2 * M_4)


def log_prob(m: Array, c: Array, eps: Array) -> Array:
    """Log p(m, c | eps), a density in GeV and cos theta*; -inf outside the range.

    Arguments:
        m: Mass, GeV.
        c: cos theta*.
        eps: Strength of the contact term, TeV^-2; all broadcast.
    """
    u = m / TEV
    f = 1 + eps * u**2
    amplitude = (f * (1 + c)) ** 2 + (1 - c) ** 2
    log_total = log_norm(eps) + np.log(TEV)
    within = (m >= M_LOW) & (m <= M_HIGH) & (np.abs(c) <= 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(within, np.log(amplitude) - 3 * np.log(u) - log_total, -np.inf)


def score(m: Array, c: Array, eps: Array) -> Array:
    r"""The derivative of log p(m, c | eps) by eps, in TeV^2; arguments as of `log_prob`.

    .. math::
        \frac{2 u^2 f (1 + c)^2}{f^2 (1 + c)^2 + (1 - c)^2}
        - \frac{8}{3} \frac{2 M_2 + 2 \epsilon M_4}{N(\epsilon)}, \qquad f = 1 + \epsilon u^2
    """
    u2 = (m / TEV) ** 2
    f = 1 + eps * u2
    plus = f * (1 + c) ** 2
    return 2 * u2 * plus / (f * plus + (1 - c) ** 2) - log_norm_slope(eps)


def draw(eps: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draws m (GeV) and c, strictly inside their range and of float32 precision, each (n,).

    Given m, c comes from (1 + c)^2 or from (1 - c)^2, in proportion (1 + eps u^2)^2 : 1.

    Arguments:
        eps: (n,), TeV^-2, above -1.
        rng: The source of randomness.
    """
    m = _inside(_draw_mass(eps, rng), M_LOW, M_HIGH)
    f2 = (1 + eps * (m / TEV) ** 2) ** 2
    c = 2 * np.cbrt(rng.random(len(m))) - 1
    forward = rng.random(len(m)) * (1 + f2) < f2
    return m, _inside(np.where(forward, c, -c), -1.0, 1.0)


def _draw_mass(eps: Array, rng: np.random.Generator) -> Array:
    r"""Draws m (n,) by inverse CDF, by Newton's iteration in y = u^-2 for the root of

    .. math::
        G(y) = (y_1 - y) + \epsilon \ln(y_1 / y) + \tfrac 1 2 \epsilon^2 (1 / y - 1 / y_1) - U G_0,
        \qquad G'(y) = -\tfrac 1 2 \left[ 1 + (1 + \epsilon / y)^2 \right] .

    G is convex for eps > 0 and concave for -1 < eps < 0: from the end where G and its curvature
    have one sign, y_0 = u_1^-2 or y_1 = u_0^-2, the iteration runs monotonically into the root.
    """
    y_0, y_1 = (TEV / M_HIGH) ** 2, (TEV / M_LOW) ** 2
    half_square = eps**2 / 2
    total = (y_1 - y_0) + eps * np.log(y_1 / y_0) + half_square * (1 / y_0 - 1 / y_1)
    shift = y_1 + eps * np.log(y_1) - half_square / y_1 - rng.random(len(eps)) * total
    y = np.where(eps > 0, y_0, y_1)
    for _ in range(60):
        ratio = eps / y
        excess = shift - y - eps * np.log(y) + half_square / y
        step = excess / (1 + ratio + ratio**2 / 2)
        y = np.clip(y + step, y_0, y_1)
        if np.abs(step).max(initial=0.0) < 1e-9:
            break
    return TEV / np.sqrt(y)


def _inside(value: Array, low: float, high: float) -> Array:
    """Rounded to float32, strictly between the bounds, as float64."""
    inner = np.nextafter(np.array([low, high], np.float32), np.array([high, low], np.float32))
    return np.clip(value.astype(np.float32), *inner).astype(np.float64)
