"""Guided denoisers against conditioned Gaussians."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from simgen.gaussian import GaussianPrior
from simgen.models.classifier import NoisyClassifier
from simgen.models.guidance import ClassifierFree, ClassifierGuided, Inpainting
from simgen.models.process import PROCESSES
from simgen.models.solvers import SOLVERS

D = 4
ROOT = torch.randn(D, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PRIOR = GaussianPrior(torch.arange(D).double() / D, ROOT @ ROOT.T / D + 0.1 * torch.eye(D))
A = torch.tensor([[1.0, 0.5, 0.0, -1.0], [0.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
S = 0.2 * torch.eye(2, dtype=torch.float64)
Y = torch.tensor([0.3, -0.8], dtype=torch.float64)
LEVELS = [(1.0, 0.01), (0.8, 0.6), (0.1, 1.0), (1.0, 30.0)]


def log_p(x_t, alpha, sigma):
    """Exact log p(y | x_t), of y = A x_0 + N(0, S)."""
    mean, covariance = PRIOR.posterior(x_t, alpha, sigma)
    return MultivariateNormal(mean @ A.T, A @ covariance @ A.T + S).log_prob(Y)


def levels(alpha, sigma, n=6):
    torch.manual_seed(0)
    alpha, sigma = (torch.tensor(v, dtype=torch.float64) for v in (alpha, sigma))
    return alpha * PRIOR.sample((n,)) + sigma * torch.randn(n, D).double(), alpha, sigma


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
def test_classifier_guidance_is_bayes_rule(alpha, sigma):
    x_t, alpha, sigma = levels(alpha, sigma)
    found = ClassifierGuided(PRIOR.denoise, log_p)(x_t, alpha, sigma)
    wanted = PRIOR.condition(A, Y, S).denoise(x_t, alpha, sigma)
    torch.testing.assert_close(found, wanted)
    many = alpha.expand(len(x_t)), sigma.expand(len(x_t))
    torch.testing.assert_close(ClassifierGuided(PRIOR.denoise, log_p)(x_t, *many), wanted)


def test_every_solver_draws_from_what_is_guided():
    process = PROCESSES["vp-cosine"](1e-3, 80.0, 0.7)
    posterior = PRIOR.condition(A, Y, S)
    alpha, sigma = process.at(torch.tensor(process.sigma_max).double())
    noise = torch.cat([torch.eye(D), torch.zeros(1, D)]).double()
    x_0 = SOLVERS["adams"](
        ClassifierGuided(PRIOR.denoise, log_p), process, alpha * posterior.mean + sigma * noise, 32
    )
    response = x_0[:D] - x_0[D]
    torch.testing.assert_close(x_0[D], posterior.mean, rtol=0, atol=2e-3)
    torch.testing.assert_close(response.T @ response, posterior.covariance, rtol=0, atol=5e-3)


def test_classifier_free_guidance_moves_the_score_along_the_conditional_one():
    x_t, alpha, sigma = levels(0.7, 0.7)
    conditional = PRIOR.condition(A, Y, S).denoise
    blind, known = (d(x_t, alpha, sigma) for d in (PRIOR.denoise, conditional))
    for weight, wanted in ((0.0, blind), (1.0, known), (3.0, 3 * known - 2 * blind)):
        found = ClassifierFree(conditional, PRIOR.denoise, weight)(x_t, alpha, sigma)
        torch.testing.assert_close(found, wanted)
    # a power of the classifier: the same as classifier guidance of that weight
    powered = ClassifierGuided(PRIOR.denoise, log_p, weight=3.0)(x_t, alpha, sigma)
    torch.testing.assert_close(found, powered)


@pytest.mark.parametrize(("alpha", "sigma"), LEVELS)
@pytest.mark.parametrize("sd", [0.0, 0.3])
def test_inpainting_is_exact_on_gaussians(alpha, sigma, sd):
    x_t, alpha, sigma = levels(alpha, sigma)
    mask = torch.tensor([True, False, True, False])
    values = torch.tensor([0.4, 7.0, -1.0, 7.0], dtype=torch.float64)
    rows = torch.eye(D, dtype=torch.float64)[mask]
    noise = max(sd, 1e-6) ** 2 * torch.eye(2, dtype=torch.float64)
    wanted = PRIOR.condition(rows, values[mask], noise).denoise(x_t, alpha, sigma)
    found = Inpainting(PRIOR.denoise, values, mask, sd)(x_t, alpha, sigma)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    alone = Inpainting(PRIOR.denoise, values, mask, sd)(x_t[:1], alpha, sigma)
    torch.testing.assert_close(alone, found[:1])


def test_inpainting_takes_rows_and_images():
    image = GaussianPrior(PRIOR.mean.view(1, 2, 2), PRIOR.covariance)
    x_t, alpha, sigma = levels(0.8, 0.6)
    mask = torch.tensor([True, False, True, False])
    values = torch.randn(6, D, dtype=torch.float64)
    flat = Inpainting(PRIOR.denoise, values, mask)(x_t, alpha, sigma)
    square = Inpainting(image.denoise, values.view(6, 1, 2, 2), mask.view(1, 2, 2))
    torch.testing.assert_close(square(x_t.view(6, 1, 2, 2), alpha, sigma).view(6, D), flat)
    assert torch.equal(flat[:, mask], values[:, mask])


def test_a_trained_classifier_knows_the_noisy_classes():
    """Two Gaussians: p(y | x_t) is logistic in x_t, with a slope that falls with the noise."""
    torch.manual_seed(0)
    process = PROCESSES["vp-cosine"](0.02, 20.0)
    net = NoisyClassifier(process, torch.Size((1,)), 2, width=32, blocks=2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for i in range(300):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - i / 300)
        y = torch.randint(2, (512,))
        x_0 = 2.0 * y[:, None] - 1 + 0.5 * torch.randn(512, 1)
        net.loss(x_0, y).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for ratio in (0.1, 1.0, 5.0):
        alpha, sigma = (v.float() for v in process.at(torch.tensor(ratio).double()))
        total = alpha**2 * 0.25 + sigma**2
        x_t = total.sqrt() * torch.linspace(-2, 2, 9)[:, None]
        exact = (2 * alpha * x_t[:, 0] / total).sigmoid()
        with torch.no_grad():
            found = net.log_p(1)(x_t, alpha, sigma).exp()
            rows = net.log_p(torch.ones(9, dtype=torch.int64))(
                x_t, alpha.expand(9), sigma.expand(9)
            )
        assert float((found - exact).abs().max()) < 0.08
        torch.testing.assert_close(rows.exp(), found)
