r"""Sets on an axis by a function's values: their ends, and where more values are needed.

.. math::
    \{\psi : f(\psi) \le c\} = [a_1, b_1] \cup [a_2, b_2] \cup \dots

Between two values ends are interpolated in the root of f, which is linear where f is a parabola
that touches zero.
"""

from __future__ import annotations

__all__ = ["intervals", "peak", "refined", "written"]

import math
from collections.abc import Sequence

import numpy as np
from numpy import ndarray as Array

_COARSEST = 0.5  # of the root of f, between neighbours
_FINE = 1e-5  # of the axis, below which no cell is divided


def intervals(
    axis: Array, values: Array, threshold: float, bounds: Sequence[float], root: bool = True
) -> tuple[tuple[float, float], ...]:
    """The intervals where a function is at most a threshold, in rising order.

    Arguments:
        axis: Points (g,), rising.
        values: The function there (g,).
        threshold: The threshold.
        bounds: What lies beyond the first and last point: an interval that reaches those ends
            there.
        root: Whether to interpolate the root of the function, else itself.
    """
    inside = np.concatenate([[False], values <= threshold, [False]])
    first = np.flatnonzero(inside[1:] & ~inside[:-1])
    last = np.flatnonzero(inside[:-1] & ~inside[1:]) - 1
    out = []
    for i, j in zip(first.tolist(), last.tolist()):
        low = bounds[0] if i == 0 else _between(axis, values, i, i - 1, threshold, root)
        high = (
            bounds[1] if j == len(axis) - 1 else _between(axis, values, j, j + 1, threshold, root)
        )
        out.append((float(low), float(high)))
    return tuple(out)


def _between(axis: Array, values: Array, i: int, j: int, threshold: float, root: bool) -> float:
    """Where the function crosses the threshold between the points i, inside, and j."""
    a, b, c = values[i], values[j], threshold
    if not math.isfinite(b):
        return float(axis[i])
    if root:
        a, b, c = (math.sqrt(max(v, 0.0)) for v in (a, b, c))
    return float(axis[i] + (axis[j] - axis[i]) * (c - a) / (b - a))


def refined(
    axis: Array, t: Array, thresholds: Sequence[float], far: float, bounds: Sequence[float]
) -> Array:
    """Points to add to an axis: where t is small and steep, near thresholds, and beyond the ends.

    Arguments:
        axis: Points (g,), rising.
        t: The function there (g,).
        thresholds: At which t has to be known well.
        far: t from which on nothing is added.
        bounds: Beyond which nothing is.
    """
    s = np.sqrt(np.maximum(t, 0.0))
    width = np.diff(axis)
    whole = axis[-1] - axis[0]
    wide = width > _FINE * whole
    near = np.minimum(t[1:], t[:-1]) < far
    middle = (axis[1:] + axis[:-1]) / 2
    new = list(middle[wide & near & ~(np.abs(np.diff(s)) < _COARSEST)])
    for c in thresholds:
        for i in np.flatnonzero(wide & ((t[1:] <= c) != (t[:-1] <= c))).tolist():
            i, j = (i, i + 1) if t[i] <= c else (i + 1, i)
            found = _between(axis, t, i, j, c, True)
            if min(abs(found - axis[i]), abs(found - axis[j])) > _FINE * whole / 10:
                new.append(found)
    if t[0] < far and axis[0] > bounds[0] and not math.isfinite(bounds[0]):
        new.append(axis[0] - 0.5 * whole)
    if t[-1] < far and axis[-1] < bounds[1] and not math.isfinite(bounds[1]):
        new.append(axis[-1] + 0.5 * whole)
    return np.setdiff1d(np.array(new), axis)


def peak(axes: Sequence[Array], values: Array) -> tuple[Array, float]:
    """Where a function on a grid is highest, and how high; by a parabola on a single axis."""
    at = np.unravel_index(int(np.argmax(values)), values.shape)
    point, top = np.array([a[i] for a, i in zip(axes, at)]), float(values[at])
    i = at[0]
    if len(axes) > 1 or not 0 < i < len(values) - 1:
        return point, top
    x, y = axes[0][i - 1 : i + 2] - axes[0][i], values[i - 1 : i + 2] - top
    if not np.isfinite(y).all():
        return point, top
    b, a = np.linalg.solve(np.stack([x[[0, 2]], x[[0, 2]] ** 2], 1), y[[0, 2]])
    if not a < 0 or abs(b / (2 * a)) > max(-x[0], x[2]):
        return point, top
    return point - b / (2 * a), top - b * b / (4 * a)


def written(found: Sequence[tuple[float, float]]) -> str:
    """Intervals in words."""
    return " and ".join(f"[{a:.4g}, {b:.4g}]" for a, b in found) or "nowhere"
