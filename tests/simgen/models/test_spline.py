"""Rational-quadratic splines: against zuko's, gradients, inverse, on the circle, under vmap."""

import math

import pytest
import torch
import zuko
from torch.autograd import gradcheck
from torch.func import grad, vmap

from simgen.models.spline import (
    BOUND,
    SMALLEST,
    rational_quadratic,
    rational_quadratic_inverse,
)

BINS = 6
LINE, CIRCLE = (BOUND, False), (math.pi, True)


def parameters(m, circular=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(m, generator=generator, dtype=torch.float64)
    if circular:
        x = torch.remainder(x, 2 * math.pi) - math.pi
    count = 3 * BINS - 1 + circular
    return x, torch.randn(count, m, generator=generator, dtype=torch.float64)


def reference(phi, bound=BOUND, circular=False):
    """zuko's spline with the same knots."""
    other = zuko.transforms.MonotonicRQSTransform(*torch.zeros(3, 1, BINS).unbind(0))

    def knots(part):
        share = SMALLEST + (1 - BINS * SMALLEST) * part.softmax(0)
        return bound * (2 * torch.nn.functional.pad(share.cumsum(0), (0, 0, 1, 0)) - 1)

    other.horizontal = knots(phi[:BINS]).T
    other.vertical = knots(phi[BINS : 2 * BINS]).T
    slopes = phi[2 * BINS :]
    ends = (
        torch.cat((slopes, slopes[:1]))
        if circular
        else torch.nn.functional.pad(slopes, (0, 0, 1, 1))
    )
    other.derivatives = ends.exp().T
    return other


@pytest.mark.parametrize("kind", [LINE, CIRCLE])
def test_equals_zuko(kind):
    x, phi = parameters(500, kind[1])
    y, ladj = rational_quadratic(x, phi, *kind)
    y_ref, ladj_ref = reference(phi, *kind).call_and_ladj(x)
    torch.testing.assert_close(y, y_ref, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ladj, ladj_ref, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", [LINE, CIRCLE])
def test_gradient_equals_zuko_and_finite_differences(kind):
    x, phi = parameters(40, kind[1])
    x.requires_grad_(), phi.requires_grad_()
    assert gradcheck(lambda x, phi: rational_quadratic(x, phi, *kind), (x, phi), atol=1e-6)
    for pick in (0, 1):
        mine = torch.autograd.grad(rational_quadratic(x, phi, *kind)[pick].sum(), (x, phi))
        theirs = torch.autograd.grad(reference(phi, *kind).call_and_ladj(x)[pick].sum(), (x, phi))
        for a, b in zip(mine, theirs):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", [LINE, CIRCLE])
def test_inverse(kind):
    x, phi = parameters(500, kind[1])
    y, _ = rational_quadratic(x, phi, *kind)
    back = rational_quadratic_inverse(y, phi, *kind)
    torch.testing.assert_close(back, x, rtol=1e-8, atol=1e-8)


def test_identity_outside():
    _, phi = parameters(2)
    far = torch.tensor([-7.0, 7.0], dtype=torch.float64)
    y, ladj = rational_quadratic(far, phi)
    assert torch.equal(y, far) and (ladj == 0).all()


def test_second_derivatives_are_refused_not_wrong():
    x, phi = parameters(4)
    (slope,) = torch.autograd.grad(
        rational_quadratic(x.requires_grad_(), phi)[0].sum(), x, create_graph=True
    )
    with pytest.raises(NotImplementedError, match="not differentiable again"):
        slope.sum().backward()


def test_shared_parameters_are_broadcast():
    _, phi = parameters(7)
    y = torch.randn(5, 7, dtype=torch.float64)
    shared = rational_quadratic_inverse(y, phi[:, None])
    alone = torch.stack([rational_quadratic_inverse(row, phi) for row in y])
    assert torch.equal(shared, alone)


@pytest.mark.parametrize("kind", [LINE, CIRCLE])
@pytest.mark.parametrize("axes", [(0, 0), (None, 1), (0, None), (1, 2)])
def test_vmap_equals_a_loop(kind, axes):
    xs, phis = zip(*(parameters(9, kind[1], seed) for seed in range(4)))
    x = xs[0] if axes[0] is None else torch.stack(xs, axes[0])
    phi = phis[0] if axes[1] is None else torch.stack(phis, axes[1])

    def loss(x, phi):
        y, ladj = rational_quadratic(x, phi, *kind)
        return (y * y).sum() + (3 * ladj).sum()

    values = vmap(loss, axes)(x, phi)
    gradients = vmap(grad(loss, (0, 1)), axes)(x, phi)
    for i in range(4):
        one = (
            xs[0 if axes[0] is None else i].clone().requires_grad_(),
            phis[0 if axes[1] is None else i].clone().requires_grad_(),
        )
        value = loss(*one)
        torch.testing.assert_close(values[i], value.detach())
        for mapped, alone in zip(gradients, torch.autograd.grad(value, one)):
            torch.testing.assert_close(mapped[i], alone)
