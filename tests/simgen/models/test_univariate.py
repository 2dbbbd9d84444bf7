"""Univariate functions: slope, inverse and start of every one."""

import pytest
import torch

from simgen.models.circular import CircularSpline
from simgen.models.monotonic import Integral, Sigmoids
from simgen.models.spline import Spline
from simgen.models.univariate import Affine

FUNCTIONS = [Affine, lambda: Spline(6), lambda: CircularSpline(6), lambda: Sigmoids(8), Integral]
IDS = ["affine", "spline", "circular", "sigmoids", "integral"]


def case(make, m=200):
    torch.manual_seed(0)
    function = make().double()
    with torch.no_grad():
        for p in function.parameters():
            p.add_(0.3 * torch.randn_like(p))
    phi = function.start[:, None] + torch.randn(function.total, m, dtype=torch.float64)
    return function, phi, 2 * torch.randn(m, dtype=torch.float64).clamp(-1.5, 1.5)


@pytest.mark.parametrize("make", FUNCTIONS, ids=IDS)
def test_slope_is_the_derivative(make):
    function, phi, x = case(make)
    y, log_slope = function(x.requires_grad_(), phi)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert (slope > 0).all()
    torch.testing.assert_close(log_slope, slope.log(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", FUNCTIONS, ids=IDS)
def test_inverse_and_its_gradients(make):
    function, phi, x = case(make)
    phi.requires_grad_()
    with torch.no_grad():
        y, log_slope = function(x, phi)
    back = function.inverse(y.requires_grad_(), phi)
    torch.testing.assert_close(back, x, rtol=1e-6, atol=1e-6)
    by_y, by_phi = torch.autograd.grad(back.sum(), (y, phi))
    torch.testing.assert_close(by_y, (-log_slope).exp(), rtol=1e-5, atol=1e-5)
    value, _ = function(x, phi)
    (forward,) = torch.autograd.grad(value, phi, torch.exp(-log_slope))
    torch.testing.assert_close(by_phi, -forward, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", FUNCTIONS, ids=IDS)
def test_start_is_near_the_identity(make):
    function = make()
    x = torch.linspace(-3, 3, 50)
    y, log_slope = function(x, function.start[:, None].expand(-1, 50))
    assert (y - x).abs().max() < 0.2 and log_slope.abs().max() < 0.1


@pytest.mark.parametrize("make", FUNCTIONS, ids=IDS)
def test_far_away_in_single_precision(make):
    function, phi, _ = case(make)
    function, phi = function.float(), phi.float()
    x = torch.linspace(-30, 30, 200)
    y, log_slope = function(x, phi)
    assert y.isfinite().all() and log_slope.isfinite().all()
    back = function.inverse(y, phi)
    if make is not FUNCTIONS[2]:
        # a step of y's rounding, over the slope
        error = (back - x).abs() * log_slope.exp() / (1 + y.abs())
        assert error.max() < 1e-4
