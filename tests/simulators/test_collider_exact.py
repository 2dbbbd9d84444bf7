"""The exact marginal of the collider chain against quadrature and against its own simulator."""

import pickle

import numpy as np
import pytest
from scipy.stats import chi2, kstest

from simulators import contact, lund
from simulators.collider import ColliderShower
from simulators.collider_exact import ExactMarginal
from simulators.detector import DETECTORS
from simulators.shower_table import ShowerTable

SINGLE = {name: ColliderShower(name) for name in DETECTORS}
BOTH = pytest.mark.parametrize("name", DETECTORS)
THETAS = [(-0.5, 0.10), (0.4, 0.118), (2.0, 0.14)]
N = 60_000


def prior_draws(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(-0.5, 2, n), rng.uniform(0.1, 0.14, n)], -1)


def legendre(low, high, size):
    x, w = np.polynomial.legendre.leggauss(size)
    return (low + high) / 2 + (high - low) / 2 * x, w * (high - low) / 2


@pytest.fixture(scope="module", params=THETAS, ids=str)
def events(request):
    """Single events at one theta, their joint score and exact integrals."""
    simulator = SINGLE["coarse"]
    theta = np.array(request.param)
    fields = simulator.simulate(np.tile(theta, (N, 1)), np.random.default_rng(1))
    return simulator, theta, fields, simulator.marginal.integrals(fields["x"])


@BOTH
@pytest.mark.parametrize("theta", THETAS, ids=str)
def test_density_is_normalised(name, theta):
    detector, exact = DETECTORS[name], SINGLE[name].marginal
    low, high = (np.log(m) + k * 6 * detector.energy_width(m) for m, k in ((200, -1), (1000, 1)))
    log_e, by_e = legendre(low, high, 40)
    # One energy, one axis: the integrals over n and tau; then the axis, then the energy.
    n = np.arange(exact.table.most + 1)
    parts = legendre(-5.9 * detector.thrust, 0.1, 40), legendre(0.1, 1.49, 60)
    tau, by_tau = (np.concatenate(part) for part in zip(*parts))
    c_x, by_c = legendre(-1 - 7 * detector.axis, 1 + 7 * detector.axis, 200)

    def total(e, c, k, t):
        x = np.stack(np.broadcast_arrays(e, c, k, t), -1)
        return np.exp(SINGLE[name].log_likelihood(x, np.array(theta)))

    # Of the axis the density is A_- I_0 + A_+ (...), so that two values give all others.
    sides = np.array([total(np.exp(log_e)[:, None, None], c, n[:, None], tau) for c in (0.3, 0.8)])
    by_energy = (sides * by_tau).sum((2, 3)) @ (by_e * np.exp(log_e))
    plus, minus = detector.smeared(np.array([0.3, 0.8]))
    terms = np.linalg.solve(np.stack([plus, minus], -1), by_energy)
    whole = [(side * by_c).sum() for side in detector.smeared(c_x)]
    assert terms @ whole == pytest.approx(1, abs=1e-4)


@BOTH
def test_approximations_are_below_a_thousandth_of_a_nat(name):
    """Against finer tables and more nodes, at the events' own theta and at others."""
    detector = DETECTORS[name]
    fine = ExactMarginal(detector, 90, ShowerTable(detector, 10, 9, fineness=5))
    theta = prior_draws(5000)
    x = SINGLE[name](theta, seed=0)["x"]
    events, finer = SINGLE[name].marginal.integrals(x), fine.integrals(x)
    for at in (theta, np.random.default_rng(0).permutation(theta)):
        found = SINGLE[name].marginal.log_prob(events, at)
        assert np.isfinite(found).all()
        assert np.abs(found - fine.log_prob(finer, at)).max() < 3e-4


def test_marginal_is_the_average_over_the_hard_process():
    """Plain quadrature over m and cos theta* of p(z_p | eps) p(x | z_p, alpha_s)."""
    simulator = SINGLE["sharp"]
    theta = prior_draws(20, seed=3)
    x = simulator(theta, seed=1)["x"]
    (m, by_m), (c, by_c) = legendre(200, 1000, 400), legendre(-1, 1, 300)
    z_p = np.stack(np.meshgrid(m, c, indexing="ij"), -1)
    for event, at in zip(x, theta):
        log_p = contact.log_prob(m[:, None], c, at[0])
        log_p = log_p + simulator.shower_log_likelihood(event, z_p, at)
        total = by_m @ np.exp(log_p) @ by_c
        assert simulator.log_likelihood(event, at) == pytest.approx(np.log(total), abs=3e-4)
        posterior = by_m @ np.exp(simulator.log_unfolding(z_p, event, at)) @ by_c
        assert posterior == pytest.approx(1, abs=3e-4)


