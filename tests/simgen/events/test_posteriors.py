"""Many events: three ways to one posterior, against the conjugate one; memory, names, refusals."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, Uniform

import simgen
from simgen import likelihood as module
from simgen.events.posteriors import PosteriorLikelihood
from simgen.learned_likelihood import ConditionalLikelihood
from simgen.likelihood import CallableLikelihood

EVENTS = [1, 10, 100, 1000]
PRIOR = simgen.Prior(mu=Normal(0.25, 0.75))
SD = 1.25  # as the prior's numbers, exact in single precision


class Surrogate:
    """x ~ N(theta, SD^2), as a fitted conditional looks."""

    expression, target, given, prior = "x | theta", ("x",), ("theta",), PRIOR

    def __call__(self, theta):
        return Independent(Normal(theta, SD), 1)


class Single:
    """The posterior of one event."""

    expression, target, given, names, prior = "theta | x", ("theta",), ("x",), ("mu",), PRIOR

    def __call__(self, x):
        precision = 1 / 0.75**2 + 1 / SD**2
        mean = (0.25 / 0.75**2 + x / SD**2) / precision
        return Independent(Normal(mean, precision**-0.5), 1)


def events(n, seed=0):
    generator = torch.Generator().manual_seed(seed + n)
    return 0.9 + SD * torch.randn(n, 1, generator=generator, dtype=torch.float64)


def exact(x):
    precision = 1 / 0.75**2 + len(x) / SD**2
    return Normal((0.25 / 0.75**2 + x.sum() / SD**2) / precision, precision**-0.5)


def on_a_grid(likelihood, x):
    """Log-densities of the posterior at 201 points that it covers, normalised, and the points."""
    p = exact(x)
    theta = torch.linspace(-8, 8, 201, dtype=torch.float64) * p.stddev + p.mean
    rows = {"theta": theta[:, None]}
    value = likelihood.of_events(x, rows) + PRIOR.log_prob(theta[:, None])
    step = (theta[1] - theta[0]).log()
    return value - value.logsumexp(0) - step, p.log_prob(theta)


WAYS = {
    "surrogate": ConditionalLikelihood(Surrogate()),
    "posterior": PosteriorLikelihood(Single()),
    "callable": CallableLikelihood(lambda y, theta: Normal(theta[:, 0], SD).log_prob(y)),
    "distribution": CallableLikelihood(lambda theta: Independent(Normal(theta, SD), 1)),
    "gaussian": simgen.GaussianLikelihood(lambda theta: theta, SD),
    "unknown noise": simgen.GaussianLikelihood(lambda theta: theta, lambda theta: 0 * theta + SD),
}


@pytest.mark.parametrize("n", EVENTS)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_the_conjugate_posterior(way, n):
    # only rounding and the trapezoid rule of a Gaussian to 8 deviations are between them
    found, wanted = on_a_grid(WAYS[way], events(n))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("n", EVENTS)
@pytest.mark.parametrize("way", ["surrogate", "posterior"])
def test_infer_of_a_set(way, n):
    x = events(n)
    made = Surrogate() if way == "surrogate" else PosteriorLikelihood(Single())
    posterior = simgen.infer(PRIOR, made, x, iid=True, particles=1024)
    p, draws = exact(x), posterior.sample(1024).double()
    worth = min(posterior.ess, 1024)
    assert abs(draws.mean() - p.mean) < 5 * p.stddev / math.sqrt(worth)
    assert abs(draws.std() / p.stddev - 1) < 5 / math.sqrt(2 * worth)


def test_the_evidence_of_composed_posteriors_is_that_of_events_together():
    """Over the product of each one's: p(x_1 .. x_n) / prod p(x_i)."""
    x = events(10)
    value, error = simgen.infer(
        PRIOR, PosteriorLikelihood(Single()), x, iid=True, particles=1024
    ).log_evidence()
    together = torch.full((10, 10), 0.75**2) + SD**2 * torch.eye(10)
    q = torch.distributions.MultivariateNormal(torch.full((10,), 0.25), together)
    each = Normal(0.25, math.hypot(0.75, SD)).log_prob(x).sum()
    assert abs(value - float(q.log_prob(x[:, 0].float()) - each)) < 4 * error + 1e-4


