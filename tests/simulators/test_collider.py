import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import chi2, kstest, poisson

from simulators import contact, lund
from simulators.collider import DETECTORS, ColliderShower

N = 40_000
THETAS = [(-0.5, 0.10), (0.4, 0.118), (2.0, 0.14)]


@pytest.fixture(scope="module", params=THETAS, ids=str)
def single(request):
    """Single events at one theta, latents and all, in double precision."""
    simulator = ColliderShower("coarse")
    theta = np.tile(request.param, (N, 1))
    return request.param, simulator, simulator.simulate(theta, np.random.default_rng(1))


def prior_draws(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(-0.5, 2, n), rng.uniform(0.1, 0.14, n)], -1)


def over_mass(g, eps, nodes=60):
    """E[g(m)] under the exact p(m | eps): c integrated in closed form, m by quadrature."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    u = 0.6 + 0.4 * x
    p = w * u**-3 * ((1 + eps * u**2) ** 2 + 1)
    return (p * np.array([g(1000 * v) for v in u]).T).sum(-1) / p.sum()


def fraction_integral(power, m, alpha_s, nodes=80):
    """The integral of ((kt / m) e^-eta)^power dmu: eta in closed form, ln kt by quadrature."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    top = np.log(m) - 0.75
    ln_kt = top / 2 * (x + 1)
    alpha = alpha_s / (1 + 23 / (12 * np.pi) * alpha_s * (2 * ln_kt - np.log(91.188**2)))
    inner = (1 - np.exp(-power * (top - ln_kt))) / power
    rate = 2 * 2 * (4 / 3) * alpha / np.pi
    return top / 2 * (w * rate * np.exp(power * ln_kt) * inner).sum() / m**power


def slope(simulator, fields, theta, i, h):
    """Five-point derivative of the joint log-likelihood by parameter i."""
    step = np.zeros_like(theta)
    step[:, i] = h
    log_p = [simulator.joint_log_likelihood(fields, theta + k * step) for k in (-2, -1, 1, 2)]
    return (log_p[0] - 8 * log_p[1] + 8 * log_p[2] - log_p[3]) / (12 * h)


@pytest.mark.parametrize("events", [None, 7])
def test_joint_score_is_the_gradient_of_the_joint_likelihood(events):
    simulator = ColliderShower(events=events, record=["z_p", "z_s", "joint_score"])
    theta = prior_draws(500)
    fields = simulator.simulate(theta, np.random.default_rng(2))
    for i, h in enumerate((1e-3, 1e-4)):
        t = fields["joint_score"][:, i]
        error = np.abs(slope(simulator, fields, theta, i, h) - t)
        assert (error <= 1e-6 * np.maximum(np.abs(t), t.std())).all()


def test_stored_latents_give_the_stored_score():
    """What run() stores in float32 has lost nothing that the score was computed from."""
    simulator = ColliderShower(events=5, record=["z_p", "z_s", "joint_score"])
    theta = prior_draws(300)
    stored = simulator.run(theta, np.random.default_rng(2))
    assert stored["z_s"].dtype == stored["joint_score"].dtype == np.float32
    for i, h in enumerate((1e-3, 1e-4)):
        t = stored["joint_score"][:, i]
        error = np.abs(slope(simulator, stored, theta, i, h) - t)
        assert (error <= 1e-6 * np.maximum(np.abs(t), t.std())).all()


