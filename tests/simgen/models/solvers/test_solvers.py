"""Every solver on Gaussians, where the exact flow is known: orders, moments, rows, costs."""

import math
from itertools import pairwise

import pytest
import torch

from simgen.gaussian import GaussianPrior, MixturePrior
from simgen.models.process import PROCESSES
from simgen.models.solvers import SOLVERS, levels, log_ratios

FLOWS = {"ddim": 1, "heun": 2, "dpm++": 2, "adams": 3}
STOCHASTIC = [name for name, solver in SOLVERS.items() if solver.draws]
EACH = pytest.mark.parametrize("name", list(SOLVERS))
EVERY = pytest.mark.parametrize("process", list(PROCESSES))


def gaussian():
    covariance = torch.tensor([[1.0, 0.4], [0.4, 0.3]], dtype=torch.float64)
    return GaussianPrior(torch.tensor([1.0, -0.5], dtype=torch.float64), covariance)


def exact_map(prior, process, x_T):
    """The probability flow of a Gaussian: each principal axis by its standard deviations."""
    alpha, sigma = process.at(torch.tensor(process.sigma_max).double())
    values, vectors = torch.linalg.eigh(prior.covariance)
    u = (x_T - alpha * prior.mean) @ vectors
    return prior.mean + (u * (values / (alpha**2 * values + sigma**2)).sqrt()) @ vectors.T


def start(prior, process, n=64):
    """Draws of the exact p(x_T)."""
    alpha, sigma = process.at(torch.tensor(process.sigma_max).double())
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(0)).double()
    return alpha * prior.transport(noise) + sigma * noise.flip(1)


@EVERY
@pytest.mark.parametrize("name", list(FLOWS))
def test_error_falls_at_the_stated_order(name, process):
    process, prior = PROCESSES[process](1e-4, 80.0, 0.7), gaussian()
    x_T = start(prior, process)
    wanted = exact_map(prior, process, x_T)
    errors = [
        float((SOLVERS[name](prior.denoise, process, x_T, n) - wanted).abs().max())
        for n in (40, 80, 160)
    ]
    order = FLOWS[name]
    assert errors[2] < {1: 0.06, 2: 2e-3, 3: 5e-5}[order]
    # Adams' first two steps, where noise drowns the data, are of lower order
    lost = 0.5 if name == "adams" else 0.1
    assert math.log2(errors[0] / errors[2]) / 2 > order - lost


@EVERY
def test_adaptive_steps_reach_the_tolerance(process):
    process, prior = PROCESSES[process](1e-4, 80.0), gaussian()
    x_T = start(prior, process)
    wanted = exact_map(prior, process, x_T)
    for steps in (10, 40):
        found = SOLVERS["dopri5"](prior.denoise, process, x_T, steps)
        assert float((found - wanted).abs().max()) < 30 * steps**-3


def variance_of(name, process, prior, steps):
    """Exact covariance and mean of a linear solver's output: its response to each noise alone."""
    solver = SOLVERS[name]
    noises = 1 + solver.draws * steps
    alpha, sigma = process.at(torch.tensor(process.sigma_max).double())
    unit = torch.eye(2 * noises, dtype=torch.float64).view(2 * noises, noises, 2)
    unit = torch.cat([unit, torch.zeros(1, noises, 2).double()])
    values, vectors = torch.linalg.eigh(alpha**2 * prior.covariance + sigma**2 * torch.eye(2))
    x_T = alpha * prior.mean + unit[:, 0] @ (vectors * values.sqrt()).T
    x_0 = solver(prior.denoise, process, x_T, steps, iter(unit[:, 1:].unbind(1)))
    response = x_0[:-1] - x_0[-1]
    return response.T @ response, x_0[-1]


@EVERY
@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_solvers_have_the_right_moments(name, process):
    """The covariance's error falls by half or more when steps double: weak order one."""
    process, prior = PROCESSES[process](1e-2, 50.0, 0.7), gaussian()
    errors = []
    for steps in (100, 200, 400):
        covariance, mean = variance_of(name, process, prior, steps)
        errors.append(float((covariance - prior.covariance).abs().max()))
        assert (mean - prior.mean).abs().max() < 0.01
    assert errors[2] < (0.15 if name == "langevin" else 0.02)
    assert all(a / b > 1.85 for a, b in pairwise(errors))


@pytest.mark.parametrize("name", ["adams", "dopri5"])
def test_scales_by_entry_make_a_gaussian_exact(name):
    """In the coordinates of these two its flow stands still."""
    sd = torch.tensor([1.0, 0.01], dtype=torch.float64)
    prior = GaussianPrior(torch.zeros(2).double(), torch.diag(sd**2))
    process = PROCESSES["straight"](1e-6, 80.0, tuple(sd.tolist()))
    x_T = start(prior, process)
    found = SOLVERS[name](prior.denoise, process, x_T, 4)
    torch.testing.assert_close(found, exact_map(prior, process, x_T), rtol=1e-5, atol=1e-8)


