"""Predictions, their conversions and their weights."""

import pytest
import torch

from simgen.gaussian import GaussianPrior
from simgen.models.denoiser import (
    PREDICTIONS,
    coefficients,
    preconditioning,
    score,
    to_prediction,
    to_x0,
)

KINDS = pytest.mark.parametrize("kind", PREDICTIONS)


def rows(n=6, d=3):
    torch.manual_seed(0)
    x_0, eps = torch.randn(2, n, d, dtype=torch.float64)
    alpha = torch.rand(n, dtype=torch.float64) + 0.1
    sigma = torch.rand(n, dtype=torch.float64) + 0.1
    return x_0, eps, alpha, sigma, alpha[:, None] * x_0 + sigma[:, None] * eps


@KINDS
def test_conversions_invert_each_other(kind):
    x_0, _, alpha, sigma, x_t = rows()
    prediction = to_prediction(kind, x_0, x_t, alpha, sigma)
    torch.testing.assert_close(to_x0(kind, prediction, x_t, alpha, sigma), x_0)


@KINDS
def test_predictions_are_what_they_are_called(kind):
    x_0, eps, alpha, sigma, x_t = rows()
    a, s = alpha[:, None], sigma[:, None]
    root = (a**2 + s**2).sqrt()
    wanted = {
        "x0": x_0,
        "eps": eps,
        "score": -eps / s,
        "v": a * eps - s * x_0,
        "flow": eps - x_0,
        "edm": (s * x_0 - a * eps) / root,  # unit variance of the data
    }
    torch.testing.assert_close(to_prediction(kind, x_0, x_t, alpha, sigma), wanted[kind])


@KINDS
def test_squared_errors_differ_by_a_weight(kind):
    x_0, _, alpha, sigma, x_t = rows()
    guess = torch.zeros_like(x_0)
    error = to_prediction(kind, x_0, x_t, alpha, sigma)
    error = (error - to_prediction(kind, guess, x_t, alpha, sigma)).square().sum(-1)
    _, b = coefficients(kind, alpha, sigma)
    torch.testing.assert_close(error, b**2 * (x_0 - guess).square().sum(-1))


def test_preconditioning_whitens_input_and_target():
    """For x_0 of variance s^2: unit variances, and a target uncorrelated with the input."""
    for s2 in (0.01, 1.0, 9.0):
        alpha, sigma = torch.tensor(0.6).double(), torch.tensor(0.3).double()
        c_in, skip, out = (float(c) for c in preconditioning(alpha, sigma, s2))
        a, s = float(alpha), float(sigma)
        total = a**2 * s2 + s**2
        assert abs(c_in**2 * total - 1) < 1e-12
        # F = (x_0 - skip x_t) / out
        cross = (a * s2 - skip * total) / out
        power = (s2 - 2 * skip * a * s2 + skip**2 * total) / out**2
        assert abs(cross) < 1e-12 and abs(power - 1) < 1e-12


def test_preconditioned_network_of_a_preserving_process_predicts_minus_v():
    x_0, _, _, _, _ = rows()
    alpha, sigma = torch.tensor(0.8).double(), torch.tensor(0.6).double()
    x_t = alpha * x_0 + sigma * torch.randn_like(x_0)
    torch.testing.assert_close(
        to_prediction("edm", x_0, x_t, alpha, sigma), -to_prediction("v", x_0, x_t, alpha, sigma)
    )


def test_tweedie():
    p = GaussianPrior(torch.ones(2).double(), torch.tensor([[1.0, 0.5], [0.5, 2.0]]))
    x_t = torch.randn(5, 2, dtype=torch.float64).requires_grad_()
    alpha, sigma = torch.tensor(0.4).double(), torch.tensor(0.9).double()
    (slope,) = torch.autograd.grad(p.noisy_log_prob(x_t, alpha, sigma).sum(), x_t)
    denoised = p.denoise(x_t, alpha, sigma)
    torch.testing.assert_close(to_x0("score", slope, x_t, alpha, sigma), denoised)
    torch.testing.assert_close(score(denoised, x_t, alpha, sigma), slope)


def test_denoising_score_matching_is_score_matching_up_to_a_constant():
    """Vincent's identity: E|s - grad log p(x_t|x_0)|^2 - E|s - grad log p(x_t)|^2 is the same for
    every s."""
    torch.manual_seed(0)
    p = GaussianPrior(torch.ones(1).double(), torch.tensor([[0.5]]))
    n, alpha, sigma = 200_000, torch.tensor(0.8).double(), torch.tensor(0.5).double()
    x_0, eps = p.sample((n,)), torch.randn(n, 1, dtype=torch.float64)
    x_t = alpha * x_0 + sigma * eps
    marginal = score(p.denoise(x_t, alpha, sigma), x_t, alpha, sigma)
    given_x_0 = to_prediction("score", x_0, x_t, alpha, sigma)
    models = [marginal, -x_t, torch.sin(3 * x_t)]
    gaps = [(m - given_x_0).square() - (m - marginal).square() for m in models]
    for gap in gaps[1:]:
        difference = (gap - gaps[0]).squeeze(1)
        assert abs(float(difference.mean())) < 4 * float(difference.std()) / n**0.5


def test_unknown_prediction():
    with pytest.raises(ValueError, match="one of x0"):
        coefficients("y", torch.ones(()), torch.ones(()))