def test_score_has_mean_zero_and_the_score_identity_holds(single):
    """E[t] = 0; d E[h] / d theta = E[h t] catches what E[t] = 0 lets pass."""
    (eps, alpha_s), _, fields = single
    t = fields["joint_score"]
    assert (np.abs(t.mean(0)) < 4 * t.std(0) / N**0.5).all()

    def mean_energy(e):
        return over_mass(lambda m: m, e)

    def mean_number(a):
        return over_mass(lambda m: lund.mean(m, a), eps)

    h = 1e-4
    energy_slope = (mean_energy(eps + h) - mean_energy(eps - h)) / (2 * h)
    number_slope = (mean_number(alpha_s + h) - mean_number(alpha_s - h)) / (2 * h)
    for value, i, exact in (
        (fields["z_p"][:, 0] - mean_energy(eps), 0, energy_slope),
        (fields["z_s_length"] - mean_number(alpha_s), 1, number_slope),
    ):
        product = value * t[:, i]
        error = product.std() / N**0.5
        assert abs(product.mean() - exact) < 4 * error
        assert abs(exact) > 20 * error


def test_joint_ratio_has_mean_one(single):
    theta, simulator, fields = single
    at = simulator.joint_log_likelihood(fields, np.array(theta))
    for shift in ((0.3, 0.0), (0.0, 0.004), (-0.3, -0.004)):
        log_r = simulator.joint_log_likelihood(fields, np.array(theta) + shift) - at
        ratio = np.exp(log_r)
        assert ratio.std() > 0.02
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / N**0.5


def test_numbers_of_detected_emissions_are_a_mixture_of_poissons(single):
    (eps, alpha_s), _, fields = single
    n = fields["x"][:, 2]
    top = int(n.max()) + 1
    seen = np.arange(top + 1)

    def p_value(a):
        exact = N * over_mass(lambda m: poisson.pmf(seen, 0.5 * lund.mean(m, a)), eps)
        last = int((exact > 10).sum())
        assert last > 4
        exact = np.append(exact[:last], N - exact[:last].sum())
        observed = np.bincount(np.minimum(n, last).astype(int), minlength=last + 1)
        return chi2.sf(((observed - exact) ** 2 / exact).sum(), last)

    assert p_value(alpha_s) > 1e-3
    assert p_value(1.05 * alpha_s) < 1e-6


def test_moments_of_tau(single):
    """Campbell given m, the law of total variance over m; every emission counts, seen or not."""
    (eps, alpha_s), _, fields = single
    mean = over_mass(lambda m: fraction_integral(1, m, alpha_s), eps)
    second = over_mass(lambda m: fraction_integral(1, m, alpha_s) ** 2, eps)
    variance = over_mass(lambda m: fraction_integral(2, m, alpha_s), eps) + second - mean**2
    for tau, exact in ((fields["z_d"][:, 2], variance), (fields["x"][:, 3], variance + 0.02**2)):
        assert abs(tau.mean() - mean) < 4 * (exact / N) ** 0.5
        squares = (tau - mean) ** 2
        assert abs(squares.mean() - exact) < 4 * squares.std() / N**0.5


def test_covariance_of_tau_and_number(single):
    """Given m, cov(n, tau) = e int f dmu: the counted emissions are among those in tau."""
    (eps, alpha_s), _, fields = single
    n, tau = fields["x"][:, 2], fields["z_d"][:, 2]
    values = np.array(
        over_mass(
            lambda m: (
                0.5 * lund.mean(m, alpha_s),
                first := fraction_integral(1, m, alpha_s),
                0.5 * first * (1 + lund.mean(m, alpha_s)),
            ),
            eps,
        )
    )
    product = (n - values[0]) * (tau - values[1])
    exact = values[2] - values[0] * values[1]
    assert abs(product.mean() - exact) < 4 * product.std() / N**0.5


