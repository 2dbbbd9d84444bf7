"""Summaries of maps whose summaries are known."""

import numpy as np
import pytest

from simulators.map_summaries import (
    multipole_edges,
    one_point_pdf,
    peak_counts,
    power_spectrum,
    smooth,
)

N, SIDE = 32, 4.0


def wave(i, j, amplitude=1.0):
    y, x = np.mgrid[:N, :N]
    return amplitude * np.cos(2 * np.pi * (i * y + j * x) / N)[None, None]


@pytest.mark.parametrize("i, j", [(3, 0), (0, 5), (4, 7), (-6, 2)])
def test_a_plane_wave_has_power_at_its_multipole_alone(i, j):
    """Variance a^2 / 2 is the sum of C_l / L^2 over the modes of the band."""
    edges = np.array([80.0, 300.0, 500.0, 700.0, 900.0, 1500.0])
    power = power_spectrum(wave(i, j, 0.3), SIDE, edges)[0]
    multipole = 360 / SIDE * np.hypot(i, j)
    band = np.searchsorted(edges, multipole) - 1
    k = np.fft.fftfreq(N, 1 / N) * 360 / SIDE
    plane = np.hypot(k[:, None], k)
    modes = ((plane >= edges[band]) & (plane < edges[band + 1])).sum()
    expected = np.zeros(5)
    expected[band] = 0.3**2 / 2 * np.radians(SIDE) ** 2 / modes
    np.testing.assert_allclose(power, expected, rtol=1e-9, atol=1e-12 * expected.max())


def test_white_noise_has_a_flat_spectrum():
    maps = np.random.default_rng(0).normal(0, 0.2, (400, 1, N, N))
    powers = power_spectrum(maps, SIDE)
    assert powers.shape == (400, 12)
    mean, error = powers.mean(0), powers.std(0) / 20
    expected = 0.2**2 * np.radians(SIDE / N) ** 2
    assert np.abs((mean - expected) / error).max() < 4


def test_one_point_pdf_is_the_density_of_pixels():
    pdf = one_point_pdf(np.arange(64.0).reshape(1, 1, 8, 8), np.array([0.0, 10.0, 15.0, 64.0]))
    np.testing.assert_allclose(pdf, [[1 / 64] * 3])
    pdf = one_point_pdf(np.full((2, 1, 4, 4), 5.0), np.array([0.0, 5.0, 6.0, 8.0]))
    np.testing.assert_array_equal(pdf, [[0, 1, 0]] * 2)
    outside = one_point_pdf(np.full((1, 1, 4, 4), 9.0), np.array([0.0, 5.0]))
    np.testing.assert_array_equal(outside, [[0]])


def test_planted_peaks_are_counted_at_their_height():
    maps = np.zeros((2, 1, 16, 16))
    maps[0, 0, 3, 3], maps[0, 0, 8, 8], maps[0, 0, 0, 15] = 1.5, 2.5, 2.6  # one at the edge
    maps[0, 0, 8, 9] = 2.4  # a shoulder, no peak
    maps[1, 0, 5, 5] = maps[1, 0, 5, 6] = 1.5  # a plateau is no peak
    maps[1, 0, 15, 7], maps[1, 0, 0, 7] = 1.2, 1.9  # neighbours across the boundary
    counts = peak_counts(maps, np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(counts, [[1, 2], [1, 0]])


def test_one_pixel_in_nine_of_white_noise_is_a_peak():
    maps = np.random.default_rng(1).normal(size=(60, 1, 64, 64)).astype(np.float32)
    share = peak_counts(maps, np.array([-10.0, 10.0])) / 64**2
    assert share.dtype == np.float32
    assert abs(share.mean() - 1 / 9) < 4 * share.std() / 60**0.5


def test_smoothing_damps_a_wave_by_the_beam():
    sigma = np.radians(10 / 60) / np.sqrt(8 * np.log(2))
    multipole = 360 / SIDE * np.hypot(4, 7)
    damped = wave(4, 7) * np.exp(-((multipole * sigma) ** 2) / 2)
    np.testing.assert_allclose(smooth(1 + wave(4, 7), SIDE, 10.0), 1 + damped, atol=1e-12)


def test_channels_follow_one_another():
    maps = np.random.default_rng(2).normal(size=(3, 2, N, N))
    edges = np.array([0.0, 1.0, 2.0])
    for function in (
        lambda m: power_spectrum(m, SIDE),
        lambda m: one_point_pdf(m, edges),
        lambda m: peak_counts(m, edges),
    ):
        both = function(maps)
        single = np.concatenate([function(maps[:, :1]), function(maps[:, 1:])], 1)
        np.testing.assert_allclose(both, single, rtol=1e-12)


def test_bad_maps_and_edges_are_refused():
    maps = np.zeros((1, 1, N, N))
    with pytest.raises(ValueError, match=r"maps must be \(n, channels, N, N\)"):
        one_point_pdf(np.zeros((N, N)), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="increasing"):
        peak_counts(maps, np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="no mode of the map lies in"):
        power_spectrum(maps, SIDE, np.array([91.0, 100.0]))
    assert len(multipole_edges(64, 5.0, 7)) == 8
