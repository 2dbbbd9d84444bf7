import math
import warnings

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch.autograd import gradcheck

from simulators.lensing import (
    bilinear,
    blur,
    ellipticity,
    gaussian_psf,
    grid,
    jaffe,
    shear,
    sie,
    sie_convergence,
    trace,
)

LENSES = [(1.0, 0.7, 0.4), (1.3, 0.35, -1.2), (0.8, 0.98, 2.0), (1.1, 0.999, 0.0)]


def tensors(*values):
    return [torch.tensor(v, dtype=torch.float64) for v in values]


def points(n=200, seed=0):
    """Points of a square of side 3.2 about the origin, none closer to it than 0.01."""
    x, y = 3.2 * (torch.rand(2, n, dtype=torch.float64, generator=rng(seed)) - 0.5)
    far = torch.hypot(x, y) > 0.01
    return x[far], y[far]


def rng(seed):
    return torch.Generator().manual_seed(seed)


def jacobian(deflection, x, y):
    """The derivatives (2, 2, n) of a deflection by x and y, exact by autograd."""
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    alphas = deflection(x, y)
    return torch.stack(
        [torch.stack(torch.autograd.grad(a.sum(), (x, y), retain_graph=True)) for a in alphas]
    )


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("R_E, q, phi", LENSES)
def test_agrees_with_caustics(R_E, q, phi, quiet):
    func = pytest.importorskip("caustics.lenses.func")
    x, y = points()
    R_E, q, phi, zero = tensors(R_E, q, phi, 0.0)
    expected = func.reduced_deflection_angle_sie(zero, zero, q, phi, R_E, x, y)
    alpha = sie(x, y, R_E, *ellipticity(q, phi))
    for a, b in zip(alpha, expected):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-7)


@pytest.mark.parametrize("R_E, q, phi", LENSES)
def test_agrees_with_lenstronomy(R_E, q, phi, quiet):
    models = pytest.importorskip("lenstronomy.LensModel.lens_model")
    x, y = points()
    e_1, e_2 = ellipticity(*tensors(q, phi))
    x_l, y_l, g_1, g_2 = 0.05, -0.08, 0.03, -0.06
    model = models.LensModel(["SIE", "SHEAR"])
    lens = {"theta_E": R_E, "e1": float(e_1), "e2": float(e_2), "center_x": x_l, "center_y": y_l}
    expected = model.ray_shooting(
        x.numpy(), y.numpy(), [lens, {"gamma1": g_1, "gamma2": g_2, "ra_0": 0, "dec_0": 0}]
    )
    theta = torch.tensor([R_E, e_1, e_2, g_1, g_2, x_l, y_l], dtype=torch.float64)
    beta = trace(x[None], y[None], theta)
    for a, b in zip(beta, expected):
        np.testing.assert_allclose(a[0], b, rtol=0, atol=1e-7)


def test_subhaloes_agree_with_lenstronomy(quiet):
    profiles = pytest.importorskip("lenstronomy.LensModel.Profiles.pseudo_jaffe")
    x, y = points()
    b, r_t = tensors(0.1, 0.3)
    core = 2e-8
    sigma_0 = 0.1 / 2 * (0.3 - core) / (0.3 * core)
    expected = profiles.PseudoJaffe().derivatives(x.numpy(), y.numpy(), sigma_0, core, 0.3)
    for a, c in zip(jaffe(x, y, b, r_t), expected):
        np.testing.assert_allclose(a, c, rtol=0, atol=1e-7)


@pytest.mark.parametrize("e_1, e_2", [(0.0, 0.0), (1e-9, 0.0), (0.2, -0.1), (-0.5, 0.3)])
def test_divergence_is_twice_the_convergence_and_there_is_no_curl(e_1, e_2):
    x, y = points()
    lens = tensors(1.1, e_1, e_2)
    D = jacobian(lambda u, v: sie(u, v, *lens), x, y)
    kappa = sie_convergence(x, y, *lens)
    torch.testing.assert_close(D[0, 0] + D[1, 1], 2 * kappa, rtol=1e-7, atol=0)
    torch.testing.assert_close(D[0, 1], D[1, 0], rtol=0, atol=1e-6 * float(kappa.max()))


def test_divergence_of_a_truncated_sphere_and_its_mass():
    x, y = points()
    b, r_t = tensors(0.1, 0.3)
    D = jacobian(lambda u, v: jaffe(u, v, b, r_t), x, y)
    r = torch.hypot(x, y)
    kappa = b / 2 * (1 / r - 1 / torch.sqrt(r**2 + r_t**2))
    torch.testing.assert_close(D[0, 0] + D[1, 1], 2 * kappa, rtol=1e-9, atol=1e-12)
    # Gauss: the mass within r is pi alpha r; all of it is pi b r_t
    far, zero = tensors(1e9, 0.0)
    torch.testing.assert_close(jaffe(far, zero, b, r_t)[0] * far, b * r_t)
    near = torch.tensor(1e-6, dtype=torch.float64)
    torch.testing.assert_close(jaffe(near, zero, b, r_t)[0], b, rtol=1e-5, atol=0)


