"""Power spectra of images: Parseval, symmetries, correlations, configurations."""

import pytest
import torch

from simgen.networks import PowerSpectrum, build


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (16, 6)])
def test_powers_add_up_to_the_variance(size):
    torch.manual_seed(0)
    x = torch.randn(5, 1, *size, dtype=torch.float64)
    net = PowerSpectrum(1, size).double()
    power = net.spectra(x)[:, :-1].exp()
    pixels = size[0] * size[1]
    # Parseval: the sum over all modes but the mean is N^2 times the variance
    expected = pixels**2 * x.var((-2, -1), correction=0)[:, 0]
    torch.testing.assert_close(power @ net.counts, expected)
    torch.testing.assert_close(net.spectra(x)[:, -1], x.mean((-2, -1))[:, 0])


def test_a_wave_stands_in_its_ring_alone():
    i = torch.arange(16.0)
    x = torch.cos(2 * torch.pi * 3 * i / 16).expand(1, 1, 16, 16)
    power = PowerSpectrum(1, (16, 16)).spectra(x)[0, :-1].exp()
    assert power.argmax() == 2 and power[2] > 1e6 * power.sum().sub(power[2])


def test_translations_change_nothing():
    torch.manual_seed(0)
    x = torch.randn(3, 2, 8, 8)
    net = PowerSpectrum(2, (8, 8))
    torch.testing.assert_close(
        net.spectra(x.roll((3, 5), (-2, -1))), net.spectra(x), rtol=1e-4, atol=1e-4
    )


def test_correlations_of_channels():
    torch.manual_seed(0)
    a, b = torch.randn(2, 4_000, 1, 8, 8)
    x = torch.cat([a, 0.6 * a + 0.8 * b], 1)
    net = PowerSpectrum(2, (8, 8))
    rings = len(net.counts)
    cross = net.spectra(x)[:, 2 * rings : 3 * rings]
    # a ring of n modes biases a correlation by O(1 / n)
    assert (cross.mean(0)[net.counts > 8] - 0.6).abs().max() < 0.04
    same = net.spectra(torch.cat([a, -2 * a], 1))[:, 2 * rings : 3 * rings]
    torch.testing.assert_close(same, -torch.ones_like(same))


def test_initialised_it_tells_the_amplitude_and_can_be_rebuilt():
    torch.manual_seed(0)
    amplitude = torch.rand(2_000, 1) + 0.5
    x = amplitude[..., None, None] * torch.randn(2_000, 1, 8, 8)
    net = PowerSpectrum(1, (8, 8))
    net.initialise(x, amplitude)
    assert net.encoder.weight.shape[1] > 0
    features = net(x)
    design = torch.cat([features.detach(), torch.ones(2_000, 1)], 1).double()
    # some columns are zero: by singular values
    fitted = torch.linalg.lstsq(design, amplitude.double(), driver="gelsd").solution
    rest = amplitude - design @ fitted
    # 64 pixels know an amplitude to 1 / sqrt(128)
    assert rest.std() < 1.2 * amplitude.mean() / 128**0.5
    again = build(net.config)
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again(x), features)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="four pixels"):
        PowerSpectrum(1, (3, 8))
    with pytest.raises(ValueError, match="images must be"):
        PowerSpectrum(1, (8, 8))(torch.zeros(2, 1, 8, 9))
