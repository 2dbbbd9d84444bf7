"""Factors of a likelihood of many events: their sum, their sizes, the posterior through them."""

import pytest
import torch
from torch.distributions import Independent, Normal

import simgen
from simgen.answers.question import ask

PRIOR = simgen.Prior(mu=Normal(0.25, 0.75))


class Surrogate:
    """x ~ N(theta, 1), as a fitted conditional looks."""

    expression, target, given, prior = "x | theta", ("x",), ("theta",), PRIOR

    def __call__(self, theta):
        return Independent(Normal(theta, 1.0), 1)


def events(n):
    return 0.9 + torch.randn(n, 1, generator=torch.Generator().manual_seed(n), dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 7, 15, 16, 33, 1000])
def test_factors_double_and_sum_to_the_likelihood(n):
    question = ask(PRIOR, Surrogate(), events(n), iid=True)
    factors, rows = question.factors(), {"theta": torch.linspace(-2, 2, 9)[:, None]}
    sizes = [len(factor.keywords["ys"][0]) for factor in factors]
    assert sum(sizes) == n and sizes[0] < 16
    for i in range(1, len(sizes)):  # each as many as all before it
        assert 0 <= sum(sizes[:i]) - sizes[i] <= 1
    parts = torch.stack([factor(rows) for factor in factors])
    assert torch.allclose(parts.sum(0), question.log_likelihood(rows), atol=1e-9 * n)


def test_what_costs_no_more_with_more_events_is_one_factor():
    noise = simgen.GaussianLikelihood(lambda theta: theta, sigma=1.0)
    assert len(ask(PRIOR, noise, events(1000), iid=True).factors()) == 1
    both = ask(PRIOR, [noise, Surrogate()], [events(64), events(64)], iid=True)
    rows = {"theta": torch.zeros(3, 1)}
    assert len(both.factors()) == 4
    total = sum(factor(rows) for factor in both.factors())
    assert torch.allclose(total, both.log_likelihood(rows))


def test_evidence_and_posterior_of_many_events():
    x = events(200)
    answer = simgen.infer(PRIOR, Surrogate(), x, method="smc", iid=True, particles=2048)
    precision = 1 / 0.75**2 + len(x)
    mean, sd = (0.25 / 0.75**2 + x.sum()) / precision, precision**-0.5
    drawn = answer.sample(20_000).double()
    assert abs(drawn.mean() - mean) < 0.15 * sd and abs(drawn.std() / sd - 1) < 0.1
    # log p(x) = log p(x | theta) + log p(theta) - log p(theta | x), at any theta
    exact = Normal(mean, 1.0).log_prob(x).sum() + Normal(0.25, 0.75).log_prob(mean)
    exact = exact - Normal(mean, sd).log_prob(mean)
    found = answer.log_evidence()
    assert abs(float(found) - exact) < 4 * found.error
    assert found.error < 0.2
