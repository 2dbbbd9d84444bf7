"""Probabilistic PCA: the maximum of the likelihood, evidence and posterior in closed form."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from simgen.models.pca import ProbabilisticPCA, principal_axes, regression


def rows(n=3_000, k=5, latent=2):
    torch.manual_seed(1)
    model = ProbabilisticPCA(k, latent).double()
    z = torch.randn(n, latent, dtype=torch.float64)
    return model, (z @ model.weight.T + 0.5 * torch.randn(n, k, dtype=torch.float64)).detach()


def test_evidence_is_that_of_the_covariance_and_bayes_rule_holds():
    model, x = rows(50)
    with torch.no_grad():
        exact = MultivariateNormal(model.mean, model.covariance).log_prob(x)
        torch.testing.assert_close(model.log_evidence(x), exact)
        z = torch.randn(50, 2, dtype=torch.float64)
        joint = model.log_likelihood(x, z) + model.prior.log_prob(z)
        torch.testing.assert_close(joint - model.posterior(x).log_prob(z), exact)


@pytest.mark.parametrize("latent", [1, 2, 4])
def test_no_other_parameters_are_more_likely(latent):
    _, x = rows()
    model = ProbabilisticPCA(5, latent).double().maximise(x)
    gradients = torch.autograd.grad(model.log_evidence(x).mean(), list(model.parameters()))
    assert max(float(g.abs().max()) for g in gradients) < 1e-8
    best = float(model.log_evidence(x).mean().detach())
    for seed in range(5):
        torch.manual_seed(seed)
        other = ProbabilisticPCA(5, latent).double().maximise(x)
        with torch.no_grad():
            for p in other.parameters():
                p.add_(0.05 * torch.randn_like(p))
            assert float(other.log_evidence(x).mean()) < best


@pytest.mark.parametrize("latent", [2, 5, 7])
def test_axes_make_the_covariance_and_its_posterior(latent):
    _, x = rows()
    covariance = x.T.cov(correction=0)
    pca = principal_axes(covariance, latent)
    eye = torch.eye(5, dtype=torch.float64)
    made = pca.outward @ pca.outward.T + pca.variance * eye
    if latent >= 5:
        torch.testing.assert_close(made, covariance)
    model = ProbabilisticPCA(5, latent).double()
    with torch.no_grad():
        model.weight.copy_(pca.outward)
        model.log_sigma.copy_(0.5 * pca.variance.log())
        posterior = model.posterior(x)
    torch.testing.assert_close(posterior.mean, x @ pca.inward.T)
    torch.testing.assert_close(posterior.covariance_matrix[0], torch.diag(pca.spread**2))


def test_regression_solves_least_squares():
    torch.manual_seed(0)
    c = torch.randn(500, 3) + 1
    x = c @ torch.randn(3, 2) + 2 + 0.1 * torch.randn(500, 2)
    slope, shift, covariance = regression(x, c)
    design = torch.cat([c, torch.ones(500, 1)], 1).double()
    solved = torch.linalg.lstsq(design, x.double()).solution
    torch.testing.assert_close(slope, solved[:3], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shift, solved[3], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        covariance, (x - design @ solved).T.cov(correction=0), rtol=1e-4, atol=1e-6
    )
