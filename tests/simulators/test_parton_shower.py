import itertools
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy.stats import ks_2samp, kstest

from simgen.diagnosis import diagnose
from simulators.jets import thrust
from simulators.parton_shower import PartonShower

N = 16_000
ALPHAS = [0.10, 0.14]


@pytest.fixture(scope="module", params=ALPHAS)
def single(request):
    """Single events at one alpha_s, latents and all, in double precision."""
    simulator = PartonShower("shapes")
    theta = np.full((N, 1), request.param)
    return request.param, simulator, simulator.simulate(theta, np.random.default_rng(1))


def prior_draws(n, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 0.14, (n, 1))


def slope(simulator, fields, theta, h=1e-4):
    """Five-point derivative of the joint log-likelihood."""
    log_p = [simulator.joint_log_likelihood(fields, theta + k * h) for k in (-2, -1, 1, 2)]
    return (log_p[0] - 8 * log_p[1] + 8 * log_p[2] - log_p[3]) / (12 * h)


@pytest.mark.parametrize("energy", [20.0, 91.188, 1000.0])
def test_momentum_is_conserved_on_the_mass_shell(energy):
    simulator = PartonShower("shapes", energy=energy, cutoff=1.2, record=["z_p", "z_s"])
    theta = prior_draws(2000)
    fields = simulator.simulate(theta, np.random.default_rng(0))
    shower = simulator.shower(fields, theta)
    total = shower.momenta.sum(1)
    assert np.abs(total - [0, 0, 0, energy]).max() < 1e-9
    p = shower.momenta
    assert np.abs(p[..., 3] ** 2 - (p[..., :3] ** 2).sum(-1)).max() < 1e-9 * energy**2
    slot = np.arange(32) < shower.counts[:, None] + 2
    assert ((p[..., 3] > 0) == slot).all() and not p[~slot].any()
    assert shower.counts.max() > (3 if energy < 50 else 8)


def test_joint_score_is_the_gradient_of_the_joint_likelihood():
    simulator = PartonShower("shapes")
    theta = prior_draws(800)
    fields = simulator.simulate(theta, np.random.default_rng(2))
    t = fields["joint_score"][:, 0]
    error = np.abs(slope(simulator, fields, theta) - t)
    assert (error <= 1e-6 * np.maximum(np.abs(t), t.std())).all()


def test_stored_latents_give_the_stored_score():
    """What run() stores in float32 has lost nothing that the score was computed from."""
    simulator = PartonShower("shapes")
    theta = prior_draws(500)
    stored = simulator.run(theta, np.random.default_rng(2))
    assert stored["z_s"].dtype == stored["joint_score"].dtype == np.float32
    exact = simulator.simulate(theta, np.random.default_rng(2))
    again = simulator.shower(stored, theta)
    np.testing.assert_array_equal(again.score, exact["joint_score"][:, 0])
    np.testing.assert_array_equal(again.splittings, exact["z_s"])
    np.testing.assert_allclose(stored["joint_score"][:, 0], again.score, rtol=1e-6)


def test_score_has_mean_zero_and_the_score_identity_holds(single):
    """d E[h] / d alpha_s = E[h t], the slope from showers at two other values."""
    alpha_s, simulator, fields = single
    t = fields["joint_score"][:, 0]
    assert abs(t.mean()) < 4 * t.std() / N**0.5
    h = 0.004
    sides = [
        simulator.simulate(np.full((N, 1), alpha_s + k * h), np.random.default_rng(30 + k))["x"]
        for k in (-1, 1)
    ]
    for column in range(3):
        value = fields["x"][:, column]
        product = (value - value.mean()) * t
        exact = (sides[1] - sides[0]).mean(0)[column] / (2 * h)
        noise = np.hypot(sides[0].std(0)[column], sides[1].std(0)[column]) / N**0.5 / (2 * h)
        error = np.hypot(noise, product.std() / N**0.5)
        assert abs(product.mean() - exact) < 4 * error
        assert abs(exact) > 4 * error


def test_joint_ratio_has_mean_one(single):
    alpha_s, simulator, fields = single
    at = simulator.joint_log_likelihood(fields, np.array([alpha_s]))
    for shift in (-0.006, 0.003, 0.006):
        shifted = simulator.joint_log_likelihood(fields, np.array([alpha_s + shift]))
        ratio = np.exp(shifted - at)
        assert ratio.std() > 0.05
        assert abs(ratio.mean() - 1) < 4 * ratio.std() / N**0.5


def test_more_coupling_more_partons_and_fatter_events():
    means = []
    for alpha_s in (0.10, 0.12, 0.14):
        fields = PartonShower("shapes")(np.full((6000, 1), alpha_s), seed=3)
        x = fields["x"]
        means.append((x.mean(0), x.std(0) / 6000**0.5))
    for (low, s_low), (high, s_high) in itertools.pairwise(means):
        assert (high - low > 3 * np.hypot(s_low, s_high)).all()


