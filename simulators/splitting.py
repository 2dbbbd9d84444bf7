r"""Splittings of a dipole shower: kernels, their integrals, the next emission, its recoil.

An emitter i splits into i and j while its colour partner k takes the recoil. With s the squared
mass of the dipole, u the share of j, and the scaled transverse momentum kappa,

.. math::
    \mathrm d\Lambda = \frac{\mathrm dt}{t} \, \frac{\alpha(t)}{2 \pi} \, (1 - y) V(u, \kappa) \,
        \mathrm du \, \frac{\mathrm d\phi}{2 \pi}, \qquad
        t = k_t^2, \quad \kappa = \frac t s = y \, u (1 - u), \quad 0 < y < 1 \\
    V_{q \to qg} = C_F \left[ \frac{2u}{u^2 + \kappa} - 2 + u \right], \qquad
    V_{g \to gg} = C_A \left[ \frac{u}{u^2 + \kappa} - 1 + \frac{u (1 - u)}{2} \right], \qquad
    V_{g \to q \bar q} = \tfrac 1 2 n_f T_R \left[ 1 - 2u (1 - u) \right]

which are the kernels of Catani and Seymour, a gluon's halved between its two dipoles:
u / (u^2 + kappa) = 1 / (1 - z (1 - y)) with z = 1 - u. With kappa = 1 / (4 cosh^2 x) the integral
over u is elementary in x, half the range of rapidity; that over t is by Gauss-Legendre in x.

References:
    | A general algorithm for calculating jet cross sections in NLO QCD (Catani, Seymour, 1996)
    | https://arxiv.org/abs/hep-ph/9605323 (equations 5.3 to 5.9)
    | Introduction to parton-shower event generators (Höche, 2014)
    | https://arxiv.org/abs/1411.4085
"""

from __future__ import annotations

__all__ = [
    "G_GG",
    "G_QQ",
    "Q_QG",
    "Splitting",
    "hazard",
    "kernel",
    "next_splitting",
    "pole",
    "rate",
    "recoil",
]

from typing import NamedTuple

import numpy as np
from numpy import ndarray as Array

from .lund import B_0, C_F, M_Z, coupling

C_A, T_R, N_F = 3.0, 0.5, 5
Q_QG, G_GG, G_QQ = 0, 1, 2
"""Kinds of splitting: q to q g, g to g g, g to q qbar."""
_INTEGRALS = np.array(
    [
        np.array([2, -3 / 2, 0, 6, -2]) * C_F,
        np.array([1, -11 / 12, -1 / 3, 4, -1]) * C_A,
        np.array([0, 2 / 3, 4 / 3, -4, 0]) * N_F * T_R / 2,
    ]
)
"""The integral of (1 - y) V over u, by kind, in the functions of x that `_basis` lists."""
_PER_END = np.stack([_INTEGRALS[Q_QG], _INTEGRALS[G_GG] + _INTEGRALS[G_QQ]])
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_LARGEST_Y = 1 - 1e-6
"""Rounding of u and t may take y beyond 1; the spectator keeps a millionth of its momentum."""
_PROPOSALS = 8


class Splitting(NamedTuple):
    """The next splitting of each of n events; all (n,).

    Arguments:
        ln_kt: ln(kt / GeV).
        u: The share of the emitted parton.
        phi: Its azimuth about the dipole.
        kind: `Q_QG`, `G_GG` or `G_QQ`.
        pair: Which dipole radiates, -1 where nothing happens above the cut-off.
        side: Whether its left (0) or its right (1) end is the emitter.
    """

    ln_kt: Array
    u: Array
    phi: Array
    kind: Array
    pair: Array
    side: Array


def pole(cutoff: float) -> float:
    """The alpha_s(m_Z) that puts the Landau pole on the cut-off in kt, GeV; inf above m_Z."""
    return float(1 / (2 * B_0 * np.log(M_Z / cutoff))) if cutoff < M_Z else float("inf")


def kernel(kind: Array, u: Array, kappa: Array) -> Array:
    """(1 - y) V(u, kappa) of a kind of splitting; zero outside the phase space; all broadcast."""
    shared = u * (1 - u)
    soft = u / (u**2 + kappa)
    value = np.where(kind == G_GG, C_A * (soft - 1 + shared / 2), C_F * (2 * soft - 2 + u))
    value = np.where(kind == G_QQ, N_F * T_R / 2 * (1 - 2 * shared), value)
    return np.where(shared > kappa, (1 - kappa / np.maximum(shared, kappa)) * value, 0.0)


def _half_range(s: Array, ln_t: Array | float) -> Array:
    """x with kappa = 1 / (4 cosh^2 x), zero where t > s / 4: u runs over (1 -+ tanh x) / 2."""
    return np.arccosh(np.maximum(np.sqrt(s * np.exp(-ln_t)) / 2, 1.0))


