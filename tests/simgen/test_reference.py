"""Reference: observations with gaps have p-values that keep their promise, pattern by pattern."""

import logging
import math

import h5py
import numpy as np
import pytest
import torch
from torch.distributions import Normal

import simgen
from simgen.cli import main
from simgen.missing import Patterns, Random
from simgen.page import Page
from simgen.reporting import _likeness
from simgen.typicality import SUSPECT, check_observation, p_values

FLOW = simgen.Flow(transforms=1, hidden=(16,))
QUICK = {"max_epochs": 1, "progress": False, "device": "cpu"}
T = np.linspace(-1, 1, 12)
PRIOR = simgen.Prior(a=Normal(0.0, 1.0), b=Normal(0.0, 1.0))
ALL = np.ones(12, dtype=bool)
PATTERNS = {
    "complete": ALL,
    "half": T < 0,
    "three": np.isin(np.arange(12), (1, 6, 10)),
    "all but one": np.arange(12) != 4,
}


@simgen.simulator(prior=PRIOR, batched=True)
def line(theta, rng):
    return theta[:, :1] + theta[:, 1:] * T + 0.1 * rng.standard_normal((len(theta), 12))


def observed(n, seed, pattern=ALL):
    x = line(np.asarray(PRIOR.sample((n,), seed=seed)), seed=seed + 1)["x"]
    return np.where(pattern, x, np.nan)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("line") / "data"
    return simgen.simulate(line, 5_000, path, seed=0, progress=False)


@pytest.fixture(scope="module", params=["mask", "joint"])
def model(request, dataset):
    """A posterior trained behind masks, and one that is a conditional of a joint model."""
    if request.param == "mask":
        return simgen.fit("theta | x", dataset, FLOW, mask=Random((0, 0.8)), **QUICK)
    joint = simgen.fit("theta, x", dataset, simgen.Diffusion(network="tokens"), **QUICK)
    return joint.condition("theta | x")


@pytest.mark.parametrize("name", PATTERNS)
def test_false_alarms_of_a_pattern(model, name):
    p = p_values(model, observed(1_000, 7, PATTERNS[name])).numpy()
    n = check_observation(model, observed(1, 3, PATTERNS[name])[0]).rows
    assert n >= 300 and p.min() >= 1 / (n + 1)
    for level in (0.01, 0.1, 0.5):
        sd = math.sqrt(level * (1 - level) * (1 / n + 1 / len(p)))
        assert abs((p <= level).mean() - level) < 3.5 * sd


@pytest.mark.parametrize("kind", ["noise", "background", "mask", "scale"])
@pytest.mark.parametrize("name", ["half", "all but one"])
def test_troubles_are_detected_behind_gaps(model, name, kind):
    rng = np.random.default_rng(0)
    x = observed(200, 11, PATTERNS[name])
    x = {
        "noise": x + 0.5 * rng.standard_normal(x.shape),
        "background": x + 2 * np.exp(-((T + 0.4) ** 2) / 0.02),
        "mask": np.where((T > -0.7) & (T < -0.4), 0.0, x),
        "scale": 8 * x,
    }[kind]
    assert (p_values(model, x).numpy() <= SUSPECT).mean() >= (0.8 if kind == "scale" else 0.95)


def test_a_trouble_where_nothing_is_observed_is_none(model):
    x = observed(1, 5)[0]
    x[9] += 5
    assert check_observation(model, x).suspect
    x[9] = np.nan
    assert not check_observation(model, x).suspect


def test_patterns_of_a_batch_are_those_of_its_rows(model):
    x = np.concatenate([observed(2, 7, v) for v in PATTERNS.values()]).reshape(4, 2, 12)
    p = p_values(model, x)
    assert p.shape == (4, 2)
    alone = [[float(check_observation(model, v)) for v in row] for row in x]
    np.testing.assert_allclose(p, alone, atol=2 / 300)


def test_nothing_observed_is_nothing_odd(model, caplog):
    nothing = np.full(12, np.nan)
    assert check_observation(model, nothing) == 1
    with caplog.at_level(logging.WARNING, "simgen"):
        model(nothing)
        model(observed(1, 5, PATTERNS["half"])[0])
        assert not caplog.records
        model(observed(1, 5, PATTERNS["half"])[0] + 30 * T**3)
    assert "unlike the simulations" in caplog.text


def test_files(model, tmp_path):
    model.save(tmp_path / "model")
    again = simgen.load(tmp_path / "model")
    for pattern in PATTERNS.values():
        x = observed(20, 7, pattern)
        assert torch.equal(p_values(model, x), p_values(again, x))


def test_other_conditionals_of_a_joint_model(dataset):
    joint = simgen.fit("theta, x", dataset, simgen.Diffusion(network="tokens"), **QUICK)
    with pytest.raises(ValueError, match="knows no null"):
        check_observation(joint)
    part = joint.condition("b | x, a")
    x = observed(300, 7, PATTERNS["half"])
    a = np.asarray(PRIOR.sample((300,), seed=7))[:, 0]
    p = p_values(part, x=x, a=a).numpy()
    assert (p <= 0.1).mean() < 0.1 + 4 * math.sqrt(0.09 * (1 / 300 + 1 / 500))
    assert check_observation(part, x=x[0], a=a[0] + 3).suspect  # no such intercept


