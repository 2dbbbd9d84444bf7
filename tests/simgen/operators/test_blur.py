"""Gaussian blurring of a width given with the image, in closed form and by derivatives."""

import numpy as np
import pytest
import scipy.ndimage
import torch

from simgen.operators import Blur, GaussianBlur, gaussian_psf

BOUNDARIES = pytest.mark.parametrize("boundary", ["zero", "periodic"])


def draw(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def test_psf_has_its_width():
    """Of sum 1; its second moment is w^2, but for 8 pi^2 w^4 exp(-2 pi^2 w^2) of sampling."""
    width = torch.tensor([1.0, 2.0, 3.0]).double()
    psf = gaussian_psf(width, 61)
    k = torch.arange(61).double() - 30
    torch.testing.assert_close(psf.sum((-2, -1)), torch.ones(3).double())
    moment = (psf * k**2).sum((-2, -1))
    torch.testing.assert_close(moment, width**2, rtol=3e-7, atol=0)
    assert (psf[:, 30, 30] == psf.amax((-2, -1))).all()


@BOUNDARIES
@pytest.mark.parametrize("width", [0.3, 1.0, 2.5])
def test_is_scipys(boundary, width):
    x = draw(2, 3, 9, 12)
    mode = {"zero": "constant", "periodic": "wrap"}[boundary]
    cut = scipy.ndimage.gaussian_filter(x.numpy(), width, mode=mode, radius=4, axes=(-2, -1))
    found = GaussianBlur(9, boundary)(x, width=width)
    np.testing.assert_allclose(found.numpy(), cut, rtol=1e-11, atol=1e-12)
    whole = scipy.ndimage.gaussian_filter(x.numpy(), width, mode=mode, radius=11, axes=(-2, -1))
    found = GaussianBlur(boundary=boundary)(x, width=width)
    np.testing.assert_allclose(found.numpy(), whole, rtol=1e-11, atol=1e-12)


@BOUNDARIES
def test_a_width_a_row(boundary):
    """Row i is that of its own width, for one channel and for several."""
    operator, width = GaussianBlur(9, boundary), torch.tensor([0.5, 1.0, 2.0])
    for x in (draw(3, 8, 7), draw(3, 2, 8, 7)):
        y = operator(x, width=width)
        for i in range(3):
            alone = Blur(gaussian_psf(float(width[i]), 9), boundary)(x[i : i + 1])
            torch.testing.assert_close(y[i : i + 1], alone, rtol=1e-6, atol=1e-7)
    x = draw(3, 2, 8, 7)
    torch.testing.assert_close(
        operator(x, width=torch.tensor([[0.5, 1.0]] * 3))[:, 1],
        operator(x[:, 1], width=1.0),
    )


@BOUNDARIES
def test_differentiable_in_the_width(boundary):
    x, width = draw(3, 6, 5).requires_grad_(), torch.tensor([0.4, 1.0, 2.0]).double()
    operator = GaussianBlur(boundary=boundary)
    assert torch.autograd.gradcheck(operator, (x, width.requires_grad_()))
    assert torch.autograd.gradcheck(operator, (x, torch.tensor(1.3).double().requires_grad_()))


def test_widths_add_in_quadrature():
    """Blurring by 2 and then by 1.5 is blurring by 2.5, but for sampling, far from a boundary."""
    x = torch.zeros(1, 41, 41).double()
    x[0, 20, 20] = 1
    blur = GaussianBlur(boundary="periodic")
    twice = blur(blur(x, width=2.0), width=1.5)
    torch.testing.assert_close(twice, blur(x, width=2.5), rtol=0, atol=1e-8)


def test_a_kernel_a_channel_and_its_gradient():
    kernels = draw(3, 3, 3).requires_grad_()
    x = draw(2, 3, 6, 5)
    y = Blur(kernels)(x)
    for c in range(3):
        torch.testing.assert_close(y[:, c], Blur(kernels[c])(x[:, c]))
    assert torch.autograd.gradcheck(lambda k: Blur(k)(x), (kernels,))
    y.float()
    (gradient,) = torch.autograd.grad(Blur(kernels)(x.float()).sum(), kernels)
    assert gradient.any()


def test_light_is_conserved_or_lost():
    x = draw(1, 8, 8).abs()
    kernel = gaussian_psf(2.0, 9)
    assert torch.isclose(Blur(kernel, "periodic")(x).sum(), x.sum())
    assert Blur(kernel)(x).sum() < 0.9 * x.sum()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Blur(torch.ones(4, 4)), "odd"),
        (lambda: Blur(torch.ones(3, 3), "reflect"), "reflect"),
        (lambda: GaussianBlur(boundary="wrap"), "wrap"),
        (lambda: gaussian_psf(0.0, 5), "positive"),
        (lambda: gaussian_psf(float("nan"), 5), "positive"),
        (lambda: gaussian_psf(1.0, 6), "odd"),
        (lambda: GaussianBlur()(torch.ones(3, 8, 8), width=torch.ones(2)), r"\(2,\)"),
        (lambda: Blur(torch.ones(3, 3))(torch.ones(8)), r"H, W"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_integers_are_refused():
    with pytest.raises(TypeError, match="int64"):
        Blur(torch.ones(3, 3))(torch.ones(2, 8, 8, dtype=torch.int64))