def test_fewer_partons_above_a_higher_cut_off():
    theta = np.full((3000, 1), 0.12)
    numbers = [PartonShower("shapes", cutoff=c)(theta)["x"][:, 2].mean() for c in (1, 2, 4, 8)]
    assert (np.diff(numbers) < 0).all() and numbers[-1] > 2


def test_the_hard_process_is_one_plus_cosine_squared():
    fields = PartonShower(record=["z_p"], pixels=2)(prior_draws(20_000))
    c, phi = fields["z_p"].T.astype(float)
    assert kstest(c, lambda v: (v**3 + 3 * v + 4) / 8).pvalue > 1e-3
    assert kstest(phi, "uniform", (0, 2 * np.pi)).pvalue > 1e-3
    assert (np.abs(c) < 1).all() and (phi > 0).all() and (phi < 2 * np.pi).all()


def test_shapes_are_a_function_of_the_record():
    simulator = PartonShower("shapes")
    fields = simulator.run(prior_draws(400), np.random.default_rng(6))
    x = simulator.observe(fields["z_d"], np.random.default_rng(7))
    np.testing.assert_array_equal(x.astype(np.float32), fields["x"])
    tau = 1 - thrust(fields["z_d"])[0]
    np.testing.assert_allclose(fields["x"][:, 0], tau, atol=1e-6)
    assert (fields["x"][:, 2] == fields["z_d_length"]).all()
    assert (fields["z_d_length"] == fields["z_s_length"] + 2).all()


def test_image_given_the_record_knows_nothing_else():
    n = 1000
    theta = prior_draws(n)
    simulator = PartonShower(pixels=8)
    fields = simulator.run(theta, np.random.default_rng(8))
    energy = 0.25 * fields["z_d"].astype(float)
    sigma = np.sqrt(0.25 * energy + (0.03 * energy) ** 2 + 0.05**2)
    residual = (fields["x"] - energy) / sigma
    assert kstest(residual.ravel(), "norm").pvalue > 1e-3
    per_event = residual.sum((1, 2, 3)), (residual**2).sum((1, 2, 3))
    for moment in per_event:
        for other in (theta[:, 0], fields["z_s_length"], fields["joint_score"][:, 0]):
            assert abs(np.corrcoef(moment, other)[0, 1]) < 4 / n**0.5


def test_a_set_is_its_events():
    theta = prior_draws(30)
    sets = PartonShower("shapes", events=8).run(theta, np.random.default_rng(3))
    ones = PartonShower("shapes").run(np.repeat(theta, 8, axis=0), np.random.default_rng(3))
    assert set(sets) == {"x", "joint_score"}
    assert (sets["x"].reshape(-1, 3) == ones["x"]).all()
    total = ones["joint_score"].astype(float).reshape(30, 8).sum(1, keepdims=True)
    np.testing.assert_allclose(sets["joint_score"], total, rtol=1e-4, atol=1e-3)


def test_large_blocks_are_simulated_in_parts(monkeypatch):
    """The rows stay in order, and theta with them, when memory is short."""
    theta = np.repeat([[0.10], [0.14]], 40, axis=0)
    whole = PartonShower("shapes", events=50)(theta, seed=1)
    monkeypatch.setattr("simulators.parton_shower._AT_ONCE", 170)
    parts = PartonShower("shapes", events=50)(theta, seed=1)
    assert {k: v.shape for k, v in parts.items()} == {k: v.shape for k, v in whole.items()}
    number = parts["x"][..., 2].mean(1)
    assert number[:40].mean() + 1.5 < number[40:].mean()
    assert len(np.unique(parts["x"][:, 0, 0])) > 70
    assert not (parts["x"] == whole["x"]).all()


@pytest.mark.parametrize("observable", ["image", "shapes"])
def test_recording_less_changes_nothing_else(observable):
    theta = prior_draws(20)
    full = PartonShower(observable)(theta, seed=5)
    for record in ([], ["z_d"], ["joint_score", "z_p"], ["z_s"]):
        some = PartonShower(observable, record=record)(theta, seed=5)
        lengths = {f"{name}_length" for name in record} & set(full)
        assert set(some) == {"x", *record} | lengths
        assert all((some[name] == full[name]).all() for name in some)


@pytest.mark.parametrize(
    "simulator",
    [PartonShower(pixels=8), PartonShower("shapes"), PartonShower("shapes", events=5)],
    ids=["image", "shapes", "sets"],
)
def test_keeps_the_rules(simulator):
    """Declared fields, determinism, gold identities as in `simgen check`; batch = loop below."""
    found = diagnose(simulator, rows=300)
    failed = [f for f in found.findings if f.passed is False and f.check != "batch = loop"]
    assert not failed
    fields = simulator(prior_draws(8), seed=1)
    assert set(simulator.fields) <= set(fields)
    for name, value in fields.items():
        assert np.isfinite(value).all()
        if name in simulator.fields:
            assert value.shape[1:] == simulator.fields[name].shape


