"""Muon pairs: density, sampler, scores and posterior against quadrature and closed forms."""

import pickle
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import voigt_profile
from scipy.stats import chi2, kstest

from simulators.dimuon import M_Z, WIDTH, WINDOW, Dimuon, peak_in_window, voigt

DATA = Path(__file__).parents[3] / "shared" / "data" / "dimuon"
PUBLIC = pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}: the real events are not here")
THETAS = {
    "peak": [(90.7, 1.5, 0.08), (88.1, 0.5, 0.01), (93.9, 3.0, 0.3)],
    "scale": [(0.994, 1.5, 0.08), (0.97, 3.0, 0.3), (1.03, 0.6, 0.02)],
}
CASES = [(parameters, theta) for parameters, thetas in THETAS.items() for theta in thetas]


def draws(simulator, n):
    return simulator.prior.sample((n,), seed=0).double().numpy()


def slope(function, theta, i, h):
    """Five-point derivative by parameter i."""
    step = np.zeros_like(theta)
    step[..., i] = h
    a, b, c, d = (function(theta + k * step) for k in (-2, -1, 1, 2))
    return (a - 8 * b + 8 * c - d) / (12 * h)


def test_the_profile_is_scipys_and_its_gradient_is_right():
    rng = np.random.default_rng(0)
    u, sigma, gamma = rng.uniform([-20, 0.3, 1], [20, 3, 4], (200, 3)).T
    value, gradient = voigt(u, sigma, gamma)
    np.testing.assert_allclose(value, voigt_profile(u, sigma, gamma / 2), rtol=1e-12)
    at = np.stack([u, sigma, gamma], -1)
    for i in range(3):
        numeric = slope(lambda t: voigt_profile(*t.T * [[1], [1], [0.5]]), at, i, 1e-3)
        np.testing.assert_allclose(gradient[:, i], numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mu, sigma", [(91.2, 0.5), (88.0, 3.0), (94.0, 3.0), (95.5, 2.0)])
def test_the_share_in_the_window(mu, sigma):
    def share(mu, sigma, gamma):
        parts = ((WINDOW[0], mu), (mu, WINDOW[1]))
        return sum(
            quad(lambda m: voigt_profile(m - mu, sigma, gamma / 2), a, b, epsabs=1e-12)[0]
            for a, b in parts
        )

    at = np.array([mu, sigma, WIDTH])
    value, gradient = peak_in_window(*at)
    assert value == pytest.approx(share(*at), abs=1e-10)
    for i in range(3):
        h = 1e-2 * np.eye(3)[i]
        numeric = (share(*(at + h)) - share(*(at - h))) / 2e-2
        assert gradient[i] == pytest.approx(numeric, abs=3e-7)


@pytest.mark.parametrize("parameters, theta", CASES)
def test_the_density_integrates_to_one(parameters, theta):
    simulator = Dimuon(parameters=parameters)
    mu = simulator.shape(theta)[0]
    parts = ((WINDOW[0], mu), (mu, WINDOW[1]))
    total = sum(
        quad(lambda m: simulator.density(m, theta), a, b, epsabs=1e-11)[0] for a, b in parts
    )
    assert total == pytest.approx(1, abs=1e-9)
    assert (simulator.density([69.9, 110.1], theta) == 0).all()


@pytest.mark.parametrize("parameters, theta", CASES)
def test_events_follow_the_density(parameters, theta):
    simulator = Dimuon(events=1000, parameters=parameters, record=[])
    x = simulator.simulate(np.tile(theta, (200, 1)), np.random.default_rng(1))["x"]
    edges = np.linspace(*WINDOW, 81)
    counts, _ = np.histogram(x, edges)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    centres, half = (edges[1:] + edges[:-1]) / 2, 0.25

    def p_value(at):
        p = simulator.density(centres[:, None] + half * nodes, at) @ weights * half
        return chi2.sf(((counts - x.size * p) ** 2 / (x.size * p)).sum(), 79)

    assert counts.sum() == x.size
    assert p_value(theta) > 1e-3
    assert p_value(np.array(theta) * [1, 1.1, 1]) < 1e-3  # it would notice
    assert p_value(np.array(theta) * [1.003, 1, 1]) < 1e-3


def test_the_likelihood_of_a_set_is_that_of_its_events():
    simulator = Dimuon(events=30)
    theta = draws(simulator, 4)
    x = simulator.simulate(theta, np.random.default_rng(2))["x"]
    value = simulator.log_likelihood(x[:, None], theta)
    assert value.shape == (4, 4)
    for i in range(4):
        for j in range(4):
            one_by_one = np.log([simulator.density(m, theta[j]) for m in x[i, :, 0]])
            assert value[i, j] == pytest.approx(one_by_one.sum(), rel=1e-12)
    assert simulator.log_likelihood([[60.0], [91.0]], theta[0]) == -np.inf


@pytest.mark.parametrize("parameters", THETAS)
def test_scores_are_gradients(parameters):
    simulator = Dimuon(events=50, parameters=parameters, record=["z_truth", "joint_score"])
    theta = draws(simulator, 100)
    fields = simulator.simulate(theta, np.random.default_rng(3))
    score = simulator.score(fields["x"], theta)
    for i, h in enumerate((1e-5 if parameters == "scale" else 1e-3, 1e-3, 1e-4)):
        for value, function in (
            (score, lambda t: simulator.log_likelihood(fields["x"], t)),
            (fields["joint_score"], lambda t: simulator.joint_log_likelihood(fields, t)),
        ):
            numeric = slope(function, theta, i, h)
            np.testing.assert_allclose(value[:, i], numeric, atol=2e-6 * value[:, i].std())


@pytest.mark.parametrize("parameters, theta", CASES)
def test_the_joint_score_given_x_averages_to_the_score(parameters, theta):
    """E[t] = 0, and t - score is uncorrelated with functions of x."""
    n, theta = 10_000, np.array(theta)
    simulator = Dimuon(events=20, parameters=parameters)
    fields = simulator.simulate(np.tile(theta, (n, 1)), np.random.default_rng(4))
    x, t = fields["x"][..., 0], fields["joint_score"]
    assert (np.abs(t.mean(0)) < 4 * t.std(0) / n**0.5).all()
    score = simulator.score(fields["x"], np.tile(theta, (n, 1)))
    assert (np.abs(score.mean(0)) < 4 * score.std(0) / n**0.5).all()
    assert (t.std(0) > 1.02 * score.std(0)).any()
    mu = simulator.shape(theta)[0]
    near = np.abs(x[..., None] - mu) < [1.0, 3.0, 8.0]
    functions = [score, near.mean(1), np.tanh(x - mu).mean(1)[:, None]]
    for h in np.concatenate(functions, -1).T:
        products = (t - score) * (h - h.mean())[:, None]
        assert (np.abs(products.mean(0)) < 4.5 * products.std(0) / n**0.5).all()


@pytest.mark.parametrize("parameters, theta", CASES)
def test_ratios_have_mean_one(parameters, theta):
    n, theta = 10_000, np.array(theta)
    simulator = Dimuon(events=5, parameters=parameters, record=["z_truth"])
    fields = simulator.simulate(np.tile(theta, (n, 1)), np.random.default_rng(5))
    other = theta + np.array([0.15 / (M_Z if parameters == "scale" else 1), 0.03, 0.005])
    for function in (
        lambda t: simulator.joint_log_likelihood(fields, t),
        lambda t: simulator.log_likelihood(fields["x"], t),
    ):
        ratio = np.exp(function(other) - function(theta))
        assert ratio.std() > 0.05
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / n**0.5


def test_the_record_tells_signal_from_background():
    simulator = Dimuon(events=400, record=["z_truth"])
    theta = np.array([91.0, 1.2, 0.2])
    fields = simulator.simulate(np.tile(theta, (100, 1)), np.random.default_rng(6))
    is_z, truth = np.moveaxis(fields["z_truth"], -1, 0)
    x = fields["x"][..., 0]
    assert set(np.unique(is_z)) == {0, 1}
    assert abs(is_z.mean() - 0.8) < 4 * (0.16 / is_z.size) ** 0.5
    assert (x == truth)[is_z == 0].all()
    assert kstest(x[is_z == 0], "uniform", (70, 40)).pvalue > 1e-3
    residual = (x - truth)[(is_z == 1) & (np.abs(truth - 91) < 8)]  # far from the edges
    assert kstest(residual / 1.2, "norm").pvalue > 1e-3


def test_a_scale_of_one_is_the_mass_of_the_Z():
    x = Dimuon(events=50)([[91.0, 1.5, 0.1]], seed=0)["x"]
    peak, scale = Dimuon(), Dimuon(parameters="scale")
    a = peak.log_likelihood(x, (M_Z, 1.5, 0.1))
    assert a == pytest.approx(scale.log_likelihood(x, (1.0, 1.5, 0.1)), rel=1e-12)
    mu, _, gamma, _ = scale.shape((1.01, 1.5, 0.1))
    assert (mu, gamma) == (1.01 * 91.188, 1.01 * 2.495)


@pytest.mark.parametrize("parameters", THETAS)
def test_the_exact_posterior_is_prior_times_likelihood(parameters):
    """Evidence and mean against importance weights of draws from the prior."""
    simulator = Dimuon(events=40, parameters=parameters)
    x = simulator([THETAS[parameters][0]], seed=0)["x"][0]
    posterior = simulator.exact_posterior(x, points=32)
    theta = draws(simulator, 20_000)
    log_p = simulator.log_likelihood(x, theta)
    weights = np.exp(log_p - posterior.log_evidence)
    assert abs(weights.mean() - 1) < 4 * weights.std() / len(weights) ** 0.5
    pull = (theta - posterior.mean) * weights[:, None]
    assert (np.abs(pull.mean(0)) < 4 * pull.std(0) / len(pull) ** 0.5).all()
    square = ((theta - posterior.mean) ** 2 - posterior.sd**2) * weights[:, None]
    assert (np.abs(square.mean(0)) < 4 * square.std(0) / len(square) ** 0.5).all()


def test_the_exact_posterior_ranks_the_truth_uniformly():
    simulator = Dimuon(events=100, record=[])
    truth = draws(simulator, 100)
    x = simulator.simulate(truth, np.random.default_rng(7))["x"]
    posteriors = [simulator.exact_posterior(row, points=16) for row in x]
    below = [
        (p.sample(200, seed=i) < at).mean(0) for i, (p, at) in enumerate(zip(posteriors, truth))
    ]
    for column in np.transpose(below):
        assert kstest(column, "uniform").pvalue > 1e-3


def test_fields_seeds_and_rows():
    simulator = Dimuon(events=20, record=["z_truth", "joint_score"])
    theta = draws(simulator, 6)
    a, b = simulator(theta, seed=0), simulator(theta, seed=1)
    assert set(a) == set(simulator.fields) == {"x", "z_truth", "joint_score"}
    for name, value in a.items():
        assert value.shape[1:] == simulator.fields[name].shape and np.isfinite(value).all()
        np.testing.assert_array_equal(value, simulator(theta, seed=0)[name])
        assert (value != b[name]).any()
    x = simulator.fields["x"]
    assert (x.layout, x.iid, x.support, x.units) == ("set", True, WINDOW, ("GeV",))
    assert (a["x"] >= 70).all() and (a["x"] <= 110).all()
    bare = Dimuon(events=20, record=[])(theta, seed=0)
    assert set(bare) == {"x"} and (bare["x"] == a["x"]).all()
    assert Dimuon(record="z_truth").settings == {
        "events": 500,
        "parameters": "peak",
        "record": ["z_truth"],
    }


def test_workers_need_no_torch():
    simulator = Dimuon(events=10)
    theta = draws(simulator, 3)
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
    "call, message",
    [
        (lambda _: Dimuon(events=0), "events must be positive"),
        (lambda _: Dimuon(parameters="mass"), "parameters must be peak or scale; got 'mass'"),
        (lambda _: Dimuon(record=["z_p"]), "record must be names among z_truth, joint_score"),
        (lambda _: Dimuon()([[60.0, 1.0, 0.1]]), "peak must be inside the window"),
        (lambda _: Dimuon()([[90.0, 0.0, 0.1]]), "resolution positive"),
        (lambda _: Dimuon()([[90.0, 1.0, 1.1]]), "background in"),
        (lambda _: Dimuon().log_likelihood(np.zeros(3), (90, 1, 0.1)), "x must be sets"),
        (
            lambda _: Dimuon().log_likelihood(np.zeros((3, 1)), (90, 1)),
            r"theta must be \(\.\.\., 3",
        ),
        (lambda _: Dimuon().joint_log_likelihood({"x": 0}, (90, 1, 0.1)), "needs z_truth"),
        (lambda folder: Dimuon.observed(folder), "there is no .*dimuon.h5: .*scikit-hep"),
    ],
)
def test_bad_input_is_refused(call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)


