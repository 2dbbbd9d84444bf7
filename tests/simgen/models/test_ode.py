"""Solvers: order, tolerance, rows apart, gradients, and what cannot be solved."""

import math
from itertools import pairwise

import pytest
import torch

from simgen.models.ode import dormand_prince, equal_steps, runge_kutta

OMEGA = 6.0


def turning(t, x):
    """A rotation pushed by cos t: closed form below."""
    push = torch.cos(t)
    return torch.stack((OMEGA * x[:, 1] + push, -OMEGA * x[:, 0]), -1)


def exact(x, t):
    """The solution from time 0, by superposition of the free and the driven motion."""
    a = 1 / (OMEGA**2 - 1)

    def driven(s):
        return torch.tensor([-a * math.sin(s), -OMEGA * a * math.cos(s)], dtype=torch.float64)

    c, s = math.cos(OMEGA * t), math.sin(OMEGA * t)
    turn = torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
    return (x - driven(0.0)) @ turn.T + driven(t)


X = torch.tensor([[1.0, 0.0], [0.3, -2.0]], dtype=torch.float64)


def test_runge_kutta_has_order_four():
    errors = [
        float((runge_kutta(turning, X, 0.0, 1.0, n) - exact(X, 1.0)).abs().max())
        for n in (20, 40, 80)
    ]
    assert 14 < errors[0] / errors[1] < 18 and 14 < errors[1] / errors[2] < 18


def test_equal_steps_have_order_five_and_know_their_error():
    errors, estimates = [], []
    for n in (10, 20, 40):
        end, error = equal_steps(turning, X, 0.0, 1.0, n)
        errors.append((end - exact(X, 1.0)).abs().sum(-1))
        estimates.append(error)
    for coarse, fine in pairwise(errors):
        assert (24 < coarse / fine).all() and (coarse / fine < 44).all()
    for coarse, fine in pairwise(estimates):  # a sum of errors of order five a step
        assert (14 < coarse / fine).all() and (coarse / fine < 20).all()
    assert all((estimate > error).all() for estimate, error in zip(estimates, errors))


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_dormand_prince_keeps_its_tolerance_both_ways(tolerance):
    end = dormand_prince(turning, X, 0.0, 1.0, tolerance, tolerance)
    assert (end - exact(X, 1.0)).abs().max() < 20 * tolerance
    start = dormand_prince(turning, end, 1.0, 0.0, tolerance, tolerance)
    assert (start - X).abs().max() < 40 * tolerance


def test_evaluations_grow_as_order_five_says():
    calls = []
    for tolerance in (1e-5, 1e-10):
        count = [0]

        def counted(t, x, count=count):
            count[0] += 1
            return turning(t, x)

        dormand_prince(counted, X, 0.0, 1.0, tolerance, tolerance)
        calls.append(count[0])
    assert 6 < calls[1] / calls[0] < 14  # 1e5 to the power 1/5 is 10


def test_rows_keep_their_own_steps():
    rates = torch.tensor([[0.1], [300.0]], dtype=torch.float64)
    x = torch.ones(2, 1, dtype=torch.float64)
    both = dormand_prince(lambda t, v: -rates * v, x, 0.0, 1.0)
    alone = dormand_prince(lambda t, v: -rates[:1] * v, x[:1], 0.0, 1.0)
    assert torch.equal(both[:1], alone)
    assert abs(float(both[1])) < 1e-4


def test_gradients_go_through():
    x = torch.tensor([[0.7]], dtype=torch.float64, requires_grad=True)
    rate = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    y = dormand_prince(lambda t, v: rate * v, x, 0.0, 1.0, 1e-10, 1e-10)
    by_x, by_rate = torch.autograd.grad(y.sum(), (x, rate))
    assert float(by_x) == pytest.approx(math.exp(1.3), rel=1e-7)
    assert float(by_rate) == pytest.approx(0.7 * math.exp(1.3), rel=1e-7)


def test_what_explodes_is_an_error():
    x = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"finite numbers|not solved"):
        dormand_prince(lambda t, v: v * v, x, 0.0, 2.0, largest=500)