def test_record_of_the_detector(single):
    """z_d repeats the chain up to the detector: m, c, tau of all, flags in their slots."""
    _, _, fields = single
    z_p, z_s, z_d = fields["z_p"], fields["z_s"].astype(float), fields["z_d"]
    slot = np.arange(64) < fields["z_s_length"][:, None]
    assert (z_d[:, :2] == z_p).all()
    tau = (np.exp(z_s[..., 0] - z_s[..., 1]) * slot).sum(1) / z_p[:, 0]
    np.testing.assert_allclose(z_d[:, 2], tau, rtol=1e-6)
    flags = z_d[:, 3:]
    assert set(np.unique(flags)) == {0, 1}
    assert not flags[~slot].any() and not z_s[~slot].any()
    total = slot.sum()
    assert abs(flags[slot].mean() - 0.5) < 4 * (0.25 / total) ** 0.5


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("events", [None, 6])
def test_x_is_drawn_from_the_record_alone(detector, events):
    simulator = ColliderShower(detector, events=events, record=["z_d"])
    theta = prior_draws(300)
    fields = simulator.simulate(theta, rng := np.random.default_rng(4))
    again = np.random.default_rng(4)
    per_event = np.repeat(theta, events or 1, axis=0)
    m, _ = contact.draw(per_event[:, 0], again)
    again.random(lund.draw(m, per_event[:, 1], again).counts.sum())
    x = simulator.observe(fields["z_d"], again)
    assert (x == fields["x"]).all()
    assert rng.random() == again.random()


@pytest.mark.parametrize("detector", DETECTORS)
def test_x_given_the_record_knows_nothing_else(detector):
    """Residuals of x given z_d are standard normal, uncorrelated with theta and the latents."""
    n = 20_000
    theta = prior_draws(n)
    fields = ColliderShower(detector).simulate(theta, np.random.default_rng(6))
    s = DETECTORS[detector]
    z_d = fields["z_d"].astype(float)
    m = z_d[:, 0]
    energy, axis, number, tau = fields["x"].T
    residuals = [
        np.log(energy / m) / np.sqrt(s.energy**2 / m + 0.03**2),
        (axis - z_d[:, 1]) / s.axis,
        (tau - z_d[:, 2]) / s.thrust,
    ]
    assert (number == z_d[:, 3:].sum(1)).all()
    others = [
        *theta.T,
        *fields["z_p"].T,
        *fields["joint_score"].T,
        fields["z_s_length"],
        z_d[:, 2],
    ]
    for residual in residuals:
        assert kstest(residual, "norm").pvalue > 1e-3
        for other in others:
            for moment in (residual, residual**2):
                assert abs(np.corrcoef(moment, other)[0, 1]) < 4 / n**0.5


def test_presets_of_the_detector():
    sharp, coarse = DETECTORS["sharp"], DETECTORS["coarse"]
    assert (sharp.axis, sharp.energy, sharp.efficiency, sharp.thrust) == (0.05, 0.5, 0.8, 0.006)
    assert (coarse.axis, coarse.energy, coarse.efficiency, coarse.thrust) == (0.5, 3, 0.5, 0.02)
    assert sharp.constant == coarse.constant == 0.03


def test_a_set_is_its_events():
    """The same draws, as a set or one by one: same fields, and the score is the sum."""
    theta = prior_draws(40)
    record = ["z_p", "z_s", "z_d", "joint_score"]
    sets = ColliderShower(events=9, record=record).run(theta, np.random.default_rng(3))
    ones = ColliderShower().run(np.repeat(theta, 9, axis=0), np.random.default_rng(3))
    for name in ("x", "z_p", "z_d"):
        assert (sets[name].reshape(ones[name].shape) == ones[name]).all()
    assert (sets["z_s"][..., 0].ravel() == ones["z_s_length"]).all()
    assert (sets["z_s"][..., 1:].reshape(ones["z_s"].shape) == ones["z_s"]).all()
    total = ones["joint_score"].astype(float).reshape(40, 9, 2).sum(1)
    np.testing.assert_allclose(sets["joint_score"], total, rtol=1e-5, atol=1e-4)
    one_by_one = ColliderShower().joint_log_likelihood(ones, np.array([0.3, 0.12]))
    together = ColliderShower(events=9).joint_log_likelihood(sets, np.array([0.3, 0.12]))
    np.testing.assert_allclose(together, one_by_one.reshape(40, 9).sum(1), rtol=1e-12)


