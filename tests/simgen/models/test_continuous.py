"""Continuous flows: trace, probes, and equal steps against error control."""

import pytest
import torch

from simgen.models.continuous import EXACT, Continuous


def flow(features, context=2, **settings):
    torch.manual_seed(0)
    layer = Continuous(features, context, (16, 16), **settings).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.15 * torch.randn_like(p))
    return layer


def rows(features, n=4):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, features, generator=generator, dtype=torch.float64)
    return x, (torch.randn(n, 2, generator=generator, dtype=torch.float64), None)


@pytest.mark.parametrize("periodic", [(), (0, 2)])
def test_velocity_and_trace(periodic):
    layer = flow(3, periodic=periodic)
    x, (c, _) = rows(3)
    t = torch.full((4,), 0.3, dtype=torch.float64)
    known = layer.context(c)
    probes = torch.eye(3, dtype=torch.float64)[:, None].expand(-1, 4, -1)
    _, trace = layer._velocity(t, x, known, probes)
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(
            lambda v, i=i: layer._velocity(t[:1], v[None], known[i : i + 1], probes[:, :1])[0][0],
            x[i],
        )
        assert float(trace[i].detach()) == pytest.approx(float(jacobian.trace()), rel=1e-9)


def test_many_variables_have_an_unbiased_trace_in_training_and_a_fixed_one_elsewhere():
    d = EXACT + 8
    layer = flow(d)
    x, given = rows(d, 1)
    units = torch.eye(d, dtype=torch.float64)[:, None]
    copies = x.expand(2_000, -1), (given[0].expand(2_000, -1), None)
    torch.manual_seed(1)
    with torch.no_grad():
        _, exact = layer._solve(x, given, units * d**0.5, adaptive=False)  # the mean over probes
        estimates = layer.training_call(*copies)[1]
        assert abs(float(estimates.mean() - exact)) < 4 * float(estimates.std()) / 2_000**0.5
        found = layer.call_and_ladj(x, given)[1]
        assert torch.equal(layer.call_and_ladj(x, given)[1], found)
        deviation = float(estimates.std()) / len(layer.probes) ** 0.5
        assert abs(float(found - exact)) < 4 * deviation + 1e-3


def test_equal_steps_converge_to_the_controlled_ones():
    x, given = rows(3)
    layer = flow(3)
    with torch.no_grad():
        y, ladj = layer.call_and_ladj(x, given)
        layer.steps = 64
        fine, fine_ladj = layer.training_call(x, given)
        layer.steps = 8
        coarse, coarse_ladj = layer.training_call(x, given)
    torch.testing.assert_close(fine, y, rtol=0, atol=1e-5)
    torch.testing.assert_close(fine_ladj, ladj, rtol=0, atol=1e-5)
    assert (coarse - y).abs().max() < 0.01 and (coarse_ladj - ladj).abs().max() < 0.01
