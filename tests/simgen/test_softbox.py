"""The box with soft edges: its CDF by integration, its inverse and slope by each other."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import logistic

from simgen.bijection import Columns, soft_rule
from simgen.softbox import soft_cdf, soft_inverse, soft_log_slope

EDGES = (0.02, 0.08, 0.2, 0.5)


def wide(edge: float, deviations: float = 12.0) -> torch.Tensor:
    return torch.linspace(-1 - deviations * edge, 1 + deviations * edge, 801, dtype=torch.float64)


@pytest.mark.parametrize("edge", EDGES)
def test_cdf_is_that_of_a_uniform_number_with_logistic_noise(edge: float) -> None:
    u = wide(edge, 4.0)[::40]
    distance, below = soft_cdf(u, torch.tensor(edge, dtype=torch.float64))
    found = torch.where(below, distance, 1 - distance).numpy()
    wanted = [
        quad(logistic.cdf, (x - 1) / edge, (x + 1) / edge, points=[0.0])[0] * edge / 2
        for x in u.numpy()
    ]
    np.testing.assert_allclose(found, wanted, atol=1e-9)


@pytest.mark.parametrize("edge", EDGES)
def test_inverse_undoes_the_cdf_into_the_far_tails(edge: float) -> None:
    u = wide(edge)
    tau = torch.full_like(u, edge)
    found = soft_inverse(*soft_cdf(u, tau), tau)
    torch.testing.assert_close(found, u, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("edge", EDGES)
def test_log_slope_is_the_derivative(edge: float) -> None:
    u = wide(edge, 5.0).requires_grad_()
    distance, below = soft_cdf(u, torch.tensor(edge, dtype=torch.float64))
    (slope,) = torch.autograd.grad(torch.where(below, distance, -distance).sum(), u)
    expected = soft_log_slope(u.detach(), torch.tensor(edge, dtype=torch.float64))
    torch.testing.assert_close(slope.log(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("edge", EDGES)
def test_inverse_can_be_differentiated(edge: float) -> None:
    column = Columns([{"kind": "soft", "low": -2.0, "high": 4.0, "edge": edge}])
    y = torch.linspace(-1.9, 3.9, 101, dtype=torch.float64)[:, None].requires_grad_()
    u = column.inv(y)
    (slope,) = torch.autograd.grad(u.sum(), y)
    expected = -column.log_abs_det_jacobian(u.detach(), y.detach())
    torch.testing.assert_close(slope.squeeze(1).log(), expected, rtol=1e-8, atol=1e-8)


def test_inside_the_box_it_is_linear_and_a_wide_edge_is_the_logistic_function() -> None:
    column = Columns([{"kind": "soft", "low": 0.0, "high": 2.0, "edge": 0.02}])
    y = torch.linspace(0.2, 1.8, 17, dtype=torch.float64)[:, None]
    torch.testing.assert_close(column.inv(y), y - 1, rtol=0, atol=1e-5)
    edge = torch.tensor(50.0, dtype=torch.float64)
    u = torch.linspace(-100, 0, 11, dtype=torch.float64)
    torch.testing.assert_close(soft_cdf(u, edge)[0], torch.sigmoid(u / edge), atol=1e-4, rtol=0)


@pytest.mark.parametrize("value", [-1.0, 1.0, math.nextafter(-1.0, 0.0)])
def test_the_bounds_themselves_stay_finite(value: float) -> None:
    column = Columns([{"kind": "soft", "low": -1.0, "high": 1.0, "edge": 0.1}])
    y = torch.tensor([[value]], dtype=torch.float64)
    u = column.inv(y)
    assert u.isfinite().all() and column.log_abs_det_jacobian(u, y).isfinite().all()


def test_only_boxes_are_softened_and_more_columns_have_softer_edges() -> None:
    box = {"kind": "interval", "low": 0.0, "high": 1.0}
    edges = [soft_rule(box, d)["edge"] for d in (1, 5, 10, 100)]  # type: ignore[index]
    np.testing.assert_allclose(edges, [0.02, 0.05, 0.2, 0.5])
    assert soft_rule(None, 3) is None
    assert soft_rule({"kind": "below", "high": 1.0}, 3) == {"kind": "below", "high": 1.0}