def test_shear_is_traceless_and_symmetric():
    x, y = points()
    gamma = tensors(0.05, -0.03)
    D = jacobian(lambda u, v: shear(u, v, *gamma), x, y)
    assert (D[0, 0] == 0.05).all() and (D[1, 1] == -0.05).all()
    assert (D[0, 1] == -0.03).all() and (D[1, 0] == -0.03).all()


@pytest.mark.parametrize("e", [0.0, 1e-12, 1e-9, 1e-8, 1e-7, 1e-5])
@pytest.mark.parametrize("angle", [0.0, 1.0, 2.5])
def test_nearly_round_lenses(e, angle):
    r"""alpha = R_E E (1 - E^2 conj(e) / 3), E the direction of z - e conj(z), up to e^2."""
    x, y = points()
    z, e_c = torch.complex(x, y), e * complex(math.cos(angle), math.sin(angle))
    E = z - e_c * z.conj()
    E = E / E.abs()
    expected = 1.2 * E * (1 - E**2 * e_c.conjugate() / 3)
    alpha = sie(x, y, *tensors(1.2, e_c.real, e_c.imag))
    torch.testing.assert_close(torch.complex(*alpha), expected, rtol=0, atol=3e-8)


def test_a_round_lens_has_a_constant_deflection():
    x, y = points()
    alpha = torch.complex(*sie(x, y, *tensors(0.9, 0.0, 0.0)))
    z = torch.complex(x, y)
    torch.testing.assert_close(alpha, 0.9 * z / z.abs(), rtol=0, atol=2e-8)


@pytest.mark.parametrize("e_1, e_2", [(0.0, 0.0), (0.0, 0.2), (-0.3, 0.0), (0.25, -0.15)])
def test_gradients(e_1, e_2):
    x, y = points(8)
    lens = [t.requires_grad_() for t in (x, y, *tensors(1.0, e_1, e_2))]
    tolerance = {"eps": 1e-5, "atol": 1e-5}
    assert gradcheck(lambda *a: torch.stack(sie(*a)), lens, **tolerance)
    assert gradcheck(sie_convergence, lens, **tolerance, nondet_tol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("e_1", [0.0, 0.1])
def test_the_centre_is_finite(dtype, e_1):
    zero = torch.zeros(1, dtype=dtype)
    lens = [t.to(dtype).requires_grad_() for t in tensors(1.0, e_1, 0.0)]
    alpha = torch.stack(sie(zero, zero, *lens))
    assert (alpha == 0).all()
    for gradient in torch.autograd.grad(alpha.sum(), lens):
        assert torch.isfinite(gradient)
    assert all((a == 0).all() for a in jaffe(zero, zero, *(t.to(dtype) for t in tensors(1, 1))))


def test_single_precision():
    x, y = points()
    lens = tensors(1.0, 0.2, -0.1)
    double = sie(x, y, *lens)
    single = sie(x.float(), y.float(), *(t.float() for t in lens))
    for a, b in zip(single, double):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2e-6)


def test_turning_the_lens_turns_its_deflection():
    x, y = points()
    R_E, q, phi, turn = tensors(1.0, 0.6, 0.3, 0.9)
    spin = torch.polar(torch.ones_like(turn), turn)
    z = torch.complex(x, y) * spin
    before = torch.complex(*sie(x, y, R_E, *ellipticity(q, phi)))
    after = torch.complex(*sie(z.real, z.imag, R_E, *ellipticity(q, phi + turn)))
    torch.testing.assert_close(after, before * spin, rtol=0, atol=1e-12)


