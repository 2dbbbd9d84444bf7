"""Several measurements at once: a shared parameter, and a nuisance of each, by names."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

import simgen
from simgen.field import Field

PRIORS = {
    "mu": simgen.Prior(mu=Normal(0.0, 2.0)),
    "a": simgen.Prior(a=Normal(0.5, 0.3)),
    "b": simgen.Prior(b=Normal(-0.2, 0.4)),
}
TOGETHER = simgen.Prior(mu=Normal(0.0, 2.0), a=Normal(0.5, 0.3), b=Normal(-0.2, 0.4))
Y = [torch.tensor([1.9, 2.2]), torch.tensor([0.4])]
NOISE = 0.2
"""y_1 = (mu + a, mu + 2 a), y_2 = 2 mu + b, both with the noise."""


def exact():
    A = torch.tensor([[1.0, 1.0, 0.0], [1.0, 2.0, 0.0], [2.0, 0.0, 1.0]]).double()
    mean, sd = torch.tensor([0.0, 0.5, -0.2]).double(), torch.tensor([2.0, 0.3, 0.4]).double()
    y = torch.cat(Y).double()
    precision = torch.diag(sd**-2) + A.T @ A / NOISE**2
    covariance = torch.linalg.inv(precision)
    evidence = MultivariateNormal(
        A @ mean, A @ torch.diag(sd**2) @ A.T + NOISE**2 * torch.eye(3)
    ).log_prob(y)
    return covariance @ (mean / sd**2 + A.T @ y / NOISE**2), covariance, float(evidence)


def first(mu, a):
    return torch.cat([mu + a, mu + 2 * a], 1)


def second(b, mu):
    return 2 * mu + b


class Surrogate:
    """A fitted "x | ..." of some parameters, in closed form."""

    target = ("x",)

    def __init__(self, operator, names, given):
        self.operator, self.names, self.given = operator, names, given
        self.expression = f"x | {', '.join(given)}"
        shapes = {k: Field((), names=(k,)) for k in names}
        self.fields = shapes if given != ("theta",) else {"theta": Field((2,), names=names)}
        factors = {k: PRIORS[k].factors[k] for k in names}
        self.prior = simgen.Prior(factors)

    def __call__(self, *values, **named):
        if self.given == ("theta",):
            (theta,) = values or named.values()
            assert theta.shape[1:] == (2,)
            named = dict(zip(self.names, theta.T))
        columns = {k: v for k, v in named.items()}
        assert all(v.dim() == 1 for v in columns.values())
        mean = self.operator(**{k: v[:, None] for k, v in columns.items()})
        return Independent(Normal(mean, NOISE), 1)


def log_likelihood(operator):
    return lambda y, **named: Normal(operator(**named), NOISE).log_prob(y).sum(-1)


WAYS = {
    "operators": [simgen.GaussianLikelihood(f, NOISE) for f in (first, second)],
    "callables": [
        lambda y, mu, a: Normal(first(mu, a), NOISE).log_prob(y).sum(-1),
        lambda y, b, mu: Normal(second(b, mu), NOISE).log_prob(y).sum(-1),
    ],
    "surrogates": [
        Surrogate(first, ("mu", "a"), ("theta",)),
        Surrogate(second, ("b", "mu"), ("theta",)),
    ],
    "surrogates of parameters": [
        Surrogate(first, ("mu", "a"), ("mu", "a")),
        Surrogate(second, ("b", "mu"), ("b", "mu")),
    ],
    "one of each": [
        Surrogate(first, ("mu", "a"), ("theta",)),
        simgen.GaussianLikelihood(second, NOISE),
    ],
}


@pytest.mark.parametrize("prior", [PRIORS, TOGETHER], ids=["several", "one"])
@pytest.mark.parametrize("way", WAYS)
def test_a_shared_parameter_and_a_nuisance_each(way, prior):
    posterior = simgen.infer(prior, WAYS[way], Y, method="smc", particles=2048)
    mean, covariance, evidence = exact()
    draws = posterior.sample(2048)
    if isinstance(draws, dict):
        draws = torch.cat([draws[k] for k in PRIORS], 1)
    worth, sd = min(posterior.ess, 2048), covariance.diagonal().sqrt()
    assert ((draws.double().mean(0) - mean).abs() / sd).max() < 5 / math.sqrt(worth)
    assert (draws.double().std(0) / sd - 1).abs().max() < 5 / math.sqrt(2 * worth)
    value, error = posterior.log_evidence()
    assert abs(value - evidence) < 4 * error + 1e-3


def test_events_of_one_and_counts_of_another():
    """Independent events in each: a list of sets of other sizes."""
    ways = [
        lambda y, mu, a: Normal((mu + a)[:, 0], 1.0).log_prob(y),
        simgen.PoissonLikelihood(lambda mu, b: (mu + b).exp()),
    ]
    y = [torch.tensor([1.0, 2.0, 1.5]), torch.tensor([[3.0], [4.0]])]
    question = simgen.answers.question.ask(PRIORS, ways, y, iid=True)
    rows = {k: torch.tensor([[0.3], [0.7]], dtype=torch.float64) for k in PRIORS}
    found = question.log_likelihood(rows)
    level = 2 * rows["mu"][:, 0]
    wanted = Normal(level[:, None], 1.0).log_prob(y[0].double()).sum(1)
    wanted = wanted + torch.distributions.Poisson(level.exp()[:, None]).log_prob(y[1].T[0]).sum(1)
    torch.testing.assert_close(found, wanted.double(), rtol=1e-6, atol=1e-6)


def test_what_no_one_knows_is_said():
    with pytest.raises(ValueError, match="asks for 'c'; the unknowns are mu, a, b"):
        simgen.infer(PRIORS, lambda y, mu, c: mu[:, 0], torch.tensor(0.0))
    with pytest.raises(ValueError, match="asks for 'c'; the unknowns are theta, mu, a, b"):
        simgen.infer(TOGETHER, lambda y, mu, c: mu[:, 0], torch.tensor(0.0))


def test_parameters_are_not_taken_by_their_order_where_some_names_fit():
    misspelt = simgen.Prior(mu=Normal(0.0, 2.0), alpha=Normal(0.5, 0.3))
    surrogate = Surrogate(first, ("mu", "a"), ("theta",))
    with pytest.raises(ValueError, match="'a' is not among the parameters mu, alpha"):
        simgen.infer(misspelt, surrogate, Y[0])
    nameless = simgen.Prior(x_0=Normal(0.0, 2.0), x_1=Normal(0.5, 0.3))
    assert simgen.infer(nameless, surrogate, Y[0], particles=256).sample(2).shape == (2, 2)


def test_a_prior_wider_than_the_surrogates_is_refused_by_name():
    box = simgen.Prior(mu=torch.distributions.Uniform(-1.0, 1.0), a=Normal(0.5, 0.3))
    one = Surrogate(first, ("mu", "a"), ("theta",))
    one.prior = box
    with pytest.raises(ValueError, match="wider than the one"):
        simgen.infer(TOGETHER, one, Y[0])


def test_fitted_surrogates_of_other_simulators(tmp_path):
    """Two datasets, each with the shared parameter and a nuisance of its own."""
    rng = np.random.default_rng(0)
    fitted = []
    for operator, names in ((first, ("mu", "a")), (second, ("b", "mu"))):
        prior = simgen.Prior({k: PRIORS[k].factors[k] for k in names})
        theta = prior.sample((2_000,), seed=0)
        mean = operator(**dict(zip(names, theta.T[..., None]))).numpy()
        x = (mean + NOISE * rng.standard_normal(mean.shape)).astype(np.float32)
        data = simgen.Dataset.create(tmp_path / names[0], theta=theta.numpy(), x=x, prior=prior)
        flow = simgen.Flow(transforms=1, hidden=(16,))
        fitted.append(simgen.fit("x | theta", data, flow, max_epochs=8, progress=False))
    mean, covariance, _ = exact()
    for prior in (PRIORS, TOGETHER):
        draws = simgen.infer(prior, fitted, Y, method="smc", particles=1024).sample(1024)
        if isinstance(draws, dict):
            draws = torch.cat([draws[k] for k in PRIORS], 1)
        sd = covariance.diagonal().sqrt()
        # a linear flow of 2,000 rows knows the mean and the noise to some percent
        assert ((draws.double().mean(0) - mean).abs() / sd).max() < 0.4
        assert (draws.double().std(0) / sd - 1).abs().max() < 0.3
