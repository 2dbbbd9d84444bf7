import warnings

import numpy as np
import pytest
import torch
from scipy.special import gammainc, gammaincinv
from torch.autograd import gradcheck

from simulators.lensing import ellipticity, grid
from simulators.sersic import b_n, sersic, sersic_flux


def tensors(*values):
    return [torch.tensor(v, dtype=torch.float64) for v in values]


@pytest.mark.parametrize("n, tolerance", [(0.5, 1.3e-4), (1, 1.4e-5), (2, 1e-6), (4, 8e-8)])
def test_half_of_the_light(n, tolerance):
    """b_n is where the regularised incomplete gamma function of 2 n is one half."""
    b = float(b_n(*tensors(n)))
    assert b == pytest.approx(gammaincinv(2 * n, 0.5), abs=4e-4 / n**2)
    assert abs(gammainc(2 * n, b) - 0.5) < tolerance


@pytest.mark.parametrize("n", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("q, phi", [(1.0, 0.0), (0.5, 0.7)])
def test_flux_and_half_light_ellipse(n, q, phi):
    q, phi, n, R_e, I_e = tensors(q, phi, n, 0.1, 2.0)
    e_1, e_2 = ellipticity(q, phi)
    x, y = grid(1600, 4.0)
    light = sersic(x, y, R_e, n, e_1, e_2, I_e) * (4 / 1600) ** 2
    assert float(light.sum()) == pytest.approx(float(sersic_flux(R_e, n, e_1, e_2, I_e)), rel=3e-3)
    u, v = torch.cos(phi) * x + torch.sin(phi) * y, torch.cos(phi) * y - torch.sin(phi) * x
    within = u**2 + (v / q) ** 2 < R_e**2
    assert float(light[within].sum() / light.sum()) == pytest.approx(0.5, abs=2e-3)


def test_agrees_with_caustics():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        func = pytest.importorskip("caustics.light.func")
    x, y = torch.randn(2, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    zero, q, phi, n, R_e, I_e = tensors(0.0, 0.6, 0.4, 2.5, 0.3, 1.7)
    expected = func.brightness_sersic(zero, zero, q, phi, n, R_e, I_e, x, y, func.k_sersic(n))
    ours = sersic(x, y, R_e, n, *ellipticity(q, phi), I_e)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("n, law", [(0.5, 2.0), (1.0, 1.0)])
def test_gaussian_and_exponential(n, law):
    x, zero, R_e, n, I_e = tensors(np.linspace(0.01, 1, 20), 0.0, 0.2, n, 3.0)
    light = sersic(x, zero, R_e, n, zero, zero, I_e)
    torch.testing.assert_close(light, I_e * torch.exp(-b_n(n) * ((x / R_e) ** law - 1)))


def test_gradients():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 6, dtype=torch.float64, generator=generator)
    arguments = [t.requires_grad_() for t in (x, y, *tensors(0.4, 1.5, 0.2, -0.1, 1.2))]
    assert gradcheck(sersic, arguments)
    assert gradcheck(sersic_flux, arguments[2:])


@pytest.mark.parametrize("n", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_centre_of_a_round_galaxy_is_finite(n, dtype):
    values = tensors(0.0, 0.0, 0.3, n, 0.0, 0.0, 1.0)
    arguments = [t.to(dtype).requires_grad_() for t in values]
    light = sersic(*arguments)
    assert 0 < light.detach() <= torch.exp(b_n(values[3])) * (1 + 1e-5)
    for gradient in torch.autograd.grad(light, arguments):
        assert torch.isfinite(gradient)
