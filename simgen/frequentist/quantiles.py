r"""Every quantile of a statistic t as a function of theta, from pairs (theta_i, t_i).

.. math::
    \hat P(t' \ge t \mid \vartheta) = \frac{\sum_i w_i(\vartheta)\, [t_i \ge t]}
        {\sum_i w_i(\vartheta)}, \qquad
    w_i = K_i \bigl( 1 - \delta_i^\top S^{-1} m \bigr)_+, \quad
    m = \sum_i K_i \delta_i, \; S = \sum_i K_i \delta_i \delta_i^\top

Local-linear quantile regression: delta_i is the distance of pair i from theta, K_i falls to zero
at the k-th neighbour, and the second factor tilts the weights so that they balance about theta
at a bound too. All levels come from one set of weights, and cannot cross; values that have a
probability of their own (t = 0 at a bound, counts) are counted in full. How many neighbours, pairs
themselves decide, each predicted from the others: up to 4,096 where theta does not matter.

References:
    | Confidence Sets and Hypothesis Testing in a Likelihood-Free Inference Setting (Dalmasso,
    | Izbicki & Lee, 2020), algorithms 1 and 2: critical values by quantile regression
    | https://arxiv.org/abs/2002.10399
    | Local Linear Quantile Regression (Yu & Jones, 1998), https://doi.org/10.2307/2669619
"""

from __future__ import annotations

__all__ = ["Quantiles", "learn_quantiles"]

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

_FEWEST, _MOST, _JUDGES = 128, 4_096, 1_000
_LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95, 0.98)
_NUMBERS = 1 << 22  # weights held at once


@dataclass(frozen=True)
class Quantiles:
    """The distribution of t given coordinates v of theta.

    Arguments:
        t: The statistic (n,) of each pair.
        v: The coordinates (n, d).
        tree: The pairs by v.
        neighbours: How many pairs have a say.
    """

    t: Tensor
    v: Tensor
    tree: Any
    neighbours: int

    def p_value(self, t: Tensor, v: Tensor) -> Tensor:
        """P(t' >= t | v) (n,), of t (n,) and v (n, d)."""
        points, at = v.unique(dim=0, return_inverse=True)
        out = torch.empty_like(t)
        for start, near, weight in self._local(points):
            rows = ((at >= start) & (at < start + len(near))).nonzero()[:, 0]
            for some in rows.split(max(1, _NUMBERS // near.shape[1])):
                i = at[some] - start
                above = near[i] >= t[some, None]
                out[some] = (weight[i] * above).sum(1)
        return out.clamp(0, 1)

    def critical(self, level: float, v: Tensor) -> Tensor:
        """The smallest t (n,) whose p-value at v (n, d) is no more than 1 - level, or the largest
        t seen there.
        """
        parts = []
        for _, near, weight in self._local(v):
            order = near.argsort(1)
            below = weight.gather(1, order).cumsum(1)
            k = (below < level).sum(1, keepdim=True).clamp(max=near.shape[1] - 1)
            parts.append(near.gather(1, order).gather(1, k)[:, 0])
        return torch.cat(parts)

    def _local(self, v: Tensor) -> Any:
        """Chunks of v: the first row, t (m, k) of neighbours, and their weights (m, k)."""
        step = max(1, _NUMBERS // (self.neighbours * (v.shape[1] + 1)))
        for start in range(0, len(v), step):
            near, weight = _weights(self.tree, self.v, v[start : start + step], self.neighbours)
            yield start, self.t[near], weight


def learn_quantiles(t: Tensor, v: Tensor, seed: int = 0) -> Quantiles:
    """Learns the quantiles of t (n,) given v (n, d), coordinates of similar scale.

    Arguments:
        t: The statistic; infinite values are the largest.
        v: Coordinates of theta.
        seed: Of the pairs that judge how many neighbours to take.
    """
    n = len(t)
    tree = cKDTree(v.numpy())
    sizes = [min(n - 1, _MOST)]
    while sizes[-1] > 2 * _FEWEST:
        sizes.append(sizes[-1] // 2)
    judges = torch.as_tensor(np.random.default_rng(seed).permutation(n)[:_JUDGES])
    cuts = t.quantile(t.new_tensor(_LEVELS), interpolation="higher")
    truth = (t[judges, None] >= cuts).double()
    share = (t[:, None] >= cuts).double().mean(0).clamp(1e-3, 1 - 1e-3)
    losses = []
    for k in sizes:
        guess = torch.cat(
            [
                torch.einsum("nk,nkc->nc", w, (t[near][..., None] >= cuts).double())
                for near, w in (
                    _weights(tree, v, v[some], k, some)
                    for some in judges.split(max(1, _NUMBERS // (k * len(_LEVELS))))
                )
            ]
        )
        losses.append(float(((guess - truth).square() / (share * (1 - share))).mean()))
    return Quantiles(t, v, tree, sizes[int(np.argmin(losses))])


def _weights(
    tree: Any, v: Tensor, at: Tensor, k: int, without: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Neighbours (m, k) of points (m, d) and their weights (m, k), which add to one; without the
    pairs that the points are themselves.
    """
    distance, near = tree.query(at.numpy(), k + 1 if without is not None else k)
    distance = torch.as_tensor(distance).double().view(len(at), -1)
    near = torch.as_tensor(near).view(len(at), -1)
    kernel = 1 - (distance / (distance[:, -1:] * (1 + 1e-9)).clamp(min=1e-30)).square()
    if without is not None:
        kernel = torch.where(near == without[:, None], 0.0, kernel)
    delta = v[near].double() - at[:, None].double()
    first = torch.einsum("mk,mkd->md", kernel, delta)
    second = torch.einsum("mk,mkd,mke->mde", kernel, delta, delta)
    ridge = 1e-6 * second.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp(min=1e-30)
    second = second + ridge * torch.eye(at.shape[1], dtype=torch.float64)
    tilt = torch.linalg.solve(second, first[..., None])
    weight = kernel * (1 - (delta @ tilt)[..., 0]).clamp(min=0)
    return near, weight / weight.sum(1, keepdim=True)
