r"""A matrix as an operator, dense or sparse.

.. math:: y = A x, \qquad \nabla_x (r \cdot A x) = A^\top r

A sparse matrix is kept beside its transpose, each by rows: products with both are quick, and
differentiate any number of times, forwards and backwards.
"""

from __future__ import annotations

__all__ = ["Matrix", "SparsePair"]

import math
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy.sparse import coo_array, csr_array, issparse
from torch import Tensor

from .constant import Constant, as_floating, check_axes


@dataclass(frozen=True, eq=False)
class SparsePair:
    """A sparse matrix (m, d) and its transpose (d, m), both in rows (CSR)."""

    forward: Constant
    backward: Constant

    @classmethod
    def of(cls, matrix: Any) -> SparsePair:
        """From a SciPy sparse array (m, d) of any format."""
        return cls(*(Constant(_rows(part)) for part in (matrix, matrix.T)))

    @property
    def transpose(self) -> SparsePair:
        """The pair of the transpose."""
        return SparsePair(self.backward, self.forward)

    def __call__(self, x: Tensor) -> Tensor:
        """A x of rows x (n, d), (n, m); differentiable."""
        return _Product.apply(x, self)


class _Product(torch.autograd.Function):
    """A x, whose derivatives are products with the transpose and with the matrix again."""

    @staticmethod
    def forward(x: Tensor, pair: SparsePair) -> Tensor:
        return (pair.forward.like(x) @ x.mT).mT.contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, SparsePair], output: Tensor) -> None:
        ctx.pair = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.pair.transpose(grad), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return ctx.pair(tangent)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, pair: SparsePair) -> tuple[Tensor, int]:
        rows = x.movedim(in_dims[0], 0)
        return pair(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]), 0


@dataclass(frozen=True, eq=False)
class Matrix:
    """y = A x of rows x whose d numbers may have any shape: (n, *event) to (n, m).

    Arguments:
        A: The matrix (m, d): a dense or sparse tensor, a NumPy array, or a SciPy sparse array.
            A dense one may ask for a gradient.

    Raises:
        ValueError: If A is no matrix; or, when called, if x has another number of columns.

    Examples:
        >>> Matrix(torch.ones(3, 16))(torch.ones(5, 1, 4, 4)).shape
        torch.Size([5, 3])
    """

    A: Any
    _A: Constant | SparsePair = field(init=False, repr=False)

    def __post_init__(self) -> None:
        sparse = _sparse(self.A)
        A = as_floating(self.A) if sparse is None else sparse
        if A.ndim != 2:
            raise ValueError(f"A must be a matrix (m, d); got {tuple(A.shape)}")
        object.__setattr__(self, "A", A)
        object.__setattr__(self, "_A", Constant(A) if sparse is None else SparsePair.of(A))

    def __call__(self, x: Tensor) -> Tensor:
        """A x (n, m) of x (n, *event), the event of d numbers; or (..., m) of x (..., d)."""
        flat = self._flat(x)
        if isinstance(self._A, Constant):
            return flat @ self._A.like(x).mT
        m, d = self.A.shape
        return self._A(flat.reshape(-1, d)).reshape(*flat.shape[:-1], m)

    def _flat(self, x: Tensor) -> Tensor:
        d = self.A.shape[1]
        if x.ndim > 1 and math.prod(x.shape[1:]) == d:
            x = x.flatten(1)
        check_axes("Matrix", x, (d,))
        return x


def _sparse(A: Any) -> csr_array | None:
    """A sparse tensor or SciPy array by rows; None of anything else."""
    if isinstance(A, Tensor) and A.layout != torch.strided:
        if A.requires_grad:
            raise ValueError("a sparse A takes no gradient: give it dense, or A.detach()")
        coo = A.to_sparse_coo().coalesce().cpu()
        A = coo_array((coo.values().numpy(), tuple(coo.indices().numpy())), shape=coo.shape)
    return csr_array(A) if issparse(A) else None


def _rows(matrix: Any) -> Tensor:
    """A SciPy sparse array as a sparse tensor by rows (CSR), floating."""
    csr = csr_array(matrix)
    csr.sum_duplicates()
    starts, columns = (torch.as_tensor(a).long() for a in (csr.indptr, csr.indices))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR")  # torch calls it young
        values = as_floating(csr.data)
        return torch.sparse_csr_tensor(starts, columns, values, csr.shape, check_invariants=True)
