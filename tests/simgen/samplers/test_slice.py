"""Slice sampling: exact targets, by coordinates and on ellipses."""

import math

import pytest
import scipy.stats
import torch

from simgen.samplers.slice import elliptical_slice, slice_sample


def correlated(d, condition=100.0):
    """A covariance (d, d) of that condition number, in random directions."""
    generator = torch.Generator().manual_seed(d)
    axes, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    return (axes * torch.logspace(0, -math.log10(condition), d, dtype=torch.float64)) @ axes.T


def rows(chains, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(chains, d, generator=generator, dtype=torch.float64)


def uniform(x):
    """Uniform over [-1, 2] x [0, 1]."""
    inside = (x > torch.tensor([-1.0, 0.0])) & (x < torch.tensor([2.0, 1.0]))
    return torch.where(inside.all(-1), 0.0, -math.inf).to(x)


def test_a_bounded_uniform():
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(10, 2, generator=generator, dtype=torch.float64)
    chains = slice_sample(uniform, start, 250, seed=1)
    assert chains.converged and bool((chains.log_prob == 0).all())
    thinned = chains.draws[:, ::5].flatten(0, 1)
    for column, low, width in ((0, -1, 3), (1, 0, 1)):
        test = scipy.stats.kstest(thinned[:, column], "uniform", (low, width))
        assert test.pvalue > 1e-3


def test_a_correlated_gaussian_by_coordinates():
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    target = torch.distributions.MultivariateNormal(torch.tensor([1.0, -2.0]).double(), covariance)
    chains = slice_sample(target.log_prob, target.mean + rows(10, 2), 200)
    error = (chains.flat.mean(0) - target.mean) / (covariance.diagonal() / chains.ess_bulk).sqrt()
    assert bool((error.abs() < 4).all())
    whitened = (chains.flat - target.mean) @ torch.linalg.inv(target.scale_tril).T
    assert torch.allclose(torch.cov(whitened.T), torch.eye(2).double(), atol=0.25)
    assert torch.allclose(chains.log_prob.flatten(), target.log_prob(chains.flat))


def test_a_seed_repeats_and_leaves_the_global_generator_alone():
    start = rows(3, 2)
    first, again, other = (
        slice_sample(lambda x: -0.5 * x.square().sum(-1), start, 10, warmup=5, seed=s).draws
        for s in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_flat_density_is_an_error_not_a_hang():
    with pytest.raises(RuntimeError, match="proper"):
        slice_sample(lambda x: x.sum(-1) * 0, rows(2, 1), 1, warmup=1)


def test_ellipses_give_a_linear_gaussian_posterior():
    """N(0, I) and y = A x + N(0, 0.3^2 I): precision I + A^T A / 0.09."""
    A, y = correlated(5, 10.0), torch.arange(5.0).double() / 4
    covariance = torch.linalg.inv(torch.eye(5) + A.T @ A / 0.09)
    mean = covariance @ A.T @ y / 0.09

    def log_likelihood(x):
        return -0.5 * (y - x @ A.T).square().sum(-1) / 0.09

    chains = elliptical_slice(log_likelihood, rows(100, 5), 300)
    assert bool((chains.rhat < 1.1).all())  # of half chains of 150 draws, each worth ten
    error = (chains.flat.mean(0) - mean) / (covariance.diagonal() / chains.ess_bulk).sqrt()
    assert bool((error.abs() < 4).all())
    ratio = chains.flat.var(0) / covariance.diagonal()
    assert torch.allclose(ratio, torch.ones(5).double(), atol=0.15)
    joint = log_likelihood(chains.flat) + torch.distributions.Normal(0, 1).log_prob(
        chains.flat
    ).sum(-1)
    assert torch.allclose(chains.log_prob.flatten(), joint)


def test_exact_draws_of_a_truncated_normal_stay_exact_on_ellipses():
    """Started at exact draws, one transition later they are exact draws."""
    generator = torch.Generator().manual_seed(3)
    start = torch.rand(4000, 1, generator=generator, dtype=torch.float64)
    truncated = scipy.stats.truncnorm(0.5, 4.0)
    start = torch.from_numpy(truncated.ppf(start.numpy()))

    def log_likelihood(x):
        return torch.where((x > 0.5) & (x < 4), 0.0, -math.inf)[:, 0]

    chains = elliptical_slice(log_likelihood, start, 1, warmup=2)
    assert scipy.stats.kstest(chains.flat[:, 0], truncated.cdf).pvalue > 1e-3
    moved = (chains.flat != start).all(-1).double().mean()
    assert moved > 0.99


@pytest.mark.parametrize("sampler", [slice_sample, elliptical_slice])
def test_bad_input(sampler):
    with pytest.raises(ValueError, match=r"\(chains, d\)"):
        sampler(uniform, torch.zeros(3), 2)
    with pytest.raises(ValueError, match="2 of 3 chains start where the density is zero"):
        sampler(uniform, torch.tensor([[0.0, 0.5], [5.0, 0.5], [0.0, 3.0]]), 2)
    with pytest.raises(ValueError, match=r"must be \(3,\)"):
        sampler(lambda x: x, torch.zeros(3, 2), 2)