def test_another_file_is_refused(tmp_path):
    with h5py.File(tmp_path / "dimuon.h5", "w") as file:
        file["energy"] = [1.0]
    with pytest.raises(ValueError, match="is not the sample"):
        Dimuon.observed(tmp_path)
    with h5py.File(tmp_path / "dimuon.h5", "w") as file:
        file["mass"] = [1.0, 91.0, 120.0, 80.0]
    np.testing.assert_array_equal(Dimuon.observed(tmp_path), [[91.0], [80.0]])


@PUBLIC
def test_the_real_events():
    """Peak 90.7 ± 0.14 GeV, resolution about 1.5 GeV, background about 8 %."""
    x = Dimuon.observed(DATA)
    assert x.shape == (476, 1)
    posterior = Dimuon().exact_posterior(x, points=32)
    assert (np.abs(posterior.mean - [90.67, 1.46, 0.082]) < [0.02, 0.02, 0.002]).all()
    np.testing.assert_allclose(posterior.sd, [0.138, 0.198, 0.025], rtol=0.03)
    scale = Dimuon(parameters="scale").exact_posterior(x, points=32)
    assert scale.mean[0] == pytest.approx(90.67 / M_Z, abs=3e-4)


@pytest.mark.parametrize("record", [[], ["joint_score"]])
def test_throughput(record):
    simulator = Dimuon(record=record)
    theta = draws(simulator, 1024)
    start = time.process_time()
    x = simulator.simulate(theta, np.random.default_rng(0))["x"]
    rate = len(x) / (time.process_time() - start)
    print(f"{record}: {rate:,.0f} sets of 500 events a CPU-second")
    assert np.isfinite(x).all()
