"""Importance correction of a proposal: what the weights say, and what they cannot say."""

import math
import types
import warnings

import numpy as np
import pytest
import torch
from torch.distributions import Distribution, Independent, Normal, StudentT, Uniform

import simgen
from simgen.answers.posterior import ApproximateWarning

Y = torch.tensor(1.0)
MEAN, SD = 0.8, math.sqrt(0.2)
EVIDENCE = float(Normal(0.0, math.sqrt(1.25)).log_prob(Y))


def prior(sd: float = 1.0) -> simgen.Prior:
    return simgen.Prior(mu=Normal(0.0, sd))


def likelihood(y, theta):
    return Normal(theta[:, 0], 0.5).log_prob(y)


def gaussian(mean: float, sd: float) -> Distribution:
    return Independent(Normal(torch.tensor([mean]), torch.tensor([sd])), 1)


class Counting(Distribution):
    """A proposal that remembers its draws."""

    arg_constraints: dict = {}  # noqa: RUF012

    def __init__(self, base):
        super().__init__(torch.Size(), base.event_shape, validate_args=False)
        self.base, self.drawn = base, []

    support = property(lambda self: self.base.support)  # type: ignore[assignment]

    def sample(self, shape=()):
        self.drawn.append(self.base.sample(shape))
        return self.drawn[-1]

    def log_prob(self, value):
        return self.base.log_prob(value)


def test_evidence_and_efficiency_are_those_of_all_draws():
    """Nothing stops on a batch that looks good, and no draw is left out of the sums."""
    proposal = Counting(Independent(StudentT(3.0, torch.tensor([0.2]), 0.7), 1))
    posterior = simgen.infer(prior(), likelihood, Y, proposal=proposal, particles=3_000, seed=1)
    posterior.sample(9_000)  # more than there are: drawn anew, all of them
    assert [len(d) for d in proposal.drawn][-1] == 9_000
    x = proposal.drawn[-1]
    log_w = likelihood(Y, x) + prior().log_prob(x) - proposal.log_prob(x)
    w = log_w.double().exp()
    assert posterior.notes["draws"] == 9_000
    assert posterior.notes["efficiency"] == pytest.approx(
        float(w.sum() ** 2 / w.square().sum() / 9_000), rel=1e-4
    )
    value, error = posterior.log_evidence()
    assert value == pytest.approx(float(w.mean().log()), abs=1e-4)
    assert error == pytest.approx(float(w.std() / w.mean() / math.sqrt(9_000)), rel=1e-3)
    assert abs(value - EVIDENCE) < 4 * error


def test_a_pilot_overestimates_the_efficiency():
    """Why none is made: of a proposal too narrow, a hundred draws look better than they are."""

    def efficiency(n: int, seed: int) -> float:
        posterior = simgen.infer(
            prior(), likelihood, Y, proposal=gaussian(MEAN, 0.72 * SD), particles=n, seed=seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ApproximateWarning)
            return posterior.notes["efficiency"]

    pilots = np.median([efficiency(50, seed) for seed in range(20)])
    everything = efficiency(100_000, 0)
    assert pilots > 1.05 * everything


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.5])
def test_efficiency_of_a_wrong_width(ratio):
    """ESS / n = 1 / E[w^2], for Gaussians sqrt(2 r^2 - 1) / r^2."""
    posterior = simgen.infer(
        prior(), likelihood, Y, proposal=gaussian(MEAN, ratio * SD), particles=40_000
    )
    expected = math.sqrt(2 * ratio**2 - 1) / ratio**2
    assert posterior.notes["efficiency"] == pytest.approx(expected, rel=0.05)
    assert posterior.outcome.problem is None and posterior.exactness == "asymptotic"
    value, error = posterior.log_evidence()
    assert abs(value - EVIDENCE) < 4 * error + 1e-5
    x = posterior.sample(20_000).double()
    worth = posterior.ess / (1 + posterior.ess / 20_000)
    assert abs(float(x.mean()) - MEAN) < 5 * SD / math.sqrt(worth)
    assert abs(float(x.std()) / SD - 1) < 5 / math.sqrt(worth)
    torch.testing.assert_close(
        posterior.log_prob(x[:5]),
        Normal(MEAN, SD).log_prob(x[:5, 0]),
        rtol=1e-4,
        atol=5 * error + 1e-4,
    )


