"""Bayes' rule by every method against closed forms and quadrature; what is refused, and said."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, Uniform, VonMises

import simgen
from simgen.answers.posterior import ApproximateWarning, Evidence
from simgen.gaussian import GaussianPrior, MixturePrior

A = torch.tensor([[1.0, -0.5, 0.2]])
Y = torch.tensor([0.8])


def gaussian():
    root = torch.tensor([[1.0, 0.0, 0.0], [0.4, 0.8, 0.0], [-0.3, 0.2, 0.6]])
    return GaussianPrior(torch.tensor([0.2, -0.1, 0.0]), root @ root.T)


def exact(prior=None, sd=0.4):
    prior = prior or gaussian()
    S = sd**2 * torch.eye(1)
    return prior.condition(A, Y, S), float(prior.log_evidence(A, Y, S))


def close(posterior, mean, variance, n=4000):
    """Moments within five standard errors of what the posterior says its draws are worth."""
    x = posterior.sample(n).double()
    worth = min(n, posterior.ess)
    sd = variance.double().sqrt()
    assert ((x.mean(0) - mean).abs() / sd).max() < 5 / math.sqrt(worth)
    assert (x.std(0) / sd - 1).abs().max() < 5 / math.sqrt(2 * worth)


METHODS = ("closed-form", "smc", "ancestral", "noise-denoise", "hmc", "slice", "importance")


@pytest.mark.parametrize("method", METHODS)
def test_every_exact_method_has_the_same_answer(method):
    reference, evidence = exact()
    particles = {"slice": 6400, "importance": 20_000}.get(method)
    posterior = simgen.infer(
        gaussian(), simgen.GaussianLikelihood(A, 0.4), Y, method=method, particles=particles
    )
    assert posterior.method == method and posterior.exactness in ("closed form", "asymptotic")
    close(posterior, reference.mean, reference.variance)
    if method in ("closed-form", "smc", "importance"):
        value, error = posterior.log_evidence()
        assert abs(value - evidence) < 4 * error + 1e-5
        x = torch.randn(5, 3)
        torch.testing.assert_close(
            posterior.log_prob(x), reference.log_prob(x).double(), rtol=1e-4, atol=5 * error + 1e-4
        )


def test_elliptical_slices_of_a_white_prior():
    prior = GaussianPrior(torch.zeros(3), torch.eye(3))
    reference, _ = exact(prior)
    posterior = simgen.infer(
        prior, simgen.GaussianLikelihood(A, 0.4), Y, method="elliptical-slice"
    )
    close(posterior, reference.mean, reference.variance)


def test_auto_takes_what_is_possible_and_says_why():
    prior, seen = gaussian(), simgen.GaussianLikelihood(A, 0.4)
    posterior = simgen.infer(prior, seen, Y)
    assert posterior.method == "closed-form" and posterior.exactness == "closed form"
    assert "Gaussian" in posterior.why and posterior.ess == math.inf
    bent = simgen.GaussianLikelihood(lambda x: x[:, :1] ** 2, 0.4)
    assert simgen.infer(prior, bent, Y).method == "smc"
    assert simgen.infer(prior, lambda y, x: -x.square().sum(-1), Y).method == "noise-denoise"
    box = simgen.Prior(a=Uniform(-1.0, 1.0))
    assert simgen.infer(box, lambda y, theta: -(theta[:, 0] ** 2), Y).method == "smc"
    many = Independent(Normal(torch.zeros(20), torch.ones(20)), 1)
    assert simgen.infer(many, lambda y, x: -x.square().sum(-1), Y).method == "hmc"
    black = simgen.infer(many, lambda y, x: -x.detach().square().sum(-1), Y)
    assert black.method == "smc" and "20 unknown numbers" in black.why


def test_a_mixture_in_closed_form_and_by_particles():
    means = torch.tensor([[-3.0, 0, 0], [3.0, 0, 0], [0, 3.0, 3.0]])
    prior = MixturePrior([1.0, 2.0, 1.0], means, torch.eye(3))
    reference, evidence = exact(prior)
    for method in ("auto", "smc"):
        posterior = simgen.infer(prior, simgen.GaussianLikelihood(A, 0.4), Y, method=method)
        close(posterior, reference.mean, reference.variance)
        value, error = posterior.log_evidence()
        assert abs(value - evidence) < 4 * error + 1e-5
    x, log_w = posterior.sample(1000, weighted=True)
    assert x.shape == (1000, 3) and float(log_w.logsumexp(0)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("particles", [512, 4096])
def test_a_bent_instrument_by_quadrature(particles):
    prior = GaussianPrior(torch.zeros(1), torch.eye(1))
    grid = torch.linspace(-6, 6, 20_001, dtype=torch.float64)
    log_p = Normal(0.0, 1.0).log_prob(grid) + Normal(grid + grid**3 / 3, 0.3).log_prob(
        torch.tensor(1.5).double()
    )
    w = log_p.softmax(0)
    mean = (w * grid).sum()
    variance = (w * (grid - mean) ** 2).sum()
    evidence = float(log_p.logsumexp(0)) + math.log(float(grid[1] - grid[0]))
    seen = simgen.GaussianLikelihood(lambda x: x + x**3 / 3, 0.3)
    for method in ("smc", "noise-denoise", "hmc"):
        asked = particles if method == "smc" else 4 * particles + 4000
        steps = 60 if method == "smc" else None
        posterior = simgen.infer(
            prior, seen, torch.tensor([1.5]), method=method, particles=asked, steps=steps
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ApproximateWarning)
            close(posterior, mean[None], variance[None], 2000)
        if method == "smc":
            value, error = posterior.log_evidence()
            # beside chance, the steps' own bias at 60 levels
            assert abs(value - evidence) < 4 * error + 0.02


def moments(log_p, grid):
    """Evidence, mean and variance of a density on a grid."""
    w = log_p.softmax(0)
    mean = (w * grid).sum()
    evidence = float(log_p.logsumexp(0)) + math.log(float(grid[1] - grid[0]))
    return evidence, mean[None], (w * (grid - mean) ** 2).sum()[None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_detector_that_saturates_where_the_prior_is_is_not_linear(dtype):
    """At random rows of size 1,000 it is: at the prior's, of 8,000, it is not."""
    prior = GaussianPrior(torch.tensor([8000.0], dtype=dtype), 3000.0**2)
    seen = simgen.GaussianLikelihood(lambda x: x.clamp(max=1e4), 50.0)
    posterior = simgen.infer(prior, seen, torch.tensor([1e4]), particles=2048)
    assert posterior.method == "smc"
    grid = torch.linspace(-1e4, 3e4, 40_001, dtype=torch.float64)
    log_p = Normal(8e3, 3e3).log_prob(grid) + Normal(grid.clamp(max=1e4), 50.0).log_prob(
        torch.tensor(1e4).double()
    )
    evidence, mean, variance = moments(log_p, grid)
    close(posterior, mean, variance, 1000)
    value, error = posterior.log_evidence()
    assert abs(value - evidence) < 4 * error


