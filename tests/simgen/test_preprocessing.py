"""Preprocessing: rules, exact log-determinants, constants, padding, whole numbers."""

import math

import pytest
import torch
from torch.distributions import Cauchy, LogNormal, Normal, Poisson

from simgen.field import Field
from simgen.preprocessing import Standardise, Target, column_rule, field_rules, hurdle_rule


def draws(distribution, n=5000):
    torch.manual_seed(0)
    return distribution.sample((n,))


def test_rules_follow_the_data():
    assert column_rule(draws(Normal(3.0, 2.0)))["kind"] == "affine"
    assert column_rule(draws(Cauchy(0.0, 1.0)))["kind"] == "sinh"
    assert column_rule(draws(LogNormal(0.0, 4.0)))["kind"] == "sinh"
    counts = draws(Poisson(draws(LogNormal(0.0, 3.0))), 1).squeeze(0)
    assert column_rule(counts, discrete=True)["kind"] == "sinh"
    assert column_rule(draws(Poisson(20.0)), discrete=True)["kind"] == "affine"


def test_infinite_variance_is_tamed():
    x = draws(Cauchy(5.0, 0.1), 20_000)[:, None]
    z = Standardise(Field((1,))).fit_(x)(x)
    assert z.abs().max() < 20 and abs(float(z.std()) - 1) < 0.02


def test_constant_columns_are_zero_when_given():
    x = torch.stack([torch.full((100,), 1e6), torch.randn(100)], -1)
    standardise = Standardise(Field((2,))).fit_(x)
    other = torch.tensor([[1e6 + 1, 0.0]])
    assert standardise(other)[0, 0] == 0 and standardise(x).isfinite().all()


def test_images_are_standardised_per_channel():
    x = torch.randn(50, 2, 8, 8) * torch.tensor([1.0, 100.0])[None, :, None, None] + 3
    z = Standardise(Field((2, 8, 8), "image")).fit_(x)(x)
    assert z.shape == x.shape and z.dtype == torch.float32
    assert (z.std((0, 2, 3)) - 1).abs().max() < 0.01


def test_padding_counts_for_nothing():
    torch.manual_seed(0)
    x = torch.randn(200, 10, 3) + 5
    mask = torch.arange(10) < torch.randint(1, 11, (200, 1))
    padded = x * mask[..., None]
    standardise = Standardise(Field((10, 3), "set")).fit_(padded, mask)
    z = standardise(padded, mask)
    assert (z[~mask] == 0).all()
    assert z[mask].mean(0).abs().max() < 1e-5 and (z[mask].std(0) - 1).abs().max() < 0.01


def test_target_inverse_and_log_determinant():
    torch.manual_seed(0)
    y = torch.stack([torch.rand(500) * 2, draws(LogNormal(0.0, 1.0), 500), torch.randn(500)], -1)
    y = y.double()
    rules = [
        {"kind": "interval", "low": 0.0, "high": 2.0},
        {"kind": "above", "low": 0.0, "loc": 0.0, "scale": 1.0},
        None,
    ]
    target = Target.fitted(y, rules, [False] * 3)
    z, ladj = target(y)
    assert z.mean(0).abs().max() < 1e-5 and (z.std(0) - 1).abs().max() < 1e-2
    torch.testing.assert_close(target.inverse(z), y, rtol=1e-5, atol=1e-6)
    jacobian = torch.autograd.functional.jacobian(lambda v: target(v)[0].sum(0), y[:1])
    expected = jacobian.squeeze().double().diagonal().log().sum()
    assert abs(float(ladj[0] - expected)) < 1e-5
    assert target(torch.tensor([[2.5, 1.0, 0.0]]))[1] == -math.inf


def test_constant_target_column_is_dropped():
    y = torch.stack([torch.randn(100), torch.full((100,), 0.7)], -1)
    target = Target.fitted(y, [None, None], [False, False])
    z, ladj = target(y)
    assert z.shape == (100, 1) and ladj.isfinite().all()
    assert torch.allclose(target.inverse(z)[:, 1].float(), torch.tensor(0.7))
    y[0, 1] = 0.8
    assert target(y)[1][0] == -math.inf


def test_whole_numbers_fill_their_cells():
    y = draws(Poisson(3.0), 1000)[:, None]
    target = Target.fitted(y, [None], [True])
    noisy = target.dequantise(y)
    assert (noisy.floor() == y).all() and noisy.dtype == torch.float64
    assert (target.inverse(target(noisy)[0]) == y).float().mean() > 0.999
    points = target.cell_points(y[:4])
    assert points.shape == (32, 4, 1) and (points.floor() == y[:4]).all()


def test_declared_support_gives_rules():
    rules = field_rules(Field((2,), support=(0, [None, 4.0])))
    assert [r["kind"] for r in rules] == ["above", "interval"]
    assert field_rules(Field((1,), support=(0, 3), discrete=True))[0]["high"] == 4.0
    assert field_rules(Field((2,))) == [None, None]


def sparse(n=4000):
    """Zeros in seven of ten rows, else log-normal over decades."""
    torch.manual_seed(0)
    return (torch.rand(n, 2) > 0.7) * LogNormal(0.0, 2.0).sample((n, 2)).double()


def test_zeros_have_a_cell_of_their_own():
    y = sparse()
    target = Target.fitted(y, field_rules(Field((2,), zeros=True)), [False, False])
    spread = target.dequantise(y)
    assert ((spread <= 0) == (y == 0)).all() and spread.min() > -1
    z, ladj = target(spread)
    assert ladj.isfinite().all() and z.std(0).sub(1).abs().max() < 0.05
    torch.testing.assert_close(target.inverse(z), y, rtol=1e-5, atol=1e-9)
    assert (target.inverse(z - 10) == 0).all()  # below the cell there is nothing but zeros
    assert target.valid(y).all() and not target.valid(-y - 1).any()
    low, _ = target.bounds()
    assert (low < 0).all()  # zero itself is attained


def test_zeros_of_images_are_told_by_channel():
    y = sparse(64 * 12).view(12, 64, 2).movedim(-1, 1).reshape(12, 2, 8, 8)
    field = Field((2, 8, 8), "image", zeros=True)
    target = Target.fitted(y, field_rules(field), [False, False], 2)
    z, _ = target(target.dequantise(y))
    torch.testing.assert_close(target.inverse(z), y, rtol=1e-5, atol=1e-9)
    points = target.cell_points(y[:2])
    moved = (points != y[:2]).any(0)
    assert torch.equal(moved, y[:2] == 0) and points.min() > -1
    assert target.bounded and not Target.fitted(sparse(), [None] * 2, [False] * 2).bounded


def test_negative_values_where_zeros_are_said_to_be_least():
    with pytest.raises(ValueError, match="zeros=True has zeros and positive"):
        hurdle_rule(torch.tensor([0.0, 1.0, -0.1]))
    with pytest.raises(ValueError, match="leave out support"):
        Field((2,), zeros=True, support=(0, None))