@pytest.mark.parametrize("way", ["surrogate", "posterior", "distribution"])
def test_chunks_do_not_change_the_sum_or_its_gradient(way, monkeypatch):
    x, theta = events(50), torch.linspace(-1, 2, 7, dtype=torch.float64)[:, None]
    found = []
    for size in (1 << 18, 20, 1):
        monkeypatch.setattr(module, "EVENTS", size)
        monkeypatch.setattr("simgen.events.posteriors.EVENTS", size)
        t = theta.clone().requires_grad_()
        value = WAYS[way].of_events(x, {"theta": t})
        (slope,) = torch.autograd.grad(value.sum(), t)
        found.append((value.detach(), slope))
    for value, slope in found[1:]:
        torch.testing.assert_close(value, found[0][0])
        torch.testing.assert_close(slope, found[0][1])


@pytest.mark.parametrize("way", ["surrogate", "posterior"])
def test_memory_is_bounded(way, monkeypatch):
    """No tensor of more than so many rows times events is evaluated at once."""
    largest = []
    log_prob = Independent.log_prob
    monkeypatch.setattr(
        Independent,
        "log_prob",
        lambda self, v: largest.append((out := log_prob(self, v)).numel()) or out,
    )
    x, theta = events(1000), torch.zeros(2000, 1, dtype=torch.float64)
    assert WAYS[way].of_events(x, {"theta": theta}).shape == (2000,)
    assert max(largest) <= module.EVENTS and sum(largest) == 2_000_000


def test_counts_of_many_events_add_up():
    flux = simgen.PoissonLikelihood(lambda theta: torch.cat([theta, 2 * theta], 1))
    y = torch.tensor([[3.0, 7.0], [1.0, 4.0], [0.0, 9.0]], dtype=torch.float64)
    theta = {"theta": torch.tensor([[1.5], [3.0]], dtype=torch.float64)}
    alone = sum(flux.log_prob(one, theta) for one in y)
    torch.testing.assert_close(flux.of_events(y, theta), alone)


@pytest.mark.parametrize("covariance", [None, [[0.5, 0.2], [0.2, 0.3]]])
def test_gaussian_events_by_their_mean_and_scatter(covariance):
    operator = lambda theta: torch.cat([theta, theta**2], 1)  # noqa: E731
    noise = {"sigma": 0.4} if covariance is None else {"covariance": torch.tensor(covariance)}
    one = simgen.GaussianLikelihood(operator, **noise)
    y = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).double()
    theta = {"theta": torch.tensor([[0.5], [1.0]], dtype=torch.float64)}
    alone = sum(one.log_prob(event, theta) for event in y)
    torch.testing.assert_close(one.of_events(y, theta), alone)


def test_a_posterior_under_another_prior_and_outside_of_its_own():
    box = simgen.Prior(mu=Uniform(-1.0, 1.0))

    class Boxed(Single):
        prior = box

        def __call__(self, x):  # of a flat prior, as long as the box is wide
            return Independent(Normal(x, 0.1), 1)

    made = PosteriorLikelihood(Boxed())
    theta = torch.tensor([[0.2], [1.5]])
    value = made.of_events(torch.tensor([[0.1], [0.2]]), {"theta": theta})
    assert float(value[1]) == -math.inf and math.isfinite(float(value[0]))
    with pytest.raises(ValueError, match="wider than the one"):
        simgen.infer(simgen.Prior(mu=Uniform(-2.0, 1.0)), made, torch.zeros(3, 1), iid=True)
    narrow = simgen.infer(
        simgen.Prior(mu=Uniform(-0.5, 0.5)), made, torch.zeros(4, 1), iid=True, particles=1024
    )
    assert abs(float(narrow.sample(1024).std()) - 0.05) < 5 * 0.05 / math.sqrt(2 * 1024)


def test_a_posterior_of_one_parameter_takes_the_marginal_prior():
    both = simgen.Prior(mu=Normal(0.25, 0.75), nuisance=Uniform(0.0, 1.0))

    class Marginal(Single):
        target, prior = ("mu",), both

    made = PosteriorLikelihood(Marginal())
    assert made.prior.names == ("mu",)
    x = events(10)
    wanted = WAYS["posterior"].of_events(x, {"theta": torch.zeros(1, 1).double()})
    torch.testing.assert_close(made.of_events(x, {"mu": torch.zeros(1, 1).double()}), wanted)


def test_what_is_refused():
    with pytest.raises(ValueError, match="brings no prior"):
        PosteriorLikelihood(lambda x: Normal(x, 1.0))
    with pytest.raises(ValueError, match="PosteriorLikelihood"):
        simgen.infer(PRIOR, Single(), torch.zeros(1))
