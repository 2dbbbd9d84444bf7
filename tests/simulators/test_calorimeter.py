"""Showers against closed forms: profiles, energies, spots, and the joint likelihood."""

import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import dblquad

from simulators.calorimeter import (
    CalorimeterShower,
    _draw_profile,
    lateral_profile,
    polar_cells,
    shape_moments,
    spot_number,
)

E_C, X0_PER_RM = 7.97e-3, 7.97e-3 / 21.2e-3
N = 4_000
EVERY = ("z_profile", "z_layers", "z_spots")
THETAS = [(0.0, 0.0), (1.2, 12.0), (3.0, 20.0)]
WIDE = {"layer_depth": 3.0, "ring_width": 100.0}
"""Cells so large that no shower gets out."""


def prior_draws(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(0, 3, n), rng.uniform(0, 20, n)], -1)


@pytest.fixture(scope="module", params=THETAS, ids=str)
def single(request):
    """Showers of one theta, latents and all, in the simulator's own precision."""
    simulator = CalorimeterShower(record=EVERY)
    theta = np.tile(request.param, (N, 1))
    return simulator, theta, simulator.simulate(theta, np.random.default_rng(1))


def z_score(values, exact=0.0):
    """Deviation of means (k,) of values (n, k) from what is exact, in standard errors."""
    error = values.std(0, ddof=1) / len(values) ** 0.5
    return np.abs(values.mean(0) - exact) / error


def over_profile(g, theta, nodes=24):
    """E[g(profile)] of one theta by quadrature, the truncation at alpha = 1 left out."""
    mean, sigma, rho = (v[0] for v in shape_moments(np.array([10 ** theta[0]])))
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    u, v = (m.ravel() for m in np.meshgrid(x, x))
    weight = np.outer(w, w).ravel() / (2 * np.pi)
    normal = np.stack([rho * u + np.sqrt(1 - rho**2) * v, u], -1)
    profile = np.exp(mean + sigma * normal)
    profile[:, 1] = np.maximum(profile[:, 1], 1 + 1e-9)
    values = g(np.tile(theta, (len(profile), 1)), profile)
    return np.tensordot(weight, values, 1)


@pytest.mark.parametrize(
    "R, offset", [(0.3, 0.0), (0.3, 0.7), (1.5, 2.0), (0.8, 5.5), (0.6, 1.0)], ids=str
)
def test_cells_are_the_integral_of_the_density(R, offset):
    edges = np.array([0.5, 1.0, 1.7, 3.0])
    cells = polar_cells(np.array([R]), np.array([1.0]), np.array(offset), edges)
    assert cells.shape == (9, 4)

    def density(r, phi):
        return r * R**2 / np.pi / (r * r - 2 * r * offset * np.cos(phi) + offset**2 + R**2) ** 2

    width = np.radians(40)
    for k in (0, 1, 4, 7):
        for j, (low, high) in enumerate(zip([0, 0.5, 1.0, 1.7], edges)):
            exact, _ = dblquad(density, (k - 0.5) * width, (k + 0.5) * width, low, high)
            assert cells[k, j] == pytest.approx(exact, rel=1e-6)
    # All within a disc is a spherical cap's share of the sphere, by stereographic projection.
    near, far = (edges - offset) ** 2 + R**2, (edges + offset) ** 2 + R**2
    disc = 0.5 * (1 + (edges**2 - offset**2 - R**2) / np.sqrt(near * far))
    np.testing.assert_allclose(cells.sum(0).cumsum(), disc, rtol=1e-12)
    np.testing.assert_allclose(cells[1:], cells[:0:-1], rtol=1e-12)
    if offset == 0:
        np.testing.assert_allclose(cells.sum(0).cumsum(), edges**2 / (edges**2 + R**2))
        np.testing.assert_allclose(cells, cells[[0] * 9], rtol=1e-9)


def test_cells_of_a_mixture_are_the_mixture_of_cells():
    rng = np.random.default_rng(0)
    radii, offset, edges = rng.uniform(0.1, 2, (5, 2)), rng.uniform(0, 4, 5), np.arange(1.0, 9)
    weights = rng.dirichlet([1, 1], 5)
    parts = [polar_cells(radii[:, [i]], np.ones((5, 1)), offset, edges) for i in (0, 1)]
    expected = sum(w[:, None, None] * part for w, part in zip(weights.T, parts))
    found = polar_cells(radii, weights, offset, edges)
    np.testing.assert_allclose(found, expected, atol=1e-15)
    assert (found >= 0).all() and (found.sum((1, 2)) < 1).all()