def test_an_instrument_that_refuses_what_no_prior_draws():
    """Zero is tried for linearity, and is no width."""

    def widths(x):
        if bool((x <= 0).any()):
            raise ValueError("width must be positive")
        return x.log()

    prior = GaussianPrior(torch.tensor([2.0]), 0.04)
    posterior = simgen.infer(
        prior, simgen.GaussianLikelihood(widths, 0.05), torch.tensor([0.8]), particles=1024
    )
    assert posterior.method == "smc"
    grid = torch.linspace(0.5, 4, 10_001, dtype=torch.float64)
    log_p = Normal(2.0, 0.2).log_prob(grid) + Normal(grid.log(), 0.05).log_prob(
        torch.tensor(0.8).double()
    )
    close(posterior, *moments(log_p, grid)[1:], 1000)


@pytest.mark.parametrize(
    "operator",
    [lambda x: torch.as_tensor(np.exp(x.numpy() / 4)), lambda x: (5 * (x / 4).exp()).round() / 5],
    ids=["numpy", "digitised"],
)
def test_a_bent_instrument_without_gradients_is_a_black_box(operator):
    prior = MixturePrior([0.3, 0.7], torch.tensor([[-2.0], [2.0]]), torch.eye(1))
    seen = simgen.GaussianLikelihood(operator, 0.2)
    posterior = simgen.infer(prior, seen, torch.tensor([1.2]), particles=6400)
    assert posterior.method == "noise-denoise" and "black box" in posterior.why
    grid = torch.linspace(-7, 7, 10_001, dtype=torch.float64)[:, None]
    log_p = prior.log_prob(grid) + seen.log_prob(torch.tensor([1.2]), {"x": grid})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximateWarning)  # few draws a chain, to be quick
        close(posterior, *moments(log_p, grid[:, 0])[1:])


def test_counts_by_quadrature():
    prior = GaussianPrior(torch.tensor([6.0]), torch.tensor([[4.0]]))
    grid = torch.linspace(1e-3, 20, 20_001, dtype=torch.float64)
    log_p = Normal(6.0, 2.0).log_prob(grid) + 9 * grid.log() - grid - math.lgamma(10)
    w = log_p.softmax(0)
    mean = (w * grid).sum()
    posterior = simgen.infer(prior, simgen.PoissonLikelihood(lambda x: x), torch.tensor([9.0]))
    assert posterior.method == "smc"
    close(posterior, mean[None], (w * (grid - mean) ** 2).sum()[None])
    value, error = posterior.log_evidence()
    evidence = float(log_p.logsumexp(0)) + math.log(float(grid[1] - grid[0]))
    assert abs(value - evidence) < 4 * error + 1e-3
    assert float(posterior.chi2().mean()) == pytest.approx(1, abs=1.0)