@BOTH
def test_stage_of_the_detector_averages_to_that_of_the_shower(name):
    """p(x | z_p, theta) = E[p(x | z_d)] over showers of one z_p."""
    simulator, k = SINGLE[name], 40_000
    rng = np.random.default_rng(4)
    m, c, theta = 700.0, -0.2, np.array([0.0, 0.125])
    counts, ln_kt, eta = lund.draw(np.full(k, m), np.full(k, theta[1]), rng)
    seen = rng.random(len(eta)) < simulator.marginal.detector.efficiency
    z_d = np.zeros((k, 67))
    z_d[:, 0], z_d[:, 1] = m, c
    z_d[:, 2] = lund.sum_events(np.exp(ln_kt - eta), counts) / m
    z_d[:, 3] = lund.sum_events(seen, counts)
    for x in ([690.0, -0.1, 3, 0.05], [720.0, -0.25, 1, 0.01], [650.0, -0.2, 5, 0.1]):
        p = np.exp(simulator.detector_log_likelihood(np.array(x), z_d))
        exact = np.exp(simulator.shower_log_likelihood(np.array(x), np.array([m, c]), theta))
        assert abs(p.mean() - exact) < 4 * p.std() / k**0.5
        assert p.std() / k**0.5 < 0.1 * exact


@pytest.mark.parametrize("columns", [(0, 1), (2, 3)], ids=["energy-axis", "number-tau"])
def test_events_follow_the_density(events, columns):
    """Chi-squared of joint histograms; at eps = -0.5 the interference is negative."""
    simulator, theta, fields, _ = events
    x = fields["x"]
    if columns == (0, 1):
        exact, observed = _energy_axis(simulator, theta, x)
        wrong = _energy_axis(simulator, theta + [0.4, 0], x)[0]
    else:
        exact, observed = _number_tau(simulator, theta, x)
        wrong = _number_tau(simulator, theta + [0, 0.004 if theta[1] < 0.12 else -0.004], x)[0]
    assert _p_value(observed, exact) > 1e-3
    assert _p_value(observed, wrong) < 1e-6


def _p_value(observed, exact):
    large = exact > 10
    exact = np.append(exact[large], N - exact[large].sum())
    observed = np.append(observed[large], N - observed[large].sum())
    return chi2.sf(((observed - exact) ** 2 / exact).sum(), len(exact) - 1)


def _energy_axis(simulator, theta, x):
    """Expected and observed counts; n and tau are integrated out by hand: p(E | m) is left."""
    detector = simulator.marginal.detector
    e_edges, c_edges = np.geomspace(150, 1300, 13), np.linspace(-2, 2, 9)
    m, by_m = legendre(200, 1000, 100)
    c, by_c = legendre(-1, 1, 60)
    p = np.exp(contact.log_prob(m[:, None], c, theta[0])) * by_m[:, None] * by_c
    log_e, by_e = legendre(0, 1, 12)
    steps = np.log(e_edges[:-1])[:, None] + np.diff(np.log(e_edges))[:, None] * log_e
    in_e = np.exp(detector.log_energy(np.exp(steps)[..., None], m) + steps[..., None])
    in_e = np.einsum("bkm,k->bm", in_e, by_e) * np.diff(np.log(e_edges))[:, None]
    axis = c_edges[:-1, None] + np.diff(c_edges)[:, None] * log_e
    in_c = np.exp(detector.log_axis(axis[..., None], c))
    in_c = np.einsum("bkm,k->bm", in_c, by_e) * np.diff(c_edges)[:, None]
    observed = np.histogram2d(x[:, 0], x[:, 1], [e_edges, c_edges])[0]
    return N * in_e @ p @ in_c.T, observed


def _number_tau(simulator, theta, x):
    """Expected and observed counts; E and c_x are integrated out: p(m | eps) is left."""
    t_edges, rows = np.array([-0.1, -0.02, 0, 0.02, 0.05, 0.08, 0.12, 0.2, 0.3, 1.4]), np.arange(7)
    m, by_m = legendre(200, 1000, 30)
    u = m / 1000
    p = by_m / 1000 * u**-3 * ((1 + theta[0] * u**2) ** 2 + 1) * 8 / 3
    p /= np.exp(contact.log_norm(theta[0]))
    t, by_t = legendre(0, 1, 24)
    tau = t_edges[:-1, None] + np.diff(t_edges)[:, None] * t
    log_p = simulator.marginal.table.log_prob(
        rows[:, None, None, None], tau[..., None], m, theta[1]
    )
    exact = np.exp(log_p) @ p @ by_t * np.diff(t_edges)
    return N * exact, np.histogram2d(x[:, 2], x[:, 3], [np.arange(8) - 0.5, t_edges])[0]


