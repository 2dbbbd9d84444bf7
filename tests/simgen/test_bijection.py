"""Bijections: inverse, log-determinants, tails, bounds."""

import math

import pytest
import torch
from torch.distributions import (
    Beta,
    Cauchy,
    Exponential,
    Gamma,
    Gumbel,
    HalfCauchy,
    HalfNormal,
    Laplace,
    LogNormal,
    Normal,
    Pareto,
    Uniform,
    Weibull,
)

from simgen.bijection import Columns, factor_rule, inside, interval_rule

FACTORS = [
    Uniform(0.1, 0.5),
    Uniform(-1e4, 1e-3),
    Normal(-1.0, 0.2),
    LogNormal(0.3, 2.0),
    Exponential(2.0),
    Laplace(0.5, 1.5),
    Cauchy(0.0, 1.0),
    Gumbel(0.0, 1.0),
    HalfNormal(2.0),
    HalfCauchy(1.0),
    Pareto(1.0, 2.0),
    Weibull(1.0, 2.0),
    Gamma(2.0, 1.0),
    Beta(2.0, 3.0),
]
RULES = [factor_rule(f) for f in FACTORS] + [
    interval_rule(None, 3.0),
    {"kind": "sinh", "loc": 1.0, "scale": 0.3},
    {"kind": "hurdle", "scale": 0.3, "width": 1.7},
]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r["kind"] + r.get("family", ""))
def test_inverse_and_log_determinant(rule):
    columns = Columns([rule])
    u = torch.linspace(-6, 6, 61, dtype=torch.float64)[:, None].requires_grad_()
    theta = columns(u)
    assert (theta[1:] > theta[:-1]).all()
    (slope,) = torch.autograd.grad(theta.sum(), u)
    ladj = columns.log_abs_det_jacobian(u, theta)
    middle = (u.detach().abs() < 4).squeeze(-1)  # beyond, 1 - Phi(u) loses digits in float64
    torch.testing.assert_close(ladj[middle], slope.log()[middle, 0], rtol=1e-6, atol=1e-6)
    back = columns.inv(theta.detach())
    torch.testing.assert_close(back[middle], u.detach()[middle], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("factor", FACTORS, ids=lambda f: type(f).__name__)
def test_factor_with_cdf_becomes_standard_normal(factor):
    rule = factor_rule(factor)
    columns = Columns([rule])
    u = torch.linspace(-4, 4, 33, dtype=torch.float64)[:, None]
    theta = columns(u)
    pushed = factor.log_prob(theta.float()).double().squeeze(-1)
    pushed = pushed + columns.log_abs_det_jacobian(u, theta)
    if isinstance(
        factor, Gamma | Beta
    ):  # no quantile function: the density only integrates to one
        total = torch.trapezoid(pushed.exp(), u.squeeze(-1))
        assert abs(float(total) - 1) < 0.05
    else:
        expected = Normal(0.0, 1.0).log_prob(u.squeeze(-1))
        torch.testing.assert_close(pushed, expected, rtol=1e-3, atol=2e-3)


def test_far_tails_stay_finite_and_strictly_inside():
    columns = Columns(RULES)
    for scale in (-1.0, 1.0):
        u = torch.full((1, len(RULES)), scale * 40.0, dtype=torch.float64)
        theta = columns(u)
        assert theta.isfinite().all()
        single = inside(theta.float(), columns.low, columns.high)
        low, high = columns.low, columns.high
        bounded = torch.isfinite(low)
        assert (single.double()[:, bounded] > low[bounded]).all()
        bounded = torch.isfinite(high)
        assert (single.double()[:, bounded] < high[bounded]).all()
        assert columns.log_abs_det_jacobian(u, theta).isfinite().all()


def test_interval_log_determinant_is_right_where_float32_fails():
    # at u = 5.5, Phi(-u) = 1.9e-8 is below float32 resolution at 1: on the bound in float32
    columns = Columns([interval_rule(0.0, 1.0)])
    u = torch.tensor([[5.5]], dtype=torch.float64)
    theta = columns(u)
    exact = -0.5 * 5.5**2 - 0.5 * math.log(2 * math.pi)
    assert abs(float(columns.log_abs_det_jacobian(u, theta)) - exact) < 1e-12
    assert abs(float(columns.inv(theta)) - 5.5) < 1e-6


def test_inside_moves_only_what_is_on_the_bound():
    low, high = torch.tensor([0.1]).double(), torch.tensor([0.5]).double()
    value = torch.tensor([[0.05], [0.3], [0.7]])
    moved = inside(value, low, high)
    assert moved[1] == value[1]
    assert low < moved[0].double() and moved[2].double() < high
    assert abs(float(moved[0]) - 0.1) < 1e-7


def test_circular_column_turns_round_and_keeps_density():
    columns = Columns([{"kind": "circular", "low": 0.0, "high": 360.0}])
    theta = torch.tensor([[1e-3], [90.0], [180.0], [359.0]], dtype=torch.float64)
    u = columns.inv(theta)
    assert (u >= -math.pi).all() and (u < math.pi).all()
    expected = theta / 180.0 * math.pi - math.pi
    torch.testing.assert_close(u, expected, rtol=0, atol=1e-12)
    for turns in (-1, 0, 1):  # whole turns are the same point
        again = columns(u + 2 * math.pi * turns)
        torch.testing.assert_close(again, theta, rtol=0, atol=1e-9)
    # a uniform angle is a uniform number: the density integrates to one on either side
    ladj = columns.log_abs_det_jacobian(u, theta)
    torch.testing.assert_close(ladj.exp(), torch.full((4,), 180.0 / math.pi).double())
    assert columns.contains(torch.tensor([[400.0]])).item() is False
