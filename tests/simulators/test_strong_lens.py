import json
import math
import pickle

import numpy as np
import pytest
import torch
from scipy.stats import norm, poisson

import simgen
from simulators.galaxies import GalaxySources
from simulators.lensing import LENS
from simulators.lensing_operator import LensOperator, lens_operator
from simulators.strong_lens import StrongLens

SMALL = {"pixels": 16, "side": 3.2}
CASES = {
    "sersic": {},
    "poisson": {"noise": "poisson"},
    "pixels": {"source": GalaxySources(pixels=12)},
    "subhalos": {"subhalos": True},
    "everything": {"source": GalaxySources(pixels=12), "subhalos": True, "noise": "poisson"},
}


def prior_draws(simulator, n, seed=0):
    return simulator.prior.sample((n,), seed=seed).double().numpy()


@pytest.fixture(params=CASES)
def case(request):
    return StrongLens(**SMALL, **CASES[request.param])


# the likelihood


def test_the_likelihood_is_the_gaussian_density():
    simulator = StrongLens(**SMALL, sigma=0.2)
    theta = prior_draws(simulator, 5)
    x = simulator(theta, seed=1)["x"]
    mu = simulator.signal(torch.tensor(theta)).numpy()
    exact = norm.logpdf(x.astype(float), mu, 0.2).sum((1, 2, 3))
    np.testing.assert_allclose(simulator.log_likelihood(x, theta), exact, rtol=1e-12)
    table = simulator.log_likelihood(x[:, None], theta[:3])
    assert table.shape == (5, 3)
    np.testing.assert_allclose(np.diag(table), exact[:3], rtol=1e-12)
    np.testing.assert_allclose(simulator.log_likelihood(x[1], theta[:3]), table[1], rtol=1e-12)
    assert simulator.log_likelihood(x[0], theta[0]).shape == ()


def test_the_likelihood_is_that_of_the_counts():
    simulator = StrongLens(**SMALL, noise="poisson", exposure=50, background=0.7)
    theta = prior_draws(simulator, 5)
    x = simulator(theta, seed=1)["x"]
    rate = 50 * (np.maximum(simulator.signal(torch.tensor(theta)).numpy(), 0) + 0.7)
    counts = 50 * (x.astype(float) + 0.7)
    np.testing.assert_allclose(counts, counts.round(), atol=1e-3)
    exact = poisson.logpmf(counts.round(), rate).sum((1, 2, 3))
    np.testing.assert_allclose(simulator.log_likelihood(x, theta), exact, rtol=1e-10)


@pytest.mark.parametrize("noise", ["gaussian", "poisson"])
def test_noise(noise):
    simulator = StrongLens(**SMALL, noise=noise, record="z_image")
    fields = simulator(prior_draws(simulator, 300), seed=2)
    x, mu = fields["x"].astype(float), fields["z_image"].astype(float)
    sd = 0.1 if noise == "gaussian" else np.sqrt((np.maximum(mu, 0) + 1) / 100)
    z = ((x - mu) / sd).ravel()
    assert abs(z.mean()) < 4 / len(z) ** 0.5
    assert abs((z**2).mean() - 1) < 4 * (2.02 / len(z)) ** 0.5
    pairs = np.corrcoef(z[:-1], z[1:])[0, 1]
    assert abs(pairs) < 4 / len(z) ** 0.5


def test_latents_leave_no_closed_form():
    for arguments in ({"subhalos": True}, {"source": GalaxySources(8)}):
        simulator = StrongLens(**SMALL, **arguments)
        theta = prior_draws(simulator, 2)
        with pytest.raises(ValueError, match="no closed form; there is joint_log_likelihood"):
            simulator.log_likelihood(simulator(theta)["x"], theta)


# scores


def slopes(simulator, fields, theta, h=1e-7):
    """The gradient of the joint log-likelihood by central differences, (n, d)."""
    out = []
    for i in range(theta.shape[1]):
        step = np.zeros_like(theta)
        step[:, i] = h
        log_p = [simulator.joint_log_likelihood(fields, theta + k * step) for k in (-1, 1)]
        out.append((log_p[1] - log_p[0]) / (2 * h))
    return np.stack(out, -1)


def test_joint_score_is_the_gradient_of_the_joint_likelihood(case):
    """Of stored rows. Pixelised sources have kinks in theta, which few differences step over."""
    theta = prior_draws(case, 30)
    fields = case(theta, seed=3)
    t = fields["joint_score"].astype(float)
    error = np.abs(slopes(case, fields, theta) - t)
    right = error < 3e-6 * np.maximum(np.abs(t), t.std(0))
    assert right.all() if case.source is None else right.mean() > 0.99


