r"""Charts: where rows of numbers lie, and how far out another one is.

.. math::
    d^2 = \sum_{i \le k} \frac{(b_i^\top z)^2}{\lambda_i}
        + \frac{\lVert z - B B^\top z \rVert^2}{\lambda_\mathrm{rest}}, \qquad
    t_j = \frac{(P z)_j}{\sqrt{P_{jj}}}

of standardised z: the distance from the centre by the principal directions b_i with variances
lambda_i, and each column less its mean given all others, by the precision P; besides, the distance
to the nearest of some known rows. What of these is much, their own tails say: quantiles, and an
exponential law beyond the last.

References:
    | On the generalised distance in statistics (Mahalanobis, 1936)
    | Statistical inference using extreme order statistics (Pickands, 1975), on exceedances
    | https://doi.org/10.1214/aos/1176343003
"""

from __future__ import annotations

__all__ = ["Chart", "Tails"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_BASIS = 100_000  # numbers of a basis, at most
_NEIGHBOURS, _NEAREST, _LEADING = 1_024, 5, 16
_FLOOR = 1e-9  # of the largest variance: below it a combination of columns is constant
_NONE = 1e-12  # of a standardised column: below it rounding is all there is
_KNOTS, _TAIL = 33, 0.9
_EXPLAINING = 6  # leading directions that explain


@dataclass(frozen=True)
class Chart:
    """Where training rows of summaries lie, (rows, p): centre, covariance, and some of them.

    Arguments:
        loc: Means (p,).
        scale: Deviations (p,).
        basis: Principal directions (p, k).
        variance: Along them (k,).
        rest: Variance of a direction outside of them, ().
        known: Some rows, whitened, along the leading directions (m, l).
    """

    loc: Tensor
    scale: Tensor
    basis: Tensor
    variance: Tensor
    rest: Tensor
    known: Tensor

    @classmethod
    def fitted(cls, h: Tensor, neighbours: int = _NEIGHBOURS) -> Chart:
        """The chart of rows h (n, p), some of which it keeps."""
        p = h.shape[1]
        loc, sd = h.mean(0), h.std(0)
        scale = torch.maximum(sd, 1e-4 * (1 + loc.abs()))  # a constant that moves is far out
        z = (h - loc) / scale
        some = z if p <= 512 else z[:1024]
        _, root, rows = torch.linalg.svd(some, full_matrices=False)
        variance = root.square() / len(some)
        k = max(1, min(p, len(some) // 8, _BASIS // p))
        k = min(k, int((variance > _FLOOR * variance[0]).sum()) or 1)
        left = float(z.square().mean(0).sum() - variance[:k].sum()) / max(p - k, 1)
        rest = torch.tensor(max(left, _FLOOR * float(variance[0]), _NONE), dtype=h.dtype)
        basis = rows[:k].T.contiguous()
        known = (z @ basis / variance[:k].clamp(min=_NONE).sqrt())[:neighbours, :_LEADING]
        return cls(loc, scale, basis, variance[:k].clamp(min=_NONE), rest, known.contiguous())

    def scores(self, h: Tensor) -> dict[str, Tensor]:
        """Scores of rows h (n, p), each (n,), in logarithms."""
        z = (h - self.loc) / self.scale
        along = z @ self.basis
        w = along / self.variance.sqrt()
        outside = z - along @ self.basis.T
        beyond = outside.square().sum(1) / self.rest if self.dimension < z.shape[1] else 0.0
        squares = w.square()
        total = squares.sum(1) + beyond
        out = {"distance": _log(total), "closeness": -_log(total)}
        if self.dimension >= 4:
            small = squares[:, self.dimension // 2 :].sum(1) + beyond
            out["small directions"] = _log(small)
        if z.shape[1] > 1:
            out["single column"] = _log(self._given_others(along, outside).square().amax(1))
        if len(self.known):
            gap = torch.cdist(w[:, :_LEADING], self.known)
            nearest = gap.topk(min(_NEAREST, len(self.known)), largest=False).values.mean(1)
            out["nearest simulations"] = _log(nearest)
        return out

    @property
    def dimension(self) -> int:
        """How many principal directions there are."""
        return len(self.variance)

    def leading(self, h: Tensor) -> Tensor:
        """Rows h (n, p) along the leading directions, whitened, without outliers."""
        along = (h - self.loc) / self.scale @ self.basis[:, :_EXPLAINING]
        return (along / self.variance[:_EXPLAINING].sqrt()).clamp(-4, 4)

    def _given_others(self, along: Tensor, outside: Tensor) -> Tensor:
        """Each column less its mean given all others, in deviations: (P z)_j / sqrt(P_jj) with
        the precision P.
        """
        weighted = (along / self.variance) @ self.basis.T
        diagonal = (self.basis.square() / self.variance).sum(1)
        if self.dimension < len(self.loc):
            weighted = weighted + outside / self.rest
            diagonal = diagonal + (1 - self.basis.square().sum(1)).clamp(min=0) / self.rest
        return weighted / diagonal.clamp(min=1e-300).sqrt()


@dataclass(frozen=True)
class Tails:
    """The null of each score: quantiles up to a level (m, knots), mean excess beyond (m,)."""

    knots: Tensor
    excess: Tensor

    @classmethod
    def fitted(cls, s: Tensor) -> Tails:
        """Of scores s (n, m) of simulations."""
        s = _single(s)
        levels = torch.linspace(0, _TAIL, _KNOTS, dtype=s.dtype)
        knots = torch.quantile(s, levels, 0).T.contiguous()
        beyond = (s - knots[:, -1]).clamp(min=0)
        excess = beyond.sum(0) / (beyond > 0).sum(0).clamp(min=1)
        return cls(knots, excess.clamp(min=1e-9))

    def __call__(self, s: Tensor) -> Tensor:
        """-log P(score >= s) of scores (n, m)."""
        columns = _single(s).T.contiguous()
        after = torch.searchsorted(self.knots, columns).clamp(max=_KNOTS - 1)
        low = self.knots.gather(1, (after - 1).clamp(min=0))
        high = self.knots.gather(1, after)
        share = ((columns - low) / (high - low).clamp(min=1e-300)).clamp(0, 1)
        level = torch.where(after == 0, 0.0, (after - 1 + share) * _TAIL / (_KNOTS - 1))
        last = self.knots[:, -1:]
        tail = -math.log(1 - _TAIL) + (columns - last) / self.excess[:, None]
        return torch.where(columns > last, tail, -torch.log1p(-level)).T


def _single(s: Tensor) -> Tensor:
    """In the precision that files keep: a score that never moves is equal to its quantiles."""
    return s.float().double()


def _log(x: Tensor) -> Tensor:
    return x.clamp(min=1e-300).log()