def _basis(x: Array) -> Array:
    r"""(..., 5): with r = tanh x and gd(x) = arctan sinh x, the Gudermannian,

    .. math::
        x, \quad r, \quad \kappa r, \quad \kappa x, \quad
        \frac{3 \kappa x + \sqrt\kappa \, \mathrm{gd}(x)}{1 + \kappa}
    """
    r, root = np.tanh(x), 0.5 / np.cosh(x)
    kappa = root**2
    last = (3 * kappa * x + root * np.arctan(np.sinh(x))) / (1 + kappa)
    return np.stack([x, r, kappa * r, kappa * x, last], -1)


def rate(kind: int, s: Array, ln_t: Array | float) -> Array:
    """The integral over u of (1 - y) V, of one end of a dipole of squared mass s, at ln t."""
    return np.asarray(_basis(_half_range(s, ln_t)) @ _INTEGRALS[kind])


def hazard(
    s: Array, quarks: Array, ln_t_high: Array, ln_t_low: Array, alpha_s: Array
) -> tuple[Array, Array]:
    r"""The expected number of splittings of dipoles between two scales, and its slope by alpha_s.

    .. math::
        \Lambda = \int \frac{\alpha}{2 \pi} F(x) \, 2 \tanh x \, \mathrm dx, \qquad
        \frac{\partial \Lambda}{\partial a}
        = \int \frac{\alpha^2}{a^2} \frac{F(x)}{2 \pi} \, 2 \tanh x \, \mathrm dx

    F sums the kernels' integrals over both ends; dt / t = -2 tanh x dx.

    Arguments:
        s: Squared masses of m dipoles, GeV^2, (m,).
        quarks: How many of their two ends are quarks, (m,).
        ln_t_high: ln(kt^2 / GeV^2) where the evolution begins, (m,).
        ln_t_low: And where it ends, (m,).
        alpha_s: alpha_s(m_Z), (m,).
    """
    low, high = _half_range(s, ln_t_high), _half_range(s, ln_t_low)
    half = (high - low)[:, None] / 2
    x = low[:, None] + half * (_NODES + 1)
    ends = quarks[:, None] * _PER_END[0] + (2 - quarks)[:, None] * _PER_END[1]
    F = np.einsum("mkb,mb->mk", _basis(x), ends)
    # where nothing radiates, s / 4 < t_low: keep clear of the Landau pole
    ln_t = np.log(np.maximum(s, 1e-300))[:, None] - 2 * np.log(2 * np.cosh(x))
    alpha = coupling(np.maximum(ln_t, ln_t_low[:, None]) / 2, alpha_s[:, None])
    measure = half / np.pi * _WEIGHTS * np.tanh(x) * F
    return (measure * alpha).sum(1), (measure * alpha**2).sum(1) / alpha_s**2


def next_splitting(
    s: Array, gluon: Array, ln_t: Array, alpha_s: Array, cutoff: float, rng: np.random.Generator
) -> Splitting:
    r"""Draws the next splitting of n events by the veto algorithm, of float32 precision.

    The kernels are overestimated by C u / (u^2 + kappa_0), kappa_0 = t_0 / s at the cut-off,
    with C = 2 C_F or C_A, and by n_f T_R / 2. Their integrals over u don't depend on t, so that in
    the running coupling the next proposal is a closed form,

    .. math::
        \ln \frac{t'}{\Lambda^2} = \ln \frac t {\Lambda^2} \, U^{2 \pi b_0 / W},

    W being the sum over all ends; one that kernel / overestimate rejects lowers t and is
    forgotten. Eight in a row are proposed at once, and the first that is accepted counts.

    Arguments:
        s: Squared masses of the dipoles, GeV^2, zero where there is none, (n, pairs).
        gluon: Which partons are gluons, (n, pairs + 1).
        ln_t: ln(kt^2 / GeV^2) of the previous splitting, (n,).
        alpha_s: alpha_s(m_Z), (n,).
        cutoff: The smallest kt, GeV.
        rng: The source of randomness.
    """
    ln_cut = float(2 * np.log(cutoff))
    x = _half_range(s, ln_cut)
    ends = np.stack([gluon[:, :-1], gluon[:, 1:]], -1)
    emit = np.where(ends, C_A, 2 * C_F) * x[..., None]
    pairs = ends * (N_F * T_R / 2 * np.tanh(x))[..., None]
    cumulative = np.stack([emit, pairs], -1).reshape(len(s), -1).cumsum(1)
    total = cumulative[:, -1]
    ln_pole = 2 * np.log(M_Z) - 1 / (B_0 * alpha_s)
    above = ln_t - ln_pole
    out = Splitting(*np.full((3, len(s)), np.nan), *np.full((3, len(s)), -1))
    rows = np.flatnonzero(total > 0)
    while len(rows):
        shape = (len(rows), _PROPOSALS)
        steps = rng.exponential(size=shape).cumsum(1) * (2 * np.pi * B_0 / total[rows, None])
        proposed = above[rows, None] * np.exp(-steps)
        above[rows] = proposed[:, -1]
        ln_t_new = proposed + ln_pole[rows, None]
        aim = rng.random(shape) * total[rows, None]
        end = (cumulative[rows, None] <= aim[..., None]).sum(-1)
        pair, side, quarks = end // 4, end // 2 % 2, end % 2 == 1
        event = rows[:, None]
        kind = np.where(quarks, G_QQ, np.where(ends[event, pair, side], G_GG, Q_QG))
        s_pair = s[event, pair]
        kappa_cut = np.exp(ln_cut) / s_pair
        u = _draw_share(quarks, x[event, pair], kappa_cut, rng.random(shape))
        bound = np.where(kind == G_GG, C_A, 2 * C_F) * u / (u**2 + kappa_cut)
        bound = np.where(quarks, N_F * T_R / 2, bound)
        accepted = rng.random(shape) * bound < kernel(kind, u, np.exp(ln_t_new) / s_pair)
        over = ln_t_new < ln_cut
        stop = accepted | over
        first, stopped = stop.argmax(1), stop.any(1)
        found = np.flatnonzero(stopped & ~over[np.arange(len(rows)), first])
        at = found, first[found]
        phi = 2 * np.pi * rng.random(len(found))
        for column, value in zip(out[:3], (ln_t_new[at] / 2, u[at], phi)):
            column[rows[found]] = value.astype(np.float32)
        for whole, index in zip(out[3:], (kind[at], pair[at], side[at])):
            whole[rows[found]] = index
        rows = rows[~stopped]
    return out


