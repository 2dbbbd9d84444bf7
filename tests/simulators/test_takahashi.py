"""Takahashi's chain against quadrature by other means, thermodynamic identities and limits."""

import pickle
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import cumulative_simpson, quad
from scipy.optimize import brentq
from scipy.stats import chi2, kstest

from simgen.diagnosis import diagnose
from simulators.takahashi import PRIORS, TakahashiChain

EVERY = tuple(PRIORS)
THETAS = [(1.0, 1.0, 1.0, 1.0), (0.5, 0.2, 2.0, 0.8), (2.0, 2.0, 0.5, 1.2), (0.6, 2.0, 1.9, 1.1)]


@pytest.fixture
def one():
    """A single spacing, every parameter free."""
    return TakahashiChain(spacings=1, free=EVERY)


def integral(one, theta, function=lambda r: 1.0):
    """E[function(r)] by adaptive quadrature of the density."""
    T, P, _, sigma = theta

    def integrand(r):
        return function(r) * np.exp(one.log_likelihood([r], theta))

    edges = sigma * np.array([0.4, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.7, 2.2, 3, 5, 9])
    edges = np.append(edges, 50 * T / P + 20)
    return sum(quad(integrand, a, b, epsabs=1e-13, epsrel=1e-12)[0] for a, b in pairwise(edges))


def slope(function, theta, i, h=1e-3):
    """Five-point derivative by parameter i."""
    step = np.zeros(np.shape(theta)[-1])
    step[i] = h
    f = [function(theta + k * step) for k in (-2, -1, 1, 2)]
    return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h)


def u_slope(r, epsilon=1.0, sigma=1.0):
    """The derivative of the potential."""
    q = r / sigma
    return 4 * epsilon / sigma * (6 * q**-7 - 12 * q**-13)


@pytest.mark.parametrize("theta", THETAS, ids=str)
def test_the_density_integrates_to_one_and_obeys_the_identities(one, theta):
    """<u'> = -P, the pressure; <r (u' + P)> = T, the virial; <r> = -T d log Z / dP."""
    T, P, epsilon, sigma = theta
    assert abs(integral(one, theta) - 1) < 1e-10
    mean = integral(one, theta, lambda r: r)
    assert abs(integral(one, theta, lambda r: u_slope(r, epsilon, sigma)) / P + 1) < 1e-9
    virial = integral(one, theta, lambda r: r * u_slope(r, epsilon, sigma))
    assert abs((virial + P * mean) / T - 1) < 1e-9
    assert abs(one.mean_spacing(np.array(theta)) / mean - 1) < 1e-10
    by_P = slope(one.log_partition, np.array(theta), 1)
    assert abs(-T * by_P / mean - 1) < 1e-7


@pytest.mark.parametrize("nodes", [64, 96, 200, 400])
def test_the_quadrature_converges(one, monkeypatch, nodes):
    """Exponentially: 64 nodes give five digits, 96 ten, the default all there are."""
    theta = np.array(THETAS)
    exact = one.log_partition(theta)
    monkeypatch.setattr("simulators.takahashi.NODES", nodes)
    error = np.abs(one.log_partition(theta) - exact).max()
    assert error < {64: 1e-5, 96: 1e-10, 200: 1e-14, 400: 1e-14}[nodes]