def test_ratio_has_mean_one_and_score_mean_zero(events):
    simulator, theta, _, integrals = events
    exact = simulator.marginal
    inward = np.sign([0.5, 0.12] - theta) * [0.4, 0.004]
    ratio = np.exp(exact.log_prob(integrals, theta + inward) - exact.log_prob(integrals, theta))
    assert ratio.std() > 0.02
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / N**0.5
    score = exact.score(integrals, theta)
    assert (np.abs(score.mean(0)) < 4 * score.std(0) / N**0.5).all()


def test_joint_score_and_ratio_average_to_the_exact_ones(events):
    """E[t | x] = t_x, so E[(t - t_x) t_x] = 0; E[r | a bin of x] = E[r_x | the bin]."""
    simulator, theta, fields, integrals = events
    t, t_x = fields["joint_score"], simulator.marginal.score(integrals, theta)
    product = (t - t_x)[:, :, None] * t_x[:, None]
    assert (np.abs(product.mean(0)) < 4 * product.std(0) / N**0.5).all()
    assert (t.std(0) > 1.05 * t_x.std(0)).all()
    other = theta + np.sign([0.5, 0.12] - theta) * [0.4, 0.004]
    log_r = simulator.marginal.log_prob(integrals, other) - simulator.marginal.log_prob(
        integrals, theta
    )
    r = np.exp(simulator.joint_log_ratio(fields, other, theta))
    difference = r - np.exp(log_r)
    bins = np.digitize(log_r, np.quantile(log_r, np.linspace(0, 1, 9)[1:-1]))
    for b in range(8):
        inside = difference[bins == b]
        assert abs(inside.mean()) < 4 * inside.std() / len(inside) ** 0.5


@BOTH
def test_score_is_the_slope(name):
    simulator, theta = SINGLE[name], prior_draws(500) * [1, 0.9] + [0, 0.012]
    x = simulator(theta, seed=2)["x"]
    score = simulator.score(x, theta)
    for i, h in enumerate((1e-3, 1e-4)):
        step = np.eye(2)[i] * h
        log_p = [simulator.log_likelihood(x, theta + k * step) for k in (-2, -1, 1, 2)]
        slope = (log_p[0] - 8 * log_p[1] + 8 * log_p[2] - log_p[3]) / (12 * h)
        np.testing.assert_allclose(score[:, i], slope, rtol=1e-6, atol=1e-6 * score[:, i].std())


def test_shapes_broadcast_and_a_set_is_the_sum_of_its_events():
    single, sets = SINGLE["coarse"], ColliderShower(events=5)
    theta = prior_draws(3)
    x = sets(theta, seed=3)["x"]
    table = sets.log_likelihood(x[:, None], prior_draws(4, seed=1))
    assert table.shape == (3, 4) and table.dtype == np.float64
    loop = [[sets.log_likelihood(row, at) for at in prior_draws(4, seed=1)] for row in x]
    np.testing.assert_allclose(table, loop, rtol=1e-12)
    alone = single.log_likelihood(x, theta[:, None])
    assert alone.shape == (3, 5)
    np.testing.assert_allclose(sets.log_likelihood(x, theta), alone.sum(1))
    np.testing.assert_allclose(sets.score(x, theta), single.score(x, theta[:, None]).sum(1))
    assert sets.score(x[:, None], theta).shape == (3, 3, 2)
    assert single.log_likelihood(x[0, 0], theta[0]).shape == ()
    assert single.score(x[0, 0], theta[0]).shape == (2,)
    # Any number of events is a set.
    np.testing.assert_allclose(sets.log_likelihood(x[:, :2], theta), alone[:, :2].sum(1))


def test_posterior_is_the_likelihood_on_its_grid():
    sets = ColliderShower(events=8)
    x = sets(prior_draws(2), seed=4)["x"]
    posterior = sets.exact_posterior(x, points=7)
    log_p = sets.log_likelihood(x[:, None], posterior.theta)
    np.testing.assert_allclose(np.diff(np.log(posterior.weights)), np.diff(log_p), atol=1e-8)
    one = SINGLE["coarse"].exact_posterior(x[0, 0], points=7)
    log_p = SINGLE["coarse"].log_likelihood(x[0, 0], one.theta)
    np.testing.assert_allclose(np.diff(np.log(one.weights)), np.diff(log_p), atol=1e-10)
    assert sets.exact_posterior(x[0], points=7).weights.shape == (49,)


