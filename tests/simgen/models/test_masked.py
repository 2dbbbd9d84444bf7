"""Masked transformations: who sees whom, inverse, shared functions."""

import pytest
import torch

from simgen.models.circular import CircularSpline
from simgen.models.masked import MaskedTransform, variable_order
from simgen.models.spline import Spline
from simgen.models.univariate import Affine


def transform(features, context, passes, order, periodic=()):
    plain, circular = Spline(6), CircularSpline(6)
    each = [circular if i in periodic else plain for i in range(features)]
    torch.manual_seed(0)
    layer = MaskedTransform(each, context, order, passes, (32, 32), periodic).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return layer


@pytest.mark.parametrize("periodic", [(), (1, 3)])
@pytest.mark.parametrize("passes", [None, 2])
def test_a_variable_sees_only_those_before_it(passes, periodic):
    order = torch.tensor([2, 0, 3, 1])
    layer = transform(4, 2, passes, order, periodic)
    c = torch.randn(1, 2, dtype=torch.float64)
    x = torch.randn(4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: layer.call_and_ladj(v[None], (c, None))[0][0], x
    )
    group = order if passes is None else order // 2
    allowed = (group[:, None] > group) | torch.eye(4, dtype=torch.bool)
    assert (jacobian[~allowed] == 0).all() and (jacobian[allowed] != 0).all()
    seen = torch.autograd.functional.jacobian(
        lambda v: layer.call_and_ladj(x[None], (v, None))[0][0], c
    )
    assert (seen != 0).all()


@pytest.mark.parametrize("passes", [None, 2])
@pytest.mark.parametrize("features", [1, 2, 5])
@pytest.mark.parametrize("context", [0, 3])
def test_draws_share_their_context(features, passes, context):
    layer = transform(features, context, passes, torch.randperm(features))
    c = torch.randn(4, context, dtype=torch.float64) if context else None
    y = torch.randn(6, 4, features, dtype=torch.float64)
    with torch.no_grad():
        x = layer.inverse(y, (c, None))
        rows = None if c is None else c.repeat(6, 1)
        again, _ = layer.call_and_ladj(x.view(24, -1), (rows, None))
    torch.testing.assert_close(again.view(6, 4, -1), y, rtol=1e-7, atol=1e-7)


def test_one_pass_is_a_gaussian_base_that_follows_the_context():
    torch.manual_seed(0)
    layer = MaskedTransform([Affine()] * 2, 3, torch.arange(2), 1, (16,))
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn_like(p))
        c = torch.randn(2, 3)
        draws = layer.inverse(torch.randn(20_000, 2, 2), (c, None))
    for i in range(2):  # independent given the context, deviations as the determinant says
        with torch.no_grad():
            _, ladj = layer.call_and_ladj(torch.zeros(1, 2), (c[i : i + 1], None))
        assert abs(float(draws[:, i].std(0).log().sum() + ladj)) < 0.03
        assert abs(float(draws[:, i].T.corrcoef()[0, 1])) < 0.03


def test_every_second_order_turns_round():
    for features in (1, 5):
        first, second = (variable_order(features, i, True) for i in (2, 3))
        assert torch.equal(first + second, torch.full((features,), features - 1))
        assert torch.equal(first.sort().values, torch.arange(features))
    assert torch.equal(variable_order(4, 2, False), torch.arange(4))
