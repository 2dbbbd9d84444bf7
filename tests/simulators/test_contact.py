import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import chi2

from simulators import contact

EPS = [-0.5, -0.2, 0.0, 0.7, 2.0]
MASS, ANGLE = np.polynomial.legendre.leggauss(40)
M = 600 + 400 * MASS


def cell(eps, m_low, m_high, c_low, c_high):
    """The unnormalised probability of a cell, by quadrature of the formula in u = m / TeV."""

    def density(u):
        plus = ((1 + c_high) ** 3 - (1 + c_low) ** 3) / 3
        minus = ((1 - c_low) ** 3 - (1 - c_high) ** 3) / 3
        return u**-3 * ((1 + eps * u**2) ** 2 * plus + minus)

    return quad(density, m_low / 1000, m_high / 1000, epsabs=0, epsrel=1e-12)[0]


@pytest.mark.parametrize("eps", EPS)
def test_density_is_normalised(eps):
    c, w = np.polynomial.legendre.leggauss(6)
    p = np.exp(contact.log_prob(M[:, None], c, eps))
    assert 400 * ANGLE @ p @ w == pytest.approx(1, abs=1e-10)


def test_density_vanishes_outside():
    log_p = contact.log_prob(np.array([199.0, 1001, 500, 500]), np.array([0, 0, 1.1, -1.1]), 0.3)
    assert (log_p == -np.inf).all()


@pytest.mark.parametrize("eps", EPS)
def test_draws_follow_the_density(eps):
    n = 100_000
    m, c = contact.draw(np.full(n, eps), np.random.default_rng(5))
    m_edges = np.geomspace(200, 1000, 13)
    c_edges = np.linspace(-1, 1, 9)
    observed = np.histogram2d(m, c, [m_edges, c_edges])[0]
    expected = np.array(
        [
            [cell(eps, *m_edges[i : i + 2], *c_edges[j : j + 2]) for j in range(8)]
            for i in range(12)
        ]
    )
    expected *= n / cell(eps, 200, 1000, -1, 1)
    assert observed.sum() == n and expected.sum() == pytest.approx(n, rel=1e-9)
    assert expected.min() > 5
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert chi2.sf(statistic, expected.size - 1) > 1e-3
    wrong = eps + 0.3
    other = np.array(
        [
            [cell(wrong, *m_edges[i : i + 2], *c_edges[j : j + 2]) for j in range(8)]
            for i in range(12)
        ]
    )
    other *= n / other.sum()
    assert chi2.sf(((observed - other) ** 2 / other).sum(), expected.size - 1) < 1e-6


def test_every_row_has_its_own_strength():
    """Quantiles of m under mixed eps are the mean of the single CDFs."""
    eps = np.tile([-0.5, 2.0], 50_000)
    m, _ = contact.draw(eps, np.random.default_rng(0))
    for which in (-0.5, 2.0):
        below = (m[eps == which] < 400).mean()
        exact = cell(which, 200, 400, -1, 1) / cell(which, 200, 1000, -1, 1)
        assert abs(below - exact) < 4 * (exact * (1 - exact) / 50_000) ** 0.5


def test_inverse_of_the_cdf():
    """Each mass sits where the exact CDF equals the uniform number that drew it."""
    for eps in (-0.99, -0.5, -1e-9, 0.0, 0.3, 2.0, 50.0):
        u = np.random.default_rng(1).random(4)
        m = contact._draw_mass(np.full(4, eps), np.random.default_rng(1))
        below = [cell(eps, 200, one, -1, 1) for one in m]
        np.testing.assert_allclose(below / np.array(cell(eps, 200, 1000, -1, 1)), u, atol=1e-9)


def test_draws_are_float32_inside_the_range():
    m, c = contact.draw(np.zeros(20_000), np.random.default_rng(2))
    for value, low, high in ((m, 200, 1000), (c, -1, 1)):
        assert (value == value.astype(np.float32)).all()
        assert low < value.min() and value.max() < high


@pytest.mark.parametrize("eps", EPS)
def test_score_is_the_slope(eps):
    rng = np.random.default_rng(3)
    m, c = contact.draw(np.full(1000, eps), rng)
    h = 1e-3
    stencil = [(-2, 1), (-1, -8), (1, 8), (2, -1)]
    slope = sum(w * contact.log_prob(m, c, eps + k * h) for k, w in stencil) / (12 * h)
    np.testing.assert_allclose(contact.score(m, c, eps), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("eps", EPS)
def test_score_has_mean_zero_by_quadrature(eps):
    c, w = np.polynomial.legendre.leggauss(200)
    p = np.exp(contact.log_prob(M[:, None], c, eps))
    assert abs(400 * ANGLE @ (p * contact.score(M[:, None], c, eps)) @ w) < 1e-9