def test_recording_less_changes_nothing_else():
    theta = prior_draws(20)
    full = ColliderShower(events=4, record=["z_p", "z_s", "z_d", "joint_score"])(theta, seed=5)
    assert set(full) == {"x", "z_p", "z_s", "z_d", "joint_score"}
    for record in ([], ["z_d"], ["joint_score", "z_p"]):
        some = ColliderShower(events=4, record=record)(theta, seed=5)
        assert set(some) == {"x", *record}
        assert all((some[name] == full[name]).all() for name in some)


@pytest.mark.parametrize("events", [None, 3])
def test_fields_are_as_declared_and_repeatable(events):
    simulator = ColliderShower(events=events, record=["z_p", "z_s", "z_d", "joint_score"])
    theta = prior_draws(16)
    first, second, other = (simulator(theta, seed=seed) for seed in (8, 8, 9))
    assert set(simulator.fields) == set(first) - {"z_s_length"}
    for name, value in first.items():
        assert (value == second[name]).all()
        assert (value != other[name]).any()
        if name in simulator.fields:
            assert value.shape[1:] == simulator.fields[name].shape
            assert value.dtype == np.float32 and np.isfinite(value).all()
    x = simulator.fields["x"]
    assert x.names == ("E_vis", "cos_theta", "n_det", "tau") and x.units == ("GeV", "", "", "")
    assert (x.layout, x.iid) == (("vector", False) if events is None else ("set", True))


def test_prior_and_settings():
    simulator = ColliderShower(detector="sharp", events=300)
    assert simulator.settings == {"detector": "sharp", "events": 300, "record": ["joint_score"]}
    assert ColliderShower(record="z_p").record == ["z_p"]
    assert simulator.prior.names == simulator.names == ("eps", "alpha_s")
    np.testing.assert_allclose(simulator.prior.low, [-0.5, 0.10])
    np.testing.assert_allclose(simulator.prior.high, [2, 0.14])
    assert simulator.prior.units == ("TeV^-2", "")


def test_workers_need_no_torch():
    simulator = ColliderShower(events=3)
    theta = prior_draws(4)
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


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"detector": "blunt"}, "detector must be one of sharp, coarse; got 'blunt'"),
        ({"events": 0}, "positive whole number"),
        ({"events": 2.5}, "positive whole number"),
        ({"events": True}, "positive whole number"),
        ({"events": "many"}, "positive whole number"),
        ({"record": ["z_q"]}, "record must be names among z_p, z_s, z_d, joint_score"),
        ({"record": "theta"}, "record must be names among"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        ColliderShower(**arguments)


@pytest.mark.parametrize(
    "theta, message",
    [
        ((-1.5, 0.12), "eps must be above -1"),
        ((np.nan, 0.12), "eps must be above -1"),
        ((0.0, 0.19), "alpha_s must lie between 0 and 0.1816"),
        ((0.0, -0.1), "alpha_s must lie between"),
        ((0.0, np.nan), "alpha_s must lie between"),
        ((0.0, 0.1, 0.2), r"theta must be \(n, 2\)"),
    ],
)
def test_bad_parameters(theta, message):
    with pytest.raises(ValueError, match=message):
        ColliderShower().simulate(np.array([(0.0, 0.12, 0.0)[: len(theta)], theta]), None)


def test_an_overflow_is_an_error_even_when_the_shower_is_not_recorded():
    simulator = ColliderShower(record=[])
    with pytest.raises(ValueError, match="z_s holds 64"):
        simulator.simulate(np.tile([0.0, 0.1815], (5000, 1)), np.random.default_rng(0))


def test_the_joint_likelihood_says_what_it_lacks():
    simulator = ColliderShower(events=2)
    fields = simulator([[0.0, 0.12]], seed=0)
    with pytest.raises(ValueError, match="needs z_p, z_s, and there are x, joint_score"):
        simulator.joint_log_likelihood(fields, np.array([0.0, 0.12]))
