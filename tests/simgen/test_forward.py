"""Simulator: calls, streams, checks, and what a worker gets."""

import pickle
import subprocess
import sys

import cloudpickle
import numpy as np
import pytest
import torch
from torch.distributions import Uniform

import simgen
from simgen.forward import Parameters, stream

PRIOR = simgen.Prior(a=Uniform(0.0, 1.0), b=Uniform(0.0, 1.0))


@simgen.simulator(prior=PRIOR)
def one(theta, rng):
    return {"x": theta + rng.standard_normal(2), "z_n": rng.poisson(3)}


@simgen.simulator(prior=PRIOR, batched=True)
def many(theta, rng):
    return theta["a"][:, None] + 0.0 * rng.standard_normal((len(theta), 1))


class Mine(simgen.Simulator):
    prior = PRIOR
    fields = {"x": simgen.Field((2,))}  # noqa: RUF012

    def __init__(self, noise=0.1):
        self.noise = noise

    def simulate(self, theta, rng):
        return {"x": theta + self.noise * rng.standard_normal(theta.shape)}


def test_streams_are_disjoint_and_repeatable():
    draws = {
        (s, p, i): stream(s, p, i).random() for s in (0, 1) for p in (0, 1, 2) for i in (0, 1)
    }
    assert len(set(draws.values())) == len(draws)
    assert stream(0, 2, 1).random() == draws[0, 2, 1]


def test_one_at_a_time_is_a_loop_over_rows():
    theta = np.array([[0.1, 0.2], [0.3, 0.4]])
    fields = one(theta, seed=3)
    assert fields["x"].shape == (2, 2) and fields["x"].dtype == np.float32
    assert fields["z_n"].dtype.kind == "i"
    expected = theta[1] + stream(3, 2, 1).standard_normal(2)
    np.testing.assert_array_equal(fields["x"][1], expected.astype(np.float32))
    np.testing.assert_array_equal(one(torch.tensor(theta[0]), seed=3)["x"], fields["x"][0])


def test_parameters_by_name():
    theta = Parameters([[1.0, 2.0]], ("a", "b"))
    assert theta["b"].tolist() == [2.0]
    assert theta[0]["a"] == 1.0
    with pytest.raises(KeyError, match="there are a, b"):
        theta["c"]
    np.testing.assert_array_equal(many([[0.25, 0.5]])["x"], [[0.25]])
    np.testing.assert_array_equal(many({"a": [0.25], "b": [0.5]})["x"], [[0.25]])


def test_subclass_has_settings_and_name():
    simulator = Mine(noise=0.5)
    assert simulator.settings == {"noise": 0.5}
    assert simulator.name.endswith(":Mine")
    assert simulator(np.zeros((3, 2)))["x"].shape == (3, 2)


def test_pickling_leaves_the_prior_behind():
    copy = cloudpickle.loads(cloudpickle.dumps(one))
    assert "prior" not in vars(copy)
    theta = np.array([0.1, 0.2])
    got = copy.run(theta, stream(0, 2, 0))["x"]
    np.testing.assert_array_equal(got, one.run(theta, stream(0, 2, 0))["x"])
    assert pickle.loads(pickle.dumps(Mine(0.2))).noise == 0.2


def test_import_needs_no_torch():
    code = "import sys, simgen, simgen.forward, simgen.field; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda theta, rng: {"y": theta}, "must return the field 'x'"),
        (lambda theta, rng: theta[:1], "wanted 3 rows"),
        (lambda theta, rng: {"x": theta, "z": np.array(["a", "b", "c"])}, "numbers or booleans"),
    ],
)
def test_bad_returns(function, message):
    simulator = simgen.simulator(function, prior=PRIOR, batched=True)
    with pytest.raises(ValueError, match=message):
        simulator(np.zeros((3, 2)))


@pytest.mark.parametrize(
    "ragged",
    [lambda up: np.zeros(3 + up), lambda up: {"x": 0.0, "z": 1.0} if up else {"x": 0.0}],
)
def test_rows_that_do_not_fit_together_say_so(ragged):
    simulator = simgen.simulator(lambda theta, rng: ragged(int(theta[0] > 0)), prior=PRIOR)
    with pytest.raises(ValueError, match=r"row 1 .* the same in all rows; pad"):
        simulator(np.array([[-1.0, 0.0], [1.0, 0.0]]))


@pytest.mark.parametrize("batched", [True, False])
def test_simulators_may_work_in_place(batched):
    def double(theta, rng):
        theta *= 2
        return theta

    theta = np.ones((3, 2))
    assert (simgen.simulator(double, prior=PRIOR, batched=batched)(theta)["x"] == 2).all()
    assert (theta == 1).all()


def test_wrong_theta():
    with pytest.raises(ValueError, match="theta must be"):
        one(np.zeros((3, 5)))


def test_declared_shape_is_checked():
    simulator = simgen.simulator(
        lambda theta, rng: theta, prior=PRIOR, batched=True, fields={"x": simgen.Field((3,))}
    )
    with pytest.raises(ValueError, match="declared with shape"):
        simulator(np.zeros((3, 2)))
