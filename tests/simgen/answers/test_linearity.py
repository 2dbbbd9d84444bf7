"""Linearity tried, adjoints tested, and everything refused that is neither."""

import numpy as np
import pytest
import scipy.ndimage
import torch

from simgen.answers.linearity import LinearMap, differentiable, is_linear

GENERATOR = torch.Generator().manual_seed(0)
L = torch.randn(7, 12, generator=GENERATOR).double()
C = torch.randn(7, generator=GENERATOR).double()
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def linear(x):
    return x.flatten(1) @ L.to(x).T


def affine(x):
    return linear(x) + C.to(x)


def by_scipy(x):
    return torch.as_tensor(scipy.ndimage.gaussian_filter(x.numpy(), 1.0, axes=(1, 2)))


def half_hidden(x):
    return linear(x) + linear(x.detach())


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return linear(x)

    @staticmethod
    def backward(ctx, grad):
        return 1.01 * (grad @ L.to(grad)).view(-1, 3, 4)


class NoFunctorch(torch.autograd.Function):
    """A function in the old style, which torch.func refuses."""

    @staticmethod
    def forward(ctx, x):
        return linear(x)

    @staticmethod
    def backward(ctx, grad):
        return (grad @ L.to(grad)).view(-1, 3, 4)


NONLINEAR = {
    "square": lambda x: x**2,
    "nearly linear": lambda x: x + 1e-5 * x**2,
    "relu": torch.relu,
    "saturates": lambda x: x.clamp(max=100.0),
    "threshold": lambda x: torch.where(x.abs() > 0.01, x, 0 * x),
    "exp": torch.exp,
    "log": torch.log,
    "norm": lambda x: x.flatten(1).norm(dim=1),
    "product": lambda x: x[:, 0] * x[:, 1],
    "homogeneous": lambda x: x.flatten(1).amax(1),
    "under a pedestal": lambda x: 1e4 + torch.sin(x),
    "refuses": lambda x: torch.distributions.Normal(0, 1, validate_args=True).log_prob(x.log()),
}


@PRECISIONS
@pytest.mark.parametrize("operator", [linear, by_scipy, lambda x: 0 * x, lambda x: 1e-20 * x])
def test_linear(operator, dtype):
    found = is_linear(operator, (3, 4), dtype=dtype)
    assert found.kind == "linear" and found and not found.offset.any()


@PRECISIONS
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_affine_with_its_offset(size, dtype):
    found = is_linear(lambda x: linear(x) + size * C.to(x), (3, 4), dtype=dtype)
    assert found.kind == "affine" and not found
    torch.testing.assert_close(found.offset, (size * C).to(dtype))


@PRECISIONS
@pytest.mark.parametrize("name", NONLINEAR)
def test_nonlinear(name, dtype):
    found = is_linear(NONLINEAR[name], (3, 4), dtype=dtype)
    assert found.kind == "nonlinear" and not found and found.offset is None
    with pytest.raises(ValueError, match="not affine"):
        LinearMap(NONLINEAR[name], (3, 4), dtype=dtype)


@pytest.mark.parametrize(
    ("operator", "error", "message"),
    [
        (lambda x: x - x.mean(0), ValueError, "rows depend"),
        (lambda x: x + torch.randn_like(x), ValueError, "random"),
        (lambda x: x.sum(), ValueError, r"row by row: of x \(1, 3, 4\) it returned \(\)"),
        (lambda x: x.flatten(), ValueError, r"row by row: of x \(1, 3, 4\) it returned \(12,\)"),
        (lambda x: x.numpy(), TypeError, "torch.as_tensor"),
        (lambda x: torch.fft.fft(x), TypeError, "view_as_real"),
    ],
)
def test_what_is_no_operator(operator, error, message):
    with pytest.raises(error, match=message):
        is_linear(operator, (3, 4))
    with pytest.raises(error, match=message):
        LinearMap(operator, (3, 4))


def test_a_computation_in_float32_is_judged_in_float32():
    assert is_linear(lambda x: linear(x.float()), (3, 4), dtype=torch.float64)


