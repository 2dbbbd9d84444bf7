"""Every process through its definitions, by automatic differentiation and by its own SDE."""

import pytest
import torch

from simgen.models.process import EDM, PROCESSES, VPLinear

NAMES = pytest.mark.parametrize("name", list(PROCESSES))
T = torch.linspace(0.03, 0.97, 40, dtype=torch.float64)


@NAMES
def test_time_inverts_log_snr(name):
    process = PROCESSES[name](1e-3, 50.0)
    torch.testing.assert_close(process.time(process.log_snr(T)), T)
    ratio = torch.tensor([1e-3, 0.1, 1.0, 50.0], dtype=torch.float64)
    alpha, sigma = process.at(ratio)
    torch.testing.assert_close(sigma / alpha, ratio)


@NAMES
def test_drift_and_diffusion_are_the_derivatives(name):
    process = PROCESSES[name](1e-3, 50.0)
    t = T.clone().requires_grad_()
    (f,) = torch.autograd.grad((process.alpha(t) + 0 * t).log().sum(), t)
    (rate,) = torch.autograd.grad(process.sigma(t).square().sum(), t)
    torch.testing.assert_close(process.drift(T), f)
    torch.testing.assert_close(process.diffusion(T) ** 2, rate - 2 * f * process.sigma(T) ** 2)


@NAMES
def test_euler_maruyama_of_the_forward_equation_has_the_marginals(name):
    """The moments of Euler and Maruyama's scheme obey a recursion; its error is of order h."""
    process = PROCESSES[name](1e-2, 50.0)
    errors = []
    for steps in (2000, 4000):
        t = torch.linspace(0.02, 0.95, steps + 1, dtype=torch.float64)
        h = t[1] - t[0]
        mean, variance = process.alpha(t[0]), process.sigma(t[0]) ** 2
        for f, g in zip(process.drift(t[:-1]), process.diffusion(t[:-1])):
            mean, variance = (1 + f * h) * mean, (1 + f * h) ** 2 * variance + g**2 * h
        wrong = (mean / process.alpha(t[-1]) - 1, variance / process.sigma(t[-1]) ** 2 - 1)
        errors.append(max(abs(float(e)) for e in wrong))
    assert errors[1] < 0.02 and errors[1] < 0.55 * errors[0] + 1e-12


def test_precision_near_the_data():
    """1 - alpha^2 is not formed by subtraction."""
    ratio = torch.tensor([1e-3])
    for make in (VPLinear, PROCESSES["vp-cosine"]):
        _, sigma = make().at(ratio)
        torch.testing.assert_close(sigma, ratio / (1 + ratio**2).sqrt(), rtol=1e-3, atol=0)


def test_variance_is_preserved():
    for name in ("vp-linear", "vp-cosine"):
        process = PROCESSES[name]()
        total = process.alpha(T) ** 2 + process.sigma(T) ** 2
        torch.testing.assert_close(total, torch.ones_like(T))


def test_bad_ranges():
    with pytest.raises(ValueError, match="sigma_min < sigma_max"):
        EDM(2.0, 1.0)
    with pytest.raises(ValueError, match="scale > 0"):
        EDM(scale=0.0)
