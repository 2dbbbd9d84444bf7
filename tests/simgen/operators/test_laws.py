"""Every operator against a NumPy reference of one image, and the laws that all of them obey."""

import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import scipy.sparse
import torch
from torch.func import jacfwd, jacrev, vmap

from simgen.answers.linearity import LinearMap
from simgen.operators import (
    Blur,
    Compose,
    Downsample,
    Mask,
    Matrix,
    Radon,
    gaussian_psf,
)
from simulators.lensing_operator import lens_operator

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(3, 5))
LARGE = RNG.normal(size=(21, 17))  # larger than the image
MASK = RNG.random((6, 8)) > 0.5
DENSE = RNG.normal(size=(7, 48))
THIN = DENSE * (RNG.random(DENSE.shape) > 0.7)
ANGLES = [0.0, 0.3, math.pi / 4, math.pi / 2, 2.0, 3.0, -1.1]
LENS = lens_operator(
    torch.tensor([0.9, 0.1, 0.05, 0.02, 0.0, 0.05, 0.0]).double(), pixels=12, psf=0.3
)


def blurred(boundary):
    mode = {"zero": "constant", "periodic": "wrap"}[boundary]
    return lambda x: scipy.ndimage.gaussian_filter(x, 1.3, mode=mode, radius=4)


def chord(x_0, y_0, theta, s):
    """The length of a line in the unit square about (x_0, y_0), by clipping it to two slabs."""
    low, high = -np.inf, np.inf
    for start, slope, centre in (
        (s * math.cos(theta), -math.sin(theta), x_0),
        (s * math.sin(theta), math.cos(theta), y_0),
    ):
        ends = sorted((centre + h - start) / slope for h in (-0.5, 0.5))
        low, high = max(low, ends[0]), min(high, ends[1])
    return max(0.0, high - low)


def radon(image, detectors):
    """By Siddon's method, with lines that are a little off those that run along an edge."""
    n = len(image)
    axis = np.arange(n) - (n - 1) / 2
    out = np.zeros((len(ANGLES), detectors))
    for i, theta in enumerate(ANGLES):
        for j in range(detectors):
            for k, shift in ((0.5, 1e-9), (0.5, -1e-9)):
                s, angle = j - (detectors - 1) / 2 + shift, theta + 1e-13
                lengths = [[chord(u, v, angle, s) for u in axis] for v in axis]
                out[i, j] += k * (image * lengths).sum()
    return out


CASES = {
    "mask": (Mask(MASK), (6, 8), lambda x: x[MASK]),
    "blur": (Blur(KERNEL), (6, 8), lambda x: scipy.signal.convolve2d(x, KERNEL, "same")),
    "blur periodic": (
        Blur(KERNEL, "periodic"),
        (6, 8),
        lambda x: scipy.ndimage.convolve(x, KERNEL, mode="wrap"),
    ),
    "blur large": (
        Blur(LARGE),
        (6, 8),
        lambda x: scipy.signal.convolve2d(np.pad(x, 20), LARGE, "same")[20:26, 20:28],
    ),
    "blur large periodic": (
        Blur(LARGE, "periodic"),
        (6, 8),
        lambda x: scipy.ndimage.convolve(x, LARGE, mode="wrap"),
    ),
    "gaussian": (Blur(gaussian_psf(1.3, 9)), (6, 8), blurred("zero")),
    "gaussian periodic": (Blur(gaussian_psf(1.3, 9), "periodic"), (6, 7), blurred("periodic")),
    "radon": (Radon(5, ANGLES), (5, 5), lambda x: radon(x, 9)),
    "radon on edges": (Radon(4, ANGLES, detectors=5), (4, 4), lambda x: radon(x, 5)),
    "downsample": (
        Downsample(2),
        (6, 8),
        lambda x: np.array(
            [[x[i : i + 2, j : j + 2].mean() for j in (0, 2, 4, 6)] for i in (0, 2, 4)]
        ),
    ),
    "matrix": (Matrix(DENSE), (6, 8), lambda x: DENSE @ x.ravel()),
    "sparse": (Matrix(torch.as_tensor(THIN).to_sparse()), (6, 8), lambda x: THIN @ x.ravel()),
    "scipy": (Matrix(scipy.sparse.csr_array(THIN)), (6, 8), lambda x: THIN @ x.ravel()),
    "compose": (
        Compose(Blur(KERNEL), Downsample(2), Mask(MASK[:3, :4])),
        (6, 8),
        lambda x: (
            scipy.signal.convolve2d(x, KERNEL, "same")
            .reshape(3, 2, 4, 2)
            .mean((1, 3))[MASK[:3, :4]]
        ),
    ),
    "lens": (
        Compose(LENS, Downsample(2), Mask(np.ones((1, 6, 6), bool))),
        (1, 8, 8),
        lambda x: (LENS.matrix(8) @ x.ravel()).reshape(6, 2, 6, 2).mean((1, 3)).ravel(),
    ),
}
EACH = pytest.mark.parametrize("name", CASES)
IMAGES = [name for name in CASES if name not in ("matrix", "sparse", "scipy", "lens")]


