"""Circular splines: continuous round the circle, and angles learned as angles."""

import math

import pytest
import torch

from simgen.field import Field
from simgen.models import Flow
from simgen.models.circular import CircularSpline, wrap

PI = math.pi


def test_wrap():
    x = torch.tensor([-PI, PI, 3 * PI + 0.1, -0.5, -2 * PI - 1], dtype=torch.float64)
    expected = torch.tensor([-PI, -PI, -PI + 0.1, -0.5, -1.0], dtype=torch.float64)
    torch.testing.assert_close(wrap(x), expected)
    many = wrap(1e3 * torch.randn(10_000))
    assert (many >= -PI).all() and (many < PI).all()


def test_the_two_ends_are_one_point():
    torch.manual_seed(0)
    spline = CircularSpline(8)
    phi = torch.randn(spline.total, 1, dtype=torch.float64).expand(-1, 2)
    eps = 1e-7
    x = torch.tensor([-PI + eps, PI - eps], dtype=torch.float64)
    y, ladj = spline(x, phi)
    assert abs(float(wrap(y[1] - y[0]))) < 1e-5
    assert abs(float(ladj[1] - ladj[0])) < 1e-5
    again, _ = spline(x + 2 * PI, phi)
    torch.testing.assert_close(again, y)


def test_it_covers_the_circle_once():
    torch.manual_seed(0)
    spline = CircularSpline(8)
    phi = torch.randn(spline.total, 1, dtype=torch.float64).expand(-1, 4_000)
    x = torch.linspace(-PI, PI, 4_001, dtype=torch.float64)[:-1]
    y, ladj = spline(x, phi)
    steps = wrap(torch.diff(y, append=y[:1]))
    assert (steps > 0).all() and float(steps.sum()) == pytest.approx(2 * PI)
    assert float(ladj.exp().mean()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("transform", ["spline-coupling", "continuous"])
def test_density_is_periodic(transform):
    torch.manual_seed(0)
    flow = Flow(transform, transforms=2, hidden=(16, 16), periodic=(0,))
    module = flow.build(Field((2,)), {}).double()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn_like(p))
        z = torch.randn(20, 2, dtype=torch.float64)
        turn = torch.tensor([2 * PI, 0.0], dtype=torch.float64)
        values = [module.log_prob(z + k * turn, (None, None)) for k in (-1, 0, 2)]
    torch.testing.assert_close(values[0], values[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(values[2], values[1], rtol=1e-5, atol=1e-5)


def test_an_angle_that_follows_an_angle_is_learned():
    """Von Mises about a direction that turns round with the context: a plain number would tear."""
    torch.manual_seed(0)
    direction = 2 * PI * torch.rand(10_000) - PI
    c = torch.stack((direction.cos(), direction.sin()), -1)
    noise = torch.distributions.VonMises(0.0, 8.0).sample((10_000,))
    z = wrap(direction + noise)[:, None].float()
    module = Flow(transforms=2, hidden=(32, 32), periodic=(0,)).build(
        Field((1,)), {"context": Field((2,))}
    )
    optimizer = torch.optim.Adam(module.parameters(), 5e-3)
    for i in range(500):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - i / 500)
        rows = torch.randint(10_000, (256,))
        optimizer.zero_grad()
        module.loss(z[rows], (c[rows], None)).mean().backward()
        optimizer.step()
    angles = torch.linspace(-PI, PI, 401)[:-1]
    exact = torch.distributions.VonMises(0.0, 8.0)
    divergence = []
    for mean in torch.linspace(-PI, PI, 9)[:-1]:
        given = torch.stack((mean.cos(), mean.sin())).expand(400, 2)
        with torch.no_grad():
            log_q = module.log_prob(wrap(angles)[:, None], (given, None))
        log_p = exact.log_prob(wrap(angles - mean))
        divergence.append(float((log_p.exp() * (log_p - log_q)).sum() * 2 * PI / 400))
    assert max(divergence) < 0.08 and sum(divergence) / len(divergence) < 0.03
