r"""Summaries of maps: power spectrum, one-point distribution and peak counts.

.. math::
    \hat C_b = \frac{A_{pix}}{N^2 |b|} \sum_{\ell \in b} |\hat x_\ell|^2, \qquad
    \hat p_b = \frac{\#\{x_{ij} \in b\}}{N^2 \Delta_b}, \qquad
    n_b = \#\{\text{local maxima} \in b\}

Each takes periodic maps (n, channels, N, N) and returns (n, channels * bins), channel by channel.
"""

from __future__ import annotations

__all__ = ["multipole_edges", "one_point_pdf", "peak_counts", "power_spectrum", "smooth"]

import numpy as np
from scipy.fft import irfft2, rfft2

from .flat_sky import FlatSky

Array = np.ndarray


def _checked(maps: Array) -> Array:
    maps = np.asarray(maps)
    if maps.ndim != 4 or maps.shape[-1] != maps.shape[-2]:
        raise ValueError(f"maps must be (n, channels, N, N); got {maps.shape}")
    return maps if maps.dtype.kind == "f" else maps.astype(float)


def _bin_edges(edges: Array) -> Array:
    edges = np.asarray(edges, dtype=float)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError("edges must be at least two increasing numbers")
    return edges


def multipole_edges(pixels: int, side_deg: float, bins: int = 12) -> Array:
    """Evenly spaced edges (bins + 1,) from the fundamental to the Nyquist multipole, included.

    Raises:
        ValueError: If the bins are narrower than the fundamental, and may be empty.
    """
    if not 1 <= bins < pixels // 2:
        raise ValueError(f"bins must be 1 to {pixels // 2 - 1} for {pixels} pixels; got {bins}")
    fundamental = 360.0 / side_deg
    return fundamental * np.linspace(0.999, pixels / 2 + 0.001, bins + 1)


def power_spectrum(maps: Array, side_deg: float, edges: Array | None = None) -> Array:
    """The mean power C_l in bins of the multipole.

    Arguments:
        maps: Maps (n, channels, N, N), N even.
        side_deg: Length of a side in degrees.
        edges: Edges of the bins in l, shape (bins + 1,); `multipole_edges` unless given.

    Returns:
        Band powers (n, channels * bins), without the subtraction of noise.

    Raises:
        ValueError: If a bin holds no mode of the map.
    """
    maps = _checked(maps)
    pixels = maps.shape[-1]
    sky = FlatSky(pixels, side_deg)
    edges = multipole_edges(pixels, side_deg) if edges is None else _bin_edges(edges)
    counts = sky.counts.copy()
    counts[0] = 0  # the mean is no multipole
    band = np.searchsorted(edges, sky.multipoles, side="right") - 1
    member = (band == np.arange(len(edges) - 1)[:, None]) & (counts > 0)
    modes = member @ counts
    if (modes == 0).any():
        b = int(np.argmax(modes == 0))
        raise ValueError(
            f"no mode of the map lies in {edges[b]:.4g} <= l < {edges[b + 1]:.4g}; "
            f"use fewer bins within {360 / side_deg:.4g} to {180 * pixels / side_deg:.4g}"
        )
    power = sky.fold(np.abs(rfft2(maps)) ** 2) * (sky.pixel_area / pixels**2)
    return (power @ (member / modes[:, None]).T.astype(maps.dtype)).reshape(len(maps), -1)


def _histogram(values: Array, edges: Array, weights: Array | None = None) -> Array:
    """Counts (n, c, bins) of values (n, c, ...) in bins [a, b); what lies outside is left out."""
    n, c = values.shape[:2]
    bins = len(edges) - 1
    place = np.searchsorted(edges, values.reshape(n * c, -1), side="right")
    place += np.arange(n * c)[:, None] * (bins + 2)
    chosen = None if weights is None else weights.ravel()
    counts = np.bincount(place.ravel(), chosen, minlength=n * c * (bins + 2))
    return counts.reshape(n, c, bins + 2)[..., 1:-1]


def one_point_pdf(maps: Array, edges: Array) -> Array:
    """The density of pixel values.

    Arguments:
        maps: Maps (n, channels, N, N).
        edges: Edges of the bins in the maps' unit, shape (bins + 1,).

    Returns:
        The share of pixels in each bin over its width, (n, channels * bins).
    """
    maps, edges = _checked(maps), _bin_edges(edges)
    density = _histogram(maps, edges) / (np.diff(edges) * maps.shape[-1] ** 2)
    return density.reshape(len(maps), -1).astype(maps.dtype)


def peak_counts(maps: Array, edges: Array) -> Array:
    """The number of peaks, pixels above their eight neighbours, by height.

    Arguments:
        maps: Maps (n, channels, N, N).
        edges: Edges of the bins in height, in the maps' unit, shape (bins + 1,).

    Returns:
        Counts (n, channels * bins).
    """
    maps, edges = _checked(maps), _bin_edges(edges)
    # The largest of three along one axis, then along the other, is the largest of the nine.
    along = np.maximum(np.roll(maps, 1, -1), np.roll(maps, -1, -1))
    three = np.maximum(along, maps)
    around = np.maximum(along, np.maximum(np.roll(three, 1, -2), np.roll(three, -1, -2)))
    counts = _histogram(maps, edges, maps > around)
    return counts.reshape(len(maps), -1).astype(maps.dtype)


def smooth(maps: Array, side_deg: float, fwhm_arcmin: float) -> Array:
    r"""Maps smoothed with a Gaussian beam, :math:`e^{-\ell^2 \sigma^2 / 2}`, same shape.

    Arguments:
        maps: Maps (n, channels, N, N).
        side_deg: Length of a side in degrees.
        fwhm_arcmin: Full width of the beam at half maximum, in arcminutes.
    """
    maps = _checked(maps)
    sigma = np.radians(fwhm_arcmin / 60) / np.sqrt(8 * np.log(2))
    sky = FlatSky(maps.shape[-1], side_deg)
    beam = np.exp(-((sky.multipoles * sigma) ** 2) / 2).astype(maps.dtype)
    beam[0] = 1
    return irfft2(rfft2(maps) * sky.expand(beam), maps.shape[-2:])
