r"""Are parameters correlated as the draws say? Ranks of products of residuals.

.. math:: g_{jk}(\vartheta, x) = e_j\, e_k, \qquad j < k

A posterior whose marginals are right and whose correlations are not passes every rank test of a
single parameter. The truth's products then lie too high or too low among those of the draws.
"""

from __future__ import annotations

__all__ = ["Correlation", "assess_products", "count_products"]

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from .pool import Pool
from .uniformity import normal_scores


@dataclass(frozen=True)
class Correlation:
    """Of all pairs of quantities together: the p-value, and what the worst pair shows.

    Attributes:
        p_value: Bonferroni's, over the pairs.
        worst: Places of the two quantities.
        truth: Correlation of their residuals, of the true values.
        drawn: That of the draws.
    """

    p_value: float
    worst: tuple[int, int]
    truth: float
    drawn: float


def count_products(pool: Pool) -> tuple[Tensor, Tensor]:
    """How many draws have a product below that of the truth, and how many the same one.

    Returns:
        Two counts, shape (B, k (k - 1) / 2), pairs in the order 01, 02, ..., 12, ...
    """
    below, same = [], []
    for j in range(pool.truth.shape[-1] - 1):
        drawn = pool.draws[..., j, None] * pool.draws[..., j + 1 :]
        truth = pool.truth[..., j, None] * pool.truth[..., j + 1 :]
        below.append((drawn < truth).sum(0))
        same.append((drawn == truth).sum(0))
    return torch.cat(below, -1), torch.cat(same, -1)


def assess_products(
    ranks: np.ndarray,
    draws: int,
    moments: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> Correlation:
    """Tests the ranks of products (n, P), each by the mean of its normal scores.

    Arguments:
        ranks: In 0 ... draws.
        draws: The number S of draws.
        moments: Mean e e^T (k, k) of the truths and of the draws.
        rng: Spreads each rank over its cell.
    """
    z = normal_scores(ranks, draws, rng)
    p = 2 * ndtr(-np.abs(z.mean(0)) * np.sqrt(len(z)))
    j, k = list(combinations(range(len(moments[0])), 2))[int(p.argmin())]
    truth, drawn = (_correlation(m, j, k) for m in moments)
    return Correlation(float(min(len(p) * p.min(), 1.0)), (j, k), truth, drawn)


def about_correlation(found: Correlation, names: Sequence[str]) -> str:
    """In words."""
    j, k = found.worst
    return (
        f"{names[j]} and {names[k]}: true values correlate by {found.truth:.2f}, "
        f"draws by {found.drawn:.2f}"
    )


def _correlation(m: np.ndarray, j: int, k: int) -> float:
    scale = np.sqrt(m[j, j] * m[k, k])
    return float(m[j, k] / scale) if scale > 0 else 0.0
