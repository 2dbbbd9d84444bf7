"""Composition: order, parameters by keyword, and what each operator refuses."""

import inspect

import numpy as np
import pytest
import scipy.sparse
import torch

from simgen.operators import Compose, Downsample, GaussianBlur, Mask, Matrix
from simulators.lensing_operator import lens_operator

X = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)).double()


def scaled(x, gain, offset=0.0):
    return gain * x + offset


def test_the_first_is_applied_first():
    double, add = (lambda x: 2 * x), (lambda x: x + 1)
    assert torch.equal(Compose(double, add)(X), 2 * X + 1)
    assert torch.equal(Compose(add, double)(X), 2 * (X + 1))
    assert torch.equal(Compose(Compose(double, add), double)(X), 2 * (2 * X + 1))


def test_parameters_reach_those_that_name_them():
    operator = Compose(GaussianBlur(5), Downsample(2), scaled)
    width = torch.tensor([0.5, 1.0, 2.0]).double()
    expected = scaled(Downsample(2)(GaussianBlur(5)(X, width=width)), 3.0, 0.5)
    assert torch.equal(operator(X, width=width, gain=3.0, offset=0.5), expected)
    assert torch.equal(
        Compose(operator, Downsample(2))(X, width=width, gain=3.0, offset=0.5),
        Downsample(2)(expected),
    )
    assert list(inspect.signature(operator).parameters) == ["x", "width", "gain", "offset"]
    assert torch.equal(
        operator(X, width=width, gain=3.0, offset=0.0), operator(X, width=width, gain=3.0)
    )


def test_an_operator_that_takes_any_is_given_all():
    seen = {}

    def any_of(x, **given):
        seen.update(given)
        return x

    Compose(any_of, scaled)(X, gain=2.0, other=1.0)
    assert seen == {"gain": 2.0, "other": 1.0}


def test_a_module_is_an_operator():
    class Gain(torch.nn.Module):
        def forward(self, x, gain):
            return gain * x

    operator = Compose(Gain(), torch.nn.Flatten(), Matrix(np.eye(64)))
    assert torch.equal(operator(X, gain=2.0), 2 * X.flatten(1))


def test_missing_and_unknown_parameters_are_refused():
    operator = Compose(GaussianBlur(), Downsample(2))
    with pytest.raises(TypeError, match="width"):
        operator(X)
    with pytest.raises(TypeError, match="widht"):
        operator(X, width=1.0, widht=2.0)
    with pytest.raises(ValueError, match="at least one"):
        Compose()


def test_lens_with_unknown_parameters_differentiates():
    """A lens whose parameters are given by keyword, blurred by an unknown width, then masked."""

    def lens(x, theta_lens):
        return lens_operator(theta_lens, pixels=10, psf=0.0)(x)

    seen = torch.rand(1, 10, 10, generator=torch.Generator().manual_seed(1)) > 0.3
    operator = Compose(lens, GaussianBlur(5), Mask(seen))
    source = X[:, None].requires_grad_()
    theta = torch.tensor([0.9, 0.1, 0.05, 0.02, 0.0, 0.05, 0.0]).double()
    width = torch.tensor([0.5, 1.0, 2.0]).double().requires_grad_()
    y = operator(source, theta_lens=theta, width=width)
    whole = GaussianBlur(5)(lens_operator(theta, pixels=10, psf=0.0)(source), width=width)
    assert torch.equal(y, whole[:, seen])
    gradients = torch.autograd.grad(y.square().sum(), (source, width))
    assert all(g.isfinite().all() and g.any() for g in gradients)


def test_matrix_differentiates_in_a_dense_A():
    A = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: Matrix(a)(X), (A,))
    (gradient,) = torch.autograd.grad(Matrix(A)(X.float()).sum(), A)
    torch.testing.assert_close(gradient, X.flatten(1).sum(0).expand(4, 64), rtol=1e-5, atol=1e-5)


def test_matrix_of_vectors_with_any_leading_axes():
    A = np.arange(6.0).reshape(2, 3)
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    for operator in (Matrix(A), Matrix(A.tolist()), Matrix(scipy.sparse.csc_array(A))):
        torch.testing.assert_close(operator(x), x @ torch.as_tensor(A).T)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Mask(torch.ones(4, 4)), "boolean"),
        (lambda: Mask(np.zeros((4, 4), bool)), "nowhere"),
        (lambda: Mask(np.ones((4, 4), bool))(X), r"\(\.\.\., 4, 4\); got \(3, 8, 8\)"),
        (lambda: Downsample(0), "positive"),
        (lambda: Downsample(1.5), "positive"),
        (lambda: Downsample(3)(X), "8 x 8"),
        (lambda: Matrix(np.ones(3)), r"\(m, d\)"),
        (lambda: Matrix(np.ones((2, 3)))(X), r"\(\.\.\., 3\); got \(3, 8, 8\)"),
        (lambda: Matrix(torch.eye(3).to_sparse().requires_grad_()), "gradient"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
