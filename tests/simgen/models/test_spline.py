"""Rational-quadratic splines: against zuko's, gradients, inverse."""

import pytest
import torch
import zuko
from torch.autograd import gradcheck

from simgen.models.spline import (
    BOUND,
    SMALLEST,
    MaskedSpline,
    rational_quadratic,
    rational_quadratic_inverse,
)

BINS = 6


def parameters(m, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(m, generator=generator, dtype=torch.float64)
    phi = torch.randn(3 * BINS - 1, m, generator=generator, dtype=torch.float64)
    return x, phi


def reference(phi):
    """zuko's spline with the same knots."""
    other = zuko.transforms.MonotonicRQSTransform(*torch.zeros(3, 1, BINS).unbind(0))

    def knots(part):
        share = SMALLEST + (1 - BINS * SMALLEST) * part.softmax(0)
        return BOUND * (2 * torch.nn.functional.pad(share.cumsum(0), (0, 0, 1, 0)) - 1)

    other.horizontal = knots(phi[:BINS]).T
    other.vertical = knots(phi[BINS : 2 * BINS]).T
    other.derivatives = torch.nn.functional.pad(phi[2 * BINS :], (0, 0, 1, 1)).exp().T
    return other


def test_equals_zuko():
    x, phi = parameters(500)
    y, ladj = rational_quadratic(x, phi)
    y_ref, ladj_ref = reference(phi).call_and_ladj(x)
    torch.testing.assert_close(y, y_ref, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ladj, ladj_ref, rtol=1e-8, atol=1e-8)


def test_gradient_equals_zuko_and_finite_differences():
    x, phi = parameters(40)
    x.requires_grad_(), phi.requires_grad_()
    assert gradcheck(rational_quadratic, (x, phi), atol=1e-6)
    for pick in (0, 1):
        mine = torch.autograd.grad(rational_quadratic(x, phi)[pick].sum(), (x, phi))
        theirs = torch.autograd.grad(reference(phi).call_and_ladj(x)[pick].sum(), (x, phi))
        for a, b in zip(mine, theirs):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_inverse_and_identity_outside():
    x, phi = parameters(500)
    y, _ = rational_quadratic(x, phi)
    torch.testing.assert_close(rational_quadratic_inverse(y, phi), x, rtol=1e-8, atol=1e-8)
    far = torch.tensor([-7.0, 7.0], dtype=torch.float64)
    y, ladj = rational_quadratic(far, phi[:, :2])
    assert torch.equal(y, far) and (ladj == 0).all()


def test_shared_parameters_are_broadcast():
    _, phi = parameters(7)
    y = torch.randn(5, 7, dtype=torch.float64)
    shared = rational_quadratic_inverse(y, phi[:, None])
    alone = torch.stack([rational_quadratic_inverse(row, phi) for row in y])
    assert torch.equal(shared, alone)


@pytest.mark.parametrize("passes", [None, 2])
@pytest.mark.parametrize("features", [1, 2, 5])
def test_masked_spline_inverts_itself(features, passes):
    torch.manual_seed(0)
    order = torch.randperm(features)
    layer = MaskedSpline(features, 3, 8, passes, order, (32, 32)).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    context = torch.randn(4, 3, dtype=torch.float64)
    y = torch.randn(6, 4, features, dtype=torch.float64)
    with torch.no_grad():
        x = layer.inverse(y, context)
        again, _ = layer.call_and_ladj(x.view(24, -1), context.repeat(6, 1))
    torch.testing.assert_close(again.view(6, 4, -1), y, rtol=1e-7, atol=1e-7)
