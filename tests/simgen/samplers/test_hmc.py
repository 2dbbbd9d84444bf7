"""Hamiltonian Monte Carlo: exact moments, modes, walls and heavy tails, and invariance."""

import math
from dataclasses import replace

import pytest
import scipy.stats
import torch

from simgen.samplers.hmc import hmc_sample


def gaussian(d, condition):
    """N(m, C) of that condition number in random directions."""
    generator = torch.Generator().manual_seed(d)
    axes, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    scales = torch.logspace(0, -math.log10(condition), d, dtype=torch.float64)
    mean = torch.linspace(-1, 1, d, dtype=torch.float64)
    return torch.distributions.MultivariateNormal(mean, (axes * scales) @ axes.T)


def rows(chains, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(chains, d, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("d, condition, chains", [(5, 1e4, 64), (50, 1e4, 128), (5, 10.0, 8)])
def test_moments_of_a_correlated_gaussian(d, condition, chains):
    """Mean and variance along every axis within 4.5 Monte-Carlo standard errors."""
    target = gaussian(d, condition)
    n = 6_400 // chains
    found = hmc_sample(target.log_prob, rows(chains, d), n, warmup=150 if chains < 32 else 100)
    white = (found.draws - target.mean) @ torch.linalg.inv(target.scale_tril).T
    white = replace(found, draws=white)
    # of half chains of 25 draws R-hat is 1.02 already where every second draw counts
    assert bool((white.rhat < 1.03).all())
    squared = replace(found, draws=white.draws.square())
    assert bool((white.flat.mean(0).abs() * white.ess_bulk.sqrt() < 4.5).all())
    error = (squared.flat.mean(0) - 1).abs() * (squared.ess_bulk / 2).sqrt()
    assert bool((error < 4.5).all())
    assert found.divergences == 0 and 0.6 < found.accept < 0.95
    assert torch.allclose(found.log_prob.flatten(), target.log_prob(found.flat))
    assert found.evaluations == found.calls * chains


def test_exact_draws_stay_exact():
    """4,000 chains that start in a skewed law are in it after warm-up too."""
    start = torch.from_numpy(scipy.stats.gumbel_r.rvs(size=(4000, 1), random_state=0))
    found = hmc_sample(lambda x: (-x - (-x).exp())[:, 0], start, 1, warmup=20)
    assert scipy.stats.kstest(found.flat[:, 0], "gumbel_r").pvalue > 1e-3
    assert (found.flat != start).double().mean() > 0.99


def two_modes(separation):
    def log_prob(x):
        left, right = (-0.5 * (x - s * separation).square()[:, 0] for s in (-1, 1))
        return torch.logaddexp(left + math.log(0.3), right + math.log(0.7))

    return log_prob


def test_near_modes_are_weighed():
    found = hmc_sample(two_modes(2.0), 2 * rows(64, 1).sign(), 1000)
    assert found.converged
    right = replace(found, draws=(found.draws > 0).double())
    exact = 0.3 * scipy.stats.norm.sf(2) + 0.7 * scipy.stats.norm.cdf(2)
    sd = math.sqrt(exact * (1 - exact) / float(right.ess_bulk[0]))
    assert abs(float(right.flat.mean()) - exact) < 4 * sd


def test_chains_stuck_in_far_modes_are_no_answer():
    found = hmc_sample(two_modes(20.0), 20 * rows(16, 1).sign(), 100)
    assert not found.converged and "R-hat" in found.problem


def test_walls_and_heavy_tails():
    """A Student-t with 5 degrees of freedom in one column, a half-normal in the other."""

    def log_prob(x):
        tail = -3 * (1 + x[:, 0].square() / 5).log()
        return torch.where(x[:, 1] > 0, tail - 0.5 * x[:, 1].square(), -math.inf)

    found = hmc_sample(log_prob, rows(64, 2).abs(), 400)
    assert bool((found.draws[..., 1] > 0).all()) and found.divergences > 0
    for column, law in ((0, scipy.stats.t(5)), (1, scipy.stats.halfnorm())):
        below = torch.from_numpy(law.cdf(found.draws[..., column].numpy()))[..., None]
        ranks = replace(found, draws=below)
        assert float(ranks.rhat) < 1.03
        error = (float(below.mean()) - 0.5) * math.sqrt(12 * float(ranks.ess_bulk))
        assert abs(error) < 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_seed_repeats_and_the_type_stays(dtype):
    start = rows(16, 3).to(dtype)
    first, again, other = (
        hmc_sample(lambda x: -0.5 * x.square().sum(-1), start, 5, warmup=20, seed=s).draws
        for s in (0, 0, 1)
    )
    assert first.dtype == dtype and torch.equal(first, again) and not torch.equal(first, other)


def test_a_needle_start_widens():
    """Starting all at one point, whose spread says nothing, in units far from one."""
    target = torch.distributions.Normal(50.0, torch.tensor([300.0, 0.01]).double())
    start = torch.full((32, 2), 50.0, dtype=torch.float64)
    found = hmc_sample(lambda x: target.log_prob(x).sum(-1), start, 60)
    assert bool((found.rhat < 1.03).all())
    assert torch.allclose(found.flat.std(0), target.scale, rtol=0.15)


def test_a_needle_is_reached_from_afar():
    """Warm-up in units a thousand times too wide must not leave trajectories as short."""
    target = torch.distributions.Normal(torch.tensor([0.3, 0.5, 0.7]).double(), 1e-4)
    start = 0.5 + 0.2 * rows(64, 3)
    found = hmc_sample(lambda x: target.log_prob(x).sum(-1), start, 100)
    assert bool((found.rhat < 1.05).all())
    assert torch.allclose(found.flat.std(0), target.scale.expand(3), rtol=0.1)


def test_bad_input():
    def log_prob(x):
        return -0.5 * x.square().sum(-1)

    with pytest.raises(ValueError, match=r"\(chains, d\)"):
        hmc_sample(log_prob, torch.zeros(3), 2)
    with pytest.raises(ValueError, match="start where the density is zero"):
        hmc_sample(lambda x: x.sum(-1).log(), torch.tensor([[1.0], [-1.0]]), 2)
    with pytest.raises(ValueError, match=r"must be \(2,\)"):
        hmc_sample(lambda x: x, torch.zeros(2, 1), 2)
    with pytest.raises(ValueError, match="no gradient"):
        hmc_sample(lambda x: x.detach().sum(-1), torch.zeros(2, 1), 2)
    with pytest.raises(ValueError, match="warmup must be 20"):
        hmc_sample(log_prob, torch.zeros(2, 1), 2, warmup=5)
