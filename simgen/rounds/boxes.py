r"""Boxes of theta whose pairs differ: a regression tree of several scores at once.

.. math::
    \frac{N_l N_r}{N_l + N_r} \, \lVert \bar z_l - \bar z_r \rVert^2 \sim \chi^2_K

of a cut that parts N_l scores z of K standard normal columns from N_r, where there is nothing to
find. The best cut of all leaves is made, one after the other, as long as it wins more than chance
over all places of a cut.

References:
    | Classification and Regression Trees (Breiman, Friedman, Olshen & Stone, 1984), section 8.4
    | https://doi.org/10.1201/9781315139470
"""

from __future__ import annotations

__all__ = ["Boxes", "grow"]

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

LEAST = 20
"""Fewest scores in a box."""
_CUTS = 15  # places where a column may be cut
_CHANCE = 0.05  # that a cut is made where there is nothing


class Boxes:
    """Boxes that divide the space of theta: theta is in box c where low_c <= theta < high_c.

    Arguments:
        low: Lower corners (C, d), -inf where there is none.
        high: Upper corners (C, d).
    """

    def __init__(self, low: Any, high: Any) -> None:
        self.low = torch.from_numpy(np.array(low, dtype=np.float64))
        self.high = torch.from_numpy(np.array(high, dtype=np.float64))

    def __len__(self) -> int:
        return len(self.low)

    def __call__(self, theta: Any) -> Tensor:
        """The number of the box of each theta (n, d), as float32 holds it, shape (n,)."""
        t = torch.as_tensor(theta).float().double()[:, None]
        return ((t >= self.low) & (t < self.high)).all(-1).double().argmax(1)

    def describe(self, c: int, names: Sequence[str]) -> str:
        """A box in words, "a < 1.5, 0 <= b < 2"."""
        parts = []
        for name, low, high in zip(names, self.low[c].tolist(), self.high[c].tolist()):
            left = "" if low == -math.inf else f"{low:.3g} <= "
            right = "" if high == math.inf else f" < {high:.3g}"
            if left and not right:
                parts.append(f"{name} >= {low:.3g}")
            elif left or right:
                parts.append(f"{left}{name}{right}")
        return ", ".join(parts) or "everywhere"


def grow(theta: np.ndarray, z: np.ndarray, most: int) -> Boxes:
    """Boxes whose mean scores differ beyond chance, cut one after the other where most is won."""
    d, k = theta.shape[1], z.shape[1]
    least = chi2.isf(_CHANCE / (d * _CUTS), k)
    leaves = [(np.full(d, -np.inf), np.full(d, np.inf), np.arange(len(theta)))]
    cuts = [_best_cut(theta, z, leaves[0][2])]
    while len(leaves) < most:
        i = int(np.argmax([gain for gain, *_ in cuts]))
        gain, column, at = cuts[i]
        if gain < least:
            break
        low, high, rows = leaves.pop(i)
        cuts.pop(i)
        left = theta[rows, column] < at
        for side, mine in (
            (left, (low, _with(high, column, at))),
            (~left, (_with(low, column, at), high)),
        ):
            leaves.append((*mine, rows[side]))
            cuts.append(_best_cut(theta, z, rows[side]))
    return Boxes([leaf[0] for leaf in leaves], [leaf[1] for leaf in leaves])


def _best_cut(theta: np.ndarray, z: np.ndarray, rows: np.ndarray) -> tuple[float, int, float]:
    """What the best cut of a leaf wins, its column, and where."""
    best = (-math.inf, 0, 0.0)
    for column in range(theta.shape[1]):
        values = theta[rows, column]
        for at in np.quantile(values, np.arange(1, _CUTS + 1) / (_CUTS + 1)).astype(np.float32):
            left = values < at
            m, total = int(left.sum()), len(rows)
            if min(m, total - m) < LEAST:
                continue
            apart = z[rows[left]].mean(0) - z[rows[~left]].mean(0)
            gain = m * (total - m) / total * float(apart @ apart)
            best = max(best, (gain, column, float(at)))
    return best


def _with(corner: np.ndarray, column: int, value: float) -> np.ndarray:
    out = corner.copy()
    out[column] = value
    return out
