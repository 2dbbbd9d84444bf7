"""Decoder heads: densities that sum to one, draws that follow them."""

import math

import pytest
import torch

from simgen.models.decoders import BernoulliHead, GaussianHead, SplineHead


@pytest.mark.parametrize("variance", ["scalar", "dimension", "network"])
@pytest.mark.parametrize("event", [(3,), (2, 2, 3)])
def test_a_gaussian_draw_has_the_density_of_its_noise(variance, event):
    torch.manual_seed(0)
    head = GaussianHead(torch.Size(event), variance, floor=0.05).double()
    with torch.no_grad():
        head.log_scale.add_(torch.randn_like(head.log_scale))
    raw = torch.randn(4, head.outputs, *event, dtype=torch.float64)
    noise = torch.randn(4, *event, dtype=torch.float64)
    x = head.draw(raw, noise)
    jacobian = torch.autograd.functional.jacobian(lambda e: head.draw(raw, e).sum(0), noise)
    size = noise[0].numel()
    log_det = jacobian.reshape(size, 4, size).movedim(1, 0).slogdet()[1]
    base = -0.5 * noise.square().flatten(1).sum(1) - 0.5 * size * math.log(2 * math.pi)
    torch.testing.assert_close(head.log_prob(x, raw), base - log_det)


def test_the_floor_holds():
    head = GaussianHead(torch.Size((2,)), "network", floor=0.05)
    raw = torch.full((1, 2, 2), -50.0)
    assert (head.distribution(raw).scale >= 0.05).all()
    head.start(0.3)
    raw[:, 1] = 0
    torch.testing.assert_close(head.distribution(raw).scale, torch.full((1, 2), 0.3))


@pytest.mark.parametrize("event", [(3,), (2, 2, 3)])
def test_a_spline_draw_has_the_density_of_its_noise(event):
    torch.manual_seed(0)
    head = SplineHead(torch.Size(event), floor=0.05).double()
    raw = torch.randn(4, head.outputs, *event, dtype=torch.float64)
    noise = 2 * torch.randn(4, *event, dtype=torch.float64)
    x = head.draw(raw, noise)
    jacobian = torch.autograd.functional.jacobian(lambda e: head.draw(raw, e).sum(0), noise)
    size = noise[0].numel()
    log_det = jacobian.reshape(size, 4, size).movedim(1, 0).slogdet()[1]
    base = -0.5 * noise.square().flatten(1).sum(1) - 0.5 * size * math.log(2 * math.pi)
    torch.testing.assert_close(head.log_prob(x, raw), base - log_det)


def test_a_spline_starts_as_the_gaussian():
    torch.manual_seed(0)
    spline, gaussian = SplineHead(torch.Size((3,))), GaussianHead(torch.Size((3,)))
    x, raw = torch.randn(5, 3), torch.zeros(5, spline.outputs, 3)
    raw[:, :2] = torch.randn(5, 2, 3)
    torch.testing.assert_close(spline.log_prob(x, raw), gaussian.log_prob(x, raw[:, :2]))
    torch.testing.assert_close(spline.mean(raw), raw[:, 0], atol=1e-5, rtol=0)


def test_the_mean_of_a_spline_is_that_of_its_draws():
    torch.manual_seed(0)
    head = SplineHead(torch.Size((4,)))
    raw = torch.randn(1, head.outputs, 4)
    draws = head.draw(raw.expand(100_000, -1, -1), torch.randn(100_000, 4))
    error = draws.std(0) / len(draws) ** 0.5
    # the tails beyond the outermost of 64 parts are cut: 0.002 of a deviation
    assert ((draws.mean(0) - head.mean(raw)[0]).abs() < 4.5 * error + 0.002 * draws.std(0)).all()


def test_bernoulli_probabilities_sum_to_one_and_draws_follow_them():
    torch.manual_seed(0)
    head = BernoulliHead(torch.Size((4,)))
    raw = torch.randn(1, 1, 4)
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
    p = head.log_prob(corners, raw.expand(16, -1, -1)).exp()
    assert abs(float(p.sum()) - 1) < 1e-6
    draws = head.draw(raw.expand(100_000, -1, -1), torch.randn(100_000, 4))
    index = (draws * torch.tensor([8, 4, 2, 1])).sum(1).long()
    counted = index.bincount(minlength=16) / 1e5
    assert ((counted - p).abs() < 4.5 * (p * (1 - p) / 1e5).sqrt()).all()
    torch.testing.assert_close(head.mean(raw)[0], raw[0, 0].sigmoid())


def test_bernoulli_finds_two_values_a_channel():
    head = BernoulliHead(torch.Size((2, 3, 3)))
    bits = torch.rand(50, 2, 3, 3) < 0.3
    levels = torch.tensor([[-1.0, 2.0], [0.5, 0.75]])
    x = torch.where(bits, levels[:, 1, None, None], levels[:, 0, None, None])
    head.initialise(x)
    raw = torch.where(bits, 50.0, -50.0)[:, None]
    torch.testing.assert_close(head.mean(raw), x)
    torch.testing.assert_close(head.draw(raw, torch.randn(50, 2, 3, 3)), x)
    assert (head.log_prob(x, raw).abs() < 1e-6).all()


def test_bernoulli_of_whole_numbers_spread_over_cells_is_a_density():
    torch.manual_seed(0)
    bits = (torch.rand(2_000, 1) < 0.3).float()
    x = (bits + torch.rand(2_000, 1) - 0.8) / 0.7  # spread over a cell, then standardised
    head = BernoulliHead(torch.Size((1,)))
    head.initialise(x)
    grid = torch.linspace(-0.8 / 0.7, 1.2 / 0.7, 4001)[:-1, None] + 0.25e-3 / 0.7
    raw = torch.full((4000, 1, 1), math.log(0.3 / 0.7))
    p = head.log_prob(grid, raw).exp()
    # the cells' ends, seen in 1400 and 600 rows, are about 1/1400 and 1/600 too far in
    assert abs(float(p.sum()) * 0.5e-3 / 0.7 - 1) < 5e-3
    draws = head.draw(raw, torch.randn(4000, 1)) * 0.7 + 0.8
    assert set(draws.floor().flatten().tolist()) == {0.0, 1.0}