@EACH
def test_a_row_does_not_see_its_batch(name):
    process, prior, solver = PROCESSES["vp-cosine"](), gaussian(), SOLVERS[name]
    x_T = start(prior, process, 5)
    noise = torch.randn(5, 1 + 12 * solver.draws, 2, dtype=torch.float64)
    whole = solver(prior.denoise, process, x_T, 12, iter(noise.unbind(1)))
    alone = solver(prior.denoise, process, x_T[:1], 12, iter(noise[:1].unbind(1)))
    torch.testing.assert_close(whole[:1], alone)


@EACH
def test_cost_repeatability_and_shape(name):
    process, solver = PROCESSES["edm"](), SOLVERS[name]
    prior = GaussianPrior(torch.zeros(1, 2, 2), torch.eye(4))
    x_T, calls = 80 * torch.randn(3, 1, 2, 2), []

    def denoiser(x, alpha, sigma):
        calls.append(1)
        return prior.denoise(x, alpha, sigma)

    seeds = (torch.Generator().manual_seed(1) for _ in range(2))
    one, two = (solver(denoiser, process, x_T, 12, seed) for seed in seeds)
    assert torch.equal(one, two) and one.shape == x_T.shape and one.dtype == torch.float32
    if solver.evaluations is not None:
        assert len(calls) // 2 in (12 * solver.evaluations, 12 * solver.evaluations - 1)
    noise = iter([torch.randn(3, 1, 2, 2) for _ in range(12 * solver.draws)])
    solver(denoiser, process, x_T, 12, noise)
    assert len(list(noise)) <= 2  # what was handed in is about what is used


@EACH
def test_draws_are_differentiable_in_noise(name):
    process, prior, solver = PROCESSES["vp-linear"](1e-2), gaussian(), SOLVERS[name]
    x_T = start(prior, process, 3).requires_grad_()
    zeros = iter([torch.zeros(3, 2).double()] * 12 * solver.draws)
    x_0 = solver(prior.denoise, process, x_T, 12, zeros)
    (slope,) = torch.autograd.grad(x_0.sum(), x_T)
    assert slope.isfinite().all() and slope.abs().sum() > 0


def mixture():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    covariances = 0.03 * torch.eye(3).double().expand(6, 3, 3)
    return MixturePrior(torch.ones(6), means, covariances)


def sliced_wasserstein(x, y, projections=100):
    """Mean distance of the sorted projections of two sets of as many draws."""
    axes = torch.randn(x.shape[1], projections, generator=torch.Generator().manual_seed(2))
    axes = (axes / axes.norm(dim=0)).to(x)
    return float(((x @ axes).sort(0).values - (y @ axes).sort(0).values).abs().mean())


@pytest.mark.parametrize("name", ["adams", "dpm++"])
def test_few_evaluations_draw_as_well_as_a_thousand(name):
    """Sliced Wasserstein distance to exact draws in 16 and 32 evaluations, against 1000."""
    prior, process = mixture(), PROCESSES["vp-cosine"]()
    generator = torch.Generator().manual_seed(0)
    alpha, sigma = process.at(torch.tensor(process.sigma_max).double())
    torch.manual_seed(1)
    n = 2000
    x_T = alpha * prior.mean + sigma * torch.randn(n, 3, generator=generator).double()
    truth = prior.sample((n,))
    best = SOLVERS[name](prior.denoise, process, x_T, 1000)
    few = SOLVERS[name](prior.denoise, process, x_T, 16 if name == "adams" else 32)
    limit = sliced_wasserstein(best, truth)
    assert sliced_wasserstein(few, truth) < 1.05 * limit
    assert sliced_wasserstein(few, best) < 0.5 * limit  # the same draws, all but


def test_levels():
    process = PROCESSES["edm"](1e-3, 80.0, 0.3)
    alpha, sigma = levels(process, 20, torch.zeros(()).double())
    ratio = sigma / alpha
    assert len(ratio) == 21 and ratio[-1] == 0 and alpha[-1] == 1
    assert (ratio.diff() < 0).all()
    torch.testing.assert_close(ratio[[0, 19]], torch.tensor([80.0, 1e-3]).double())
    steps = -log_ratios(process, 200).diff()
    densest = log_ratios(process, 200)[int(steps.argmin())]
    assert abs(float(densest) - math.log(0.3)) < 0.2


def test_two_steps_at_least():
    with pytest.raises(ValueError, match="two steps or more"):
        SOLVERS["ddim"](lambda x, a, s: x, PROCESSES["edm"](), torch.zeros(1, 1), 1)
