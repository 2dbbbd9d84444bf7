"""Another prior without training again: conjugate Gaussians, and a box within a box."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, Uniform

import simgen
from simgen.answers.posterior import ApproximateWarning
from simgen.reweighting import with_prior

X = torch.tensor([1.2])


def prior(mean: float = 0.0, sd: float = 1.0) -> simgen.Prior:
    return simgen.Prior(mu=Normal(mean, sd))


def conjugate(mean: float, sd: float) -> Normal:
    """The posterior of mu ~ N(mean, sd^2) given x = 1.2 with noise of 1."""
    variance = 1 / (1 + sd**-2)
    return Normal(variance * (1.2 + mean / sd**2), math.sqrt(variance))


def learned(x):
    base = conjugate(0.0, 1.0)
    return Independent(Normal(base.loc + 0 * x, base.scale), 1)


learned.prior, learned.names = prior(), ("mu",)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("mean", "sd"), [(0.0, 0.5), (0.5, 0.7), (-0.3, 0.9)])
@pytest.mark.parametrize("method", ["importance", "smc"])
def test_conjugate(mean, sd, method):
    found = with_prior(learned, prior(mean, sd), X, method=method, particles=20_000)
    expected = conjugate(mean, sd)
    x = found.sample(10_000).double()[:, 0]
    worth = min(10_000, found.ess)
    assert abs(float(x.mean()) - float(expected.loc)) < 5 * float(expected.scale) / math.sqrt(
        worth
    )
    assert abs(float(x.std() / expected.scale) - 1) < 5 / math.sqrt(worth)
    value, error = found.log_evidence()
    factor = Normal(mean, math.sqrt(1 + sd**2)).log_prob(X) - Normal(0, math.sqrt(2)).log_prob(X)
    assert abs(value - float(factor)) < 4 * error + 1e-4
    torch.testing.assert_close(
        found.log_prob(x[:5, None]), expected.log_prob(x[:5]), atol=5 * error + 1e-3, rtol=1e-3
    )


def test_the_same_prior_changes_nothing():
    found = with_prior(learned, prior(), X, particles=2_000)
    assert found.ess == pytest.approx(2_000, rel=1e-4)
    assert abs(found.log_evidence()) < 1e-4


def test_a_box_within_a_box_cuts_the_posterior():
    box = simgen.Prior(mu=Uniform(-2.0, 2.0))
    q = lambda x: Independent(Uniform(torch.tensor([-1.0]), torch.tensor([1.0])), 1)  # noqa: E731
    q_wide = lambda x: Independent(Uniform(torch.tensor([-2.0]), torch.tensor([2.0])), 1)  # noqa: E731
    narrow = simgen.Prior(mu=Uniform(0.0, 1.0))
    found = with_prior(q_wide, narrow, X, trained=box)
    x = found.sample(4_000)
    assert 0 <= float(x.min()) and float(x.max()) <= 1 and abs(float(x.mean()) - 0.5) < 0.03
    assert found.ess == pytest.approx(2_500, rel=0.1)  # a quarter of 10,000 draws
    assert abs(found.log_evidence()) < 4 * found.log_evidence().error
    with pytest.raises(ValueError, match="wider than the prior of the simulations"):
        with_prior(q, simgen.Prior(mu=Uniform(-2.5, 1.0)), X, trained=box)


def test_a_prior_that_exceeds_what_was_simulated():
    wide = simgen.Prior(mu=Uniform(-3.0, 3.0))
    bounded = simgen.Prior(mu=Uniform(-2.0, 2.0))
    with pytest.raises(ValueError, match=r"mu in \(-3, 3\), the other \(-2, 2\)"):
        with_prior(learned, wide, X, trained=bounded)
    with pytest.raises(ValueError, match="wider"):
        with_prior(learned, prior(), X, trained=bounded)
    with pytest.warns(UserWarning, match="farther out than any"):
        with_prior(learned, prior(0.0, 4.0), X)


def test_priors_that_prefer_another_place_are_no_answer_by_weights():
    found = with_prior(learned, prior(-3.0, 0.3), X, particles=5_000)
    with pytest.warns(ApproximateWarning, match="no answer yet"):
        found.sample(10)


def test_what_is_refused():
    other = simgen.Prior(sigma=Normal(0.0, 1.0))
    with pytest.raises(ValueError, match="over sigma, the posterior over mu"):
        with_prior(learned, other, X)
    with pytest.raises(ValueError, match="give trained="):
        with_prior(lambda x: learned(x), prior(), X)