def test_coefficients_at_a_known_point():
    """Worked out by hand at E = 100 GeV, tau = 1, Z = 74."""
    E = np.array([100.0])
    ln_y = np.log(100 / E_C)
    mean, sigma, rho = shape_moments(E)
    np.testing.assert_allclose(np.exp(mean[0]), [ln_y - 0.812, 0.81 + 0.4885405 * ln_y], rtol=1e-6)
    np.testing.assert_allclose(1 / sigma[0], [1.26 * ln_y - 1.4, 0.86 * ln_y - 0.58])
    np.testing.assert_allclose(rho, 0.705 - 0.023 * ln_y)
    np.testing.assert_allclose(spot_number(E), 93 * np.log(74) * 56.4937, rtol=1e-5)
    radii, weights = lateral_profile(E, np.array([1.0]))
    np.testing.assert_allclose(radii, [[0.127797, 0.43034 * (0.398718 + 1.214853)]], rtol=1e-4)
    v = (0.53938 - 1) / (1.313 - 0.0686 * np.log(100))
    p = 2.56244 * np.exp(v - np.exp(v))
    np.testing.assert_allclose(weights, [[p, 1 - p]], rtol=1e-9)


def test_weights_are_probabilities_and_radii_positive_over_the_prior():
    E, tau = np.meshgrid(10 ** np.linspace(-0.5, 4, 30), np.linspace(0, 12, 200))
    radii, weights = lateral_profile(E, tau)
    assert (radii > 0).all() and (weights >= 0).all()


@pytest.mark.parametrize("log10_E", [0.0, 1.2, 3.0])
def test_profile_has_the_moments_of_its_law(log10_E):
    """Mean, deviation, correlation of (ln T, ln alpha); the median T is ln(E / E_c) - 0.812."""
    n = 200_000
    E = np.full(n, 10**log10_E)
    mean, sigma, rho = (v[0] for v in shape_moments(E[:1]))
    profile = _draw_profile(E, np.random.default_rng(2))
    normal = (np.log(profile) - mean) / sigma
    assert z_score(normal).max() < 4
    assert z_score(normal**2, 1).max() < 4
    assert z_score((normal[:, 0] * normal[:, 1])[:, None], rho).max() < 4
    assert stats.kstest(normal[:, 0], "norm").pvalue > 1e-3
    assert stats.kstest(normal[:, 1], "norm").pvalue > 1e-3
    median = np.log(E[0] / E_C) - 0.812
    assert abs(np.mean(profile[:, 0] < median) - 0.5) < 4 * 0.5 / n**0.5


def test_alpha_is_truncated_at_one():
    """At 0.4 GeV that is felt: nothing below, and just above it no more than the law has."""
    n = 500_000
    mean, sigma, _ = (v[0] for v in shape_moments(np.array([10**-0.4])))
    low = -mean[1] / sigma[1]
    assert n * stats.norm.cdf(low) > 500
    alpha = _draw_profile(np.full(n, 10**-0.4), np.random.default_rng(3))[:, 1]
    assert alpha.min() > 1
    law = stats.truncnorm(low, np.inf, loc=mean[1], scale=sigma[1])
    assert stats.kstest(np.log(alpha), law.cdf).pvalue > 1e-3
    near = n * law.cdf(np.log(1.05))
    assert abs((alpha < 1.05).sum() - near) < 4 * near**0.5


