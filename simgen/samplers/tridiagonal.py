r"""Precisions of chains: blocks on the diagonal and beside it, factorised from end to end.

.. math::
    P = \begin{pmatrix} D_1 & E_1^\top & \\ E_1 & D_2 & \ddots \\ & \ddots & \ddots \end{pmatrix}
      = L L^\top, \qquad
    L_j L_j^\top = D_j - F_{j-1} F_{j-1}^\top, \quad F_j = E_j L_j^{-\top}

L has the blocks L_j on its diagonal and F_j below: a Kalman filter in information form, and
what solves with its transpose is the smoother. Time and memory grow as the length.

References:
    | Matrix Computations (Golub & Van Loan, 2013), section 4.5.1
"""

from __future__ import annotations

__all__ = ["ChainCovariance", "Tridiagonal"]

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..covariance import Covariance


@dataclass(frozen=True)
class Tridiagonal:
    """Symmetric matrices (n, d, d), one a row.

    Arguments:
        diagonal: D, (blocks, n, b, b).
        below: E, (blocks - 1, n, b, b).
        size: d, at most blocks * b: what is beyond is the identity's.
    """

    diagonal: Tensor
    below: Tensor
    size: int

    def columns(self, v: Tensor) -> Tensor:
        """Rows v (..., n or 1, d) as blocks (blocks, n, b, r)."""
        blocks, n, b, _ = self.diagonal.shape
        v = pad(v.expand(*v.shape[:-2], n, self.size), (0, blocks * b - self.size))
        return v.reshape(-1, n, blocks, b).permute(2, 1, 3, 0)

    def rows(self, blocks: Tensor, lead: torch.Size) -> Tensor:
        """The inverse of `columns`, (*lead, n, d)."""
        _, n, _, r = blocks.shape
        return (
            blocks.permute(3, 1, 0, 2)
            .reshape(r, n, -1)[..., : self.size]
            .view(*lead, n, self.size)
        )

    def __call__(self, v: Tensor) -> Tensor:
        """P v of rows v (..., n or 1, d)."""
        x = self.columns(v)
        out = self.diagonal @ x
        out[1:] += self.below @ x[:-1]
        out[:-1] += self.below.mT @ x[1:]
        return self.rows(out, v.shape[:-2])

    def plus(self, matrix: Tensor) -> Tridiagonal:
        """P + a matrix (d, d), the same for all rows.

        Raises:
            ValueError: If it has numbers beyond the blocks.
        """
        blocks, _, b, _ = self.diagonal.shape
        whole = pad(matrix, (0, blocks * b - self.size) * 2).view(blocks, b, blocks, b)
        tiles = whole.transpose(1, 2)
        places = torch.arange(blocks)
        far = (places[:, None] - places).abs() > 1
        if bool((tiles[far] != 0).any()):
            raise ValueError(f"the matrix ties numbers together that are more than {b} apart")
        diagonal = self.diagonal + tiles[places, places][:, None]
        return Tridiagonal(
            diagonal, self.below + tiles[places[1:], places[:-1]][:, None], self.size
        )

    def shifted(self, scale: float, shift: float) -> Tridiagonal:
        """scale P + shift I."""
        eye = torch.eye(self.diagonal.shape[-1]).to(self.diagonal)
        return Tridiagonal(scale * self.diagonal + shift * eye, scale * self.below, self.size)

    @cached_property
    def _factor(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """L_j^-1, F_j, and which rows are not positive definite (n,)."""
        eye = torch.eye(self.diagonal.shape[-1]).to(self.diagonal)
        inverses: list[Tensor] = []
        beside: list[Tensor] = []
        failed = torch.zeros(self.diagonal.shape[1], dtype=torch.bool)
        for j, block in enumerate(self.diagonal):
            if j:
                block = block - beside[-1] @ beside[-1].mT
            L, info = torch.linalg.cholesky_ex(block)
            failed |= info > 0
            inverses.append(torch.linalg.solve_triangular(L, eye.expand_as(L), upper=False))
            if j < len(self.below):
                beside.append(self.below[j] @ inverses[-1].mT)
        return inverses, beside, failed

    @property
    def failed(self) -> Tensor:
        """Which rows are not positive definite (n,)."""
        return self._factor[2]

    def solve(self, v: Tensor) -> Tensor:
        """P^-1 v of rows v (..., n or 1, d)."""
        inverses, beside, _ = self._factor
        found: list[Tensor] = []
        for j, block in enumerate(self.columns(v)):
            found.append(inverses[j] @ (block - beside[j - 1] @ found[-1] if j else block))
        return self.rows(self._back(found), v.shape[:-2])

    def root(self, noise: Tensor) -> Tensor:
        """L^-T noise of rows (n, d): of covariance P^-1."""
        return self.rows(self._back(list(self.columns(noise))), noise.shape[:-2])

    def _back(self, blocks: list[Tensor]) -> Tensor:
        inverses, beside, _ = self._factor
        found: list[Tensor] = []
        for j in range(len(blocks) - 1, -1, -1):
            block = blocks[j] - beside[j].mT @ found[-1] if found else blocks[j]
            found.append(inverses[j].mT @ block)
        return torch.stack(found[::-1])


@dataclass(frozen=True)
class ChainCovariance(Covariance):
    """V = scale P^-1.

    Arguments:
        scale: A number.
        precision: P.
    """

    scale: float
    precision: Tridiagonal

    def __call__(self, v: Tensor) -> Tensor:
        """V v of v (..., n, d)."""
        return self.scale * self.precision.solve(v)

    def solve(self, v: Tensor, shift: Any = 0.0) -> Tensor:
        """(V + shift I)^-1 v of v (..., n, d), of a number."""
        return self.precision(self.precision.shifted(float(shift), self.scale).solve(v))

    def root(self, noise: Tensor) -> Tensor:
        """V^(1/2) noise of noise (n, d)."""
        return math.sqrt(self.scale) * self.precision.root(noise)
