"""Density of the probability flow against exact densities, with the exact score."""

import math

import pytest
import torch

from simgen.gaussian import GaussianPrior, MixturePrior
from simgen.models.probability_flow import log_prob, rademacher
from simgen.models.process import PROCESSES

COVARIANCE = torch.tensor([[1.0, 0.4, 0.1], [0.4, 0.5, 0.0], [0.1, 0.0, 0.05]])
GAUSSIAN = GaussianPrior(torch.tensor([0.5, -0.5, 0.2], dtype=torch.float64), COVARIANCE)
MIXTURE = MixturePrior(
    [1.0, 2.0], torch.tensor([[-1.0], [0.7]], dtype=torch.float64), torch.full((2, 1, 1), 0.05)
)


def density(prior, process, x, **settings):
    """With the exact p(x_T) as base, so that nothing but the flow is tested."""
    alpha, sigma = process.at(torch.tensor(process.sigma_max).double())
    base = lambda x_T: prior.noisy_log_prob(x_T, alpha, sigma)  # noqa: E731
    return log_prob(prior.denoise, process, x, base=base, **settings)


@pytest.mark.parametrize("name", list(PROCESSES))
@pytest.mark.parametrize("scale", [1.0, COVARIANCE.diagonal().sqrt()])
def test_gaussian_to_a_thousandth_of_a_nat(name, scale):
    process = PROCESSES[name](1e-3, 80.0, 0.5)
    x = GAUSSIAN.sample((100,))
    found = density(GAUSSIAN, process, x, scale=scale)
    assert float((found - GAUSSIAN.log_prob(x)).abs().max()) < 1e-3


def test_the_scale_only_speeds_up():
    """Along principal axes with their own scales the flow stands still: two steps are enough."""
    sd = torch.tensor([1.0, 0.1, 0.01], dtype=torch.float64)
    prior = GaussianPrior(torch.zeros(3).double(), torch.diag(sd**2))
    x, process = prior.sample((20,)), PROCESSES["vp-cosine"](1e-5, 80.0, 0.1)
    exact = prior.log_prob(x)
    for steps, scale in ((2, sd), (100, 1.0)):
        found = density(prior, process, x, steps=steps, scale=scale)
        assert float((found - exact).abs().max()) < 1e-4


def test_mixture_and_gradient():
    process = PROCESSES["edm"](1e-3, 80.0, 0.5)
    x = torch.linspace(-1.6, 1.3, 30, dtype=torch.float64)[:, None].requires_grad_()
    found, exact = density(MIXTURE, process, x), MIXTURE.log_prob(x)
    assert float((found - exact).detach().abs().max()) < 2e-3
    (slope,), (wanted,) = (torch.autograd.grad(v.sum(), x) for v in (found, exact))
    assert float((slope - wanted).abs().max()) < 0.02 * float(wanted.abs().max())


def test_standard_base():
    """Unless said, p(x_T) is the noise alone: what it leaves out is of order 1 / sigma_max^2."""
    x = GAUSSIAN.sample((50,))
    process = PROCESSES["vp-linear"](1e-3, 100.0)
    found = log_prob(GAUSSIAN.denoise, process, x)
    assert float((found - GAUSSIAN.log_prob(x)).abs().max()) < 0.05


def test_hutchinson_is_exact_for_independent_numbers_and_unbiased_otherwise():
    process, x = PROCESSES["edm"](1e-3, 80.0, 0.5), GAUSSIAN.sample((3,))
    one = rademacher(1, torch.Size((3,)))
    assert one.abs().eq(1).all() and torch.equal(one, rademacher(1, torch.Size((3,))))
    independent = GaussianPrior(GAUSSIAN.mean, torch.diag(COVARIANCE.diagonal()))
    exact = density(independent, process, x)
    torch.testing.assert_close(density(independent, process, x, probes=one), exact)
    # all sign patterns together have the identity as second moment
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    exact = density(GAUSSIAN, process, x)
    torch.testing.assert_close(density(GAUSSIAN, process, x, probes=signs), exact)
    single = density(GAUSSIAN, process, x, probes=signs[:1])
    assert float((single - exact).abs().max()) > 0.01


def test_images():
    prior = GaussianPrior(torch.zeros(1, 2, 2).double(), 0.3 * torch.eye(4) + 0.2)
    x = prior.sample((10,))
    found = density(prior, PROCESSES["vp-cosine"](), x)
    assert float((found - prior.log_prob(x)).abs().max()) < 1e-3
    assert math.isfinite(float(found.sum()))
