r"""Bounds of a support: of any torch distribution over vectors, column by column.

.. math:: \mathrm{supp}\, p \subseteq \prod_i [a_i, b_i]
"""

from __future__ import annotations

__all__ = ["bounds_of"]

import math
from typing import Any

import numpy as np
import torch
from torch.distributions import constraints


def bounds_of(q: Any, d: int) -> np.ndarray:
    """The smallest box known to hold the support of a distribution over vectors.

    A bound that was float32 counts as the decimal number it stands for: 0.1, not 0.10000000149.

    Arguments:
        q: The distribution: a `Prior`, or one with a torch `support`.
        d: Columns.

    Returns:
        Lower and upper bounds (d, 2), float64; infinite where there is none.

    Examples:
        >>> bounds_of(torch.distributions.Uniform(torch.tensor([0.1]), torch.tensor([2.0])), 1)
        array([[0.1, 2. ]])
    """
    if hasattr(q, "low") and hasattr(q, "high") and hasattr(q, "bijection"):
        return np.stack([_numbers(q.low, d), _numbers(q.high, d)], -1)
    try:
        support = q.support
    except (AttributeError, NotImplementedError):
        support = None
    return _box(support, d)


def _box(support: Any, d: int) -> np.ndarray:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if hasattr(support, "cseq") and hasattr(support, "lengths"):  # columns, one after the other
        return np.concatenate([_box(part, n) for part, n in zip(support.cseq, support.lengths)])
    if support is constraints.simplex:
        return np.tile([0.0, 1.0], (d, 1))
    low = getattr(support, "lower_bound", -math.inf)
    high = getattr(support, "upper_bound", math.inf)
    return np.stack([_numbers(low, d), _numbers(high, d)], -1)


def _numbers(value: Any, d: int) -> np.ndarray:
    """One bound a column, float64."""
    array = torch.as_tensor(value).detach().cpu().double().numpy().ravel()
    short = array.astype(np.float32)
    decimal = np.array([float(str(v)) for v in short])
    return np.broadcast_to(np.where(short == array, decimal, array), (d,)).copy()