@PRECISIONS
@pytest.mark.parametrize("operator", [linear, affine, lambda x: NoFunctorch.apply(x)])
def test_map_is_its_matrix(operator, dtype):
    a = LinearMap(operator, (3, 4), dtype=dtype)
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)
    r = torch.randn(5, 7, generator=torch.Generator().manual_seed(2), dtype=dtype)
    assert a.shape == (7, 12) and a.observed_shape == (7,) and a.event_shape == (3, 4)
    torch.testing.assert_close(a.dense(), L.to(dtype))
    torch.testing.assert_close(a.forward(x), x.flatten(1) @ L.to(dtype).T)
    torch.testing.assert_close(a.adjoint(r), (r @ L.to(dtype)).view(5, 3, 4))
    torch.testing.assert_close(a.offset, C.to(dtype) if operator is affine else 0 * C.to(dtype))
    for i in range(5):
        torch.testing.assert_close(a.adjoint(r[i : i + 1])[0], a.adjoint(r)[i])
    assert a.dense() is a.dense()


def test_dense_from_either_side():
    """Columns by forward where d < m, rows by adjoint where m < d."""
    tall = LinearMap(lambda x: x @ L, (7,), dtype=torch.float64)
    torch.testing.assert_close(tall.dense(), L.T)
    calls = []
    wide = LinearMap(lambda x: calls.append(len(x)) or linear(x), (3, 4), dtype=torch.float64)
    calls.clear()
    torch.testing.assert_close(wide.dense(), L)
    assert calls == [7]
    with pytest.raises(ValueError, match="forward and adjoint"):
        LinearMap(linear, (3, 4)).dense(largest=83)
    assert LinearMap(linear, (3, 4)).dense(largest=84).shape == (7, 12)


def test_precision_follows_what_is_given():
    """A map tested in float32 computes in float64, its offset too."""
    a = LinearMap(affine, (3, 4))
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(a.forward(x), x.flatten(1) @ L.T, rtol=1e-13, atol=1e-13)
    r = a.forward(x)
    torch.testing.assert_close(a.adjoint(r).flatten(1), r @ L, rtol=1e-13, atol=1e-13)
    assert a.offset.dtype == torch.float32


def test_a_number_a_row():
    a = LinearMap(lambda x: 2 * x.flatten(1).sum(1) + 1, (3, 4), dtype=torch.float64)
    assert a.shape == (1, 12) and a.observed_shape == ()
    torch.testing.assert_close(a.dense(), torch.full((1, 12), 2.0).double())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_adjoint_in_any_mode(mode):
    a = LinearMap(affine, (3, 4), dtype=torch.float64)
    with mode():
        r = torch.ones(2, 7).double()
        found = a.adjoint(r)
        assert not found.requires_grad
        torch.testing.assert_close(found.flatten(1), r @ L)


def test_forward_and_adjoint_differentiate():
    a = LinearMap(affine, (3, 4), dtype=torch.float64)
    x = torch.ones(2, 3, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(a.forward, (x,))
    assert torch.autograd.gradcheck(a.adjoint, (torch.ones(2, 7).double().requires_grad_(),))


@PRECISIONS
@pytest.mark.parametrize(
    "operator", [half_hidden, lambda x: WrongBackward.apply(x)], ids=["hidden", "wrong backward"]
)
def test_dot_test_finds_a_wrong_adjoint(operator, dtype):
    assert is_linear(operator, (3, 4), dtype=dtype)
    assert differentiable(operator, (3, 4), dtype=dtype)
    with pytest.raises(ValueError, match="dot test fails"):
        LinearMap(operator, (3, 4), dtype=dtype)


def test_a_large_map_in_float32_passes():
    """Rounding in many numbers, and under a large offset, is no failure."""

    def operator(x):
        return torch.fft.irfft2(torch.fft.rfft2(x) * 0.5) + 1e4

    a = LinearMap(operator, (64, 64))
    assert a.shape == (4096, 4096)


def test_black_boxes_are_recognised():
    def raises(x):
        raise RuntimeError("broken")

    assert differentiable(affine, (3, 4)) and differentiable(torch.exp, (3, 4))
    for operator in (
        by_scipy,
        lambda x: np.asarray(x.detach()),
        lambda x: torch.as_tensor(np.asarray(x.detach())),
        lambda x: torch.ones(2, 3, requires_grad=True) * 2,
        lambda x: x.flatten(1).norm(dim=1).sqrt() * float("nan"),
        raises,
        torch.round,
    ):
        assert not differentiable(operator, (3, 4))
    with torch.inference_mode():
        assert differentiable(affine, (3, 4))
    with pytest.raises(ValueError, match="Matrix"):
        LinearMap(by_scipy, (3, 4))
