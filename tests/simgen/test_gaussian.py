"""Closed forms against torch's distributions, quadrature, and each other."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from simgen.gaussian import GaussianPrior, MixturePrior

A = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
S = torch.tensor([[0.3]], dtype=torch.float64)
Y = torch.tensor([0.7], dtype=torch.float64)


def covariance(d, seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return root @ root.T / d + 0.05 * torch.eye(d, dtype=torch.float64)


def gaussian(d=2):
    return GaussianPrior(torch.linspace(-1, 1, d, dtype=torch.float64), covariance(d, 0))


def mixture(d=2, k=3):
    generator = torch.Generator().manual_seed(1)
    means = 1.5 * torch.randn(k, d, generator=generator, dtype=torch.float64)
    covariances = torch.stack([0.3 * covariance(d, i) for i in range(k)])
    return MixturePrior(torch.arange(1.0, k + 1), means, covariances)


PRIORS = pytest.mark.parametrize("make", [gaussian, mixture])


def grid():
    axis = torch.linspace(-8, 8, 801, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2


def test_densities_are_torchs():
    x = torch.randn(50, 3, dtype=torch.float64)
    p = gaussian(3)
    torch.testing.assert_close(
        p.log_prob(x), MultivariateNormal(p.mean, p.covariance).log_prob(x), rtol=1e-9, atol=1e-9
    )
    q = mixture(3)
    parts = MultivariateNormal(q.means, q.covariances)
    torch.testing.assert_close(
        q.log_prob(x), MixtureSameFamily(Categorical(q.weights), parts).log_prob(x)
    )


@PRIORS
def test_denoiser_by_quadrature(make):
    p, (x, cell) = make(), grid()
    x_t, alpha, sigma = torch.tensor([0.4, -0.9], dtype=torch.float64), 0.8, 0.6
    log_w = p.log_prob(x) - (x_t - alpha * x).square().sum(-1) / (2 * sigma**2)
    w = log_w.softmax(0)
    mean = w @ x
    cov = (w[:, None] * (x - mean)).T @ (x - mean)
    found, found_cov = p.posterior(x_t, alpha, sigma)
    torch.testing.assert_close(found, mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found_cov, cov, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(p.denoise(x_t, alpha, sigma), found)
    noisy = log_w.logsumexp(0) + math.log(cell) - math.log(2 * math.pi * sigma**2)
    torch.testing.assert_close(p.noisy_log_prob(x_t, alpha, sigma), noisy, rtol=1e-6, atol=1e-6)


@PRIORS
def test_tweedie_of_both_orders(make):
    """E = (x_t + sigma^2 score) / alpha, and the covariance is sigma^2 / alpha dE/dx_t."""
    p = make(3)
    x_t = torch.randn(4, 3, dtype=torch.float64).requires_grad_()
    alpha, sigma = torch.tensor([1.0, 0.9, 0.5, 0.1]).double(), torch.tensor(0.7).double()
    (score,) = torch.autograd.grad(p.noisy_log_prob(x_t, alpha, sigma).sum(), x_t)
    mean, cov = p.posterior(x_t, alpha, sigma)
    torch.testing.assert_close(mean, (x_t + sigma**2 * score) / alpha[:, None])
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(
            lambda x, i=i: p.denoise(x, alpha[i], sigma), x_t[i]
        )
        torch.testing.assert_close(cov[i], sigma**2 / alpha[i] * jacobian)


@PRIORS
def test_conditioning_by_quadrature(make):
    p, (x, cell) = make(), grid()
    log_joint = p.log_prob(x) + MultivariateNormal(x @ A.T, S).log_prob(Y)
    log_evidence = log_joint.logsumexp(0) + math.log(cell)
    torch.testing.assert_close(p.log_evidence(A, Y, S), log_evidence, rtol=1e-6, atol=1e-6)
    q = p.condition(A, Y, S)
    assert type(q) is type(p)
    near = log_joint > log_joint.max() - 20
    torch.testing.assert_close(
        q.log_prob(x[near]), log_joint[near] - log_evidence, rtol=1e-6, atol=1e-6
    )


@PRIORS
def test_two_observations_one_by_one_or_at_once(make):
    p = make()
    B = torch.tensor([[0.2, 1.0]], dtype=torch.float64)
    one = p.condition(A, Y, S).condition(B, -Y, 2 * S)
    both = torch.cat([A, B]), torch.cat([Y, -Y]), torch.diag(torch.cat([S[0], 2 * S[0]]))
    x = torch.randn(20, 2, dtype=torch.float64)
    torch.testing.assert_close(one.log_prob(x), p.condition(*both).log_prob(x))
    evidence = p.log_evidence(A, Y, S) + p.condition(A, Y, S).log_evidence(B, -Y, 2 * S)
    torch.testing.assert_close(p.log_evidence(*both), evidence)


@PRIORS
def test_draws_have_the_moments_said(make):
    torch.manual_seed(0)
    p = make(3)
    x = p.sample((40_000,))
    assert x.dtype == torch.float64
    error = (p.variance / len(x)).sqrt()
    assert ((x.mean(0) - p.mean).abs() < 4.5 * error).all()
    assert (x.var(0) / p.variance - 1).abs().max() < 0.04


def test_transport_has_the_covariance_as_square():
    p = gaussian(3)
    noise = torch.randn(3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(p.transport, noise)
    torch.testing.assert_close(jacobian @ jacobian.T, p.covariance)
    torch.testing.assert_close(p.transport(torch.zeros(3).double()), p.mean)


def test_a_mixture_of_one_is_the_gaussian():
    p = gaussian(3)
    q = MixturePrior([2.0], p.mean[None], p.covariance[None])
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(x), q.log_prob(x))
    for a, b in zip(p.posterior(x, 0.6, 0.8), q.posterior(x, 0.6, 0.8)):
        torch.testing.assert_close(a, b)


def test_events_of_any_shape_and_single_precision():
    flat = GaussianPrior(torch.arange(4.0), covariance(4, 2))
    image = GaussianPrior(torch.arange(4.0).view(1, 2, 2), covariance(4, 2))
    x = torch.randn(7, 1, 2, 2)
    assert image.event_shape == image.noise_shape == (1, 2, 2)
    assert image.sample((3, 2)).shape == (3, 2, 1, 2, 2)
    assert image.sample().dtype == torch.float32
    torch.testing.assert_close(image.log_prob(x), flat.log_prob(x.view(7, 4)))
    torch.testing.assert_close(
        image.denoise(x, 0.5, torch.full((7,), 0.5)),
        flat.denoise(x.view(7, 4), 0.5, 0.5).view_as(x),
    )
    observed = torch.ones(1, 4), torch.ones(1), torch.ones(1, 1)
    assert image.condition(*observed).event_shape == (1, 2, 2)
    mix = MixturePrior([1, 1], torch.zeros(2, 1, 2, 2), torch.eye(4).expand(2, 4, 4))
    assert mix.sample((3,)).shape == (3, 1, 2, 2) and mix.condition(*observed).mean.shape == (
        1,
        2,
        2,
    )


def test_a_singular_covariance_can_be_drawn_from_and_denoised():
    p = GaussianPrior(torch.zeros(2), torch.ones(2, 2))
    x = p.sample((10,))
    torch.testing.assert_close(x[:, 0], x[:, 1])
    mean = p.denoise(torch.tensor([1.0, 0.0]), 1.0, 1.0)
    torch.testing.assert_close(mean, torch.full((2,), 1 / 3))


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"must be \(2, 2\)"):
        GaussianPrior(torch.zeros(2), torch.eye(3))
    with pytest.raises(ValueError, match="negative eigenvalue"):
        GaussianPrior(torch.zeros(2), -torch.eye(2))
    with pytest.raises(ValueError, match="positive numbers"):
        MixturePrior([1.0, 0.0], torch.zeros(2, 1), torch.ones(2, 1, 1))
    with pytest.raises(ValueError, match="values must be"):
        gaussian().log_prob(torch.zeros(3))
    with pytest.raises(ValueError, match="A must be"):
        gaussian().condition(A.T, Y, S)