def test_without_latents_it_is_the_score_itself():
    simulator = StrongLens(**SMALL)
    theta = prior_draws(simulator, 4)
    fields = simulator(theta, seed=3)
    joint = simulator.joint_log_likelihood(fields, theta)
    np.testing.assert_allclose(joint, simulator.log_likelihood(fields["x"], theta), rtol=1e-14)


def at_one_theta(simulator, n, seed=5):
    low, high = (np.asarray(b, float) for b in (simulator.prior.low, simulator.prior.high))
    theta = 0.6 * low + 0.4 * high
    rows = np.tile(theta, (n, 1))
    return theta, simulator.simulate(rows, np.random.default_rng(seed))


def test_scores_have_mean_zero(case):
    n = 600
    _, fields = at_one_theta(case, n)
    t = fields["joint_score"]
    assert (t.std(0) > 0).all()
    assert (np.abs(t.mean(0)) < 4 * t.std(0) / n**0.5).all()


@pytest.mark.parametrize("noise", ["gaussian", "poisson"])
def test_score_identity_of_the_image(noise):
    """d E[x] / d theta = E[x t], pixel by pixel, and E[t t'] is the Fisher matrix."""
    n = 4000
    simulator = StrongLens(pixels=8, noise=noise)
    theta, fields = at_one_theta(simulator, n)
    t, x = fields["joint_score"], fields["x"].reshape(n, -1).astype(float)
    J = torch.func.jacrev(lambda p: simulator.signal(p[None]).ravel())(torch.tensor(theta)).numpy()
    mu = simulator.signal(torch.tensor(theta[None])).numpy().ravel()
    products = (x - mu)[:, :, None] * t[:, None, :]
    z = (products.mean(0) - J) / (products.std(0) / n**0.5)
    assert np.abs(z).max() < 5
    variance = 0.1**2 if noise == "gaussian" else (np.maximum(mu, 0) + 1) / 100
    fisher = (J.T / variance) @ J
    assert np.abs((t**2).mean(0) / np.diag(fisher) - 1).max() < 4 * (2.1 / n) ** 0.5


# the simulator


def test_too_many_subhaloes_are_an_error():
    simulator = StrongLens(**SMALL, subhalos=True)
    theta = prior_draws(simulator, 1)
    theta[:, -2] = 1.0
    theta[:, -1] = -2.5
    with pytest.raises(ValueError, match=r"subhaloes; z_sub holds \d+"):
        simulator(theta)


def test_fields_are_as_declared_and_repeatable(case):
    theta = prior_draws(case, 6)
    first, second, other = (case(theta, seed=seed) for seed in (8, 8, 9))
    assert set(case.fields) == {name for name in first if not name.endswith("_length")}
    for name, value in first.items():
        assert (value == second[name]).all() and np.isfinite(value).all()
        assert (value != other[name]).any()
        if name in case.fields:
            assert value.shape[1:] == case.fields[name].shape and value.dtype == np.float32


def test_rows_are_independent(case):
    """The images of a batch are those of its rows, each with its latents; chunks as well."""
    theta = prior_draws(case, 5)
    fields = case(theta, seed=8)
    latents = {name: fields[name] for name in fields if name.startswith("z_")}
    batch = case.signal(torch.tensor(theta), latents)
    for i in range(5):
        row = {name: value[i : i + 1] for name, value in latents.items()}
        alone = case.signal(torch.tensor(theta[i : i + 1]), row)
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=0, atol=1e-12)
    together = case.joint_log_likelihood(fields, theta)
    some = {name: value[2:4] for name, value in fields.items()}
    np.testing.assert_allclose(together[2:4], case.joint_log_likelihood(some, theta[2:4]))


def test_many_rows_are_worked_on_in_chunks():
    simulator = StrongLens(pixels=64)
    theta = prior_draws(simulator, 40)
    x = simulator(theta, seed=1)["x"]
    assert x.shape == (40, 1, 64, 64)
    mu = simulator.signal(torch.tensor(theta)).numpy()
    exact = norm.logpdf(x.astype(float), mu, 0.1).sum((1, 2, 3))
    np.testing.assert_allclose(simulator.log_likelihood(x, theta), exact, rtol=1e-12)


