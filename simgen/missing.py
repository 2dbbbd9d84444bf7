r"""Missing: which entries of what is given are observed, drawn anew for each row of each step.

.. math::
    \min_\phi \; -\mathbb{E}_{p(y, x)\, p(m)} \log q_\phi(y \mid m \odot x, m)

Its minimum is the exact p(y | x_m) of what the pattern m leaves, for every m that p(m) draws, as m
is independent of y and x. A network sees standardised values, zero where they are missing, and
beside them m itself: a zero alone could be a value. A pattern that depends on x or on parameters,
as saturation or a trigger does, tells of them: the simulator records it as a field of booleans,
and the fit takes it from there.

References:
    | All-in-one simulation-based inference (Gloeckler et al., 2024), section 3.2
    | https://arxiv.org/abs/2404.09636
    | Inference and missing data (Rubin, 1976), section 5
    | https://doi.org/10.1093/biomet/63.3.581
"""

from __future__ import annotations

__all__ = ["Blocks", "Missing", "Number", "Patterns", "Random", "as_pattern", "spread"]

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import ndarray as Array

from .field import Field


class Missing(ABC):
    """A law of patterns, of a field of any shape."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, n: int, field: Field) -> Array:
        """n patterns (n, *shape), or what broadcasts to it; True is observed."""


@dataclass(frozen=True)
class Random(Missing):
    """Each entry is missing with a probability.

    Arguments:
        p: The probability; a pair (low, high) draws it uniformly for each row.
        whole: Whether channels of an image, features of a set or a series, go as a whole.
    """

    p: float | tuple[float, float]
    whole: bool = False

    def __post_init__(self) -> None:
        low, high = self._range
        if not 0 <= low <= high <= 1:
            raise ValueError(f"p is a probability, or a pair (low, high) of them; got {self.p!r}")

    @property
    def _range(self) -> tuple[float, float]:
        low, high = (self.p, self.p) if isinstance(self.p, (int, float)) else self.p
        return low, high

    def draw(self, rng: np.random.Generator, n: int, field: Field) -> Array:
        """n patterns."""
        places = _places(field, self.whole)
        p = rng.uniform(*self._range, (n, *[1] * len(places)))
        return rng.random((n, *places)) >= p


@dataclass(frozen=True)
class Number(Missing):
    """A random number of entries is missing, any from `least` to `most` equally likely, and any
    that many alike.

    Arguments:
        most: The largest number; all unless said.
        least: The smallest.
        whole: Whether channels of an image, features of a set or a series, go as a whole.
    """

    most: int | None = None
    least: int = 0
    whole: bool = False

    def __post_init__(self) -> None:
        if self.least < 0 or (self.most is not None and self.most < self.least):
            raise ValueError(f"needs 0 <= least <= most; got {self.least} and {self.most}")

    def draw(self, rng: np.random.Generator, n: int, field: Field) -> Array:
        """n patterns."""
        places = _places(field, self.whole)
        size = int(np.prod(places, dtype=int))
        if (most := size if self.most is None else self.most) > size or self.least > size:
            raise ValueError(f"at most {size} entries can be missing; got {self}")
        u = rng.random((n, size))
        lowest = np.concatenate([np.full((n, 1), -1.0), np.sort(u, 1)], 1)
        number = rng.integers(self.least, most + 1, (n, 1))
        return (u > np.take_along_axis(lowest, number, 1)).reshape(n, *places)


@dataclass(frozen=True)
class Blocks(Missing):
    """Blocks of neighbours are missing: a gap in a series, a patch of an image in all channels.

    Arguments:
        size: The longest side of a block, or one an axis; each side is any length up to it.
        count: The most blocks; any number from none to that many.
    """

    size: int | tuple[int, ...]
    count: int = 1

    def __post_init__(self) -> None:
        if np.min(self.size) < 1 or self.count < 1:
            raise ValueError(f"needs a size and a count of at least 1; got {self}")

    def draw(self, rng: np.random.Generator, n: int, field: Field) -> Array:
        """n patterns."""
        if field.layout == "set" or not field.shape:
            raise ValueError("a set, or a single number, has no neighbours: Random, or Number")
        image = field.layout == "image"
        grid = field.shape[1:] if image else field.shape[:1]
        sizes = (self.size,) * len(grid) if isinstance(self.size, int) else tuple(self.size)
        if len(sizes) != len(grid) or any(s > k for s, k in zip(sizes, grid)):
            raise ValueError(f"blocks of size {self.size} do not fit the axes {grid} of the field")
        gone = np.zeros((n, *grid), dtype=bool)
        number = rng.integers(self.count + 1, size=n)
        for block in range(self.count):
            inside = (block < number).reshape(n, *[1] * len(grid))
            for axis, (k, longest) in enumerate(zip(grid, sizes)):
                side = rng.integers(1, longest + 1, (n, 1))
                start = rng.integers(k - side + 1)
                along = (np.arange(k) >= start) & (np.arange(k) < start + side)
                inside = inside & along.reshape(n, *np.where(np.arange(len(grid)) == axis, k, 1))
            gone |= inside
        if image:
            return ~gone[:, None]
        return ~gone.reshape(n, *grid, *[1] * (len(field.shape) - 1))


class Patterns(Missing):
    """One of several known patterns: the detectors that may be off, a survey's footprints.

    Arguments:
        patterns: Boolean arrays of the field's shape, or what broadcasts to it; True is observed.
        weights: How often each comes; alike unless said.
    """

    def __init__(self, patterns: Sequence[Any], weights: Sequence[float] | None = None) -> None:
        self.patterns = [as_pattern(p, "a pattern") for p in patterns]
        share = np.ones(len(self.patterns)) if weights is None else np.asarray(weights, float)
        if not self.patterns or share.shape != (len(self.patterns),) or not (share >= 0).all():
            raise ValueError(f"needs patterns, and a weight for each; got {len(self.patterns)}")
        self.weights = share / share.sum()

    def draw(self, rng: np.random.Generator, n: int, field: Field) -> Array:
        """n patterns."""
        table = np.stack([spread(p, field.shape, "a pattern") for p in self.patterns])
        return table[rng.choice(len(table), n, p=self.weights)]

    def __repr__(self) -> str:
        code = zlib.crc32(b"".join(np.packbits(p).tobytes() for p in self.patterns))
        return f"Patterns({len(self.patterns)} of crc32 {code:08x}, {self.weights.tolist()})"


def _places(field: Field, whole: bool) -> tuple[int, ...]:
    """The axes along which entries go missing one by one."""
    if not whole or field.layout == "vector":
        return field.shape
    ones = (1,) * (len(field.shape) - 1)
    return (field.columns, *ones) if field.layout == "image" else (*ones, field.columns)


def as_pattern(value: Any, what: str) -> Array:
    """A pattern as an array of booleans.

    Raises:
        ValueError: If it holds anything else than true and false.
    """
    array = np.asarray(value)
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValueError(f"{what} must be boolean, True where observed; got {array.dtype}")
    return array.astype(bool)


def spread(array: Array, shape: tuple[int, ...], what: str) -> Array:
    """A pattern over a shape.

    Raises:
        ValueError: If it does not broadcast to it.
    """
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"{what} must have shape {shape}, or broadcast to it; got {array.shape}"
        ) from None