@pytest.mark.parametrize("angle", [0.0, 15.0])
def test_shares_are_gamma_in_depth_and_the_profile_across(angle):
    simulator = CalorimeterShower()
    rings = np.arange(1.0, 9)
    for E, T, alpha in ((2.0, 4.1, 3.0), (500.0, 9.6, 6.2)):
        found = simulator.shares(np.array([[np.log10(E), angle]]), np.array([[T, alpha]]))[0]
        cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        t = 1.5 * np.arange(25) / cos
        f = np.diff(stats.gamma(alpha, scale=T / (alpha - 1)).cdf(t))
        middle = (t[1:] + t[:-1]) / 2
        radii, weights = lateral_profile(np.full(24, E), middle / T)
        delta = X0_PER_RM * middle[:, None, None] * sin
        near = (rings - delta) ** 2 + radii[..., None] ** 2
        far = (rings + delta) ** 2 + radii[..., None] ** 2
        share = (rings**2 - delta**2 - radii[..., None] ** 2) / np.sqrt(near * far)
        disc = (weights[..., None] * (1 + share) / 2).sum(1)
        np.testing.assert_allclose(found.sum(1).cumsum(-1), f[:, None] * disc, rtol=1e-9)
        # And nothing is lost where the cells are large.
        whole = CalorimeterShower(**WIDE).shares(
            np.array([[np.log10(E), angle]]), np.array([[T, alpha]])
        )
        assert whole.sum() == pytest.approx(1, abs=1e-4)


def test_layers_and_rings_have_their_means(single):
    """Of E f_i p_ij given the profile, cell by cell of layers and of wedges x rings."""
    simulator, theta, fields = single
    shares = simulator.shares(theta, fields["z_profile"])
    E = 10 ** theta[0, 0]
    layers = fields["z_layers"] / (1000 * E) - shares.sum((2, 3))
    assert z_score(layers[:, shares.sum((2, 3)).mean(0) > 1e-4]).max() < 4.5
    spots = (fields["z_spots"][:, 0] - spot_number(E) * shares).sum(1).reshape(N, -1)
    assert z_score(spots).max() < 4.5


def test_mean_layer_energies_by_quadrature(single):
    simulator, theta, fields = single

    def layers(theta, profile):
        return simulator.shares(theta, profile).sum((2, 3))

    exact = 1000 * 10 ** theta[0, 0] * over_profile(layers, theta[0])
    seen = exact > 1e-4 * exact.sum()
    assert seen.sum() > 10
    assert z_score(fields["z_layers"][:, seen], exact[seen]).max() < 4.5


def test_variance_of_a_layer_given_its_profile(single):
    """E f_i p_i (a^2 + E / N): from sampling, and from the number of spots."""
    simulator, theta, fields = single
    E = 10 ** theta[0, 0]
    mean = E * simulator.shares(theta, fields["z_profile"]).sum((2, 3))
    variance = mean * (0.17**2 + E / spot_number(E))
    seen = mean.mean(0) > 0.02 * E
    pull = ((fields["z_layers"] / 1000 - mean)[:, seen]) / np.sqrt(variance[:, seen])
    assert z_score(pull**2, 1).max() < 4.5
    # Layers of one shower know of each other by its profile alone.
    assert z_score(pull[:, 1:] * pull[:, :-1]).max() < 4.5


@pytest.mark.parametrize("sampling", [0.17, 0.05])
@pytest.mark.parametrize("log10_E", [0.0, 1.0, 2.5])
def test_energy_is_linear_and_resolved_by_a_over_root_E(log10_E, sampling):
    """Of showers that stay inside: mean E, variance E^2 (a^2 / E + 1 / N)."""
    simulator = CalorimeterShower(sampling=sampling, **WIDE)
    theta = np.tile([log10_E, 10.0], (N, 1))
    total = simulator.simulate(theta, np.random.default_rng(3))["z_layers"].sum(1, dtype=float)
    E = 10**log10_E
    relative = total / (1000 * E) - 1
    variance = sampling**2 / E + 1 / spot_number(E)
    assert abs(relative.mean()) < 4 * np.sqrt(variance / N)
    assert z_score((relative**2)[:, None], variance).max() < 4


def test_mean_depth_of_the_shower_grows_with_ln_E():
    """<t> = <T alpha / (alpha - 1)>, from the layers' energies of contained showers."""
    simulator = CalorimeterShower(layer_depth=2.0, ring_width=100.0)
    centres = 2.0 * (np.arange(24) + 0.5)
    edges = 2.0 * np.arange(25)
    for log10_E in (1.0, 2.0, 3.0):
        theta = np.tile([log10_E, 0.0], (2_000, 1))
        layers = simulator.simulate(theta, np.random.default_rng(4))["z_layers"].astype(float)
        depth = layers @ centres / layers.sum(1)

        def mean_depth(theta, profile):
            T, alpha = profile.T[:, :, None]
            f = np.diff(stats.gamma.cdf(edges, alpha, scale=T / (alpha - 1)))
            return f @ centres / f.sum(1)

        exact = over_profile(mean_depth, theta[0])
        assert z_score(depth[:, None], exact).max() < 4.5