def draw(shape, seed=1, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@EACH
def test_reference(name):
    operator, event, reference = CASES[name]
    x = draw((3, *event))
    expected = np.stack([reference(row) for row in x.numpy()])
    y = operator(x)
    assert y.shape == expected.shape
    tolerance = 1e-6 if "radon" in name else 1e-12  # the reference's lines are 1e-9 aside
    np.testing.assert_allclose(y.numpy(), expected, rtol=tolerance, atol=tolerance)


@EACH
def test_adjoint_and_dense_matrix(name):
    """The matrix is that of unit vectors one at a time; the adjoint is its transpose."""
    operator, event, _ = CASES[name]
    linear = LinearMap(operator, event, dtype=torch.float64)
    d = math.prod(event)
    columns = [operator(unit.view(1, *event)).flatten() for unit in torch.eye(d).double()]
    matrix = torch.stack(columns, 1)
    x, r = draw((3, *event)), draw((3, len(matrix)), 2)
    close = {"rtol": 1e-11, "atol": 1e-12}
    torch.testing.assert_close(linear.dense(), matrix, **close)
    torch.testing.assert_close(linear.forward(x), x.flatten(1) @ matrix.T, **close)
    torch.testing.assert_close(linear.adjoint(r).flatten(1), r @ matrix, **close)


@EACH
def test_batch_is_loop_in_both_precisions(name):
    operator, event, _ = CASES[name]
    x = draw((4, *event))
    y = operator(x)
    for i in range(4):
        torch.testing.assert_close(operator(x[i : i + 1])[0], y[i], rtol=1e-12, atol=1e-12)
    if name != "lens":
        assert operator(x[:0]).shape == (0, *y.shape[1:])
    single = operator(x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", IMAGES)
def test_leading_axes_stay(name):
    """Images (n, C, H, W), and more axes, are those of (n C, H, W)."""
    operator, event, _ = CASES[name]
    x = draw((2, 3, 2, *event))
    y = operator(x)
    torch.testing.assert_close(y.flatten(0, 2), operator(x.flatten(0, 2)), rtol=0, atol=1e-12)
    assert y.shape[:3] == (2, 3, 2)


@EACH
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own
def test_derivatives(name):
    """First and second derivatives backwards and forwards, alone and under torch.func."""
    operator, event, _ = CASES[name]
    x = draw((2, *event)).requires_grad_()
    forward = name != "lens"  # grid_sample has no forward derivative
    assert torch.autograd.gradcheck(
        operator, (x,), fast_mode=True, check_forward_ad=forward, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(operator, (x,), fast_mode=True)
    row = draw((1, *event))
    matrix = LinearMap(operator, event, dtype=torch.float64).dense()
    for jacobian in (jacrev, jacfwd)[: 1 + forward]:
        found = jacobian(lambda v: operator(v).flatten())(row).flatten(1)
        torch.testing.assert_close(found, matrix, rtol=1e-10, atol=1e-10)
    if name not in ("matrix", "sparse", "scipy"):
        many = draw((5, 2, *event))
        torch.testing.assert_close(vmap(operator)(many), torch.stack([operator(v) for v in many]))


def flat(x):
    return x.flatten(-2)


def inference(operator, x):
    with torch.inference_mode():
        operator(x)


FIRST = {
    "inference": inference,
    "vmap": lambda operator, x: vmap(operator)(x[None]),
    "jacfwd": lambda operator, x: jacfwd(operator)(x),
    "hessian": lambda operator, x: jacrev(jacrev(lambda v: operator(v).sum()))(x),
}
MAKE = {
    "mask": lambda: Mask(MASK),
    "blur": lambda: Blur(KERNEL),
    "matrix": lambda: Compose(flat, Matrix(DENSE)),
    "sparse": lambda: Compose(flat, Matrix(scipy.sparse.csr_array(THIN))),
    "radon": lambda: Compose(lambda x: x[..., :6], Radon(6, ANGLES)),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("name", MAKE)
def test_constants_survive_where_they_were_copied(name, first):
    """A first call in inference mode, or inside torch.func, leaves nothing that breaks later."""
    operator, x = MAKE[name](), draw((2, 6, 8), dtype=torch.float32)
    FIRST[first](operator, x)
    y = operator(x.requires_grad_())
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    other = x.detach().double().requires_grad_()
    z = MAKE[name]()(other)
    (expected,) = torch.autograd.grad(z.square().sum(), other)
    torch.testing.assert_close(y.double(), z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-4)
