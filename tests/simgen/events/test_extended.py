"""Counting experiments against a thinned Poisson process in closed form."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Exponential, Independent, Normal, TransformedDistribution, Uniform
from torch.distributions.transforms import AffineTransform

import simgen
from simgen.events.efficiency import Efficiency
from simgen.events.extended import ExtendedLikelihood, log_poisson

CUT, FLUX = 1.0, 60.0
PRIOR = simgen.Prior(scale=Uniform(0.4, 3.0))
"""Energies x ~ Exp(scale), FLUX of them expected, accepted above CUT."""


def efficiency(theta):
    return torch.exp(-CUT / theta[:, 0])


def rate(theta):
    return FLUX * theta[:, 0].sqrt()


def accepted(theta):
    """p(x | theta, accepted): an exponential has no memory."""
    move = AffineTransform(torch.full_like(theta, CUT), 1.0)
    return Independent(TransformedDistribution(Exponential(1 / theta), move), 1)


def observed(scale, seed):
    rng = np.random.default_rng(seed)
    x = rng.exponential(scale, rng.poisson(FLUX * math.sqrt(scale)))
    return torch.from_numpy(x[x > CUT])[:, None]


def simulations(n, seed):
    rng = np.random.default_rng(seed)
    theta = rng.uniform(0.4, 3.0, (n, 1))
    x = rng.exponential(theta)
    return theta.astype(np.float32), x.astype(np.float32), x[:, 0] > CUT


GRID = torch.linspace(0.401, 2.999, 400, dtype=torch.float64)[:, None]


def moments(value):
    """Mean and deviation of theta under log-densities on the grid."""
    p = value.softmax(0)
    mean = p @ GRID[:, 0]
    return float(mean), float((p @ (GRID[:, 0] - mean).square()).sqrt())


def test_the_likelihood_of_a_thinned_process():
    """prod_i lambda(x_i) exp(-int lambda) / n!, of the intensity that is left above the cut."""
    x = observed(1.3, 0)
    found = ExtendedLikelihood(accepted, rate, efficiency).log_prob(x, {"theta": GRID})
    left = rate(GRID) * efficiency(GRID)
    intensity = rate(GRID) * torch.exp(-x / GRID[:, 0]) / GRID[:, 0]
    wanted = intensity.log().sum(0) - left - math.lgamma(len(x) + 1)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("learned", [False, True])
def test_it_integrates_to_one_over_the_number_of_events(learned):
    theta, _, flags = simulations(500, 0)
    share = Efficiency(theta, flags) if learned else efficiency
    one = ExtendedLikelihood(None, rate, share)
    rows = {"theta": torch.tensor([[0.7], [1.5]], dtype=torch.float64)}
    total = sum(one.log_prob(torch.zeros(n, 1), rows).exp() for n in range(130))
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "case",
    [(0, 3.0, 0.0, 1.0), (5, 10.0, -1.0, 0.5), (1000, 2e3, 0.1, 0.05), (100_000, 2e5, 0.02, 0.02),
     (100, 1e3, 2.0, 0.5), (3, 1e4, 0.0, 2.0), (50, 20.0, 0.0, 0.3), (100, 101.0, 3.0, 2.0)],
)  # fmt: skip
def test_the_average_over_an_uncertain_efficiency(case):
    n, nu, mean, sd = case
    t = torch.linspace(mean - 12 * sd, mean + 12 * sd, 40_001, dtype=torch.float64)
    share = torch.nn.functional.logsigmoid(t)
    value = n * (math.log(nu) + share) - nu * share.exp() - math.lgamma(n + 1)
    value = value - 0.5 * ((t - mean) / sd) ** 2 - math.log(sd * math.sqrt(2 * math.pi))
    wanted = value.logsumexp(0) + (t[1] - t[0]).log()
    rows = [torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (nu, mean, sd)]
    found = log_poisson(n, *rows)
    assert float(found.detach()) == pytest.approx(float(wanted), abs=1e-4)
    # d/dm of the average of Poisson is that of its own slope, by parts
    (slope,) = torch.autograd.grad(found.sum(), rows[1])
    posterior = (value - value.logsumexp(0)).exp()
    own = posterior @ ((1 - share.exp()) * (n - nu * share.exp()))
    assert float(slope) == pytest.approx(float(own), rel=2e-3, abs=2e-3)


def test_without_the_efficiency_it_is_biased_and_with_a_learned_one_it_is_not():
    theta, _, flags = simulations(6_000, 1)
    learned = Efficiency(theta, flags)
    off = {"none": [], "exact": [], "learned": []}
    for seed in range(12):
        x = observed(1.3, seed)
        ways = {"none": 1.0, "exact": efficiency, "learned": learned}
        for name, share in ways.items():
            one = ExtendedLikelihood(accepted, rate, share)
            mean, sd = moments(one.log_prob(x, {"theta": GRID}))
            off[name].append((mean - 1.3) / sd)
        # 6,000 flags know epsilon far better than some 30 events do
        assert abs(off["learned"][-1] - off["exact"][-1]) < 0.25
    assert abs(np.mean(off["exact"])) < 4 / math.sqrt(12)
    assert np.mean(off["none"]) < -2


def test_what_is_not_known_of_the_efficiency_widens_the_posterior():
    theta, _, flags = simulations(150, 2)
    x = observed(1.3, 0)
    few = Efficiency(theta, flags)
    plug = ExtendedLikelihood(None, rate, lambda t: few(t))
    wide = moments(ExtendedLikelihood(None, rate, few).log_prob(x, {"theta": GRID}))[1]
    assert wide > 1.02 * moments(plug.log_prob(x, {"theta": GRID}))[1]


SHAPES = {
    "constant": lambda t: torch.full_like(t[:, 0], 0.9),
    "rising": lambda t: torch.exp(-1 / t[:, 0]),
    "wavy": lambda t: torch.sigmoid(2 * torch.sin(4 * t[:, 0])),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_deviation_of_the_logit_is_honest(shape):
    """Over six datasets: its pull is of order one, and no point is far off."""
    points = torch.linspace(0.6, 2.8, 12)[:, None]
    pulls = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        theta = 0.4 + 2.6 * torch.rand(1_500, 1, generator=generator)
        flags = torch.rand(1_500, generator=generator) < SHAPES[shape](theta)
        mean, sd = Efficiency(theta, flags).logit(points)
        pulls.append((mean - torch.logit(SHAPES[shape](points).double())) / sd)
    pull = torch.stack(pulls)
    assert 0.4 < float(pull.square().mean().sqrt()) < 1.6
    assert float(pull.abs().max()) < 4.5


def test_flags_weights_and_failures_are_the_same_acceptance(tmp_path):
    theta, x, flags = simulations(600, 3)
    direct = Efficiency(theta, flags, names=("scale",))
    several = Efficiency(theta, np.stack([flags, flags, ~flags], 1))  # of events of a row
    assert several(theta[:5]).shape == (5,)
    failed = np.where(flags[:, None], x, np.nan).astype(np.float32)
    by_failure = simgen.Dataset.create(tmp_path / "f", theta=theta, x=failed, prior=PRIOR)
    by_flag = simgen.Dataset.create(tmp_path / "a", theta=theta, x=x, passed=flags, prior=PRIOR)
    heavy = Efficiency(theta, flags, weight=np.full(600, 7.0))
    for other in (Efficiency.learned(by_failure), Efficiency.learned(by_flag, "passed"), heavy):
        torch.testing.assert_close(other(theta), direct(theta), rtol=1e-4, atol=1e-4)


def test_infer_counts_events_or_none():
    posterior = simgen.infer(
        PRIOR, ExtendedLikelihood(accepted, rate, efficiency), observed(1.3, 0), particles=1024
    )
    mean, sd = moments(
        ExtendedLikelihood(accepted, rate, efficiency).log_prob(observed(1.3, 0), {"theta": GRID})
    )
    draws = posterior.sample(1024)
    assert abs(float(draws.mean()) - mean) < 5 * sd / math.sqrt(min(posterior.ess, 1024))
    none = simgen.infer(
        PRIOR, [ExtendedLikelihood(accepted, rate, efficiency), lambda y, t: Normal(t[:, 0], 9.0)
                .log_prob(y)],
        [[], torch.tensor(0.0)], particles=1024,
    )  # fmt: skip
    assert float(none.sample(1024).mean()) < 0.6  # nothing seen: nothing reaches the cut


def test_what_is_refused():
    theta, _, flags = simulations(20, 0)
    with pytest.raises(ValueError, match="not negative"):
        Efficiency(theta, flags, weight=-np.ones(20))
    with pytest.raises(ValueError, match="flags, 0 or 1"):
        Efficiency(theta, np.full(20, 0.5))
    with pytest.raises(ValueError, match="a row for each flag"):
        Efficiency(theta, flags[:5])
    rows = {"theta": GRID[:3]}
    with pytest.raises(ValueError, match="the efficiency must lie in"):
        ExtendedLikelihood(None, rate, 1.2).log_prob(torch.zeros(1, 1), rows)
    with pytest.raises(ValueError, match="the rate must be one number a row"):
        ExtendedLikelihood(None, lambda t: t[:2]).log_prob(torch.zeros(1, 1), rows)
