r"""What a simple regression says about theta given x, learned only from earlier pairs.

.. math::
    \hat\vartheta(x_i) = a + B^\top h(x_i), \qquad (a, B) \text{ fitted to pairs } j < i

Because a prediction uses x_i and the past alone, a rank that is uniform given x_i stays uniform
given the prediction, and ranks stay independent: the checks built on it are exact, and need no
second dataset.
"""

from __future__ import annotations

__all__ = ["Prediction", "predict", "summaries"]

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

BLOCKS = 8
FLAT = 100
PROJECTIONS = 32


@dataclass(frozen=True)
class Prediction:
    """Of quantities from x: ``mean``, error ``scale``, ``median`` of the past means; all (n, k).

    The first pairs only teach: their rows are NaN in mean.
    """

    mean: np.ndarray
    scale: np.ndarray
    median: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """Which pairs have a prediction, shape (n,)."""
        return np.isfinite(self.mean).all(-1)


def _field_summaries(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """h(x): the values themselves when few, else moments, roughness and random projections."""
    n = len(x)
    flat = np.asarray(x, dtype=np.float64).reshape(n, -1)
    if flat.shape[1] <= FLAT:
        return flat
    center, spread = np.median(flat, 0), flat.std(0)
    weights = rng.standard_normal((flat.shape[1], PROJECTIONS)) / np.sqrt(flat.shape[1])
    out = [((flat - center) / np.where(spread > 0, spread, 1.0)) @ weights]
    values = np.asarray(x, dtype=np.float64)
    if values.ndim == 3:  # (n, K, features): elements on axis 1
        values = np.swapaxes(values, 1, 2)
    elif values.ndim == 2:
        values = values[:, None]
    axes = tuple(range(2, values.ndim))
    mean = values.mean(axes, keepdims=True)
    centred = values - mean
    sd = np.sqrt((centred**2).mean(axes, keepdims=True))
    third = (centred**3).mean(axes) / np.where(sd > 0, sd, 1.0).reshape(n, -1) ** 3
    out += [mean.reshape(n, -1), np.log(sd.reshape(n, -1) + 1e-30), third]
    out += [np.log(np.abs(np.diff(values, axis=a)).mean(axes) + 1e-30) for a in axes]
    return np.concatenate(out, 1)


def _filled(x: np.ndarray) -> list[np.ndarray]:
    """x (n, ...), means in the place of NaN; where there is any, also which entries are there."""
    there = ~np.isnan(np.asarray(x, dtype=np.float64))
    if there.all():
        return [x]
    mean = np.where(there, x, 0.0).sum(0) / np.maximum(there.sum(0), 1)
    return [np.where(there, x, mean), there.astype(np.float64)]


def summaries(given: Mapping[str, np.ndarray], seed: int = 0) -> np.ndarray:
    """Standardised features h(x) (n, p) of the given fields; of few, their squares too."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(11,)))
    parts = [part for x in given.values() for part in _filled(x)]
    h = np.concatenate([_field_summaries(x, rng) for x in parts], 1)
    low, center, high = np.quantile(h, [0.16, 0.5, 0.84], axis=0)
    scale = np.where(high > low, (high - low) / 2, h.std(0))
    h = h[:, scale > 0]
    h = (h - center[scale > 0]) / scale[scale > 0]
    # Heavy tails would own a least-squares fit.
    h = np.sign(h) * np.log1p(np.abs(h))
    return np.concatenate([h, h**2], 1) if h.shape[1] <= 30 else h


def _ridge(h: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients (p, k), means of h, errors (k,); penalty by generalised cross-validation."""
    n, center = len(h), h.mean(0)
    left, s, right = np.linalg.svd(h - center, full_matrices=False)
    inner = left.T @ (y - y.mean(0))
    total = ((y - y.mean(0)) ** 2).sum(0)
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for penalty in np.geomspace(1e-4, 1e4, 17) * n:
        shrink = s**2 / (s**2 + penalty)
        freedom = 1 - (1 + shrink.sum()) / n
        if freedom <= 0.05:
            continue
        residual = total - ((1 - (1 - shrink) ** 2)[:, None] * inner**2).sum(0)
        error = np.sqrt(np.maximum(residual, 0) / n) / freedom
        score = float((error**2 / np.where(total > 0, total, 1)).sum())
        if best is None or score < best[0]:
            filters = np.divide(shrink, s, out=np.zeros_like(s), where=s > 0)
            best = score, right.T @ (filters[:, None] * inner), error
    if best is None:
        return np.zeros((h.shape[1], y.shape[1])), center, y.std(0)
    return best[1], center, best[2]


def predict(given: Mapping[str, np.ndarray], values: np.ndarray, seed: int = 0) -> Prediction:
    """Predicts quantities (n, k) from the given fields, each pair by the pairs before it.

    Arguments:
        given: Arrays (n, ...) by name; empty for none, which predicts the mean.
        values: The true quantities, shape (n, k).
        seed: Of the random projections of large fields.
    """
    n, k = values.shape
    y = np.asarray(values, dtype=np.float64)
    h = summaries(given, seed) if given else np.zeros((n, 1))
    mean, scale, median = (np.full((n, k), np.nan) for _ in range(3))
    edges = np.linspace(0, n, BLOCKS + 1).round().astype(int)
    for start, stop in pairwise(edges[1:]):
        past, y_past = h[:start], y[:start]
        coefficients, center, error = _ridge(past, y_past)
        intercept = y_past.mean(0)
        mean[start:stop] = intercept + (h[start:stop] - center) @ coefficients
        scale[start:stop] = np.where(error > 0, error, 1.0)
        median[start:stop] = np.median(intercept + (past - center) @ coefficients, 0)
    return Prediction(mean, scale, median)
