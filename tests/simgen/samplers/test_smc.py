"""Steered particles and covariance-aware steps against closed forms."""

import math

import pytest
import torch

from simgen.answers.instrument import instrument
from simgen.gaussian import GaussianPrior, MixturePrior
from simgen.likelihood import GaussianLikelihood
from simgen.samplers.ancestral import ancestral
from simgen.samplers.closed_form import LinearGaussian
from simgen.samplers.denoising import ClosedForm, Network
from simgen.samplers.guidance import GUIDANCE, guided
from simgen.samplers.levels import levels
from simgen.samplers.problem import Problem, twist
from simgen.samplers.smc import Unled, effective, smc, systematic


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def positive(d, seed):
    root = torch.randn(d, d, generator=seeded(seed), dtype=torch.float64)
    return root @ root.T / d + 0.05 * torch.eye(d, dtype=torch.float64)


def problem(prior, A, sd, y, denoiser=None):
    seen = instrument([GaussianLikelihood(A, sd)], [y], prior.event_shape, torch.float64)
    part = seen.reduced()
    return Problem(denoiser or ClosedForm(prior), part.predict, part.y, part.scale, part.matrix)


def gaussian(d=6, m=3):
    prior = GaussianPrior(torch.linspace(-1, 1, d).double(), positive(d, 0))
    A = torch.randn(m, d, generator=seeded(1), dtype=torch.float64)
    y = torch.randn(m, generator=seeded(2), dtype=torch.float64)
    return prior, A, 0.1, y


def mixture(d=4, m=1):
    means = 4 * torch.randn(6, d, generator=seeded(3), dtype=torch.float64)
    prior = MixturePrior(torch.arange(1.0, 7), means, torch.eye(d).double())
    A = torch.randn(m, d, generator=seeded(4), dtype=torch.float64)
    return prior, A, 0.5, A @ means[2] + 0.3


def exact(prior, A, sd, y):
    S = sd**2 * torch.eye(len(y), dtype=torch.float64)
    return prior.condition(A, y, S), float(prior.log_evidence(A, y, S))


def divergence(x, reference):
    """KL of the Gaussian of the draws' moments from the reference."""
    d = x.shape[1]
    L = torch.linalg.cholesky(reference.covariance)
    W = torch.linalg.solve_triangular(L, torch.cov(x.T), upper=False)
    W = torch.linalg.solve_triangular(L, W.T, upper=False)
    r = torch.linalg.solve_triangular(L, (x.mean(0) - reference.mean)[:, None], upper=False)
    return 0.5 * float(W.trace() - d + r.square().sum() - torch.logdet(W))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_any_number_of_steps_is_exact_for_a_gaussian(steps):
    """KL by moments of n exact draws is about d (d + 3) / 4 n; its spread is less than half."""
    question = gaussian()
    reference, evidence = exact(*question)
    n, d = 4000, 6
    floor = d * (d + 3) / 4 / n
    x = ancestral(problem(*question), n, steps, seeded())
    assert divergence(x, reference) < 2 * floor
    found = smc(problem(*question), n, steps, seeded())
    assert divergence(found.x, reference) < 2 * floor
    # the first twist is at a finite noise level, ten thousand deviations of the prior away
    assert abs(found.log_evidence - evidence) < 1e-6
    assert found.ess > 0.999 * n and found.error < 1e-5


def test_more_numbers_than_unknowns_are_no_other_problem():
    prior, _, _, _ = gaussian()
    A = torch.randn(20, 6, generator=seeded(5), dtype=torch.float64)
    y = torch.randn(20, generator=seeded(6), dtype=torch.float64)
    reference, evidence = exact(prior, A, 0.7, y)
    reduced = problem(prior, A, 0.7, y)
    assert reduced.matrix.shape == (6, 6)
    found = smc(reduced, 3000, 3, seeded())
    assert abs(found.log_evidence - evidence) < 1e-6
    assert divergence(found.x, reference) < 2 * 6 * 9 / 4 / 3000


def test_particles_find_the_weights_of_modes():
    """Shares of draws in each mode, and moments, within what effective draws allow."""
    question = mixture()
    reference, evidence = exact(*question)
    found = smc(problem(*question), 4000, 60, seeded())
    assert abs(found.log_evidence - evidence) < 4 * found.error and found.error < 0.1
    w = found.log_weights.exp()
    mean = w @ found.x
    sd = reference.variance.sqrt()
    assert ((mean - reference.mean).abs() / sd < 5 / math.sqrt(found.ess)).all()
    assert ((w @ (found.x - mean) ** 2) / sd**2 - 1).abs().max() < 10 / math.sqrt(found.ess)


