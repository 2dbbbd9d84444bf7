"""Monotonic networks: against quadrature, and an inverse that is safe or raises."""

import math

import pytest
import torch
from scipy.integrate import quad

from simgen.models.monotonic import Integral, Sigmoids, invert


def test_sigmoids_are_the_formula():
    function = Sigmoids(5).double()
    torch.manual_seed(0)
    phi = torch.randn(15, 1, dtype=torch.float64)
    w, a, b = phi[:5, 0].softmax(0), phi[5:10, 0], phi[10:, 0]
    a = (a / (1 + a.abs() / math.log(1e3))).exp()
    for x in (-2.0, 0.3, 4.0):
        y, _ = function(torch.tensor([x], dtype=torch.float64), phi)
        assert float(y) == pytest.approx(float((w * torch.sigmoid(a * x + b)).sum().logit()))


@pytest.mark.parametrize("x", [-14.0, -3.0, 0.5, 9.0, 12.0])
def test_integral_is_the_integral(x):
    torch.manual_seed(0)
    function = Integral(4).double()
    with torch.no_grad():
        for p in function.parameters():
            p.add_(0.3 * torch.randn_like(p))
    phi = torch.randn(5, 1, dtype=torch.float64)

    def slope(u):
        with torch.no_grad():
            return float(function(torch.tensor([u], dtype=torch.float64), phi)[1].exp())

    exact = float(phi[-1]) + quad(slope, 0, x, points=[-10, 10], limit=200)[0]
    found, _ = function(torch.tensor([x], dtype=torch.float64), phi)
    assert float(found.detach()) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("make", [lambda: Sigmoids(8), Integral])
def test_inverse_far_beyond_ten(make):
    torch.manual_seed(0)
    function = make().double()
    phi = torch.randn(function.total, 7, dtype=torch.float64)
    y = torch.tensor([-1e4, -300.0, -20.0, 0.0, 20.0, 300.0, 1e4], dtype=torch.float64)
    with torch.no_grad():
        x = function.inverse(y, phi)
        again, _ = function(x, phi)
    torch.testing.assert_close(again, y, rtol=1e-9, atol=1e-9)


def test_no_inverse_is_an_error():
    def bounded(x):
        return torch.tanh(x), torch.log1p(-torch.tanh(x).square() + 1e-9)

    ends = torch.full((2,), -5.0), torch.full((2,), 5.0), torch.zeros(2)
    with pytest.raises(ValueError, match="1 of 2 values have no inverse"):
        invert(bounded, torch.tensor([0.5, 2.0]), *ends)
    with pytest.raises(ValueError, match="have no inverse"):
        invert(bounded, torch.tensor([0.5, math.nan]), *ends)


def test_a_root_does_not_depend_on_the_others():
    torch.manual_seed(0)
    function = Sigmoids(8)
    phi = 3 * torch.randn(24, 50)
    y = 5 * torch.randn(50)
    whole = function.inverse(y, phi)
    alone = torch.cat([function.inverse(y[i : i + 1], phi[:, i : i + 1]) for i in range(50)])
    torch.testing.assert_close(whole, alone, rtol=1e-6, atol=1e-6)