@pytest.mark.parametrize("method", ["smc", "hmc", "slice", "importance"])
def test_parameters_of_a_conjugate_model(method):
    prior = simgen.Prior(mu=Normal(0.0, 1.0))
    posterior = simgen.infer(
        prior,
        lambda y, theta: Normal(theta[:, 0], 0.5).log_prob(y),
        torch.tensor(1.0),
        method=method,
    )
    assert posterior.names == ("mu",)
    close(posterior, torch.tensor([0.8]), torch.tensor([0.2]))
    if method in ("smc", "importance"):
        value, error = posterior.log_evidence()
        expected = float(Normal(0.0, math.sqrt(1.25)).log_prob(torch.tensor(1.0)))
        assert abs(value - expected) < 4 * error


def test_chains_reach_a_posterior_of_a_hundred_millionth_of_a_box():
    """Where no draw of the prior is near, and a step too long ends at the box's edge for good."""
    prior = simgen.Prior(a=Uniform(0.0, 1.0), b=Uniform(0.0, 1.0))
    at = torch.tensor([0.1, 0.9])
    posterior = simgen.infer(
        prior, lambda y, t: Normal(t, 1e-4).log_prob(y).sum(-1), at, method="hmc"
    )
    close(posterior, at, torch.full((2,), 1e-8))


def test_an_angle_stays_within_a_turn():
    """Of a prior on the circle whose density repeats itself on the line."""
    prior = simgen.Prior(phi=VonMises(0.5, 0.7))
    seen = VonMises(torch.tensor(0.0), 8.0)
    posterior = simgen.infer(
        prior, lambda y, t: seen.log_prob(t[:, 0] - y), torch.tensor(math.pi - 0.1)
    )
    grid = torch.linspace(-math.pi, math.pi, 20_001)[1:].double()
    log_p = prior.log_prob(grid[:, None]) + seen.log_prob(grid - math.pi + 0.1)
    phi = posterior.sample(4000)[:, 0]
    assert float(phi.abs().max()) <= math.pi
    exact = float(log_p.softmax(0)[grid < 0].sum())
    assert abs(float((phi < 0).float().mean()) - exact) < 4 * 0.5 / math.sqrt(posterior.ess)
    value, error = posterior.log_evidence()
    assert abs(value - float(log_p.logsumexp(0)) - math.log(2 * math.pi / 20_000)) < 4 * error


def test_particles_find_four_modes_in_a_box():
    prior = simgen.Prior(a=Uniform(-2.0, 2.0), b=Uniform(-2.0, 2.0))
    posterior = simgen.infer(
        prior, lambda y, t: Normal(t**2, 0.05).log_prob(y).sum(-1), torch.tensor([1.0, 1.0])
    )
    x = posterior.sample(4000)
    shares = (
        torch.stack(
            [
                ((x[:, 0] > 0) == a) & ((x[:, 1] > 0) == b)
                for a in (True, False)
                for b in (True, False)
            ]
        )
        .double()
        .mean(1)
    )
    assert (shares - 0.25).abs().max() < 5 * math.sqrt(0.19 / posterior.ess)
    # each mode holds N(1, .05) in theta^2, whose density in theta is 2 theta times that
    expected = math.log(4 / 16 / 4)
    value, error = posterior.log_evidence()
    assert abs(value - expected) < 4 * error + 0.01


def test_draws_of_a_proposal_are_weighted():
    prior = simgen.Prior(mu=Normal(0.0, 1.0))
    likelihood = lambda y, theta: Normal(theta[:, 0], 0.5).log_prob(y)  # noqa: E731
    proposal = Independent(Normal(torch.tensor([0.6]), torch.tensor([0.6])), 1)
    posterior = simgen.infer(prior, likelihood, torch.tensor(1.0), proposal=proposal)
    assert posterior.method == "importance" and "proposal" in posterior.why
    close(posterior, torch.tensor([0.8]), torch.tensor([0.2]))
    value, error = posterior.log_evidence()
    expected = float(Normal(0.0, math.sqrt(1.25)).log_prob(torch.tensor(1.0)))
    assert abs(value - expected) < 4 * error and posterior.notes["pareto_k"] < 0.7
    narrow = Independent(Normal(torch.tensor([-1.0]), torch.tensor([0.2])), 1)
    with pytest.warns(ApproximateWarning, match="Pareto"):
        simgen.infer(prior, likelihood, torch.tensor(1.0), proposal=narrow).sample(10)


