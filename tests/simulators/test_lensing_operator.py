import numpy as np
import pytest
import torch

from simulators.lensing import grid, trace
from simulators.lensing_operator import lens_operator
from simulators.sersic import sersic, sersic_flux
from simulators.strong_lens import StrongLens

THETA_LENS = (1.0, 0.15, -0.1, 0.03, -0.04, 0.05, -0.03)


def lens(*theta):
    return torch.tensor(theta or THETA_LENS, dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("psf", [0.0, 0.15, "skewed"])
@pytest.mark.parametrize("pixels, source_pixels", [(20, 12), (15, 7)])
def test_the_operator_is_linear_and_equals_its_matrix(psf, pixels, source_pixels):
    if psf == "skewed":
        psf = torch.rand(5, 5, dtype=torch.float64, generator=generator())
    A = lens_operator(lens(), pixels=pixels, psf=psf)
    M = A.matrix(source_pixels)
    assert M.shape == (pixels**2, source_pixels**2)
    shape = (2, 1, source_pixels, source_pixels)
    u, v = torch.randn(shape, dtype=torch.float64, generator=generator(1))
    torch.testing.assert_close(A(2 * u - 3 * v), 2 * A(u) - 3 * A(v), rtol=0, atol=1e-12)
    np.testing.assert_allclose(A(u).ravel(), M @ u.numpy().ravel(), rtol=0, atol=1e-12)
    w = torch.randn(1, pixels, pixels, dtype=torch.float64, generator=generator(2))
    adjoint = torch.func.vjp(A, torch.zeros_like(u))[1](w)[0]
    assert float((A(u) * w).sum()) == pytest.approx(float((u * adjoint).sum()), rel=1e-12)
    np.testing.assert_allclose(adjoint.ravel(), M.T @ w.numpy().ravel(), rtol=0, atol=1e-12)


def test_operators_broadcast_over_sources_and_lenses():
    lenses = lens() + 0.02 * torch.randn(3, 7, dtype=torch.float64, generator=generator(3))
    sources = torch.rand(3, 1, 8, 8, dtype=torch.float64, generator=generator(4))
    batch = lens_operator(lenses, pixels=12)
    one = lens_operator(lenses[0], pixels=12)
    assert batch(sources).shape == batch(sources[0]).shape == one(sources).shape == (3, 1, 12, 12)
    for i in range(3):
        alone = lens_operator(lenses[i], pixels=12)
        torch.testing.assert_close(batch(sources)[i], alone(sources[i]), rtol=0, atol=1e-13)
        torch.testing.assert_close(one(sources)[i], one(sources[i]), rtol=0, atol=1e-13)
    assert one(sources.float()).dtype == torch.float32
    torch.testing.assert_close(one(sources.float()).double(), one(sources), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="one lens has one matrix"):
        batch.matrix()


def test_a_pixelised_sersic_profile_is_lensed_as_the_profile():
    """The error of interpolation falls with the square of the source's pixels."""
    shape = torch.tensor([0.2, 1.0, 0.1, -0.2, 1.0], dtype=torch.float64)
    bare = {"pixels": 40, "source_side": 3.0, "psf": 0.0}
    ray_x, ray_y = trace(*grid(40, 3.2), lens())
    exact = sersic(ray_x, ray_y, *shape)
    smooth = exact < 2  # away from the cusp in the centre
    errors = []
    for pixels in (50, 100, 200):
        source = sersic(*grid(pixels, 3.0), *shape)[None]
        image = lens_operator(lens(), **bare)(source)[0]
        errors.append(float((image - exact)[smooth].abs().max()))
    assert errors[0] < 0.1 and errors[0] > 3.5 * errors[1] > 12 * errors[2]
    simulator = StrongLens(pixels=40, psf_fwhm=0.1)
    theta = torch.cat([lens(), torch.zeros(2, dtype=torch.float64), shape])
    blurred = lens_operator(lens(), pixels=40, source_side=3.0, psf=0.1)(source)
    torch.testing.assert_close(simulator.signal(theta[None])[0], blurred, rtol=0.05, atol=0.02)


def test_lensing_conserves_brightness_and_magnifies():
    """Behind a round lens what is at b is 2 R_E / b times brighter, for b < R_E."""
    simulator = StrongLens(pixels=400, side=4.0, psf_fwhm=0.05)
    b, R_E, shape = 0.3, 1.0, lens(0.05, 0.6, 0.2, 0.1, 1.0)
    image = simulator.signal(torch.cat([lens(R_E, 0, 0, 0, 0, 0, 0, b, 0), shape])[None])
    x, y = grid(800, 1.0)
    light = sersic(x, y, *shape) * (1.0 / 800) ** 2
    exact = light * 2 * R_E / torch.hypot(x + b, y)
    flux = float(image.sum()) * (4.0 / 400) ** 2
    assert flux == pytest.approx(float(exact.sum()), rel=2e-3)
    assert flux > 6 * float(sersic_flux(*shape))
    assert float(image.max()) < float(sersic(*lens(0, 0), *shape))


def test_an_operator_is_differentiable_in_the_lens():
    source = sersic(*grid(24, 1.2), *lens(0.3, 1.0, 0.0, 0.0, 1.0))[None]

    def total(theta):
        return (lens_operator(theta, pixels=12)(source) ** 2).sum()

    gradient = torch.func.grad(total)(lens())
    for i in range(7):
        step = torch.zeros(7, dtype=torch.float64)
        step[i] = 1e-7
        slope = (total(lens() + step) - total(lens() - step)) / 2e-7
        assert float(gradient[i]) == pytest.approx(float(slope), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"theta_lens": torch.zeros(6)}, r"theta_lens must be \(..., 7\): R_E, e_1"),
        ({"psf": torch.ones(4, 4)}, r"psf must be a kernel \(k, k\), k odd"),
    ],
)
def test_bad_operators(arguments, message):
    with pytest.raises(ValueError, match=message):
        lens_operator(**{"theta_lens": lens(), **arguments})
    with pytest.raises(ValueError, match=r"a source must be \(..., 1, N_s, N_s\)"):
        lens_operator(lens())(torch.ones(2, 32, 32))
