"""The spectral layer: exact on stationary Gaussian fields before any training."""

import math

import pytest
import torch

from simgen.models.spectral import SpectralGaussian, _tables


def power(grid, slope):
    """A power-law spectrum on the full grid."""
    k = torch.stack(torch.meshgrid(*[torch.fft.fftfreq(n) * n for n in grid], indexing="ij"))
    return (1 + k.square().sum(0)).double() ** slope


def field(n, spectrum):
    white = torch.randn(n, *spectrum.shape, dtype=torch.float64)
    axes = tuple(range(1, white.dim()))
    return torch.fft.ifftn(torch.fft.fftn(white, dim=axes) * spectrum.sqrt(), dim=axes).real


def log_density(x, spectrum):
    """Of a stationary Gaussian field (n, *grid)."""
    axes = tuple(range(1, x.dim()))
    modes = torch.fft.fftn(x, dim=axes, norm="ortho").abs().square()
    each = modes / spectrum + (2 * math.pi * spectrum).log()
    return -0.5 * each.flatten(1).sum(1)


def found_density(layer, x, given):
    with torch.no_grad():
        y, ladj = layer.call_and_ladj(x, given)
    return ladj - 0.5 * (y.square() + math.log(2 * math.pi)).flatten(1).sum(1)


@pytest.mark.parametrize("grid", [(16,), (8, 6), (4, 6, 4), (7, 5)])
def test_every_mode_is_counted_once(grid):
    mode, count, bands = _tables(grid)
    assert int(count.sum()) == math.prod(grid)
    torch.testing.assert_close(bands.sum(0), torch.ones(len(mode)))
    real = sum(
        all(2 * k % n == 0 for k, n in zip(v, grid))
        for v in torch.cartesian_prod(*[torch.arange(n) for n in grid])
        .view(-1, len(grid))
        .tolist()
    )
    assert int(mode.max()) + 1 == (math.prod(grid) + real) // 2


@pytest.mark.parametrize("grid", [(8, 6), (16,), (4, 4, 6)])
def test_a_gaussian_field_is_exact_at_the_start(grid):
    torch.manual_seed(0)
    spectrum = power(grid, -1.2)
    layer = SpectralGaussian(1, grid, 0, 0).double()
    n = 4_000
    layer.initialise(field(n, spectrum)[:, None] + 0.7, (None, None))
    fresh = field(500, spectrum)
    gap = log_density(fresh, spectrum) - found_density(layer, fresh[:, None] + 0.7, (None, None))
    # half a nat for each number that n rows determined, and the scatter of 500 rows
    numbers = int(layer.mode.max()) + 2
    assert -4e-3 < float(gap.mean()) < 4 * numbers / (2 * n) + 4e-3


def test_a_noisy_map_gives_the_wiener_posterior():
    torch.manual_seed(0)
    grid, n = (8, 8), 4_000
    spectrum, noise = power(grid, -1.0), 0.3
    x = field(n, spectrum)
    y = x + noise**0.5 * torch.randn_like(x)
    layer = SpectralGaussian(1, grid, 0, 1).double()
    layer.initialise(x[:, None], (None, y[:, None]))
    x = field(500, spectrum)
    y = x + noise**0.5 * torch.randn_like(x)
    gain = spectrum / (spectrum + noise)
    mean = torch.fft.ifftn(torch.fft.fftn(y, dim=(1, 2)) * gain, dim=(1, 2)).real
    exact = log_density(x - mean, gain * noise)
    gap = exact - found_density(layer, x[:, None], (None, y[:, None]))
    assert -0.02 < float(gap.mean()) < 4 * 2 * 34 / (2 * n) + 0.02
    with torch.no_grad():  # zero noise gives the mean
        drawn = layer.inverse(torch.zeros(1, 500, 1, *grid).double(), (None, y[:, None]))
    assert (drawn[0, :, 0] - mean).square().mean() < 1e-2 * (x - mean).square().mean()


def test_correlated_channels():
    torch.manual_seed(0)
    spectrum = power((6, 6), -1.0)
    a, b = field(4_000, spectrum), field(4_000, spectrum)
    x = torch.stack((a, 0.8 * a + 0.6 * b), 1)
    layer = SpectralGaussian(2, (6, 6), 0, 0).double()
    layer.initialise(x, (None, None))
    exact = log_density(a, spectrum) + log_density(b, spectrum) - 36 * math.log(0.6)
    gap = exact - found_density(layer, x, (None, None))
    assert abs(float(gap.mean())) < 4 * 3 * 20 / (2 * 4_000) + 0.02


def test_power_follows_the_context_at_the_start():
    """log P(k) = a + b log k with a the context: the start finds it."""
    torch.manual_seed(0)
    spectrum = power((8, 8), -1.0)
    c = torch.randn(4_000, 1, dtype=torch.float64)
    layer = SpectralGaussian(1, (8, 8), 1, 0).double()
    layer.initialise((0.5 * c)[..., None, None].exp() * field(4_000, spectrum)[:, None], (c, None))
    c = torch.randn(500, 1, dtype=torch.float64)
    x = field(500, spectrum)
    exact = log_density(x, spectrum) - 32 * c[:, 0]
    scaled = (0.5 * c)[..., None, None].exp() * x[:, None]
    gap = exact - found_density(layer, scaled, (c, None))
    assert -0.05 < float(gap.mean()) < 0.3
    still = SpectralGaussian(1, (8, 8), 0, 0).double()
    still.initialise(scaled, (None, None))
    assert float((exact - found_density(still, scaled, (None, None))).mean()) > 2