def test_whole_features_of_sets_of_any_length(tmp_path):
    rng = np.random.default_rng(0)

    def draw(n):
        theta = rng.uniform(-1, 1, (n, 1))
        return theta, rng.standard_normal((n, 20, 2)) + theta[..., None]

    theta, events = draw(3_000)
    length = rng.integers(5, 21, 3_000)
    padded = events * (np.arange(20) < length[:, None])[..., None]
    dataset = simgen.Dataset.create(
        tmp_path / "data", theta=theta, x=padded.astype(np.float32), x_length=length
    )
    model = simgen.fit("theta | x", dataset, FLOW, mask=Random(0.3, whole=True), **QUICK)
    x = draw(300)[1]
    x[..., 1] = np.nan
    p = np.array([float(check_observation(model, v[: rng.integers(5, 21)])) for v in x[:100]])
    assert (p <= 0.1).mean() < 0.1 + 4 * math.sqrt(0.09 * (1 / 100 + 1 / 300))
    assert check_observation(model, 3 * x[0]).suspect
    x[0, 3, 0] = np.nan
    assert check_observation(model, x[0]) > 0.01  # as long as any
    with pytest.raises(ValueError, match="differ from element to element"):
        check_observation(model, x[0, :10])


def test_patterns_that_the_simulator_records_have_no_null(tmp_path, caplog):
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((1_000, 1))
    x = (theta + rng.standard_normal((1_000, 3))).astype(np.float32)
    dataset = simgen.Dataset.create(tmp_path / "data", theta=theta, x=x, seen=x < 1.5)
    model = simgen.fit("theta | x", dataset, FLOW, mask="seen", **QUICK)
    assert check_observation(model, np.array([0.3, -0.2, 0.4])) > 0.01
    with pytest.raises(ValueError, match="its patterns are recorded"):
        check_observation(model, np.array([0.3, np.nan, 0.4]))
    both = simgen.Dataset.create(tmp_path / "both", theta=theta, x=x, y=x[:, :2], seen=x < 1.5)
    rules = {"x": "seen", "y": Random(0.5)}
    model = simgen.fit("theta | x, y", both, FLOW, mask=rules, **QUICK)
    assert check_observation(model, x=[0.3, -0.2, 0.4], y=[0.3, np.nan]) <= 1
    with pytest.raises(ValueError, match="gaps in 'x' are recorded by the simulator"):
        check_observation(model, x=[0.3, np.nan, 0.4], y=[0.3, -0.2])
    with caplog.at_level(logging.WARNING, "simgen"):
        model(x=[0.3, np.nan, 99.0], y=[0.3, -0.2])
    assert not caplog.records


def test_dead_pixels_of_an_image(tmp_path):
    rng = np.random.default_rng(0)
    shape = np.exp(-np.add.outer(np.arange(-4, 4) ** 2, np.arange(-4, 4) ** 2) / 8)

    def draw(n):
        theta = rng.standard_normal((n, 1))
        noise = 0.3 * rng.standard_normal((n, 1, 8, 8))
        return theta, (theta[..., None, None] * shape + noise).astype(np.float32)

    theta, x = draw(4_000)
    dataset = simgen.Dataset.create(
        tmp_path / "data", theta=theta, x=x, declared={"x": simgen.Field((1, 8, 8), "image")}
    )
    dead = np.ones((1, 8, 8), bool)
    dead[:, 2:5, 3:6] = False
    model = simgen.fit(
        "theta | x", dataset, FLOW, mask=Patterns([dead, np.ones((1, 8, 8), bool)]), **QUICK
    )
    x = np.where(dead, draw(400)[1], np.nan)
    n = check_observation(model, x[0]).rows
    p = p_values(model, x).numpy()
    for level in (0.01, 0.1):
        sd = math.sqrt(level * (1 - level) * (1 / n + 1 / len(p)))
        assert abs((p <= level).mean() - level) < 3.5 * sd
    assert (p_values(model, 2.5 * x).numpy() <= SUSPECT).mean() > 0.95


def test_the_command_and_the_report(dataset, tmp_path, capsys):
    model = simgen.fit("theta | x", dataset, FLOW, mask=Random((0, 0.8)), **QUICK)
    model.save(tmp_path / "model.safetensors")
    x = observed(1, 5, PATTERNS["half"])[0]
    np.save(tmp_path / "bad.npy", x + 30 * T**3)
    words = ["sample", tmp_path / "model.safetensors", "-n", 10, "--given", tmp_path / "bad.npy"]
    words = [str(w) for w in (*words, "-o", tmp_path / "out.h5")]
    for more, code in (([], 2), (["--force"], 0)):
        with pytest.raises(SystemExit) as end:
            main([*words, *more])
        assert end.value.code == code
    assert "--force" in capsys.readouterr().err
    with h5py.File(tmp_path / "out.h5") as file:
        assert '"forced": true' in file.attrs["check_observation"]
    for value, text in ((x, "could be a simulation"), (x + 30 * T**3, "unlike the simulations")):
        page = Page("page", "")
        _likeness(page, model, {"x": value})
        assert text in page.write(tmp_path / "page.html").read_text()
