import numpy as np
import pytest
from scipy.integrate import dblquad
from scipy.stats import chi2, poisson

from simulators import lund

C_F, B_Q = 4 / 3, -0.75
CASES = [(200.0, 0.10), (450.0, 0.12), (1000.0, 0.14)]


def plane_integral(g, m, alpha_s):
    """The integral of g(ln kt, eta) dmu over both hemispheres, from the coupling's formula."""
    b_0 = 23 / (12 * np.pi)

    def rate(eta, ln_kt):
        alpha = alpha_s / (1 + b_0 * alpha_s * (2 * ln_kt - np.log(91.188**2)))
        return 2 * (2 * C_F * alpha / np.pi) * g(ln_kt, eta)

    top = np.log(m) + B_Q
    return dblquad(rate, 0, top, 0, lambda ln_kt: top - ln_kt, epsabs=1e-11, epsrel=1e-11)[0]


@pytest.mark.parametrize("m, alpha_s", CASES)
def test_mean_and_its_slope(m, alpha_s):
    exact = plane_integral(lambda ln_kt, eta: 1.0, m, alpha_s)
    assert lund.mean(m, alpha_s) == pytest.approx(exact, rel=1e-9)
    slope = plane_integral(
        lambda ln_kt, eta: lund.coupling(ln_kt, alpha_s) / alpha_s**2, m, alpha_s
    )
    assert lund.mean_slope(m, alpha_s) == pytest.approx(slope, rel=1e-9)


def test_coupling_at_the_z_mass():
    assert lund.coupling(np.log(91.188), 0.118) == pytest.approx(0.118, rel=1e-12)


@pytest.mark.parametrize("m, alpha_s", CASES)
def test_numbers_are_poisson(m, alpha_s):
    n = 50_000
    shower = lund.draw(np.full(n, m), np.full(n, alpha_s), np.random.default_rng(7))
    mu = plane_integral(lambda ln_kt, eta: 1.0, m, alpha_s)
    top = int(poisson.isf(20 / n, mu))
    observed = np.bincount(np.minimum(shower.counts, top), minlength=top + 1)
    expected = n * np.append(poisson.pmf(np.arange(top), mu), poisson.sf(top - 1, mu))
    keep = expected > 5
    assert keep[1:].all()
    statistic = ((observed - expected) ** 2 / expected)[keep].sum()
    assert chi2.sf(statistic, keep.sum() - 1) > 1e-3


@pytest.mark.parametrize("m, alpha_s", CASES)
def test_sums_over_the_plane(m, alpha_s):
    """Campbell: a sum of g over a Poisson process has mean int g dmu and variance int g^2 dmu."""
    n = 50_000
    shower = lund.draw(np.full(n, m), np.full(n, alpha_s), np.random.default_rng(8))
    for g in (
        lambda ln_kt, eta: ln_kt,
        lambda ln_kt, eta: eta,
        lambda ln_kt, eta: ln_kt * eta,
        lambda ln_kt, eta: np.exp(ln_kt - eta) / m,
    ):
        total = lund.sum_events(g(shower.ln_kt, shower.eta), shower.counts)
        mean = plane_integral(g, m, alpha_s)
        variance = plane_integral(lambda *at, g=g: g(*at) ** 2, m, alpha_s)
        assert abs(total.mean() - mean) < 4 * (variance / n) ** 0.5
        spread = ((total - mean) ** 2).std() / n**0.5
        assert abs(((total - mean) ** 2).mean() - variance) < 4 * spread


def test_emissions_lie_in_the_triangle():
    m = np.repeat([200.0, 1000.0], 5000)
    shower = lund.draw(m, np.full(10_000, 0.13), np.random.default_rng(9))
    reach = np.log(np.repeat(m, shower.counts)) + B_Q
    assert len(shower.ln_kt) == len(shower.eta) == shower.counts.sum()
    assert (shower.ln_kt >= 0).all() and (shower.eta >= 0).all()
    assert (shower.ln_kt + shower.eta < reach + 1e-6).all()


def test_log_prob_against_the_formula():
    m, alpha_s = np.array([300.0, 800.0, 250.0]), np.array([0.11, 0.12, 0.13])
    ln_kt, eta = np.array([0.3, 2.0, 1.0]), np.array([0.1, 1.0, 2.0])
    shower = lund.Emissions(np.array([1, 2, 0]), ln_kt, eta)
    got = lund.log_prob(shower, m, alpha_s)
    for i, emitted in enumerate(([0.3], [2.0, 1.0], [])):
        mu = plane_integral(lambda ln_kt, eta: 1.0, m[i], alpha_s[i])
        rates = [4 * C_F / np.pi * lund.coupling(one, alpha_s[i]) for one in emitted]
        assert got[i] == pytest.approx(np.log(rates).sum() - mu, rel=1e-9)


def test_score_is_the_slope():
    rng = np.random.default_rng(10)
    m, alpha_s = rng.uniform(200, 1000, 1000), rng.uniform(0.1, 0.14, 1000)
    shower = lund.draw(m, alpha_s, rng)
    h = 1e-4
    stencil = [(-2, 1), (-1, -8), (1, 8), (2, -1)]
    slope = sum(w * lund.log_prob(shower, m, alpha_s + k * h) for k, w in stencil) / (12 * h)
    np.testing.assert_allclose(lund.score(shower, m, alpha_s), slope, rtol=1e-6, atol=1e-5)


def test_overflow_is_an_error():
    n = 2000
    with pytest.raises(ValueError, match="emissions, and z_s holds 64"):
        lund.draw(np.full(n, 1000.0), np.full(n, 0.1815), np.random.default_rng(0))
