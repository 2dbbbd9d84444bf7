"""The compound Poisson density against direct integrals, and against showers drawn one by one."""

import numpy as np
import pytest
from scipy.stats import chi2, poisson

from simulators import lund
from simulators.detector import DETECTORS
from simulators.shower_table import ChebyshevNodes, ShowerTable, _fourier

TABLES = {name: ShowerTable(detector) for name, detector in DETECTORS.items()}
BOTH = pytest.mark.parametrize("name", DETECTORS)


def over_plane(g, m, alpha_s, nodes=200):
    """The integral of g(f) dmu, eta and ln kt both by quadrature."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    top = np.log(m) - 0.75
    ln_kt = top / 2 * (x + 1)
    eta = (top - ln_kt)[:, None] / 2 * (x + 1)
    weights = top / 2 * w[:, None] * (top - ln_kt)[:, None] / 2 * w
    rate = 2 * 2 * (4 / 3) / np.pi * lund.coupling(ln_kt, alpha_s)[:, None]
    return (weights * rate * g(np.exp(ln_kt[:, None] - eta) / m)).sum()


def test_polynomials_are_interpolated_exactly():
    nodes = ChebyshevNodes(0.1, 0.14, 6)
    x = np.linspace(0.1, 0.14, 7)
    power = (np.array([nodes.points, x], dtype=object) - 0.12) * 50
    at_nodes, at_x = power[0] ** 5 - power[0], power[1] ** 5 - power[1]
    np.testing.assert_allclose(nodes.weights(x) @ at_nodes.astype(float), at_x, atol=1e-13)
    slope = 50 * (5 * power[1] ** 4 - 1)
    np.testing.assert_allclose(nodes.slopes(x) @ at_nodes.astype(float), slope, atol=1e-10)


@pytest.mark.parametrize("m, alpha_s", [(200.0, 0.1), (480.0, 0.12), (1000.0, 0.14)])
def test_characteristic_function_is_the_integral_over_the_lund_plane(m, alpha_s):
    s = np.array([0.0, 3.0, 40.0, 300.0])
    found = _fourier(m, np.array([alpha_s]), s)[:, 0]
    assert found[0] == pytest.approx(lund.mean(np.array(m), alpha_s), rel=1e-12)
    for value, one in zip(s, found):
        expected = over_plane(lambda f, value=value: np.exp(1j * value * f), m, alpha_s)
        assert one == pytest.approx(expected, rel=1e-9)


@BOTH
@pytest.mark.parametrize("m, alpha_s", [(203.0, 0.137), (450.0, 0.113), (990.0, 0.14)])
def test_density_is_normalised_with_the_moments_of_campbell(name, m, alpha_s):
    table, detector = TABLES[name], DETECTORS[name]
    n = np.arange(table.most + 1)[:, None]
    tau = np.arange(-5.9 * detector.thrust, 1.49, detector.thrust / 7)
    p = np.exp(table.log_prob(n, tau, m, alpha_s)) * (tau[1] - tau[0])
    assert p.sum() == pytest.approx(1, abs=3e-5)
    mean = detector.efficiency * lund.mean(np.array(m), alpha_s)
    np.testing.assert_allclose(p.sum(1), poisson.pmf(n[:, 0], mean), atol=3e-5)
    first = over_plane(lambda f: f, m, alpha_s)
    variance = over_plane(lambda f: f**2, m, alpha_s) + detector.thrust**2
    assert (p * tau).sum() == pytest.approx(first, abs=1e-5)
    assert (p * (tau - first) ** 2).sum() == pytest.approx(variance, rel=1e-3)
    covariance = (p * (n - mean) * tau).sum()
    assert covariance == pytest.approx(detector.efficiency * first, rel=1e-3)


@BOTH
def test_density_is_that_of_showers(name):
    """A joint histogram of n and tau; the spline integrates its bins, whose edges are free."""
    table, detector, k = TABLES[name], DETECTORS[name], 150_000
    m, alpha_s, rng = 333.0, 0.128, np.random.default_rng(1)
    counts, ln_kt, eta = lund.draw(np.full(k, m), np.full(k, alpha_s), rng)
    n = lund.sum_events(rng.random(len(eta)) < detector.efficiency, counts)
    tau = lund.sum_events(np.exp(ln_kt - eta), counts) / m + detector.thrust * rng.normal(size=k)
    edges = np.quantile(tau[:2000], np.linspace(0, 1, 25))
    edges[[0, -1]] = -5.9 * detector.thrust, 1.49
    x, w = np.polynomial.legendre.leggauss(40)
    width = np.diff(edges)[:, None] / 2
    points = edges[:-1, None] + width * (x + 1)
    rows = np.arange(8)

    def p_value(a):
        density = np.exp(table.log_prob(rows[:, None, None], points, m, a))
        exact = k * (density * w * width).sum(-1)
        observed = np.histogram2d(n, tau, [np.arange(9) - 0.5, edges])[0]
        large = exact > 10
        exact = np.append(exact[large], k - exact[large].sum())
        observed = np.append(observed[large], k - observed[large].sum())
        return chi2.sf(((observed - exact) ** 2 / exact).sum(), len(exact) - 1)

    assert p_value(alpha_s) > 1e-3
    assert p_value(1.03 * alpha_s) < 1e-6


@BOTH
def test_interpolation_is_good_to_a_ten_thousandth(name):
    """Finer in everything, at masses and couplings other than those the events come from."""
    detector, k, rng = DETECTORS[name], 4000, np.random.default_rng(2)
    fine = ShowerTable(detector, masses=10, couplings=9, fineness=5)
    m, alpha_s = 200 * 5 ** rng.random(k), rng.uniform(0.1, 0.14, k)
    counts, ln_kt, eta = lund.draw(m, alpha_s, rng)
    n = lund.sum_events(rng.random(len(eta)) < detector.efficiency, counts)
    tau = lund.sum_events(np.exp(ln_kt - eta), counts) / m + detector.thrust * rng.normal(size=k)
    for where in ((m, alpha_s), (rng.permutation(m), rng.permutation(alpha_s))):
        found, expected = (t.log_prob(n, tau, *where) for t in (TABLES[name], fine))
        assert np.isfinite(found).all()
        assert np.abs(found - expected).max() < 1e-4


def test_outside_the_table_there_is_no_density():
    table = TABLES["coarse"]
    n = np.array([-1.0, 2.5, np.nan, 99.0, 2.0, 2.0, 2.0, 2.0])
    tau = np.array([0.1, 0.1, 0.1, 0.1, -0.13, 1.6, np.nan, 0.1])
    log_p = table.log_prob(n, tau, 300.0, 0.12)
    assert (log_p[:-1] == -np.inf).all() and np.isfinite(log_p[-1])
