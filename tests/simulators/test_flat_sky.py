"""Bins of Fourier modes against plain FFTs of whole maps."""

import numpy as np
import pytest

from simulators.flat_sky import FlatSky

SKY = FlatSky(12, 3.0)


def full_plane():
    """Wave numbers (N, N) of the whole plane."""
    k = np.fft.fftfreq(12, 1 / 12)
    return np.hypot(k[:, None], k)


def test_multipoles_and_counts_are_those_of_the_plane():
    l_1 = 120.0
    assert SKY.counts.sum() == 144
    assert SKY.multipoles[0] == pytest.approx(l_1)
    expected, counts = np.unique((full_plane() ** 2).round(), return_counts=True)
    found = (SKY.multipoles / l_1) ** 2
    found[0] = 0
    for value, count in zip(expected, counts):
        assert SKY.counts[np.isclose(found, value)].sum() == count


def test_fold_sums_the_whole_plane():
    x = np.random.default_rng(0).normal(size=(3, 12, 12))
    power = np.abs(np.fft.fft2(x)) ** 2
    folded = SKY.fold(np.abs(np.fft.rfft2(x)) ** 2)
    for bin_ in range(len(SKY.multipoles)):
        one = np.eye(len(SKY.multipoles))[bin_]
        half = SKY.expand(one)
        full = np.concatenate([half, np.roll(half[::-1], 1, 0)[:, 5:0:-1]], 1)
        np.testing.assert_allclose(folded[:, bin_], (power * full).sum((1, 2)))


def test_correlation_is_the_transform_of_the_spectrum_and_back():
    spectrum = 1 / (1 + SKY.multipoles**2)
    plane = np.fft.irfft2(SKY.expand(spectrum)) / SKY.pixel_area
    correlation = SKY.correlation(spectrum)
    rows, columns = np.tril_indices(7)
    np.testing.assert_allclose(correlation, plane[rows, columns], rtol=1e-9)
    np.testing.assert_allclose(correlation, plane[columns, rows], rtol=1e-9)
    np.testing.assert_allclose(SKY.spectrum(correlation), spectrum, rtol=1e-9)


@pytest.mark.parametrize("pixels, side", [(7, 1.0), (2, 1.0), (8, 0.0), (8, np.nan)])
def test_bad_geometry_is_refused(pixels, side):
    with pytest.raises(ValueError, match="must be"):
        FlatSky(pixels, side)
