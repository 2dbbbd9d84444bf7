import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binomtest, chisquare, kstest

from simulators import splitting
from simulators.lund import coupling
from simulators.splitting import G_GG, G_QQ, Q_QG

C_F, C_A, T_R, N_F = 4 / 3, 3, 0.5, 5
KINDS = (Q_QG, G_GG, G_QQ)


def dipoles(n, seed=0):
    """Massless momenta of pairs, many of them nearly parallel, and how they split."""
    rng = np.random.default_rng(seed)
    axis = rng.standard_normal((n, 3))
    other = axis + rng.standard_normal((n, 3)) * 10 ** rng.uniform(-1.5, 1, (n, 1))
    energies = 10 ** rng.uniform(0, 2, (2, n, 1))
    p_i, p_k = (
        e * np.concatenate([a / np.linalg.norm(a, axis=1, keepdims=True), np.ones((n, 1))], 1)
        for e, a in zip(energies, (axis, other))
    )
    u, y, phi = rng.uniform(0.01, 0.99, n), rng.uniform(1e-3, 0.99, n), rng.uniform(0, 6.28, n)
    return p_i, p_k, u, y, phi


def dot(p, q):
    return p[:, 3] * q[:, 3] - (p[:, :3] * q[:, :3]).sum(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("s, t", [(4.3, 1.0), (100.0, 1.3), (8315.0, 1.0), (1e6, 40.0)])
def test_rate_is_the_integral_of_the_kernel(kind, s, t):
    kappa = t / s
    r = np.sqrt(1 - 4 * kappa)
    exact = quad(
        lambda u: float(splitting.kernel(kind, u, kappa)),
        (1 - r) / 2,
        (1 + r) / 2,
        epsabs=0,
        epsrel=1e-10,
        limit=400,
    )[0]
    assert splitting.rate(kind, np.array(s), np.log(t)) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_lie_between_zero_and_their_overestimates(kind):
    kappa = 10 ** np.linspace(-5, np.log10(0.2499), 60)[:, None]
    r = np.sqrt(1 - 4 * kappa)
    u = (1 - r) / 2 + r * np.linspace(0, 1, 402)[1:-1]
    value = splitting.kernel(kind, u, kappa)
    soft = {Q_QG: 2 * C_F, G_GG: C_A}.get(kind)
    for cut in (1.0, 0.5, 0.01):  # the cut-off lies below t
        over = N_F * T_R / 2 if soft is None else soft * u / (u**2 + cut * kappa)
        assert (value <= over * (1 + 1e-12)).all()
    assert (value > 0).all()
    outside = np.concatenate([(1 - r) / 2 * 0.99, 1 - (1 - r) / 2 * 0.99])
    assert (splitting.kernel(kind, outside, np.tile(kappa, (2, 1))) == 0).all()


def test_collinear_limit_is_the_altarelli_parisi_kernels():
    """A gluon's kernel is shared between two dipoles; g to g g counts each final state once."""
    u, kappa = np.linspace(0.05, 0.95, 19), 1e-12
    z = 1 - u
    V = {kind: splitting.kernel(kind, u, kappa) for kind in KINDS}
    mirrored = splitting.kernel(G_GG, z, kappa)
    np.testing.assert_allclose(V[Q_QG], C_F * (1 + z**2) / u, rtol=1e-8)
    np.testing.assert_allclose(V[G_GG] + mirrored, C_A * (z / u + u / z + z * u), rtol=1e-8)
    np.testing.assert_allclose(2 * V[G_QQ], N_F * T_R * (z**2 + u**2), rtol=1e-8)


def test_first_emission_against_the_matrix_element_of_three_partons():
    r"""In Dalitz variables both ends add to (x_1^2 + x_2^2) / ((1 - x_1)(1 - x_2)) + regular.

    The remainder, (1 - x_1) / x_2 + (1 - x_2) / x_1, is what the kernels -(1 + z) in place of
    -(1 + x) leave. Momenta come from the recoil: kernel, phase space and kinematics agree.
    """
    rng = np.random.default_rng(3)
    n, E = 500, 45.0
    p = np.tile([[0, 0, E, E], [0, 0, -E, E]], (n, 1, 1)).astype(float)
    u, y, phi = rng.uniform(0.02, 0.98, n), rng.uniform(0.01, 0.95, n), rng.uniform(0, 6.28, n)
    ln_kt = np.log(4 * E**2 * y * u * (1 - u)) / 2
    p_1, p_3, p_2 = splitting.recoil(p[:, 0], p[:, 1], ln_kt, u, phi)
    x_1, x_2, x_3 = (q[:, 3] / E for q in (p_1, p_2, p_3))
    np.testing.assert_allclose(x_2, 1 - y, rtol=1e-12)

    def density(x_1, x_2):
        """Of the dipole where 2 is the spectator, by dx_1 dx_2 = (1 - y) dy dz."""
        y, z = 1 - x_2, (x_1 + x_2 - 1) / x_2
        kernel = splitting.kernel(Q_QG, 1 - z, y * z * (1 - z))
        return kernel / (1 - y) / y

    exact = (x_1**2 + x_2**2) / ((1 - x_1) * (1 - x_2)) + (1 - x_1) / x_2 + (1 - x_2) / x_1
    np.testing.assert_allclose(x_1 + x_2 + x_3, 2, rtol=1e-12)
    np.testing.assert_allclose(density(x_1, x_2) + density(x_2, x_1), C_F * exact, rtol=1e-7)


@pytest.mark.parametrize("alpha_s", [0.10, 0.14, 0.165])
@pytest.mark.parametrize("s, quarks", [(8315.0, 2), (8315.0, 0), (1e6, 1), (60.0, 1), (4.2, 0)])
def test_hazard_is_the_integral_over_the_evolution(alpha_s, s, quarks):
    def integrand(ln_t):
        gluon = splitting.rate(G_GG, s, ln_t) + splitting.rate(G_QQ, s, ln_t)
        total = quarks * splitting.rate(Q_QG, s, ln_t) + (2 - quarks) * gluon
        return coupling(ln_t / 2, alpha_s) / (2 * np.pi) * total

    top = np.log(s / 4)
    for high, low in ((top, 0.0), (0.6 * top, 0.3 * top), (top + 2, 0.5 * top)):
        exact = quad(integrand, low, min(high, top), epsabs=0, epsrel=1e-11, limit=400)[0]
        one = [np.array([v]) for v in (s, quarks, high, low)]
        found, slope = splitting.hazard(*one, np.array([alpha_s]))
        assert found[0] == pytest.approx(exact, rel=2e-6)
        h = 1e-5
        up, down = (splitting.hazard(*one, np.array([alpha_s + k * h]))[0][0] for k in (1, -1))
        assert slope[0] == pytest.approx((up - down) / (2 * h), rel=1e-5)


def test_a_dipole_too_light_never_radiates():
    s, ones = np.array([0.0, 1e-9, 3.99]), np.ones(3)
    mean, slope = splitting.hazard(s, 0 * ones, 9 * ones, 0 * ones, 0.14 * ones)
    assert (mean == 0).all() and (slope == 0).all()
    rng = np.random.default_rng(0)
    drawn = splitting.next_splitting(s[None], np.ones((1, 4), bool), ones[:1], ones[:1], 1.0, rng)
    assert drawn.pair[0] == -1


@pytest.mark.parametrize("gluons", [False, True])
@pytest.mark.parametrize("alpha_s", [0.10, 0.15])
def test_hardest_splitting_follows_the_sudakov_form(gluons, alpha_s):
    """P(t' < t) = exp(-Lambda(t)); u given t by its own integral; the kinds by their rates."""
    n, s = 30_000, 8315.0
    alpha, masses = np.full(n, alpha_s), np.full((n, 1), s)
    top = np.log(s / 4)
    rng = np.random.default_rng(5)
    is_gluon = np.full((n, 2), gluons)
    drawn = splitting.next_splitting(masses, is_gluon, np.full(n, top), alpha, 1.0, rng)
    found = drawn.pair == 0
    ln_t, u, kind = (v[found].astype(float) for v in (2 * drawn.ln_kt, drawn.u, drawn.kind))
    m = len(ln_t)
    quarks = np.full(m, 0 if gluons else 2)
    to_t = splitting.hazard(masses[:m, 0], quarks, np.full(m, top), ln_t, alpha[:m])[0]
    to_cut = splitting.hazard(masses[:1, 0], quarks[:1], np.array([top]), np.zeros(1), alpha[:1])
    none = float(np.exp(-to_cut[0][0]))
    assert binomtest(n - m, n, none).pvalue > 1e-3
    assert kstest(-np.expm1(-to_t) / (1 - none), "uniform").pvalue > 1e-3
    assert kstest(-np.expm1(-1.12 * to_t) / (1 - none**1.12), "uniform").pvalue < 1e-4
    assert binomtest(int(drawn.side[found].sum()), m).pvalue > 1e-3
    assert kstest(drawn.phi[found], "uniform", (0, 2 * np.pi)).pvalue > 1e-3

    nodes, weights = np.polynomial.legendre.leggauss(48)
    kappa = np.exp(ln_t) / s
    low = np.log((1 - np.sqrt(1 - 4 * kappa)) / 2)
    half = (np.log(u) - low) / 2
    at = np.exp(low[:, None] + half[:, None] * (nodes + 1))
    part = (splitting.kernel(kind[:, None], at, kappa[:, None]) * at * weights).sum(1) * half
    whole = [splitting.rate(k, s, ln_t) for k in KINDS]
    share = part / np.choose(kind.astype(int), whole)
    for k in np.unique(kind):
        assert kstest(share[kind == k], "uniform").pvalue > 1e-3
    if gluons:
        expected = whole[G_QQ] / (whole[G_GG] + whole[G_QQ])
        excess = (kind == G_QQ) - expected
        assert abs(excess.sum()) < 4 * np.sqrt((expected * (1 - expected)).sum())


def test_the_dipoles_of_an_event_compete():
    """Which end radiates first, of a line q g qbar and a line q' qbar' beside it."""
    n, top = 40_000, 3.0
    s = np.array([300.0, 90.0, 0.0, 2000.0])
    gluon = np.array([False, True, False, False, False])
    alpha = np.full(n, 0.13)
    args = np.tile(s, (n, 1)), np.tile(gluon, (n, 1)), np.full(n, top), alpha
    drawn = splitting.next_splitting(*args, 1.5, np.random.default_rng(8))
    assert (np.nanmax(drawn.ln_kt) < top / 2) and (np.nanmin(drawn.ln_kt) > np.log(1.5))
    found = drawn.pair >= 0
    quarks = np.array([1, 1, 0, 2])
    ones = np.ones(4)
    total = splitting.hazard(s, quarks, top * ones, 2 * np.log(1.5) * ones, 0.13 * ones)[0].sum()
    assert binomtest(int((~found).sum()), n, float(np.exp(-total))).pvalue > 1e-3
    ln_t = 2 * drawn.ln_kt[found].astype(float)
    names, chances = [], []
    for pair in (0, 1, 3):
        for side in (0, 1):
            for kind in (G_GG, G_QQ) if gluon[pair + side] else (Q_QG,):
                names.append((pair, side, kind))
                chances.append(splitting.rate(kind, s[pair], ln_t))
    expected = (np.array(chances) / np.sum(chances, 0)).sum(1)
    keys = np.stack([drawn.pair, drawn.side, drawn.kind], -1)[found]
    observed = [(keys == name).all(1).sum() for name in names]
    assert sum(observed) == found.sum()
    assert chisquare(observed, expected).pvalue > 1e-3


def test_recoil_conserves_momentum_on_the_mass_shell():
    p_i, p_k, u, y, phi = dipoles(2000)
    s = 2 * dot(p_i, p_k)
    after = splitting.recoil(p_i, p_k, np.log(s * y * u * (1 - u)) / 2, u, phi)
    energy = (p_i + p_k)[:, 3]
    assert (np.abs(sum(after) - p_i - p_k).max(1) < 1e-13 * energy).all()
    for p in after:
        assert (np.abs(dot(p, p)) < 1e-9 * energy**2).all()
        assert (p[:, 3] > 0).all()


def test_recoil_has_the_invariants_it_was_asked_for():
    p_i, p_k, u, y, phi = dipoles(2000, seed=1)
    s = 2 * dot(p_i, p_k)
    ln_kt = np.log(s * y * u * (1 - u)) / 2
    new_i, new_j, new_k = splitting.recoil(p_i, p_k, ln_kt, u, phi)
    rounding = 1e-13 * ((p_i + p_k)[:, 3] ** 2 / s).max()
    np.testing.assert_allclose(2 * dot(new_i, new_j) / s, y, atol=rounding, rtol=1e-8)
    np.testing.assert_allclose(
        dot(new_j, new_k) / dot(new_i + new_j, new_k), u, rtol=1e-6, atol=100 * rounding
    )
    across = (splitting.recoil(p_i, p_k, ln_kt, u, phi + np.pi)[1] - new_j) / 2
    quarter = (splitting.recoil(p_i, p_k, ln_kt, u, phi + np.pi / 2)[1] - new_j) - across
    size = np.exp(2 * ln_kt)
    np.testing.assert_allclose(-dot(across, across), size, rtol=1e-6)
    np.testing.assert_allclose(-dot(quarter, quarter), size, rtol=1e-6)
    assert (np.abs(dot(across, quarter)) < 1e-6 * size).all()
    for p in (p_i, p_k):
        assert (np.abs(dot(across, p)) < 1e-8 * p[:, 3] * (1 + np.sqrt(size))).all()


def test_rounding_beyond_the_phase_space_leaves_the_spectator_something():
    p = np.array([[0, 0, 5.0, 5.0]]), np.array([[0, 0, -5.0, 5.0]])
    ln_kt = np.log(100 * 0.25 * (1 + 1e-7)) / 2
    after = splitting.recoil(*p, np.array([ln_kt]), np.array([0.5]), np.array([1.0]))
    assert np.isfinite(after).all() and after[2][0, 3] > 0
    np.testing.assert_allclose(sum(after), sum(p), atol=1e-12)


def test_pole():
    assert coupling(0.0, 0.999999 * splitting.pole(1.0)) > 1e5
    assert splitting.pole(2.0) > splitting.pole(1.0)
    assert splitting.pole(100.0) == float("inf")