@pytest.mark.parametrize(("mean", "ratio"), [(MEAN, 0.3), (MEAN, 0.45), (MEAN - 2.5, 0.7)])
def test_a_proposal_narrower_than_the_posterior_is_no_answer_yet(mean, ratio):
    posterior = simgen.infer(
        prior(), likelihood, Y, proposal=gaussian(mean, ratio * SD), particles=20_000
    )
    with pytest.warns(ApproximateWarning, match="no answer yet: the weights' Pareto shape"):
        posterior.sample(10)
    assert posterior.notes["pareto_k"] > 0.7 and posterior.outcome.problem is not None


def test_draws_outside_the_support_have_no_weight_and_count():
    """p(y) of a flat likelihood is one, whatever share of the proposal falls outside the box."""
    box = simgen.Prior(a=Uniform(0.0, 1.0))
    for spread in (1.0, 4.0):
        posterior = simgen.infer(
            box,
            lambda y, theta: 0 * theta[:, 0],
            Y,
            proposal=gaussian(0.0, spread),
            particles=50_000,
        )
        value, error = posterior.log_evidence()
        assert abs(value) < 4 * error and error < 0.05
        inside = Normal(0.0, spread).cdf(torch.tensor(1.0)) - 0.5
        assert posterior.notes["efficiency"] == pytest.approx(float(inside), rel=0.15)
        draws, log_w = posterior.sample(50_000, weighted=True)
        outside = (draws[:, 0] < 0) | (draws[:, 0] > 1)
        assert len(draws) == 50_000 and bool(outside.any())
        assert bool((log_w[outside] == -math.inf).all())


def test_a_prior_wider_than_the_proposal_is_an_error():
    """Where the proposal has no density nothing is drawn, and no weight would show it."""
    box = simgen.Prior(a=Uniform(0.0, 2.0), b=Uniform(0.0, 1.0))
    flat = lambda y, theta: 0 * theta[:, 0]  # noqa: E731
    inner = Independent(Uniform(torch.zeros(2), torch.ones(2)), 1)
    with pytest.raises(ValueError, match=r"wider than the proposal: it has a in \(0, 2\)"):
        simgen.infer(box, flat, Y, proposal=inner)
    exact = Independent(Uniform(torch.zeros(2), torch.tensor([2.0, 1.0])), 1)
    assert abs(simgen.infer(box, flat, Y, proposal=exact).log_evidence()) < 1e-6


def test_a_prior_wider_than_the_training_of_the_proposal_is_an_error():
    proposal = gaussian(MEAN, SD)
    proposal.conditional = types.SimpleNamespace(  # type: ignore[attr-defined]
        prior=simgen.Prior(mu=Uniform(-1.0, 1.0))
    )
    with pytest.raises(ValueError, match=r"prior that the proposal was trained with.*mu in"):
        simgen.infer(prior(), likelihood, Y, proposal=proposal)
    simgen.infer(simgen.Prior(mu=Uniform(-1.0, 0.9)), likelihood, Y, proposal=proposal)


def test_a_prior_wider_than_the_training_of_the_surrogate_is_an_error():
    def surrogate(theta):
        return Independent(Normal(theta, 0.5), 1)

    surrogate.expression, surrogate.given = "x | theta", ("theta",)  # type: ignore[attr-defined]
    surrogate.prior = simgen.Prior(mu=Uniform(-1.0, 1.0))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="wider than the one that the surrogate"):
        simgen.infer(prior(), surrogate, Y[None], proposal=gaussian(MEAN, SD))


def test_what_cannot_be_a_proposal():
    with pytest.raises(ValueError, match="batch"):
        simgen.infer(prior(), likelihood, Y, proposal=gaussian(MEAN, SD).expand([2]))
    silent = gaussian(MEAN, SD)
    silent.density = None  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="no density"):
        simgen.infer(prior(), likelihood, Y, proposal=silent)
    with pytest.raises(ValueError, match="the proposal draws"):
        two = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
        simgen.infer(prior(), likelihood, Y, proposal=two)


def test_a_bound_in_place_of_a_density_is_said():
    loose = gaussian(MEAN, SD)
    loose.density = "bound"  # type: ignore[attr-defined]
    posterior = simgen.infer(prior(), likelihood, Y, proposal=loose)
    assert posterior.exactness == "approximate"