def test_draws_outside_the_support_count_as_zero():
    """p(y) with a flat likelihood is one, though half the proposal is outside the box."""
    prior = simgen.Prior(a=Uniform(0.0, 1.0))
    proposal = Independent(Normal(torch.tensor([0.0]), torch.tensor([1.0])), 1)
    posterior = simgen.infer(
        prior, lambda y, theta: 0 * theta[:, 0], torch.tensor(1.0), proposal=proposal
    )
    value, error = posterior.log_evidence()
    assert abs(value) < 4 * error and error < 0.03
    assert bool(((posterior.sample(500) >= 0) & (posterior.sample(500) <= 1)).all())


@pytest.mark.parametrize("events", [1, 10, 100])
def test_independent_events(events):
    torch.manual_seed(events)
    y = 0.7 + torch.randn(events, 1)
    prior = simgen.Prior(mu=Normal(0.0, 1.0))
    posterior = simgen.infer(
        prior, lambda y, theta: Normal(theta[:, 0], 1.0).log_prob(y), y, iid=True
    )
    variance = 1 / (1 + events)
    close(posterior, variance * y.sum(0), torch.tensor([variance]))


def test_two_instruments_are_one():
    prior = gaussian()
    both = torch.cat((A, torch.tensor([[0.0, 1.0, 0.0]])))
    y = torch.tensor([0.8, 0.1])
    S = torch.diag(torch.tensor([0.16, 0.04]))
    parts = [
        simgen.GaussianLikelihood(A, 0.4),
        simgen.GaussianLikelihood(lambda x: x[:, 1:2], 0.2),
    ]
    posterior = simgen.infer(prior, parts, [y[:1], y[1:]])
    reference = prior.condition(both, y, S)
    close(posterior, reference.mean, reference.variance)
    assert float(posterior.log_evidence()) == pytest.approx(
        float(prior.log_evidence(both, y, S)), abs=1e-5
    )
    black = simgen.infer(
        prior, [parts[0], lambda y, x: Normal(x[:, 1], 0.2).log_prob(y[0])], [y[:1], y[1:]]
    )
    assert black.method == "noise-denoise"


