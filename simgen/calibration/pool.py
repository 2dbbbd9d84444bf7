r"""Pool: the truth and the draws of a pair on an equal footing.

.. math::
    m_i = \frac{1}{S + 1} \sum_{s=0}^S \vartheta_{is}, \qquad
    e_{is} = \frac{\vartheta_{is} - m_i}{\mathrm{sd}_s\, \vartheta_{is}}, \qquad
    \vartheta_{i0} = \vartheta_i^*

If q is the posterior, any of the S + 1 may be the truth, each with the same chance, whatever x_i
and the set of all of them are. So ranks of functions of e are uniform, and nothing that is a
symmetric function of the pool, as m_i is, can predict them.
"""

from __future__ import annotations

__all__ = ["Pool", "pooled", "whitened"]

from dataclasses import dataclass

import torch
from torch import Tensor

MOST = 12  # quantities up to which residuals are whitened
LARGEST = 1e100  # squares of what is beyond have no digits


@dataclass(frozen=True)
class Pool:
    """Residuals of draws (S, B, k) and of the truth (B, k), mean and deviation (B, k)."""

    draws: Tensor
    truth: Tensor
    mean: Tensor
    sd: Tensor


def pooled(draws: Tensor, truth: Tensor) -> Pool:
    """The residuals of each quantity in the pool of truth and draws.

    Arguments:
        draws: Values of the quantities in each draw, shape (S, B, k), float64.
        truth: Their true values, shape (B, k).
    """
    draws, truth = draws.clamp(-LARGEST, LARGEST), truth.clamp(-LARGEST, LARGEST)
    size = len(draws) + 1
    mean = (draws.sum(0) + truth) / size
    left, right = draws - mean, truth - mean
    sd = ((left.square().sum(0) + right.square()) / size).sqrt()
    unit = sd.where(sd > 0, 1.0)
    return Pool(left / unit, right / unit, mean, sd)


def whitened(pool: Pool, count: int) -> dict[str, Tensor]:
    r"""Residuals without the correlations of their pool, C^{-1/2} e, in which
    shifts and widths along narrow directions of a posterior are as large as any.

    Arguments:
        pool: Of B pairs.
        count: Of how many draws.

    Returns:
        "residuals" of the truth (B, k), "drawn" of draws (count, B, k).
    """
    truth, drawn = pool.truth, pool.draws[:count]
    if not 1 < truth.shape[-1] <= MOST:
        return {"residuals": truth, "drawn": drawn}
    size = len(pool.draws) + 1
    c = torch.einsum("sbj,sbk->bjk", pool.draws, pool.draws)
    c = (c + truth[:, :, None] * truth[:, None, :]) / size
    values, vectors = torch.linalg.eigh(c)
    root = (vectors / values.clamp(min=1e-6).sqrt()[:, None]) @ vectors.mT
    return {
        "residuals": torch.einsum("bjk,bk->bj", root, truth),
        "drawn": torch.einsum("bjk,sbk->sbj", root, drawn),
    }
