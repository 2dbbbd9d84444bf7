"""The Radon transform against phantoms whose line integrals are known."""

import math

import numpy as np
import pytest
import torch

from simgen.operators import Radon

N = 64
ANGLES = [k * math.pi / 20 for k in range(40)]


def axes(n=N):
    axis = torch.arange(n).double() - (n - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def places(radon, x_0, y_0):
    """Distances (angles, lines) of the lines from a point."""
    s = torch.arange(radon.lines).double() - (radon.lines - 1) / 2
    theta = torch.tensor(ANGLES).double()[:, None]
    return s - (x_0 * theta.cos() + y_0 * theta.sin())


@pytest.mark.parametrize("pixel", [1.0, 0.25])
def test_gaussian(pixel):
    """p = sqrt(2 pi) w exp(-s^2 / 2 w^2), to second order in the pixels: at worst, at 45 degrees,
    between diagonals h = 1 / sqrt(2) apart, p is interpolated linearly, to h^2 / 8 p''.
    """
    x, y = axes()
    width, x_0, y_0 = 5.0, 6.0, -9.0
    image = torch.exp(-((x - x_0) ** 2 + (y - y_0) ** 2) / (2 * width**2))
    radon = Radon(N, ANGLES, pixel=pixel)
    s = places(radon, x_0, y_0)
    exact = pixel * math.sqrt(2 * math.pi) * width * torch.exp(-(s**2) / (2 * width**2))
    error = (radon(image[None])[0] - exact).abs().max() / exact.max()
    assert error < 1.05 / (16 * width**2)


def test_disc():
    """p = 2 sqrt(R^2 - s^2): mean error falls as the pixels do, below 1 % at R = 20."""
    x, y = axes()
    radius, x_0, y_0 = 20.0, 4.5, -3.0
    image = ((x - x_0) ** 2 + (y - y_0) ** 2 < radius**2).double()
    radon = Radon(N, ANGLES)
    s = places(radon, x_0, y_0)
    exact = 2 * (radius**2 - s**2).clamp(min=0).sqrt()
    error = radon(image[None])[0] - exact
    assert error.abs().mean() < 0.01 * exact.max()
    assert error[s.abs() < 0.8 * radius].abs().max() < 2.0  # of two ends, a pixel each
    assert (radon(image[None])[0][s.abs() > radius + 1] == 0).all()


@pytest.mark.parametrize("n", [7, 8])
def test_axes_and_opposite_directions(n):
    """At 0 and 90 degrees sums along columns and rows; half a turn reverses the lines."""
    x = torch.randn(3, n, n, generator=torch.Generator().manual_seed(0)).double()
    y = Radon(n, [0.0, math.pi / 2, math.pi, 0.4, 0.4 + math.pi], detectors=n)(x)
    torch.testing.assert_close(y[:, 0], x.sum(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(y[:, 1], x.sum(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(y[:, 2], x.sum(1).flip(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(y[:, 4], y[:, 3].flip(1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 64])
def test_every_pixel_is_seen_in_every_direction(n):
    """Lines are one apart, so their lengths in a pixel have its area, 1, as mean over places."""
    angles = [0.0, 1e-9, 0.5, 1.0, 2.0, math.pi / 2]
    radon = Radon(n, angles)
    assert (radon.lines - n) % 2 == 0 and radon.lines >= math.sqrt(2) * n
    lengths = [radon.matrix[i * radon.lines :][: radon.lines].sum(0) for i in range(len(angles))]
    assert np.min(lengths) > 0
    np.testing.assert_allclose(lengths[0], 1, rtol=1e-12)
    if n == 64:
        np.testing.assert_allclose(np.mean(lengths, 1), 1, rtol=2e-3)
    edges = Radon(n, [0.0, math.pi / 2], detectors=n + 1).matrix.toarray()
    assert np.isclose(edges, 0.5).sum() == 4 * n * n


def test_angles_of_skimage():
    transform = pytest.importorskip("skimage.transform")
    x, y = axes(65)
    image = torch.exp(-((x - 10) ** 2 / 40 + (y + 5) ** 2 / 90)) * ((x**2 + y**2) < 30**2)
    degrees = np.array([0.0, 25.0, 90.0, 140.0])
    theirs = transform.radon(image.numpy(), degrees, circle=True)
    ours = Radon(65, -np.deg2rad(degrees), detectors=65)(image[None])[0]
    assert abs(ours.numpy().T - theirs).max() < 0.01 * theirs.max()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Radon(8, []), "angles"),
        (lambda: Radon(8, [float("nan")]), "angles"),
        (lambda: Radon(0, [0.0]), "positive"),
        (lambda: Radon(8, [0.0], detectors=0), "positive"),
        (lambda: Radon(8, [0.0])(torch.ones(2, 9, 9)), r"\(\.\.\., 8, 8\); got \(2, 9, 9\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
