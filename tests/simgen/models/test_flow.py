"""Flow: every transform through normalisation, inverse, Jacobian, gradients, batches."""

import math

import pytest
import torch

from simgen.field import Field
from simgen.models import Flow
from simgen.models.flow import LinearGaussian

KINDS = ["spline", "affine", "coupling", "spline-coupling"]


def build(kind, features=2, context=3, **settings):
    torch.manual_seed(0)
    given = {"context": Field((context,))} if context else {}
    flow = Flow(transform=kind, transforms=3, hidden=(16, 16), **settings)
    module = flow.build(Field((features,)), given)
    with torch.no_grad():  # away from the identity
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", [1, 2, 5])
@pytest.mark.parametrize("context", [0, 3])
def test_transport_inverts_the_density_map(kind, features, context):
    module = build(kind, features, context, linear=bool(context)).double()
    given = (torch.randn(7, context).double() if context else None, None)
    q = module.distribution(given)
    noise = torch.randn(7, features, dtype=torch.float64)
    with torch.no_grad():
        z = q.transport(noise)
        log_q = q.log_prob(z)
    jacobians = torch.autograd.functional.jacobian(lambda e: q.transport(e).sum(0), noise)
    ladj = jacobians.movedim(1, 0).slogdet()[1]
    with torch.no_grad():  # many draws of each context at once
        many = q.transport(noise.expand(3, -1, -1))
    torch.testing.assert_close(many, z.expand(3, -1, -1), rtol=1e-8, atol=1e-8)
    base = -0.5 * (noise**2).sum(-1) - 0.5 * features * math.log(2 * math.pi)
    # the quadratic that inverts a spline loses half the digits where its slope is flat
    torch.testing.assert_close(log_q, base - ladj, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", [False, True])
def test_density_integrates_to_one(kind, base):
    module = build(kind, linear=base)
    axis = torch.linspace(-12, 12, 400)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        q = module.distribution((torch.randn(1, 3), None))
        total = q.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert abs(float(total) - 1) < 5e-3


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind):
    module = build(kind, 4)
    module.loss(torch.randn(64, 4), (torch.randn(64, 3), None)).mean().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_see_its_batch(kind):
    module = build(kind, 4)
    z, c = torch.randn(16, 4), torch.randn(16, 3)
    with torch.no_grad():
        whole = module.log_prob(z, c)
        alone = module.log_prob(z[:1], c[:1])
    torch.testing.assert_close(whole[:1], alone)


def test_bad_settings():
    with pytest.raises(ValueError, match="transform must be one of"):
        Flow(transform="splines")
    with pytest.raises(ValueError, match="at least 1"):
        Flow(transforms=0)
    with pytest.raises(TypeError):
        Flow(hiden=(3,))
    with pytest.raises(ValueError, match="models vectors"):
        Flow().build(Field((1, 8, 8), "image"), {})


def test_linear_gaussian_start_is_the_exact_posterior():
    torch.manual_seed(0)
    c = torch.randn(20_000, 3)
    a = torch.tensor([[1.0, 0.0], [0.5, 2.0], [0.0, -1.0]])
    factor = torch.tensor([[0.3, 0.0], [0.2, 0.1]])
    z = c @ a + 1.0 + torch.randn(20_000, 2) @ factor.T
    layer = LinearGaussian(2, 3)
    layer.initialise(z, c)
    with torch.no_grad():
        noise, ladj = layer.call_and_ladj(z, c)
    assert (noise.T.cov() - torch.eye(2)).abs().max() < 1e-3 and noise.mean(0).abs().max() < 1e-4
    assert abs(float(ladj) + float(factor.diagonal().log().sum())) < 0.02
    torch.testing.assert_close(layer.inverse(noise, c).detach(), z, rtol=1e-4, atol=1e-4)