@pytest.mark.parametrize("observable", ["image", "shapes"])
def test_a_batch_is_distributed_as_its_rows(observable):
    simulator = PartonShower(observable, pixels=4)
    theta = np.repeat([[0.10], [0.14]], 150, axis=0)
    batch = simulator(theta, seed=0)
    rows = [simulator(row[None], seed=1 + i) for i, row in enumerate(theta)]
    for half in (slice(0, 150), slice(150, 300)):
        for name in ("x", "z_s", "joint_score"):
            one = np.concatenate([row[name] for row in rows[half]])
            pairs = zip(*(v.reshape(150, -1).T for v in (batch[name][half], one)))
            assert min(ks_2samp(a, b).pvalue for a, b in itertools.islice(pairs, 12)) > 1e-4


def test_prior_and_settings():
    simulator = PartonShower("shapes", events=300)
    assert simulator.settings == {
        "observable": "shapes",
        "energy": 91.188,
        "events": 300,
        "pixels": 32,
        "cutoff": 1.0,
        "partons": 32,
        "record": ["joint_score"],
    }
    assert simulator.prior.names == simulator.names == ("alpha_s",)
    np.testing.assert_allclose([*simulator.prior.low, *simulator.prior.high], [0.10, 0.14])
    assert PartonShower(record="z_p").record == ["z_p"]


def test_workers_need_no_torch():
    simulator, theta = PartonShower(), prior_draws(4)
    assert len(simulator.prior.names) == 1
    expected = simulator.run(theta, np.random.default_rng(1))["x"]
    code = (
        "import pickle, sys, numpy as np\n"
        "simulator, theta = pickle.load(sys.stdin.buffer)\n"
        "x = simulator.run(theta, np.random.default_rng(1))['x']\n"
        "assert 'torch' not in sys.modules and 'fastjet' not in sys.modules\n"
        "sys.stdout.buffer.write(x.tobytes())\n"
    )
    given = pickle.dumps((simulator, theta))
    done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True)
    assert done.stdout == expected.tobytes(), done.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"observable": "tracks"}, "observable must be one of image, shapes; got 'tracks'"),
        ({"energy": 1.5}, "0 < 2 cutoff < energy"),
        ({"cutoff": 0.0}, "0 < 2 cutoff < energy"),
        ({"cutoff": float("nan")}, "0 < 2 cutoff < energy"),
        ({"observable": "shapes", "events": 0}, "events must be a whole number of at least 1"),
        ({"observable": "shapes", "events": 2.5}, "events must be a whole number"),
        ({"events": 5}, "a set of events has shapes, not images"),
        ({"pixels": True}, "pixels must be a whole number"),
        ({"partons": 2}, "partons must be a whole number of at least 3"),
        ({"record": ["z_q"]}, "record must be names among z_p, z_s, z_d, joint_score"),
        (
            {"observable": "shapes", "events": 5, "record": ["z_s"]},
            "record must be names among joint_score",
        ),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        PartonShower(**arguments)


@pytest.mark.parametrize(
    "theta, message",
    [
        ([[0.19]], "alpha_s must lie between 0 and 0.1816"),
        ([[-0.1]], "alpha_s must lie between"),
        ([[np.nan]], "alpha_s must lie between"),
        ([[0.1, 0.2]], r"theta must be \(n, 1\)"),
    ],
)
def test_bad_parameters(theta, message):
    with pytest.raises(ValueError, match=message):
        PartonShower().simulate(np.array(theta), None)


@pytest.mark.parametrize("record", [[], ["z_s"]])
def test_an_overflow_is_an_error_even_when_the_shower_is_not_recorded(record):
    simulator = PartonShower("shapes", partons=6, record=record)
    with pytest.raises(ValueError, match=r"more than the 6 partons .* `partons`"):
        simulator(np.full((500, 1), 0.14))


def test_as_many_partons_as_there_is_room_for():
    """The last slot may be filled: rows that fit are what a larger simulator makes of them."""
    simulator = PartonShower("shapes", partons=13, record=["z_p", "z_s"])
    large = PartonShower("shapes", record=["z_p", "z_s"])
    theta = np.full((600, 1), 0.12)
    fields = next(
        large(theta, seed=k) for k in range(50) if large(theta, seed=k)["z_s_length"].max() == 11
    )
    small = {**fields, "z_s": fields["z_s"][:, :11]}
    one = np.array([0.12])
    expected = large.joint_log_likelihood(fields, one)
    np.testing.assert_array_equal(simulator.joint_log_likelihood(small, one), expected)


def test_the_shower_says_what_it_lacks():
    fields = PartonShower(record=["z_p"])([[0.12]])
    with pytest.raises(ValueError, match="needs z_s, z_s_length, and there are x, z_p"):
        PartonShower().joint_log_likelihood(fields, np.array([0.12]))


@pytest.mark.parametrize("observable", ["image", "shapes"])
def test_throughput(observable):
    simulator, theta = PartonShower(observable), prior_draws(256)
    simulator.run(theta, np.random.default_rng(0))
    start = time.process_time()
    for seed in range(6):
        simulator.run(theta, np.random.default_rng(seed))
    print(f"{observable}: {6 * 256 / (time.process_time() - start):,.0f} events per CPU-second")