def test_share_of_empty_cells():
    """72 % over the prior; of each theta what Poisson and Gamma say of the threshold."""
    x = CalorimeterShower()(prior_draws(3_000), seed=5)["x"]
    assert 0.69 < (x == 0).mean() < 0.75
    simulator = CalorimeterShower(record=EVERY)
    for log10_E in (0.3, 1.0):
        theta = np.tile([log10_E, 10.0], (400, 1))
        fields = simulator.simulate(theta, np.random.default_rng(6))
        E = 10**log10_E
        mean = spot_number(E) * simulator.shares(theta, fields["z_profile"])
        k = E / spot_number(E) / 0.17**2
        empty = np.exp(-mean)
        for n in range(1, 20):
            below = stats.gamma.cdf(0.01515, n * k, scale=1000 * 0.17**2)
            empty += stats.poisson.pmf(n, mean) * below
        found = (fields["x"][:, 0] == 0).mean((1, 2, 3)) - empty.mean((1, 2, 3))
        assert z_score(found[:, None]).max() < 4
        assert found.std() / 400**0.5 < 2e-3


def test_what_is_read_out_is_above_the_threshold():
    simulator = CalorimeterShower(record=EVERY)
    theta = prior_draws(500)
    fields = simulator(theta, seed=7)
    x, spots = fields["x"], fields["z_spots"]
    assert x.min() == 0 and x[x > 0].min() > 0.01515
    assert not x[spots == 0].any()
    assert (spots >= 0).all() and spots.dtype == np.int32
    lost = fields["z_layers"] - x.sum((1, 3, 4), dtype=float)
    cut = ((spots > 0) & (x == 0)).sum((1, 3, 4)) * 0.01515
    rounding = 1e-6 * fields["z_layers"]
    assert ((lost >= -rounding) & (lost <= cut + rounding)).all()
    # Another threshold reads other cells of the same showers.
    higher = CalorimeterShower(threshold=1.0)(theta, seed=7)["x"]
    np.testing.assert_array_equal(higher, np.where(x > 1, x, 0))


def test_the_axis_leans_towards_the_first_wedge():
    simulator = CalorimeterShower()
    x = simulator(np.tile([2.0, 18.0], (500, 1)), seed=8)["x"][:, 0].sum(1, dtype=float)
    wedges = x.sum(-1)
    both = wedges[:, 1:5] - wedges[:, :4:-1]
    assert z_score(both).max() < 4
    assert (np.diff(wedges.mean(0)[:5]) < 0).all()
    straight = simulator(np.tile([2.0, 0.0], (500, 1)), seed=8)["x"][:, 0].sum((1, 3), dtype=float)
    assert z_score(straight - straight.mean(1, keepdims=True)).max() < 4


def joint_slope(simulator, fields, theta, i, h):
    """Five-point derivative of the joint log-likelihood by parameter i."""
    step = np.zeros_like(theta)
    step[:, i] = h
    log_p = [simulator.joint_log_likelihood(fields, theta + k * step) for k in (-2, -1, 1, 2)]
    return (log_p[0] - 8 * log_p[1] + 8 * log_p[2] - log_p[3]) / (12 * h)


