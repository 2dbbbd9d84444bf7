r"""Places: by what a region of x, or of the theta that x points to, is told.

.. math::
    F_{ip} = \frac{2\, \mathrm{rank}_i\, h_p(x_i) - 1}{n} - 1, \qquad
    h = (\text{columns of } x,\ E_q[\vartheta \mid x])

Regions of the true theta will not do: the posterior is right on average over theta given x, and
near the edge of the prior the truth is above the draws even of the exact posterior. Where x points
can be asked.
"""

from __future__ import annotations

__all__ = ["Places", "describe"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

MOST = 40  # numbers of a field up to which each is a feature
CHANNELS = 4


@dataclass(frozen=True)
class Places:
    """Features ``values`` (n, p), ranks brought to (-1, 1), and their ``names``."""

    names: tuple[str, ...]
    values: np.ndarray


def describe(
    given: Mapping[str, np.ndarray],
    columns: Mapping[str, Sequence[str]],
    means: np.ndarray,
    names: Sequence[str],
) -> Places:
    """The features of the given fields and of the means of the pools.

    Arguments:
        given: Arrays (n, ...) by name: their numbers where these are few, else the mean and the
            logarithm of the spread, of each channel where channels are few.
        columns: Names of the numbers of a field, where it has them.
        means: Of each quantity in each pool, shape (n, k).
        names: Of the quantities.
    """
    found = {f"the posterior mean of {name}": means[:, i] for i, name in enumerate(names)}
    for name, values in given.items():
        found |= _of_field(name, np.asarray(values, dtype=np.float64), columns.get(name))
    found = {k: _filled(v) for k, v in found.items()}
    live = {k: v for k, v in found.items() if np.isfinite(v).all() and np.ptp(v) > 0}
    if not live:
        return Places((), np.zeros((len(means), 0)))
    scores = [(2 * rankdata(v) - 1) / len(v) - 1 for v in live.values()]
    return Places(tuple(live), np.stack(scores, 1))


def _of_field(name: str, x: np.ndarray, columns: Sequence[str] | None) -> dict[str, np.ndarray]:
    flat = x.reshape(len(x), -1)
    size = flat.shape[1]
    if size <= MOST:
        labels = columns or ([name] if size == 1 else [f"{name}_{i}" for i in range(size)])
        return {label: flat[:, i] for i, label in enumerate(labels)}
    out = {f"the mean of {name}": flat.mean(1), f"the spread of {name}": _spread(flat)}
    axis = -1 if x.ndim == 3 else 1  # (n, K, features) or (n, channels, ...)
    if x.ndim > 2 and 1 < x.shape[axis] <= CHANNELS:
        for i, part in enumerate(np.moveaxis(x, axis, 0)):
            part, label = part.reshape(len(x), -1), f"{name}[{i}]"
            out |= {f"the mean of {label}": part.mean(1), f"the spread of {label}": _spread(part)}
    return out


def _filled(v: np.ndarray) -> np.ndarray:
    """Entries that are not observed, at the middle of those that are."""
    gaps = np.isnan(v)
    return np.where(gaps, np.median(v[~gaps]), v) if gaps.any() and not gaps.all() else v


def _spread(flat: np.ndarray) -> np.ndarray:
    return np.log(flat.std(1) + 1e-30)
