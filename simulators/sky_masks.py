"""Masks of a square map: which pixels are observed, by name or pixel by pixel.

- "disc": the disc that fits the square, 79 % of it.
- "stars": all but discs around bright stars, of radius N / 32 or one pixel, that cover some 10 %.
"""

from __future__ import annotations

__all__ = ["MASKS", "mask_of", "rows_of"]

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray


def _distance(pixels: int, row: float, column: float) -> Array:
    y, x = np.indices((pixels, pixels)) + 0.5
    return np.hypot(y - row, x - column)


def disc(pixels: int) -> Array:
    """Observed pixels (N, N) within the disc that fits the square."""
    return _distance(pixels, pixels / 2, pixels / 2) <= pixels / 2


def stars(pixels: int) -> Array:
    """Observed pixels (N, N) outside discs at random places, the same in every survey."""
    rng = np.random.default_rng(5)
    radius = max(1.0, pixels / 32)
    observed = np.ones((pixels, pixels), dtype=bool)
    while observed.mean() > 0.9:
        observed &= _distance(pixels, *rng.uniform(0, pixels, 2)) > radius
    return observed


MASKS = {"disc": disc, "stars": stars}


def mask_of(mask: Any, pixels: int) -> Array:
    """Observed pixels (N, N).

    Arguments:
        mask: A name in `MASKS`, an array (N, N) that is true where the sky is observed, or N rows
            of N digits, "0" for masked.
        pixels: N.

    Raises:
        ValueError: If it is none of these, or nothing is observed.
    """
    if isinstance(mask, str):
        if mask not in MASKS:
            raise ValueError(f"mask must be one of {', '.join(MASKS)}, or an array; got {mask!r}")
        return MASKS[mask](pixels)
    if len(mask) and isinstance(mask[0], str):
        mask = [[digit != "0" for digit in row] for row in mask]
    observed = np.asarray(mask).astype(bool)
    if observed.shape != (pixels, pixels) or not observed.any():
        raise ValueError(
            f"mask must be ({pixels}, {pixels}) with observed pixels; got {observed.shape} with "
            f"{observed.sum()}"
        )
    return observed


def rows_of(observed: Array) -> Sequence[str]:
    """The mask as rows of digits, which fit into JSON."""
    return ["".join(map(str, row)) for row in observed.astype(int).tolist()]