def test_the_evidence_is_within_its_errors_over_seeds():
    question = mixture()
    _, evidence = exact(*question)
    z = []
    for seed in range(20):
        found = smc(problem(*question), 400, 40, seeded(seed))
        z.append((found.log_evidence - evidence) / found.error)
    z = torch.tensor(z)
    # mean of 20 unit normals, and their square: four standard errors
    assert abs(float(z.mean())) < 4 / math.sqrt(20)
    assert float(z.square().mean()) < 1 + 4 * math.sqrt(2 / 20)


def test_a_network_is_seen_through_its_derivative():
    """The same particles from a denoiser alone: no covariance is told."""

    class Denoiser:
        def __init__(self, prior):
            self.prior, self.event_shape = prior, prior.event_shape

        def denoise(self, x_t, alpha, sigma):
            return self.prior.denoise(x_t, alpha, sigma)

        def sample(self, shape):
            return self.prior.sample(shape)

    question = mixture()
    reference, evidence = exact(*question)
    torch.manual_seed(0)
    network = Network(Denoiser(question[0]), 1)
    found = smc(problem(*question, network), 1500, 60, seeded())
    assert abs(found.log_evidence - evidence) < 4 * found.error + 0.02
    mean = found.log_weights.exp() @ found.x
    sd = reference.variance.sqrt()
    assert ((mean - reference.mean).abs() / sd < 5 / math.sqrt(found.ess)).all()
    assert network.evaluations > 1500 * 60


def test_many_dimensions_share_the_denoisers_mean_covariance():
    """Of a Gaussian prior that is its own, and any number of steps exact."""

    class Denoiser:
        event_shape = torch.Size([48])

        def __init__(self, prior):
            self.denoise, self.sample = prior.denoise, prior.sample

    prior = GaussianPrior(torch.linspace(-1, 1, 48).double(), positive(48, 0))
    A = torch.randn(12, 48, generator=seeded(1), dtype=torch.float64)
    y = torch.randn(12, generator=seeded(2), dtype=torch.float64)
    torch.manual_seed(0)
    network = Network(Denoiser(prior), 12)
    assert network.shared
    reference, evidence = exact(prior, A, 0.3, y)
    found = smc(problem(prior, A, 0.3, y, network), 4000, 6, seeded())
    assert abs(found.log_evidence - evidence) < 0.1 and found.ess > 2000
    # moments of n draws in d dimensions; the largest level is ten deviations, not infinity
    assert divergence(found.x, reference) < 2 * 48 * 51 / 4 / 4000


def test_published_guidance_is_what_its_formula_says():
    """Where the prior is N(0, 1) in one dimension all means have closed forms."""
    one = torch.ones(1, 1, dtype=torch.float64)
    prior, y = GaussianPrior(torch.zeros(1).double(), one), torch.tensor([1.0]).double()
    asked, x_t, sigma = (
        problem(prior, one, 0.5, y),
        torch.tensor([[0.8]], dtype=torch.float64),
        2.0,
    )
    D = 0.8 / 5  # x / (1 + sigma^2)
    V = 4 / 5
    gain = {"moment-matching": V / (V + 0.25), "pigdm": V / (V + 0.25), "diffpir": 4 / 4.25}
    for name, value in gain.items():
        mean, shift = GUIDANCE[name](asked, x_t, sigma)
        assert float(mean) == pytest.approx(D + value * (1 - D), rel=1e-6) and not shift.any()
    mean, shift = GUIDANCE["dps"](asked, x_t, sigma)
    # the misfit in units of the noise 0.5 falls by 2 D'
    assert float(mean) == pytest.approx(D) and float(shift) == pytest.approx(2 / 5)


@pytest.mark.parametrize("name", GUIDANCE)
def test_a_draw_is_steered_by_itself_alone(name):
    """Row 0 is the same whatever the other rows are."""
    asked = problem(*mixture())
    x = 3 * torch.randn(5, 4, generator=seeded(8), dtype=torch.float64)
    whole, alone = (GUIDANCE[name](asked, part, 1.0) for part in (x, x[:1]))
    for a, b in zip(whole, alone):
        torch.testing.assert_close(a[:1], b)