@pytest.mark.parametrize("theta", THETAS, ids=str)
def test_draws_follow_the_density(one, theta):
    chain, n = TakahashiChain(spacings=1000, free=EVERY), 300_000
    rows = np.tile(theta, (n // 1000, 1))
    r = chain.simulate(rows, np.random.default_rng(1))["x"].ravel()
    grid = theta[3] * np.exp(np.linspace(np.log(0.7), np.log(200 / theta[3]), 40_001))
    density = np.exp(one.log_likelihood(grid[:, None], theta))
    distribution = cumulative_simpson(density * grid, x=np.log(grid), initial=0)
    assert abs(distribution[-1] - 1) < 1e-6

    def cdf(x):
        return np.interp(x, grid, distribution)

    assert kstest(r, cdf).pvalue > 1e-3
    assert kstest(r * 1.006, cdf).pvalue < 1e-6
    edges = np.interp(np.linspace(0, 1, 201), distribution, grid)
    counts = np.histogram(np.clip(r, edges[0], edges[-1]), edges)[0]
    expected = n * np.diff(cdf(edges))
    assert chi2.sf(((counts - expected) ** 2 / expected).sum(), 199) > 1e-3


def test_scores_are_gradients_with_mean_zero():
    chain = TakahashiChain(spacings=5, free=EVERY)
    theta = chain.prior.sample((400,), seed=0).double().numpy()
    fields = chain.simulate(theta, np.random.default_rng(2))
    np.testing.assert_allclose(chain.score(fields["x"], theta), fields["joint_score"], rtol=1e-9)
    for i in range(4):
        found = slope(lambda t: chain.joint_log_likelihood(fields, t), theta, i)
        t = fields["joint_score"][:, i]
        assert (np.abs(found - t) <= 1e-6 * np.maximum(np.abs(t), t.std())).all()
    n = 40_000
    theta = np.tile(THETAS[0], (n, 1))
    t = chain.simulate(theta, np.random.default_rng(3))["joint_score"]
    assert (np.abs(t.mean(0)) < 4 * t.std(0) / n**0.5).all()


def test_score_identity():
    """d <L> / d theta_i = <L t_i> for the length L of the chain."""
    n, k, theta = 200_000, 3, np.array(THETAS[0])
    chain = TakahashiChain(spacings=k, free=EVERY)
    fields = chain.simulate(np.tile(theta, (n, 1)), np.random.default_rng(4))
    length = fields["x"].sum(1) - k * chain.mean_spacing(theta)
    for i in range(4):
        exact = k * slope(chain.mean_spacing, theta, i)
        product = length * fields["joint_score"][:, i]
        error = product.std() / n**0.5
        assert abs(product.mean() - exact) < 4 * error
        assert abs(exact) > 20 * error


def test_temperature_pressure_and_depth_share_a_scale():
    chain = TakahashiChain(spacings=4)
    theta = chain.prior.sample((50,), seed=0).double().numpy()
    fields = chain.simulate(theta, np.random.default_rng(5))
    along = (theta * fields["joint_score"]).sum(1)
    assert np.abs(along).max() < 1e-11 * np.abs(theta * fields["joint_score"]).max()
    np.testing.assert_allclose(
        chain.log_likelihood(fields["x"], theta),
        chain.log_likelihood(fields["x"], 1.7 * theta),
        rtol=1e-12,
    )


def test_ideal_gas():
    """Far above the potential's depth and at low pressure, L P = k T but for the hard core."""
    chain = TakahashiChain(free=("T", "P"))
    theta = np.array([[500.0, 10.0], [500.0, 5.0]])
    core, half = chain.mean_spacing(theta) * theta[:, 1] / theta[:, 0] - 1
    assert 0 < half < 0.6 * core < 0.012


def test_second_virial_coefficient():
    """<r> = T / P + B + O(P), B = the integral of 1 - exp(-u / T)."""
    chain = TakahashiChain(free=("T", "P"))
    T = 1.3

    def mayer(r):
        return 1 - np.exp(-4 / T * (r**-12 - r**-6))

    B = 0.3 + quad(mayer, 0.3, 2, epsabs=1e-12)[0] + quad(mayer, 2, np.inf, epsabs=1e-12)[0]
    P = np.array([0.04, 0.02])
    rest = chain.mean_spacing(np.stack([np.full(2, T), P], -1)) - T / P - B
    assert abs(rest[0] / rest[1] - 2) < 0.05 and abs(rest[1]) < 0.05


def test_cold_chain_is_harmonic():
    """<r> = r_P - T u''' / (2 u''^2) at the bottom r_P of u + P r, to order T^2."""
    chain = TakahashiChain(free=("T", "P"))
    P = 2.0
    r = brentq(lambda r: u_slope(r) + P, 0.9, 1.2, xtol=1e-14)
    second = 4 * (156 * r**-14 - 42 * r**-8)
    third = 4 * (-2184 * r**-15 + 336 * r**-9)
    T = np.array([0.06, 0.03])
    rest = chain.mean_spacing(np.stack([T, np.full(2, P)], -1)) - r + T * third / second**2 / 2
    assert abs(rest[0] / rest[1] - 4) < 0.4 and abs(rest[1]) < 1e-4


@pytest.mark.parametrize("coordinates", ["positions", "set"])
def test_coordinates_are_the_same_chain(coordinates):
    plain, other = TakahashiChain(6), TakahashiChain(6, coordinates=coordinates)
    theta = plain.prior.sample((30,), seed=1).double().numpy()
    first, second = (c.simulate(theta, np.random.default_rng(6)) for c in (plain, other))
    r = {"positions": np.diff(second["x"], axis=1, prepend=0), "set": second["x"][..., 0]}
    np.testing.assert_allclose(r[coordinates], first["x"], rtol=1e-12)
    assert (first["joint_score"] == second["joint_score"]).all()
    np.testing.assert_allclose(
        other.log_likelihood(second["x"], theta),
        plain.log_likelihood(first["x"], theta),
        rtol=1e-10,
    )
    swapped = second["x"].copy()
    swapped[:, 0] = swapped[:, 1] + 0.5 if coordinates == "positions" else -1.0
    assert (other.log_likelihood(swapped, theta) == -np.inf).all()


def test_a_row_knows_nothing_of_its_batch():
    chain = TakahashiChain(spacings=3)
    theta = chain.prior.sample((300,), seed=0).double().numpy()
    u = np.random.default_rng(7)
    whole = chain.simulate(theta, u)["x"]
    theta[:100] = theta[100:200]
    part = chain.simulate(theta, np.random.default_rng(7))["x"]
    assert (whole[100:] == part[100:]).all() and (whole[:100] != part[:100]).all()


def test_exact_posterior_is_calibrated():
    """Ranks of the truth in the marginals are uniform; T and P of 30 spacings are learned."""
    chain = TakahashiChain(spacings=30, free=("T", "P"))
    theta = chain.prior.sample((300,), seed=2).double().numpy()
    posterior = chain.exact_posterior(chain(theta, seed=3)["x"], points=60)
    draws = posterior.sample(200, seed=4)
    for i, (low, high) in enumerate((PRIORS["T"], PRIORS["P"])):
        rank = (draws[..., i] < theta[:, i]).mean(0)
        assert kstest(rank, "uniform").pvalue > 1e-3
        assert posterior.sd[:, i].mean() < 0.8 * (high - low) / 12**0.5
    single = chain.exact_posterior(chain(theta, seed=3)["x"][0], points=60)
    np.testing.assert_allclose(single.mean, posterior.mean[0], rtol=1e-12)


@pytest.mark.parametrize("coordinates", ["positions", "set"])
def test_it_keeps_the_rules(coordinates, capsys):
    found = diagnose(TakahashiChain(16, coordinates), rows=2_000)
    assert found.passed, [f for f in found.findings if f.passed is False]
    assert {f.check for f in found.findings if f.passed} >= {"E[score] = 0", "batch = loop"}
    with capsys.disabled():
        print(f"\n16 spacings, {coordinates}: {1 / found.seconds:,.0f} rows per CPU-second")


def test_fields_and_settings():
    chain = TakahashiChain(7, free=("sigma", "epsilon"))
    assert chain.settings == {
        "spacings": 7,
        "coordinates": "spacings",
        "free": ["epsilon", "sigma"],
    }
    assert chain.prior.names == chain.names == ("epsilon", "sigma")
    np.testing.assert_allclose(chain.prior.low, [0.5, 0.8])
    assert chain.fields["x"].shape == (7,) and chain.fields["joint_score"].shape == (2,)
    assert TakahashiChain(free="T").names == ("T",)
    x = TakahashiChain(7, "set").fields["x"]
    assert (x.layout, x.iid, x.shape) == ("set", True, (7, 1))


def test_workers_need_no_torch():
    chain = TakahashiChain(3)
    theta = chain.prior.sample((4,), seed=0).double().numpy()
    expected = chain.run(theta, np.random.default_rng(1))["x"]
    code = (
        "import pickle, sys, numpy as np\n"
        "chain, theta = pickle.load(sys.stdin.buffer)\n"
        "x = chain.run(theta, np.random.default_rng(1))['x']\n"
        "assert 'torch' not in sys.modules\n"
        "sys.stdout.buffer.write(x.tobytes())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((chain, theta)),
        capture_output=True,
        check=True,
    )
    assert done.stdout == expected.tobytes()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"spacings": 0}, "positive whole number; got 0"),
        ({"spacings": 2.5}, "positive whole number; got 2.5"),
        ({"coordinates": "angles"}, "must be one of spacings, positions, set"),
        ({"free": ()}, "different names among T, P, epsilon, sigma"),
        ({"free": ("T", "T")}, "different names"),
        ({"free": ("T", "mass")}, "different names"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        TakahashiChain(**arguments)


def test_bad_values():
    chain = TakahashiChain(3)
    with pytest.raises(ValueError, match=r"theta must be \(..., 3\): T, P, epsilon"):
        chain.log_partition([1.0, 1.0])
    for bad in ([1.0, -1.0, 1.0], [1.0, np.nan, 1.0]):
        with pytest.raises(ValueError, match="must be positive"):
            chain.log_partition(bad)
    with pytest.raises(ValueError, match=r"epsilon / T must lie between 0.001 and 40"):
        chain.log_partition([0.01, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"P sigma / T must lie between 0.01 and 100"):
        chain.log_partition([1.0, 1e-3, 1.0])
    with pytest.raises(ValueError, match=r"x must be \(..., 3\); got \(2, 4\)"):
        chain.log_likelihood(np.ones((2, 4)), [1.0, 1.0, 1.0])
