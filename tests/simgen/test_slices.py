"""Slices and marginals of a posterior, against a Gaussian's."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, Uniform

import simgen
from simgen.samples import Samples
from simgen.slices import marginal, sliced

MEAN = torch.tensor([0.5, -0.3, 0.2])
ROOT = torch.tensor([[0.6, 0.0, 0.0], [0.3, 0.5, 0.0], [-0.2, 0.4, 0.3]])
COVARIANCE = ROOT @ ROOT.T
X = torch.tensor([1.0])


class Learned:
    """A posterior whose law is known, as a trained one presents itself."""

    names, labels, units = ("a", "b", "c"), ("A", "B", "C"), ("", "GeV", "")
    prior = simgen.Prior(
        a=Uniform(-6.0, 6.0), b=Normal(0.0, 2.0), c=Uniform(-6.0, 6.0), units=["", "GeV", ""]
    )

    def __call__(self, x):
        q = MultivariateNormal(MEAN, COVARIANCE)
        q.names, q.labels, q.units = self.names, self.labels, self.units
        return q


def conditioned(free: list[int], held: list[int], values: torch.Tensor):
    """Mean and covariance of a Gaussian's slice."""
    gain = COVARIANCE[free][:, held] @ COVARIANCE[held][:, held].inverse()
    mean = MEAN[free] + gain @ (values - MEAN[held])
    return mean, COVARIANCE[free][:, free] - gain @ COVARIANCE[held][:, free]


@pytest.mark.parametrize(
    ("fixed", "free", "held"),
    [({"b": 0.4}, [0, 2], [1]), ({"c": -0.1, "a": 0.9}, [1], [0, 2])],
)
def test_a_slice_of_a_gaussian(fixed, free, held):
    found = sliced(Learned(), X, fixed)
    names = [Learned.names[i] for i in free]
    assert list(found.names) == names
    values = torch.tensor([fixed[Learned.names[i]] for i in held])
    mean, covariance = conditioned(free, held, values)
    x = found.sample(4_000).double()
    sd = covariance.diagonal().sqrt()
    worth = min(4_000, found.ess)
    assert ((x.mean(0) - mean).abs() < 5 * sd / math.sqrt(worth)).all()
    assert (x.std(0) / sd - 1).abs().max() < 5 / math.sqrt(worth)
    value, error = found.log_evidence()
    expected = MultivariateNormal(MEAN[held], COVARIANCE[held][:, held]).log_prob(values)
    assert abs(value - float(expected)) < 4 * error + 1e-3
    density = MultivariateNormal(mean.double(), covariance.double()).log_prob(x[:5])
    torch.testing.assert_close(found.log_prob(x[:5]), density, atol=5 * error + 1e-3, rtol=1e-3)


def test_the_prior_to_start_from_does_not_matter():
    start = simgen.Prior(a=Normal(0.0, 3.0), c=Normal(0.0, 3.0))
    found = sliced(Learned(), X, {"b": 0.4}, prior=start)
    mean, _ = conditioned([0, 2], [1], torch.tensor([0.4]))
    assert (found.sample(4_000).mean(0) - mean).abs().max() < 0.05
    value, error = found.log_evidence()
    expected = Normal(MEAN[1], COVARIANCE[1, 1].sqrt()).log_prob(torch.tensor(0.4))
    assert abs(value - float(expected)) < 4 * error + 1e-3


def test_marginals_by_name():
    part = marginal(Learned()(X), "c", "a")
    assert part.names == ("c", "a") and part.labels == ("C", "A")
    x = part.sample((20_000,), seed=1)
    assert x.shape == (20_000, 2) and torch.equal(x, part.sample(20_000, seed=1))
    torch.testing.assert_close(x.mean(0), MEAN[[2, 0]], atol=0.03, rtol=0)
    torch.testing.assert_close(x.T.cov(), COVARIANCE[[2, 0]][:, [2, 0]], atol=0.03, rtol=0)
    samples = Samples.draw(marginal(Learned()(X), "b"), 100, 0)
    assert samples.names == ("b",) and samples.units == ("GeV",)
    with pytest.raises(NotImplementedError, match="sliced"):
        part.log_prob(x[0])


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"d": 0.0}, "no parameter 'd'; there are a, b, c"),
        ({}, "leave some; got none"),
        ({"a": 0.0, "b": 0.0, "c": 0.0}, "leave some"),
        ({"a": 7.0}, r"a = 7.0 is outside the prior, \(-6, 6\)"),
    ],
)
def test_what_is_refused(fixed, message):
    with pytest.raises(ValueError, match=message):
        sliced(Learned(), X, fixed)


def test_names_and_priors_that_are_not_known():
    bare = Learned()
    bare.prior = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="give prior="):
        sliced(bare, X, {"a": 0.0})
    with pytest.raises(ValueError, match=r"prior= is over b, c"):
        sliced(bare, X, {"a": 0.0}, prior=simgen.Prior(b=Normal(0.0, 1.0)))
    with pytest.raises(ValueError, match="no parameter 'd'"):
        marginal(Learned()(X), "d")
    with pytest.raises(ValueError, match="at least one"):
        marginal(Learned()(X))