def test_moment_matching_tends_to_the_posterior_and_is_narrow_at_few_steps():
    question = gaussian()
    reference, _ = exact(*question)
    kl = [
        divergence(
            guided(problem(*question), 3000, steps, seeded(), GUIDANCE["moment-matching"]),
            reference,
        )
        for steps in (10, 80, 640)
    ]
    assert kl[0] > kl[1] > kl[2] and kl[2] < 0.1


def test_the_twist_is_the_evidence_of_a_gaussian_prior_at_every_level():
    """E[psi_t(x_t)] over p(x_t) is p(y), and psi_t(x_t) = p(y | x_t)."""
    prior, A, sd, y = gaussian()
    asked = problem(prior, A, sd, y)
    sigma = 0.9
    x_t = prior.sample((200_000,)) + sigma * torch.randn(200_000, 6).double()
    psi = twist(asked, x_t, sigma).log_prob + asked.scale
    _, evidence = exact(prior, A, sd, y)
    mean = float(psi.logsumexp(0)) - math.log(len(psi))
    error = float((psi - mean).exp().std() / math.sqrt(len(psi)))
    assert abs(mean - evidence) < 5 * error and error < 0.1


def light(gap=40.0, weight=0.006):
    """Seen: the middle one of nine components, which has next to no weight."""
    grid = torch.arange(-1, 2).double()
    weights = torch.full((9,), (1 - weight) / 8).double()
    weights[4] = weight
    unit = torch.eye(2).double()
    prior = MixturePrior(weights, gap * torch.cartesian_prod(grid, grid), unit)
    return prior, unit, 0.25, torch.tensor([0.4, -0.3]).double()


def test_a_mode_of_little_weight_keeps_its_evidence():
    """Particles near it often look like a neighbour's, where y seems impossible: some are not
    led by y. The evidence is unbiased, and its error is told.
    """
    question = light()
    _, evidence = exact(*question)
    found = [smc(problem(*question), 500, 50, seeded(s)) for s in range(12)]
    off = torch.tensor([f.log_evidence - evidence for f in found])
    errors = torch.tensor([f.error for f in found])
    ratio = off.exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(12)
    assert float((off / errors).square().mean().sqrt()) < 2


def test_without_a_share_not_led_nothing_changes():
    value = torch.tensor([-1.0, -500.0]).double()
    assert Unled(0.0, 3.0).or_else(value) is value
    mixed = Unled(0.2, -2.0).or_else(value).exp()
    torch.testing.assert_close(mixed, 0.8 * value.exp() + 0.2 * math.exp(-2.0))


def test_systematic_draws_are_within_one_of_their_share():
    log_w = torch.randn(50, generator=seeded(9)).double().log_softmax(0)
    counts = torch.bincount(systematic(log_w, 1000, seeded()), minlength=50)
    assert ((counts - 1000 * log_w.exp()).abs() < 1 + 1e-9).all()
    assert effective(torch.full((10,), -math.log(10)).double()) == pytest.approx(10)


def test_levels_go_from_infinity_to_zero():
    grid = levels(ClosedForm(gaussian()[0]), 4)
    assert grid[0][0] == math.inf and grid[-1][1] == 0 and len(grid) == 4
    assert all(a > b for a, b in grid)
    with pytest.raises(ValueError, match="steps"):
        levels(ClosedForm(gaussian()[0]), 0)


@pytest.mark.parametrize("make", [gaussian, mixture])
@pytest.mark.parametrize("formed", [True, False])
def test_matheron_draws_are_the_posteriors(make, formed):
    prior, A, sd, y = make()
    if not formed and isinstance(prior, MixturePrior):
        pytest.skip("a mixture needs its matrix")
    reference, evidence = exact(prior, A, sd, y)
    white = A / sd
    solved = LinearGaussian.of(
        prior,
        lambda x: x @ white.T,
        lambda r: r @ white,
        y / sd,
        -len(y) * (math.log(sd) + 0.5 * math.log(2 * math.pi)),
        white if formed else None,
    )
    x = solved.draw(40_000, seeded())
    error = (reference.variance / len(x)).sqrt()
    assert ((x.mean(0) - reference.mean).abs() < 4.5 * error).all()
    assert (x.var(0) / reference.variance - 1).abs().max() < 0.05
    torch.testing.assert_close(solved.mean(), reference.mean, rtol=1e-6, atol=1e-8)
    if formed:
        assert solved.log_evidence() == pytest.approx(evidence, abs=1e-8)
    else:
        with pytest.raises(NotImplementedError, match="determinant"):
            solved.log_evidence()