@pytest.mark.parametrize("method", ["smc", "hmc", "gibbs"])
def test_an_unknown_offset_beside_x(method):
    """y = x + b + noise with both Gaussian: the joint posterior is Gaussian."""
    x0 = GaussianPrior(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
    b0 = simgen.Prior(b=Normal(0.5, 0.7))
    y = torch.tensor([1.5, 0.4])
    joint = GaussianPrior(
        torch.tensor([0.5, 0, 0]),
        torch.tensor([[0.49, 0, 0], [0, 1.0, 0.5], [0, 0.5, 1.0]]),
    )
    seen = torch.tensor([[1.0, 1, 0], [1.0, 0, 1]])
    reference = joint.condition(seen, y, 0.09 * torch.eye(2))
    posterior = simgen.infer(
        {"b": b0, "x": x0},
        simgen.GaussianLikelihood(lambda x, b: x + b, 0.3),
        y,
        method=method,
        particles=None if method == "gibbs" else 12_000,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximateWarning)
        draws = posterior.sample(4000)
    assert draws["b"].shape == (4000, 1) and draws["x"].shape == (4000, 2)
    z = torch.cat((draws["b"], draws["x"]), -1).double()
    worth = min(4000, posterior.ess)
    sd = reference.variance.double().sqrt()
    assert ((z.mean(0) - reference.mean).abs() / sd).max() < 5 / math.sqrt(worth)
    assert (z.std(0) / sd - 1).abs().max() < 5 / math.sqrt(2 * worth)
    assert worth > 300


def test_an_unknown_noise_level_by_quadrature():
    """y_i ~ N(mu, s): both unknown; sd is a function of an unknown by name."""
    torch.manual_seed(0)
    y = 1 + 0.6 * torch.randn(12)
    mu0, s0 = simgen.Prior(mu=Normal(0.0, 2.0)), simgen.Prior(s=Uniform(0.1, 2.0))
    posterior = simgen.infer(
        {"s": s0, "mu": mu0},
        simgen.GaussianLikelihood(lambda mu: mu.expand(-1, 12), lambda s: s),
        y,
        particles=8000,
    )
    mu = torch.linspace(-2, 4, 801, dtype=torch.float64)[:, None, None]
    s = torch.linspace(0.1, 2, 801, dtype=torch.float64)[None, :, None]
    log_p = Normal(mu, s).log_prob(y.double()).sum(-1) + Normal(0.0, 2.0).log_prob(mu)[..., 0]
    w = log_p.flatten().softmax(0).view(801, 801)
    draws = posterior.sample(4000)
    for name, axis, grid in (("mu", 1, mu.flatten()), ("s", 0, s.flatten())):
        mean = (w.sum(axis) * grid).sum()
        sd = (w.sum(axis) * (grid - mean) ** 2).sum().sqrt()
        found = draws[name].double()
        assert abs(float(found.mean() - mean)) < 5 * float(sd) / math.sqrt(posterior.ess)
        assert abs(float(found.std() / sd) - 1) < 0.1


def test_approximate_answers_say_so_and_can_be_weighted():
    prior = MixturePrior([1.0, 1.0], torch.tensor([[-2.0, 0, 0], [2.0, 0, 0]]), torch.eye(3))
    seen = simgen.GaussianLikelihood(A, 0.4)
    posterior = simgen.infer(prior, seen, Y, method="moment-matching", steps=20)
    assert posterior.exactness == "approximate"
    with pytest.warns(ApproximateWarning, match="reweight"):
        assert posterior.sample(10).shape == (10, 3)
    better = posterior.reweight()
    assert better.method == "smc" and better.exactness == "asymptotic"
    reference, _ = exact(prior)
    close(better, reference.mean, reference.variance)
    with pytest.raises(NotImplementedError, match="already"):
        better.reweight()
    with pytest.raises(NotImplementedError, match="does not estimate"):
        posterior.log_evidence()


def test_parameters_of_an_instrument_by_name_beside_a_gaussian_by_quadrature():
    """One prior of gain and noise, of which operator and sigma take one each."""
    variances = torch.tensor([4.0, 4.0, 4.0, 0.1, 0.1, 0.1])
    instrument = simgen.Prior(gain=Uniform(0.5, 2.0), noise=Uniform(0.1, 1.0))
    y = torch.tensor([2.0, -3.0, 1.0, 0.5, -0.6, 0.4])
    posterior = simgen.infer(
        {"instrument": instrument, "x": GaussianPrior(torch.zeros(6), variances)},
        simgen.GaussianLikelihood(lambda x, gain: gain * x, lambda noise: noise),
        y,
        particles=1024,
    )
    gain = torch.linspace(0.5, 2, 401, dtype=torch.float64)[:, None, None]
    noise = torch.linspace(0.1, 1, 401, dtype=torch.float64)[None, :, None]
    sd = (gain**2 * variances + noise**2).sqrt()
    log_p = Normal(0.0, sd).log_prob(y.double()).sum(-1)
    value, error = posterior.log_evidence()
    assert abs(value - float(log_p.flatten().logsumexp(0) - 2 * math.log(401))) < 4 * error + 0.01
    w = log_p.flatten().softmax(0).view(401, 401)
    means = torch.stack([(w.sum(1) * gain.flatten()).sum(), (w.sum(0) * noise.flatten()).sum()])
    found = posterior.sample(1024)["instrument"].double()
    assert ((found.mean(0) - means).abs() < 5 * found.std(0) / math.sqrt(posterior.ess)).all()


def test_what_bends_most_at_the_priors_mean_is_not_impossible():
    """The slope of a square is zero there: nothing warns of what any draw may give."""
    seen = simgen.GaussianLikelihood(lambda x: x[:, :1] ** 2, 0.2)
    prior = MixturePrior([1, 1], torch.tensor([[-2.0], [2.0]]), torch.eye(1))
    assert simgen.infer(prior, seen, torch.tensor([4.0])).method == "smc"
    with pytest.warns(ApproximateWarning, match="far from what the prior predicts"):
        simgen.infer(prior, seen, torch.tensor([400.0]))


def test_an_observation_that_the_prior_excludes():
    with pytest.warns(ApproximateWarning, match="far from what the prior predicts"):
        simgen.infer(gaussian(), simgen.GaussianLikelihood(A, 0.4), torch.tensor([80.0]))
    with pytest.warns(ApproximateWarning, match="far from what the prior predicts"):
        bent = simgen.GaussianLikelihood(lambda x: x[:, :1] + 0.01 * x[:, :1] ** 2, 0.4)
        simgen.infer(gaussian(), bent, torch.tensor([80.0]))
    twice = torch.cat([A, A])  # two looks at one number, that disagree
    both = simgen.GaussianLikelihood(lambda x: x @ twice.T.to(x), 0.4)
    for method in ("auto", "smc"):
        with pytest.warns(ApproximateWarning, match="far from what the prior predicts"):
            off = torch.tensor([8.0, -8.0])
            simgen.infer(gaussian(), both, off, method=method, steps=3).sample(2)
    box = simgen.Prior(a=Uniform(0.0, 1.0))
    wall = lambda y, t: torch.where(t[:, 0] > 2, 0.0, -math.inf)  # noqa: E731
    with pytest.raises(ValueError, match="is the observation possible"):
        simgen.infer(box, wall, torch.tensor(1.0)).sample(3)


def test_a_seed_of_the_users_is_no_seed_of_draws():
    """An instrument drawn with the seed of the draws must not look like them."""
    d = 64
    A = torch.randn(16, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prior = GaussianPrior(torch.zeros(d).double(), torch.eye(d).double())
    posterior = simgen.infer(prior, simgen.GaussianLikelihood(A, 10.0), torch.zeros(16), seed=0)
    for draws in (posterior.sample(16), posterior.sample(16, seed=0)):
        alike = torch.nn.functional.cosine_similarity(draws[:, None], A[None], dim=-1)
        assert float(alike.abs().max()) < 6 / math.sqrt(d)


def test_chi2_does_not_run_a_sampler_again():
    posterior = simgen.infer(
        gaussian(), simgen.GaussianLikelihood(A, 0.4), Y, method="smc", steps=5, particles=40
    )
    posterior.sample(3)
    before = posterior.evaluations
    assert posterior.chi2().shape == (40,) and posterior.chi2(n=7).shape == (7,)
    assert posterior.evaluations == before


def test_shapes_seeds_and_evaluations():
    posterior = simgen.infer(
        gaussian(), simgen.GaussianLikelihood(A, 0.4), Y, method="smc", steps=5
    )
    assert posterior.sample().shape == (3,) and posterior.sample((2, 5)).shape == (2, 5, 3)
    assert posterior.sample(0).shape == (0, 3) and posterior.sample(3).dtype == torch.float32
    assert posterior.evaluations >= 5 * 8192
    assert torch.equal(posterior.sample(4, seed=1), posterior.sample(4, seed=1))
    same = simgen.infer(gaussian(), simgen.GaussianLikelihood(A, 0.4), Y, method="smc", steps=5)
    assert torch.equal(same.sample(4, seed=1), posterior.sample(4, seed=1))
    assert "smc" in repr(posterior) and posterior.chi2(n=16).shape == (16,)
    many = posterior.sample(10_000)  # more than the particles: it runs again
    assert len(many) == 10_000
    value, error = Evidence(1.5, 0.1)
    assert (value, error) == (1.5, 0.1) and repr(Evidence(1.5, 0.1)) == "1.5000 ± 0.1"


def test_images_and_large_operators_in_closed_form():
    """A field on a grid behind a mask, against the dense formula."""
    k = torch.fft.fftfreq(6)
    power = 1 / (0.05 + k[:, None] ** 2 + k[None] ** 2)
    prior = GaussianPrior(torch.zeros(1, 6, 6), simgen.FourierCovariance(power[None]))
    seen = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    torch.manual_seed(0)
    y = prior.sample()[0, seen] + 0.1 * torch.randn(int(seen.sum()))
    posterior = simgen.infer(prior, simgen.GaussianLikelihood(lambda x: x[:, 0, seen], 0.1), y)
    matrix = torch.eye(36)[seen.flatten()]
    reference = prior.condition(matrix, y, 0.01 * torch.eye(len(y)))
    assert posterior.sample((4,)).shape == (4, 1, 6, 6)
    x = posterior.sample(4000)
    error = (reference.variance / 4000).sqrt()
    assert ((x.mean(0) - reference.mean).abs() < 5 * error).all()
    assert abs(float(posterior.chi2(n=2000).mean()) / len(y) - 1) < 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: (gaussian(), simgen.GaussianLikelihood(lambda x: x[:, :2], 0.1), Y), r"\(n, 1\)"),
        (lambda: (gaussian(), lambda y, x: x[:, 0] * math.nan, Y), "NaN or infinite"),
        (lambda: (gaussian(), lambda y, x: x, Y), "one number a row"),
        (
            lambda: (gaussian(), simgen.GaussianLikelihood(A, 0.4), torch.tensor([math.nan])),
            "NaN or infinite",
        ),
        (lambda: (gaussian(), simgen.GaussianLikelihood(A, -1.0), Y), "positive"),
        (lambda: (gaussian(), simgen.GaussianLikelihood(A, torch.ones(3)), Y), "sigma must be"),
        (
            lambda: (gaussian(), [simgen.GaussianLikelihood(A, 1.0)] * 2, [Y]),
            "as many observations",
        ),
        (
            lambda: (
                {"x": gaussian(), "z": gaussian()},
                simgen.GaussianLikelihood(lambda w, x: x, 1.0),
                Y,
            ),
            "asks for 'w'",
        ),
        (
            lambda: (gaussian(), [simgen.GaussianLikelihood(A, 1.0)], torch.zeros(3)),
            "1 likelihoods need as many observations",
        ),
        (
            lambda: (gaussian(), simgen.GaussianLikelihood(A, 1.0), [torch.zeros(2)] * 2),
            "no array of numbers",
        ),
        (
            lambda: (gaussian(), simgen.PoissonLikelihood(lambda x: x.exp()), [3.0, -0.5, 1]),
            "counts cannot be negative",
        ),
        (
            lambda: (gaussian(), [simgen.GaussianLikelihood(A, 1.0)] * 2, Y[0]),
            "as many observations",
        ),
        (
            lambda: (
                {"p": simgen.Prior(m=Normal(0.0, 1.0)), "q": simgen.Prior(m=Normal(0.0, 1.0))},
                lambda y, m: m[:, 0],
                Y,
            ),
            "both 'p' and 'q' have a parameter 'm'",
        ),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        simgen.infer(*make()).sample(2)


@pytest.mark.parametrize("y", [0.0, torch.zeros(2, 1), torch.zeros(3)])
def test_chi2_of_another_shape_is_refused(y):
    posterior = simgen.infer(
        gaussian(), simgen.GaussianLikelihood(lambda x: x[:, :2], 1.0), [0, 0]
    )
    with pytest.raises(ValueError, match=r"observation 0 must be \(2,\)"):
        posterior.chi2(y, n=2)


def test_one_number_is_no_set_of_events():
    with pytest.raises(ValueError, match="are events"):
        simgen.infer(gaussian(), lambda y, x: x[:, 0], Y[0], iid=True)


def test_methods_that_do_not_exist_or_do_not_fit():
    with pytest.raises(ValueError, match="method is auto or one of"):
        simgen.infer(gaussian(), simgen.GaussianLikelihood(A, 0.4), Y, method="magic")
    prior = simgen.Prior(a=Uniform(0.0, 1.0))
    with pytest.raises(ValueError, match="possible: smc"):
        simgen.infer(prior, lambda y, t: t[:, 0], Y, method="dps")
    with pytest.raises(TypeError, match="a prior is a distribution"):
        simgen.infer(3.0, lambda y, t: t[:, 0], Y)
    with pytest.raises(TypeError, match="a likelihood is"):
        simgen.infer(gaussian(), 3.0, Y)
    with pytest.raises(ValueError, match="either sigma= or covariance="):
        simgen.GaussianLikelihood(A)
    with pytest.raises(ValueError, match="goes with"):
        simgen.infer(prior, lambda y, t: t[:, 0], Y, method="hmc", proposal=prior)


@pytest.mark.parametrize("method", ["smc", "noise-denoise"])
def test_an_operator_is_called_in_the_precision_of_the_prior(method):
    """Float32 as when it is tried, by methods that compute in float64 too."""
    prior = GaussianPrior(torch.tensor([6.0, 5.0]), torch.eye(2))
    seen = simgen.PoissonLikelihood(lambda x: x @ torch.ones(2, 1))
    posterior = simgen.infer(prior, seen, [9.0], method=method, particles=64, steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximateWarning)
        assert posterior.sample(3).dtype == torch.float32


def test_correlated_noise():
    C = torch.tensor([[0.3, 0.1], [0.1, 0.2]])
    B = torch.cat((A, A.flip(-1)))
    y = torch.tensor([0.3, 0.9])
    for seen in (simgen.GaussianLikelihood(B, C), simgen.GaussianLikelihood(B, covariance=C)):
        posterior = simgen.infer(gaussian(), seen, y)
        reference = gaussian().condition(B, y, C)
        close(posterior, reference.mean, reference.variance)
        expected = MultivariateNormal(torch.zeros(2), C).log_prob(y)
        torch.testing.assert_close(
            seen.log_prob(y.double(), {"x": torch.zeros(1, 3)})[0],
            expected.double(),
            rtol=1e-5,
            atol=1e-5,
        )


def test_an_instrument_in_numpy_is_recognised_as_linear():
    """scipy's own blur: no gradient leads through it, and none is needed."""
    from scipy.ndimage import gaussian_filter

    k = 2 * torch.pi * torch.fft.fftfreq(8)
    power = 1 / (0.3 + k[:, None] ** 2 + k[None] ** 2)
    prior = GaussianPrior(torch.zeros(8, 8), simgen.FourierCovariance(power))

    def blur(x):
        return torch.as_tensor(gaussian_filter(x.numpy(), sigma=(0, 1, 1)))

    torch.manual_seed(0)
    y = blur(prior.sample((1,)))[0] + 0.1 * torch.randn(8, 8)
    posterior = simgen.infer(prior, simgen.GaussianLikelihood(blur, sigma=0.1), y)
    assert posterior.method == "closed-form"
    matrix = blur(torch.eye(64).view(64, 8, 8)).view(64, 64).T
    reference = prior.condition(matrix, y.flatten(), 0.01 * torch.eye(64))
    x = posterior.sample(4000)
    error = (reference.variance / 4000).sqrt()
    assert ((x.mean(0) - reference.mean).abs() < 5 * error).all()
    black = simgen.infer(prior, lambda y, x: -50 * (y - blur(x)).square().flatten(1).sum(1), y)
    assert black.method == "noise-denoise"


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A diffusion model and a flow of the same three modes, which are known."""
    torch.manual_seed(0)
    means = torch.tensor([[-3.0, 0, 0], [3.0, 0, 0], [0, 3.0, 3.0]])
    prior = MixturePrior([1.0, 2.0, 1.0], means, torch.eye(3))
    path = tmp_path_factory.mktemp("modes") / "d"
    dataset = simgen.Dataset.create(path, x=prior.sample((8000,)))
    fits = {
        "diffusion": simgen.fit(
            "x", dataset, simgen.Diffusion(hidden=64), max_epochs=30, progress=False
        ),
        "flow": simgen.fit("x", dataset, simgen.Flow(transforms=2), max_epochs=8, progress=False),
    }
    return prior, fits


@pytest.mark.parametrize(
    ("family", "method"), [("diffusion", "smc"), ("flow", "smc"), ("diffusion", "noise-denoise")]
)
def test_learned_priors(learned, family, method):
    """What the network has learned wrong is beside what chance allows: a tenth of a deviation."""
    prior, fits = learned
    reference, evidence = exact(prior)
    posterior = simgen.infer(
        fits[family],
        simgen.GaussianLikelihood(A, 0.4),
        Y,
        method=method,
        particles=1024 if method == "smc" else 6400,
        steps=40,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximateWarning)
        x = posterior.sample(1024).double()
    sd = reference.variance.double().sqrt()
    worth = posterior.ess
    assert ((x.mean(0) - reference.mean).abs() / sd).max() < 0.2 + 4 / math.sqrt(worth)
    assert (x.std(0) / sd - 1).abs().max() < 0.2 + 4 / math.sqrt(2 * worth)
    if method == "smc":
        value, error = posterior.log_evidence()
        assert abs(value - evidence) < 0.2 + 4 * error


@pytest.mark.parametrize("method", ["auto", "smc"])
def test_particles_worth_nothing_give_way_unless_asked_for(method):
    """Of 60 numbers seen sharply through the wrong covariance one particle is left."""
    d = 60
    truth = GaussianPrior(torch.zeros(d).double(), torch.eye(d).double())

    class Wrong:
        event_shape = torch.Size((d,))

        def sample(self, shape):
            return 1.5 * truth.sample(shape)

        def denoise(self, x_t, alpha, sigma):
            wave = 0.3 * math.exp(-float(sigma))
            return truth.denoise(x_t, alpha, sigma) + wave * torch.sin(5 * x_t)

    A = torch.randn(40, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.manual_seed(0)
    y = A @ truth.sample() + 0.05 * torch.randn(40).double()
    question = (Wrong(), simgen.GaussianLikelihood(A, 0.05), y)
    posterior = simgen.infer(*question, method=method, particles=64, steps=8)
    with pytest.warns(ApproximateWarning, match="independent draws"):
        posterior.sample(64)
    if method == "smc":
        assert (posterior.method, posterior.exactness) == ("smc", "asymptotic")
        assert posterior.ess < 32
    else:
        assert (posterior.method, posterior.exactness) == ("ancestral", "approximate")
        assert "'smc' found no answer" in posterior.why and posterior.ess == 64
        with pytest.raises(NotImplementedError):
            posterior.log_evidence()
        with pytest.warns(ApproximateWarning, match="approximate"):
            assert posterior.sample(80).shape == (80, d)


@pytest.mark.parametrize("affine", [True, False])
def test_a_prior_that_stays_affine_keeps_instruments_linear(affine, tmp_path):
    """Brightness over four decades: in asinh of it, or in its logarithm, no sum is linear."""
    x = torch.exp(3 * torch.randn(400, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    field = simgen.Field((1, 4, 4), layout="image", support=(0.0, math.inf))
    dataset = simgen.Dataset.create(tmp_path / "sky", x=x.numpy(), declared={"x": field})
    model = simgen.Diffusion(affine=affine, hidden=8, blocks=1)
    prior = simgen.fit("x", dataset, model, max_epochs=1, progress=False)
    prior.save(tmp_path / "prior.safetensors")
    q = simgen.load(tmp_path / "prior.safetensors")()
    a, b = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(1)) / 10
    middle = (q.to_physical(a) + q.to_physical(b)) / 2
    straight = torch.allclose(q.to_physical((a + b) / 2), middle, rtol=1e-5)
    assert straight is affine