def test_posterior_covers_the_truth():
    sets = ColliderShower(events=100)
    theta = prior_draws(300, seed=5)
    posterior = sets.exact_posterior(sets(theta, seed=6)["x"], points=40)
    below = posterior.sample(200, seed=7) < theta
    for ranks in below.mean(0).T:
        assert kstest(ranks, "uniform").pvalue > 1e-3
    contraction = posterior.sd.mean(0) / (np.array([2.5, 0.04]) / 12**0.5)
    assert (contraction < 0.9).all()


def test_unfolding_covers_the_truth():
    """The rank of m in p(m | x), under theta from the prior, is uniform."""
    simulator, k = SINGLE["coarse"], 400
    theta = prior_draws(k, seed=8)
    fields = simulator(theta, seed=9)
    (m, by_m), (c, by_c) = legendre(200, 1000, 80), legendre(-1, 1, 12)
    z_p = np.stack(np.meshgrid(m, c, indexing="ij"), -1)
    for given in (None, theta[:, None, None]):
        log_p = simulator.log_unfolding(z_p, fields["x"][:, None, None], given)
        mass = np.exp(log_p) @ by_c * by_m
        np.testing.assert_allclose(mass.sum(1), 1, atol=1e-3)
        rank = (mass * (m < fields["z_p"][:, :1])).sum(1)
        assert kstest(rank, "uniform").pvalue > 1e-3


def test_unfolding_averages_over_the_prior():
    """p(z_p | x) is the mean of p(z_p | x, theta) over the posterior of theta given x."""
    simulator = SINGLE["sharp"]
    fields = simulator(prior_draws(3, seed=10), seed=11)
    for x, z_p in zip(fields["x"], fields["z_p"]):
        posterior = simulator.exact_posterior(x, points=60)
        expected = posterior.weights @ np.exp(simulator.log_unfolding(z_p, x, posterior.theta))
        assert np.exp(simulator.log_unfolding(z_p, x)) == pytest.approx(expected, rel=1e-3)
    assert simulator.log_unfolding(np.array([150.0, 0.1]), x) == -np.inf
    assert simulator.log_unfolding(np.array([-1.0, 0.1]), x, [0.1, 0.12]) == -np.inf


def test_events_that_cannot_be():
    simulator, good = SINGLE["coarse"], [400.0, 0.1, 2, 0.05]
    bad = [
        [-1.0, 0.1, 2, 0.05],
        [400, 0.1, 2.5, 0.05],
        [400, 0.1, -1, 0.05],
        [400, 0.1, 2, 5.0],
        [400, np.nan, 2, 0.05],
        [np.nan, 0.1, 2, 0.05],
        [400, 1e3, 2, 0.05],
    ]
    log_p = simulator.log_likelihood(np.array([good, *bad]), np.array([0.5, 0.12]))
    assert np.isfinite(log_p[0]) and (log_p[1:] == -np.inf).all()
    assert (simulator.score(np.array(bad), np.array([0.5, 0.12])) == 0).all()
    with pytest.raises(ValueError, match="density zero"):
        simulator.exact_posterior(np.array(bad[0]))


def test_workers_do_not_carry_the_tables():
    simulator = ColliderShower(events=3)
    bare = len(pickle.dumps(simulator))
    assert simulator.marginal.table.most > 20
    assert len(pickle.dumps(simulator)) == bare


def test_bad_arguments():
    simulator = ColliderShower(events=3)
    with pytest.raises(ValueError, match=r"tabulated for alpha_s from 0.1 to 0.14; got"):
        simulator.log_likelihood(np.zeros((3, 4)), np.array([0.0, 0.15]))
    with pytest.raises(ValueError, match="eps must be above -1"):
        simulator.score(np.zeros((3, 4)), np.array([-1.5, 0.12]))
    with pytest.raises(ValueError, match=r"x must be \(\.\.\., events, 4\)"):
        simulator.log_likelihood(np.zeros(4), np.array([0.0, 0.12]))
    with pytest.raises(ValueError, match=r"x must be \(\.\.\., 4\)"):
        simulator.log_likelihood(np.zeros((3, 5)), np.array([0.0, 0.12]))
