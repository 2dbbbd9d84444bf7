"""Bounds of supports, of every kind of constraint that a distribution has."""

import numpy as np
import pytest
import torch
from torch.distributions import (
    Dirichlet,
    Exponential,
    Independent,
    LogNormal,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    Uniform,
    transforms,
)

from simgen.prior import Prior
from simgen.support import bounds_of

INF = np.inf


@pytest.mark.parametrize(
    ("q", "wanted"),
    [
        (Uniform(torch.tensor([0.1, -2.0]), torch.tensor([0.7, 3.0])), [[0.1, 0.7], [-2, 3]]),
        (Independent(Uniform(torch.zeros(2), torch.ones(2)), 1), [[0, 1], [0, 1]]),
        (Exponential(torch.ones(2)), [[0, INF], [0, INF]]),
        (MultivariateNormal(torch.zeros(2), torch.eye(2)), [[-INF, INF]] * 2),
        (Dirichlet(torch.ones(2)), [[0, 1]] * 2),
        (Prior(a=Uniform(0.1, 0.3), b=LogNormal(0.0, 1.0)), [[0.1, 0.3], [0, INF]]),
        (Prior(a=Normal(0.0, 1.0), b=Uniform(-1.0, 1.0)), [[-INF, INF], [-1, 1]]),
        (
            TransformedDistribution(
                Independent(Normal(torch.zeros(2), 1.0), 1), [transforms.ExpTransform()]
            ),
            [[0, INF]] * 2,
        ),
    ],
)
def test_bounds_hold_every_draw_and_are_those_of_the_support(q, wanted):
    bounds = bounds_of(q, 2)
    assert bounds.tolist() == wanted and bounds.dtype == np.float64
    torch.manual_seed(0)
    draws = q.sample((500,)).double().numpy()
    assert (draws >= bounds[:, 0] - 1e-7).all() and (draws <= bounds[:, 1] + 1e-7).all()


def test_columns_of_different_kinds_and_no_support():
    prior = Prior(a=Normal(0.0, 1.0), b=Uniform(0.25, 1.0), c=LogNormal(0.0, 1.0))

    class Ours:
        support = prior.support  # columns one after the other, no bijection to ask

    assert bounds_of(Ours(), 3).tolist() == [[-INF, INF], [0.25, 1], [0, INF]]
    assert bounds_of(object(), 1).tolist() == [[-INF, INF]]