def test_joint_likelihood_is_the_product_of_its_laws():
    """Written out with scipy's distributions, a shower at a time; differences of two theta."""
    simulator = CalorimeterShower(record=EVERY)
    theta = np.array([[-0.4, 3.0], [1.0, 12.0], [1.6, 18.0]])
    fields = simulator(theta, seed=9)
    scale = 1000 * 0.17**2

    def written_out(row, theta):
        E = np.array([10 ** theta[0]])
        profile = fields["z_profile"][row].astype(float)
        (mean,), (sigma,), (rho,) = shape_moments(E)
        covariance = np.outer(sigma, sigma) * np.array([[1, rho], [rho, 1]])
        law = stats.multivariate_normal(mean, covariance)
        total = law.logpdf(np.log(profile)) - stats.norm.logsf(-mean[1] / sigma[1])
        rate = spot_number(E) * simulator.shares(theta[None], profile[None])[0]
        n, x = fields["z_spots"][row, 0], fields["x"][row, 0].astype(float)
        total += stats.poisson.logpmf(n, rate).sum()
        shape = n * E / spot_number(E) / 0.17**2
        total += stats.gamma.logpdf(x[x > 0], shape[x > 0], scale=scale).sum()
        empty = (x == 0) & (n > 0)
        return total + stats.gamma.logcdf(0.01515, shape[empty], scale=scale).sum()

    for other in (theta + [0.01, 0.5], theta - [0.02, 1.0]):
        found = simulator.joint_log_likelihood(fields, other)
        found -= simulator.joint_log_likelihood(fields, theta)
        expected = [
            written_out(i, b) - written_out(i, a) for i, (a, b) in enumerate(zip(theta, other))
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_joint_score_has_mean_zero_and_the_score_identity_holds():
    """d E[h] / d theta = E[h t] of spots and their lean; t by finite differences."""
    n = 2_000
    simulator = CalorimeterShower(record=EVERY)
    truth = np.array([0.3, 10.0])
    theta = np.tile(truth, (n, 1))
    fields = simulator.simulate(theta, np.random.default_rng(10))
    slopes = [joint_slope(simulator, fields, theta, i, h) for i, h in enumerate((1e-3, 1e-2))]
    t = np.stack(slopes, 1)
    assert z_score(t).max() < 4
    spots = fields["z_spots"][:, 0]
    lever = np.cos(np.radians(40) * np.arange(9))[:, None] * (np.arange(8) + 0.5)

    def mean_spots(theta, profile):
        return spot_number(10 ** theta[:, 0]) * simulator.shares(theta, profile).sum((1, 2, 3))

    def mean_lean(theta, profile):
        shares = simulator.shares(theta, profile)
        return spot_number(10 ** theta[:, 0]) * (lever * shares).sum((1, 2, 3))

    for h, g, i, step in (
        (spots.sum((1, 2, 3)), mean_spots, 0, 1e-3),
        ((lever * spots).sum((1, 2, 3)), mean_lean, 1, 1e-2),
    ):
        shift = np.eye(2)[i] * step
        mean = over_profile(g, truth)
        slope = (over_profile(g, truth + shift) - over_profile(g, truth - shift)) / (2 * step)
        product = (h - mean) * t[:, i]
        error = product.std() / n**0.5
        assert abs(product.mean() - slope) < 4 * error
        assert abs(slope) > 5 * error


@pytest.mark.parametrize("shift", [(0.005, 0.0), (0.0, 0.5), (-0.005, -0.5)], ids=str)
def test_joint_ratio_has_mean_one(shift):
    simulator = CalorimeterShower(record=EVERY)
    n = 2_000
    theta = np.tile([0.3, 8.0], (n, 1))
    fields = simulator.simulate(theta, np.random.default_rng(11))
    log_r = simulator.joint_log_likelihood(fields, theta + shift)
    ratio = np.exp(log_r - simulator.joint_log_likelihood(fields, theta))
    assert ratio.std() > 0.05
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / n**0.5


def test_what_run_stores_has_lost_nothing():
    """Joint ratios from float32 records, and from the simulator's own."""
    simulator = CalorimeterShower(record=EVERY)
    theta = prior_draws(100)
    stored = simulator.run(theta, np.random.default_rng(12))
    own = simulator.simulate(theta, np.random.default_rng(12))
    for fields in (stored, own):
        fields["ratio"] = simulator.joint_log_likelihood(fields, theta + [1e-3, 0.1])
        fields["ratio"] -= simulator.joint_log_likelihood(fields, theta)
    np.testing.assert_allclose(stored["ratio"], own["ratio"], rtol=1e-6, atol=1e-6)


def test_rows_are_independent():
    """Rows of one theta share nothing, and theirs are the rows' own parameters."""
    simulator = CalorimeterShower(record=EVERY)
    layers = simulator(np.tile([1.0, 5.0], (2_000, 1)), seed=13)["z_layers"].astype(float)
    pairs = np.corrcoef(layers[:-1, 6], layers[1:, 6])[0, 1]
    assert abs(pairs) < 4 / 2_000**0.5
    theta = prior_draws(200, seed=14)
    total = simulator(theta, seed=14)["z_layers"].sum(1)
    assert np.corrcoef(np.log10(total / 1000), theta[:, 0])[0, 1] > 0.99


def test_fields_are_as_declared_and_repeat():
    simulator = CalorimeterShower(record=EVERY)
    theta = prior_draws(70)
    first, second, other = (simulator(theta, seed=seed) for seed in (15, 15, 16))
    assert set(simulator.fields) == set(first) == {"x", *EVERY}
    for name, value in first.items():
        assert value.shape[1:] == simulator.fields[name].shape
        assert np.isfinite(value).all()
        assert (value == second[name]).all() and (value != other[name]).any()
    assert first["x"].dtype == np.float32
    assert simulator.fields["x"].layout == "image" and simulator.fields["x"].units == ("MeV",)
    for record in ([], ["z_layers"], "z_spots"):  # what is recorded changes nothing else
        some = CalorimeterShower(record=record)(theta, seed=15)
        assert all((some[name] == first[name]).all() for name in some)
    assert set(CalorimeterShower().fields) == {"x", "z_profile", "z_layers"}


def test_prior_and_settings():
    simulator = CalorimeterShower(sampling=0.2, record="z_spots")
    assert simulator.settings == {
        "layer_depth": 1.5,
        "ring_width": 1.0,
        "sampling": 0.2,
        "threshold": 0.01515,
        "record": ["z_spots"],
    }
    assert simulator.prior.names == simulator.names == ("log10_E", "angle")
    np.testing.assert_allclose(simulator.prior.low, [0, 0])
    np.testing.assert_allclose(simulator.prior.high, [3, 20])
    assert simulator.prior.units == ("", "deg")


def test_a_worker_needs_no_torch():
    simulator = CalorimeterShower()
    theta = prior_draws(3)
    assert len(simulator.prior.names) == 2
    expected = simulator.run(theta, np.random.default_rng(1))["x"]
    code = (
        "import pickle, sys, numpy as np\n"
        "simulator, theta = pickle.load(sys.stdin.buffer)\n"
        "x = simulator.run(theta, np.random.default_rng(1))['x']\n"
        "assert 'torch' not in sys.modules\n"
        "sys.stdout.buffer.write(x.tobytes())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((simulator, theta)),
        capture_output=True,
        check=True,
    )
    assert done.stdout == expected.tobytes()


def test_throughput():
    """Printed, not asserted: machines differ."""
    simulator, theta = CalorimeterShower(), prior_draws(256)
    start = time.process_time()
    for seed in range(4):
        simulator(theta, seed=seed)
    print(f"{4 * 256 / (time.process_time() - start):.0f} showers a CPU-second")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"layer_depth": 0}, "layer_depth must be positive; got 0"),
        ({"ring_width": -1.0}, "ring_width must be positive"),
        ({"sampling": np.inf}, "sampling must be positive"),
        ({"threshold": np.nan}, "threshold must be positive"),
        ({"record": ["joint_score"]}, "record must be names among z_profile, z_layers, z_spots"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        CalorimeterShower(**arguments)


@pytest.mark.parametrize(
    "theta, message",
    [
        ((4.5, 0.0), "log10_E must lie between -0.5 and 4"),
        ((np.nan, 0.0), "log10_E must lie between"),
        ((1.0, -1.0), "angle must lie between 0 and 60 degrees"),
        ((1.0, np.nan), "angle must lie between"),
        ((1.0, 0.0, 2.0), r"theta must be \(n, 2\)"),
    ],
)
def test_bad_parameters(theta, message):
    with pytest.raises(ValueError, match=message):
        CalorimeterShower().simulate(np.array([theta]), np.random.default_rng(0))


def test_the_joint_likelihood_says_what_it_lacks():
    simulator = CalorimeterShower()
    with pytest.raises(ValueError, match="needs z_spots, and there are x, z_profile, z_layers"):
        simulator.joint_log_likelihood(simulator([[1.0, 0.0]], seed=0), np.array([1.0, 0.0]))
