"""Latent priors: KL against quadrature and draws, densities against transport."""

import math

import pytest
import torch
from torch.distributions import Normal

from simgen.models.coders import Sizes
from simgen.models.latent_prior import latent_prior

KINDS = ["normal", "gaussian", "flow"]


def build(kind, latent=2, context=3):
    torch.manual_seed(0)
    prior = latent_prior(kind, latent, context, Sizes(16, 1)).double()
    with torch.no_grad():
        for p in prior.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return prior, (torch.randn(4, context).double() if context else None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [0, 3])
def test_kl_is_the_mean_log_ratio(kind, context):
    prior, c = build(kind, context=context)
    q = Normal(torch.randn(4, 2).double(), 0.5 + torch.rand(4, 2).double(), validate_args=False)
    many = 2_000
    wide = Normal(q.loc.repeat(many, 1), q.scale.repeat(many, 1), validate_args=False)
    contexts = None if c is None else c.repeat(many, 1)
    with torch.no_grad():
        z = q.sample((many,))
        ratio = q.log_prob(z).sum(-1) - prior.log_prob(z, c)
        kl = prior.kl(wide, wide.sample(), contexts).sum(-1).view(many, -1)
    error = ((ratio.var(0) + kl.var(0)) / many).sqrt()
    assert ((ratio.mean(0) - kl.mean(0)).abs() < 4 * error + 1e-12).all()
    if kind != "flow":  # known in closed form: no scatter
        assert kl.std(0).max() < 1e-12


def test_gaussian_kl_against_quadrature():
    prior, c = build("gaussian", latent=1, context=2)
    q = Normal(torch.tensor([[0.3]] * 4).double(), torch.tensor([[0.7]] * 4).double())
    grid = torch.linspace(-8, 8, 20_001).double().view(-1, 1, 1).expand(-1, 4, 1)
    with torch.no_grad():
        log_q = q.log_prob(grid)[..., 0]
        integrand = log_q.exp() * (log_q - prior.log_prob(grid, c))
        integral = torch.trapezoid(integrand, grid[:, 0, 0], dim=0)
        torch.testing.assert_close(prior.kl(q, grid[0], c)[:, 0], integral, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [0, 3])
def test_transported_noise_has_the_density(kind, context):
    prior, c = build(kind, context=context)
    noise = torch.randn(5, 4, 2, dtype=torch.float64)
    z = prior.transport(noise, c)
    jacobian = torch.autograd.functional.jacobian(
        lambda e: prior.transport(e, c).sum((0, 1)), noise
    )
    log_det = jacobian.movedim(0, -1).slogdet()[1]
    base = -0.5 * noise.square().sum(-1) - math.log(2 * math.pi)
    torch.testing.assert_close(prior.log_prob(z, c), base - log_det, rtol=1e-5, atol=1e-5)


def test_a_diffusion_prior_is_trained_on_draws_and_holds_the_encoder_at_the_standard_normal():
    torch.manual_seed(0)
    prior, c = latent_prior("diffusion", 2, 3, Sizes()), torch.randn(4, 3)
    z = torch.randn(4, 2, requires_grad=True)
    torch.manual_seed(1)
    loss = prior.auxiliary(z, c)
    torch.manual_seed(1)
    torch.testing.assert_close(loss, prior.module.loss(z, (c, None)))
    loss.sum().backward()
    assert z.grad is None and any(p.grad is not None for p in prior.parameters())
    q = Normal(z.detach(), torch.full((4, 2), 0.5), validate_args=False)
    standard = latent_prior("normal", 2, 3, Sizes())
    torch.testing.assert_close(prior.penalty(q, z, c), standard.kl(q, z, c))
    with torch.no_grad():
        noise = torch.randn(3, 4, *prior.module.noise_shape)
        drawn = prior.module.transport(noise, (c, None))
        torch.testing.assert_close(prior.transport(noise, c), drawn)
        density = prior.module.log_prob(drawn[0], (c, None))
        kl = prior.kl(q, drawn[0], c).sum(-1)
        torch.testing.assert_close(kl, -q.entropy().sum(-1) - density, rtol=1e-4, atol=1e-4)