def test_recording_less_changes_nothing_else():
    arguments = {**SMALL, **CASES["everything"]}
    every = ["joint_score", "z_image", "z_source", "z_sub"]
    theta = prior_draws(StrongLens(**arguments), 4)
    full = StrongLens(**arguments, record=every)(theta, seed=5)
    assert set(full) == {"x", "z_sub_length", *every}
    for record in ([], ["z_image"], ["z_sub", "joint_score"]):
        some = StrongLens(**arguments, record=record)(theta, seed=5)
        assert set(some) - {"z_sub_length"} == {"x", *record}
        assert ("z_sub_length" in some) == ("z_sub" in record)
        assert all((some[name] == full[name]).all() for name in some)


def test_a_pixelised_source_is_lensed_by_the_operator():
    simulator = StrongLens(pixels=20, source=GalaxySources(10), record=["z_source", "z_image"])
    theta = prior_draws(simulator, 3)
    assert simulator.names == LENS
    fields = simulator(theta, seed=1)
    A = lens_operator(torch.tensor(theta), pixels=20)
    assert isinstance(A, LensOperator)
    image = A(torch.tensor(fields["z_source"]).double())
    np.testing.assert_allclose(fields["z_image"], image, rtol=1e-6, atol=1e-6)


def test_settings_and_pickle(case):
    again = json.loads(json.dumps(case.settings))
    assert again == case.settings and again["pixels"] == 16
    if case.source is not None:
        assert (
            again["source"]["name"].endswith("GalaxySources") and again["source"]["pixels"] == 12
        )
    theta = prior_draws(case, 3)
    copy = pickle.loads(pickle.dumps(case))
    assert (copy(theta, seed=1)["x"] == case(theta, seed=1)["x"]).all()
    assert case.prior.names == case.names


def test_a_function_may_draw_the_sources():
    @simgen.simulator(batched=True, name="squares")
    def squares(theta, rng):
        return rng.random((len(theta), 1, 6, 6))

    simulator = StrongLens(**SMALL, source=squares)
    assert simulator(prior_draws(simulator, 2))["z_source"].shape == (2, 1, 6, 6)
    assert simulator.settings["source"] == {"name": "squares"}


@simgen.simulator
def single(theta, rng):
    return rng.random((1, 4, 4))


@simgen.simulator(batched=True)
def oblong(theta, rng):
    return rng.random((len(theta), 1, 4, 5))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"noise": "pink"}, "noise must be one of gaussian, poisson; got 'pink'"),
        ({"sigma": 0.0}, "sigma must be positive; got 0.0"),
        ({"pixels": -3}, "pixels must be positive"),
        ({"psf_fwhm": -0.1}, "psf_fwhm must not be negative"),
        ({"source": "galaxy"}, "batched simulator without prior"),
        ({"source": single}, "batched simulator without prior"),
        ({"source": StrongLens(**SMALL)}, "batched simulator without prior"),
        ({"source": oblong}, r"a source must be \(1, N_s, N_s\); got \(1, 4, 5\)"),
        ({"record": ["z_sub"]}, "record must be among x, joint_score, z_image; got 'z_sub'"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        StrongLens(**{**SMALL, **arguments})


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("R_E", -1.0, "R_E must be positive; got -1.0"),
        ("n_s", 0.0, "n_s must be positive"),
        ("f_sub", 0.0, "f_sub must be positive"),
        ("e_1", 1.0, "e_1 and e_2 must lie within the unit circle"),
        ("x_s", math.inf, "theta must be finite"),
    ],
)
def test_bad_parameters(name, value, message):
    simulator = StrongLens(**SMALL, subhalos=True)
    theta = prior_draws(simulator, 2)
    theta[1, simulator.names.index(name)] = value
    with pytest.raises(ValueError, match=message):
        simulator.simulate(theta, np.random.default_rng(0))


def test_wrong_shapes():
    simulator = StrongLens(**SMALL)
    theta = prior_draws(simulator, 2)
    with pytest.raises(ValueError, match=r"theta must be \(..., 14\): R_E"):
        simulator.log_likelihood(np.zeros((1, 16, 16)), theta[:, :7])
    with pytest.raises(ValueError, match=r"x must be \(..., 1, 16, 16\)"):
        simulator.log_likelihood(np.zeros((2, 16, 16)), theta)
    with pytest.raises(ValueError, match="the joint likelihood needs x"):
        simulator.joint_log_likelihood({}, theta)