def test_the_einstein_ring_and_two_images():
    """A round lens maps its ring to a point, and a source at b appears at b + R and b - R."""
    R = 0.9
    theta = torch.tensor([R, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    phi = torch.linspace(0, 6, 50, dtype=torch.float64)
    beta = trace(R * torch.cos(phi)[None], R * torch.sin(phi)[None], theta)
    assert all(b.abs().max() < 2e-8 for b in beta)
    x, y = tensors([[0.3 + R, 0.3 - R]], [[0.0, 0.0]])
    beta = trace(x, y, theta)
    torch.testing.assert_close(beta[0], torch.full_like(x, 0.3), rtol=0, atol=2e-8)
    D = jacobian(lambda u, v: trace(u, v, theta), x, y)[..., 0, :]
    magnification = 1 / (D[0, 0] * D[1, 1] - D[0, 1] * D[1, 0])
    exact = 1 / (1 - R / x[0].abs())
    torch.testing.assert_close(magnification, exact, rtol=1e-6, atol=0)
    assert magnification.abs().sum() == pytest.approx(2 * R / 0.3, rel=1e-6)


def test_the_critical_ellipse_has_the_area_of_the_einstein_disc():
    """Of an isothermal ellipsoid kappa = 1/2 where the magnification is infinite."""
    R_E, q, phi = tensors(1.0, 0.6, 0.5)
    x, y = grid(800, 4.0)
    e = ellipticity(q, phi)
    inside = sie_convergence(x, y, R_E, *e) > 0.5
    assert float(inside.double().sum()) * (4 / 800) ** 2 == pytest.approx(math.pi, rel=2e-3)
    u, v = points(500)
    D = jacobian(lambda a, b: sie(a, b, R_E, *e), u, v)
    determinant = (1 - D[0, 0]) * (1 - D[1, 1]) - D[0, 1] ** 2
    assert ((determinant < 0) == (sie_convergence(u, v, R_E, *e) > 0.5)).all()


def test_rows_of_a_batch_are_independent():
    x, y = grid(8, 3.0)
    theta = torch.rand(5, 7, dtype=torch.float64, generator=rng(3)) / 5 + 0.1
    batch = trace(x, y, theta)
    for i, row in enumerate(theta):
        for a, b in zip(trace(x, y, row), batch):
            assert (a == b[i]).all()
    assert trace(x, y, theta.reshape(5, 1, 7))[0].shape == (5, 1, 8, 8)


def test_the_grid_is_of_pixel_centres():
    x, y = grid(4, 2.0)
    assert x[0].tolist() == y[:, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert (x == x[0]).all() and (y == y[:, :1]).all()


def test_interpolation_of_a_plane_is_exact():
    """Where x grows, columns do; where y grows, rows do."""
    x, y = grid(16, 1.2)
    beta = 0.8 * (torch.rand(2, 3, 9, 9, dtype=torch.float64, generator=rng(1)) - 0.5)
    plane = (2 + 3 * x - 5 * y)[None]
    image = bilinear(plane, *beta, 1.2)
    torch.testing.assert_close(image[:, 0], 2 + 3 * beta[0] - 5 * beta[1])
    outside = bilinear(plane, beta[0] + 1.1, beta[1], 1.2)
    assert (outside == 0).all()


@pytest.mark.parametrize(
    "source, beta, shape",
    [
        ((), (), ()),
        ((4,), (), (4,)),
        ((), (3,), (3,)),
        ((2, 1), (3,), (2, 3)),
        ((2, 3), (3,), (2, 3)),
    ],
)
def test_sources_and_rays_broadcast(source, beta, shape):
    sources = torch.rand(*source, 1, 6, 6, dtype=torch.float64, generator=rng(0))
    rays = torch.rand(2, *beta, 5, 5, dtype=torch.float64, generator=rng(1)) - 0.5
    image = bilinear(sources, *rays, 1.0)
    assert image.shape == (*shape, 1, 5, 5)
    for index in np.ndindex(*shape):
        at = [torch.broadcast_to(r, (*shape, 5, 5))[index] for r in rays]
        row = torch.broadcast_to(sources, (*shape, 1, 6, 6))[index]
        torch.testing.assert_close(image[index], bilinear(row, *at, 1.0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("n, k", [(16, 5), (15, 1), (9, 9), (20, 7)])
def test_blurring_is_convolution(n, k):
    image = torch.rand(2, 3, n, n, dtype=torch.float64, generator=rng(2))
    kernel = torch.rand(k, k, dtype=torch.float64, generator=rng(3))
    blurred = blur(image, kernel)
    for i in np.ndindex(2, 3):
        np.testing.assert_allclose(blurred[i], convolve2d(image[i], kernel, "same"), atol=1e-12)


@pytest.mark.parametrize("fwhm, pixel", [(0.1, 0.05), (0.3, 0.05), (0.05, 0.05)])
def test_point_spread_function(fwhm, pixel):
    kernel = gaussian_psf(fwhm, pixel)
    assert float(kernel.sum()) == pytest.approx(1)
    reach = len(kernel) // 2
    r = pixel * torch.arange(-reach, reach + 1, dtype=torch.float64)
    row = kernel[reach] / kernel[reach, reach]
    torch.testing.assert_close(row, 2.0 ** -((2 * r / fwhm) ** 2))
    assert row[0] < 4e-4
    assert gaussian_psf(0.0, pixel).tolist() == [[1.0]]
