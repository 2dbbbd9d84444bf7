"""Diagnosis: right simulators pass, and each kind of wrong one is named."""

import numpy as np
import pytest
from torch.distributions import Normal, Uniform

import simgen
import simulators
from simgen.diagnosis import diagnose

PRIOR = simgen.Prior(a=Uniform(-1.0, 1.0), b=Normal(0.0, 0.5))


class Line(simgen.Simulator):
    """x ~ N(a + b t, s^2) at four t, whose score is known; `fault` breaks one rule."""

    prior = PRIOR

    def __init__(self, fault=""):
        self.fault = fault

    def simulate(self, theta, rng):
        t, s = np.linspace(-1, 1, 4), 0.3
        if self.fault == "global noise":
            rng = np.random.default_rng()
        noise = rng.standard_normal((len(theta), 4))
        if self.fault == "no noise":
            noise = np.full_like(noise, 0.1)
        if self.fault == "shared noise":
            noise = np.repeat(noise[:1], len(theta), 0)
        used = np.asarray(theta)
        if self.fault == "first theta":
            used = np.repeat(used[:1], len(theta), 0)
        if self.fault == "reversed theta" and len(theta) > 1:
            used = used[::-1]
        x = used[:, :1] + used[:, 1:] * t + s * noise
        if self.fault == "infinite":
            x[0, 0] = np.inf
        score = np.stack([noise.sum(1), (noise * t).sum(1)], -1) / s
        if self.fault == "score off by a factor":
            score = 1.5 * score
        if self.fault == "score off by a constant":
            score = score + 1.0
        return {"x": x, "joint_score": score}


def failed(simulator, **options):
    return [f.check for f in diagnose(simulator, **options).findings if f.passed is False]


def test_a_right_simulator_passes():
    found = diagnose(Line(), rows=1000)
    assert found.passed and found.rows == 1000
    assert found.fields["x"] == ((4,), "float32")
    assert found.seconds > 0
    assert {f.check for f in found.findings if f.passed} >= {"batch = loop", "d E[h] = E[h score]"}


@pytest.mark.parametrize(
    "fault, check",
    [
        ("global noise", "repeatable"),
        ("no noise", "random"),
        ("shared noise", "rows differ"),
        ("first theta", "batch = loop"),
        ("reversed theta", "batch = loop"),
        ("infinite", "finite"),
        ("score off by a factor", "d E[h] = E[h score]"),
        ("score off by a constant", "E[score] = 0"),
    ],
)
def test_each_fault_is_found(fault, check):
    assert check in failed(Line(fault), rows=4000)


def test_a_score_off_by_a_factor_obeys_the_first_identity():
    assert "E[score] = 0" not in failed(Line("score off by a factor"), rows=4000)


def test_a_simulator_that_raises_is_said_to():
    @simgen.simulator(prior=PRIOR)
    def sometimes(theta, rng):
        if theta["a"] > 0:
            raise RuntimeError("a is positive")
        return theta + rng.standard_normal(2)

    found = diagnose(sometimes, rows=64)
    first = found.findings[0]
    assert first.passed is False and "RuntimeError: a is positive" in first.text
    assert [f.check for f in found.findings if f.passed is False] == ["runs"]

    @simgen.simulator(prior=PRIOR, batched=True)
    def never(theta, rng):
        raise ValueError("no")

    assert [f.text for f in diagnose(never).findings] == ["ValueError: no"]

    @simgen.simulator(prior=PRIOR)
    def ragged(theta, rng):
        return rng.standard_normal(1 + (theta["a"] > 0))

    (found,) = diagnose(ragged, rows=16).findings
    assert "must be the same in all rows" in found.text


def test_the_built_in_chain_keeps_the_rules():
    assert failed(simulators.ColliderShower(events=20), rows=500) == []


class Jointly(Line):
    """The same with its joint likelihood; there are no latents but the noise."""

    def joint_log_likelihood(self, fields, theta):
        t, s = np.linspace(-1, 1, 4), 0.3
        if self.fault == "joint likelihood of another width":
            s = 0.4
        if self.fault == "not recorded":
            raise ValueError("needs z_p")
        mean = theta[:, :1] + theta[:, 1:] * t
        log_p = -0.5 * ((fields["x"] - mean) ** 2).sum(1) / s**2
        if self.fault == "joint likelihood without its norm":
            log_p = log_p + 0.7 * theta[:, 0]
        return log_p


def test_a_joint_likelihood_is_checked():
    found = {f.check: f for f in diagnose(Jointly(), rows=4000).findings}
    assert found["score = d log p"].passed and found["E[ratio] = 1"].passed


@pytest.mark.parametrize(
    "fault, checks",
    [
        ("joint likelihood of another width", {"score = d log p", "E[ratio] = 1"}),
        ("joint likelihood without its norm", {"score = d log p", "E[ratio] = 1"}),
        ("score off by a factor", {"score = d log p"}),
    ],
)
def test_a_false_joint_likelihood_is_found(fault, checks):
    assert checks <= set(failed(Jointly(fault), rows=4000))


def test_a_joint_likelihood_whose_latents_are_not_recorded_is_left_out():
    found = {f.check: f for f in diagnose(Jointly("not recorded"), rows=200).findings}
    assert found["joint likelihood"].passed is None
    assert found["joint likelihood"].text == "needs z_p"


def test_without_a_prior():
    @simgen.simulator(batched=True)
    def noise(theta, rng):
        return rng.standard_normal((len(theta), 3))

    assert failed(noise, rows=64) == []