def _draw_share(quarks: Array, x: Array, kappa: Array, uniform: Array) -> Array:
    """Draws u between (1 -+ tanh x) / 2, from u / (u^2 + kappa) or, for g to q qbar, uniform."""
    low = 1 / (1 + np.exp(2 * x))
    soft = np.sqrt(np.maximum(low * np.exp(2 * x * uniform) - kappa, low**2))
    return np.where(quarks, low + np.tanh(x) * uniform, soft)


def recoil(
    p_i: Array, p_k: Array, ln_kt: Array, u: Array, phi: Array
) -> tuple[Array, Array, Array]:
    r"""The momenta after a splitting: of the emitter, the emitted parton and the spectator.

    .. math::
        p_i' = (1 - u) p_i + y u \, p_k + k_\perp, \qquad
        p_j = u \, p_i + y (1 - u) p_k - k_\perp, \qquad
        p_k' = (1 - y) p_k

    All stay massless and their sum is conserved.

    Arguments:
        p_i: (px, py, pz, E) of the emitter, massless, (n, 4).
        p_k: Of the spectator, massless, (n, 4).
        ln_kt: ln(kt / GeV), (n,).
        u: Share of the emitted parton, (n,).
        phi: Azimuth in the dipole's rest frame, (n,).

    References:
        | A general algorithm for calculating jet cross sections in NLO QCD (Catani, Seymour, 1996)
        | https://arxiv.org/abs/hep-ph/9605323 (equations 5.3 to 5.6)
    """
    total = p_i + p_k
    s = 2 * (p_i[:, 3] * p_k[:, 3] - (p_i[:, :3] * p_k[:, :3]).sum(1))
    y = np.minimum(np.exp(2 * ln_kt) / (s * u * (1 - u)), _LARGEST_Y)
    k_perp = np.sqrt(s * y * u * (1 - u))[:, None] * _transverse(p_i, total, np.sqrt(s), phi)
    y, u = y[:, None], u[:, None]
    p_j = u * p_i + y * (1 - u) * p_k - k_perp
    p_spectator = (1 - y) * p_k
    return total - p_j - p_spectator, p_j, p_spectator


def _transverse(p: Array, total: Array, mass: Array, phi: Array) -> Array:
    """Spacelike unit vectors (n, 4) orthogonal to p and total: across p in total's rest frame."""
    P, energy = total[:, :3], total[:, 3] + mass
    back = ((P * p[:, :3]).sum(1) / energy - p[:, 3]) / mass
    n = p[:, :3] + back[:, None] * P
    e = _across(n / np.linalg.norm(n, axis=1, keepdims=True), phi)
    time = (P * e).sum(1) / mass
    return np.concatenate([e + (time / energy)[:, None] * P, time[:, None]], axis=1)


def _across(n: Array, phi: Array) -> Array:
    """Unit vectors (m, 3) perpendicular to n (m, 3) at azimuth phi (m,).

    References:
        | Building an orthonormal basis, revisited (Duff et al., 2017)
        | https://jcgt.org/published/0006/01/01/
    """
    a, b, c = n.T
    sign = np.copysign(1.0, c)
    d = -1 / (sign + c)
    e = a * b * d
    first = np.stack([1 + sign * a * a * d, sign * e, -sign * a], -1)
    second = np.stack([e, sign + b * b * d, -b], -1)
    return np.cos(phi)[:, None] * first + np.sin(phi)[:, None] * second
