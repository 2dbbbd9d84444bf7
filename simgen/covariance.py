r"""Covariances as operators: dense, diagonal, diagonal in Fourier space, low rank plus diagonal.

.. math::
    C = B \Lambda B^\top \quad \text{or} \quad C = D + F F^\top, \qquad
    \mathrm{Cov}[x_0 \mid x_0 + \sigma \epsilon] = \sigma^2 C (C + \sigma^2 I)^{-1}

Of a covariance, samplers need its products with vectors, systems with it, a square root and a
determinant; none forms a d x d matrix unless it is given as one. A stationary field on a periodic
grid is diagonal in Hartley's basis, cos + sin, which is real where Fourier's is complex:

.. math::
    C_{xx'} = c(x - x') \quad \Rightarrow \quad \Lambda = \mathrm{FFT}(c), \qquad
    B v = (\Re - \Im)\, \mathrm{FFT}(v) / \sqrt d

References:
    | Matrix Computations (Golub & Van Loan, 2013), eq. 2.1.4 (Woodbury)
    | A More Symmetrical Fourier Analysis Applied to Transmission Problems (Hartley, 1942)
"""

from __future__ import annotations

__all__ = [
    "Covariance",
    "DenseCovariance",
    "DiagonalCovariance",
    "FourierCovariance",
    "LowRankCovariance",
    "as_covariance",
    "symmetric",
]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .krylov import conjugate_gradients, lanczos_root

_ROUNDED = 1e-4  # of the largest number of a covariance: how far it may be from symmetric


class Covariance(ABC):
    """A symmetric positive semi-definite operator on rows (..., d), known by its products; what a
    kind of it can do better, it overrides.
    """

    @abstractmethod
    def __call__(self, v: Tensor) -> Tensor:
        """C v of v (..., d)."""

    def solve(self, v: Tensor, shift: Any = 0.0) -> Tensor:
        """(C + shift I)^-1 v of v (..., d); shift is a number or (...)."""
        shift = _last(shift, v)
        return conjugate_gradients(lambda u: self(u) + shift * u, v)

    def root(self, noise: Tensor) -> Tensor:
        """R noise of noise (..., d), with R R^T = C."""
        return lanczos_root(self, noise)


@dataclass(frozen=True)
class Spectral(Covariance):
    """B diag(values) B^T, of an orthonormal basis.

    Arguments:
        values: Eigenvalues (d,), not negative.
        into: B^T v of v (..., d).
        out: B v of v (..., d).
    """

    values: Tensor
    into: Callable[[Tensor], Tensor]
    out: Callable[[Tensor], Tensor]

    @property
    def largest(self) -> float:
        """The largest eigenvalue."""
        return float(self.values.max())

    @property
    def smallest(self) -> float:
        """The smallest eigenvalue above rounding."""
        return float(self.values[self.values > 1e-12 * self.values.max()].min())

    def _apply(self, v: Tensor, factor: Tensor) -> Tensor:
        return self.out(self.into(v) * factor)

    def __call__(self, v: Tensor) -> Tensor:
        """C v of v (..., d)."""
        return self._apply(v, self.values)

    def solve(self, v: Tensor, shift: Any = 0.0) -> Tensor:
        """(C + shift I)^-1 v of v (..., d); shift is a number or (...)."""
        return self._apply(v, 1 / (self.values + _last(shift, v)))

    def logdet(self, shift: Any = 0.0) -> Tensor:
        """log |C + shift I| (...) of shift (...)."""
        return (self.values + _last(shift, self.values)).log().sum(-1)

    def root(self, noise: Tensor) -> Tensor:
        """C^(1/2) noise of noise (..., d), with the symmetric root."""
        return self._apply(noise, self.values.sqrt())

    def denoised(self, sigma: Any) -> Spectral:
        """Cov[x_0 | x_0 + sigma eps]."""
        s2 = torch.as_tensor(sigma).to(self.values) ** 2
        return Spectral(s2 * self.values / (self.values + s2), self.into, self.out)

    def diagonal(self) -> Tensor:
        """The variances (d,)."""
        return self.dense().diagonal()

    def dense(self) -> Tensor:
        """The matrix (d, d)."""
        return self(torch.eye(len(self.values)).to(self.values))


def DenseCovariance(matrix: Any) -> Spectral:
    """The covariance of a matrix (d, d).

    Raises:
        ValueError: If it is not square and symmetric, or has a negative eigenvalue.
    """
    matrix = torch.as_tensor(matrix, dtype=torch.float64)
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a covariance must be (d, d); got {tuple(matrix.shape)}")
    if bool((matrix == torch.diag(matrix.diagonal())).all()):
        return DiagonalCovariance(matrix.diagonal())
    values, vectors = torch.linalg.eigh(symmetric(matrix))
    return Spectral(_positive(values), lambda v: v @ vectors, lambda v: v @ vectors.mT)


def DiagonalCovariance(variances: Any) -> Spectral:
    """The covariance of independent numbers, of any shape.

    Raises:
        ValueError: If a variance is negative.
    """

    def same(v: Tensor) -> Tensor:
        return v

    return Spectral(
        _positive(torch.as_tensor(variances, dtype=torch.float64).flatten()), same, same
    )


def FourierCovariance(spectrum: Any, axes: int = 2) -> Spectral:
    """The covariance of a stationary field on a periodic grid.

    Arguments:
        spectrum: Its eigenvalues, the transform of the correlation function on the whole grid of
            `torch.fft.fftn`, zero frequency first; (..., *grid), leading axes being independent
            channels. A map of variance 1 and no correlation has ones.
        axes: How many axes are the grid's.

    Raises:
        ValueError: If an eigenvalue is negative, or differs at k and -k.
    """
    values = torch.as_tensor(spectrum, dtype=torch.float64)
    shape, dims = values.shape, tuple(range(values.dim() - axes, values.dim()))
    turned = values.flip(dims).roll([1] * axes, dims)
    if not torch.allclose(values, turned, rtol=1e-6, atol=1e-12 * float(values.abs().max())):
        raise ValueError("the spectrum of a real field must be the same at k and -k")
    last = tuple(range(-axes, 0))
    size = math.prod(shape[values.dim() - axes :])

    def hartley(v: Tensor) -> Tensor:
        f = torch.fft.fftn(v.reshape(*v.shape[:-1], *shape), dim=last)
        return ((f.real - f.imag) / math.sqrt(size)).reshape(v.shape)

    return Spectral(_positive((values + turned).flatten() / 2), hartley, hartley)


@dataclass(frozen=True)
class LowRankCovariance(Covariance):
    """diag(variances) + F F^T.

    Arguments:
        variances: (d,), positive; of any shape, flattened.
        factor: F (d, r).

    Raises:
        ValueError: If a variance is not positive or the shapes do not agree.
    """

    variances: Tensor
    factor: Tensor

    def __post_init__(self) -> None:
        variances = torch.as_tensor(self.variances).double().flatten()
        factor = torch.as_tensor(self.factor).double()
        if factor.dim() != 2 or factor.shape[0] != len(variances):
            raise ValueError(
                f"of {len(variances)} variances the factor must be ({len(variances)}, r); "
                f"got {tuple(factor.shape)}"
            )
        if not bool((variances > 0).all()):
            raise ValueError("the variances of a low-rank covariance must be positive")
        object.__setattr__(self, "variances", variances)
        object.__setattr__(self, "factor", factor)

    @property
    def largest(self) -> float:
        """A bound of the largest eigenvalue that is at most twice too large."""
        gram = torch.linalg.eigvalsh(self.factor.mT @ self.factor)[-1]
        return float(self.variances.max() + gram)

    @property
    def smallest(self) -> float:
        """A bound of the smallest eigenvalue, from below."""
        return float(self.variances.min())

    def __call__(self, v: Tensor) -> Tensor:
        """C v of v (..., d)."""
        return v * self.variances + (v @ self.factor) @ self.factor.mT

    def _inner(self, shift: Tensor) -> tuple[Tensor, Tensor]:
        """The shifted diagonal (..., d), and Woodbury's matrix I + F^T D^-1 F (..., r, r)."""
        diagonal = self.variances + shift
        inner = self.factor.mT @ (self.factor / diagonal[..., None])
        return diagonal, inner + torch.eye(inner.shape[-1]).to(inner)

    def solve(self, v: Tensor, shift: Any = 0.0) -> Tensor:
        """(C + shift I)^-1 v of v (..., d); shift is a number or (...)."""
        diagonal, inner = self._inner(_last(shift, v))
        light = v / diagonal
        weights = torch.linalg.solve(inner, (light @ self.factor)[..., None])[..., 0]
        return light - (weights @ self.factor.mT) / diagonal

    def logdet(self, shift: Any = 0.0) -> Tensor:
        """log |C + shift I| (...) of shift (...)."""
        diagonal, inner = self._inner(_last(shift, self.variances))
        return diagonal.log().sum(-1) + torch.linalg.slogdet(inner).logabsdet

    def root(self, noise: Tensor) -> Tensor:
        """R noise of noise (..., d): R = D^(1/2) (I + G G^T)^(1/2), G = D^(-1/2) F."""
        sd = self.variances.sqrt()
        u, s, _ = torch.linalg.svd(self.factor / sd[:, None], full_matrices=False)
        more = ((1 + s**2).sqrt() - 1) * (noise @ u)
        return sd * (noise + more @ u.mT)

    def denoised(self, sigma: Any) -> LowRankCovariance:
        """Cov[x_0 | x_0 + sigma eps], of low rank itself."""
        s2 = torch.as_tensor(sigma).to(self.variances) ** 2
        diagonal, inner = self._inner(s2)
        back = torch.linalg.solve_triangular(
            torch.linalg.cholesky(inner), (self.factor / diagonal[:, None]).mT, upper=False
        )
        return LowRankCovariance(s2 * self.variances / diagonal, s2 * back.mT)

    def diagonal(self) -> Tensor:
        """The variances (d,)."""
        return self.variances + self.factor.square().sum(1)

    def dense(self) -> Tensor:
        """The matrix (d, d)."""
        return torch.diag(self.variances) + self.factor @ self.factor.mT


Structured = Spectral | LowRankCovariance


def as_covariance(value: Any, d: int) -> Structured:
    """A covariance of d numbers: one of the kinds above, a number, d variances, or (d, d).

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(value, (Spectral, LowRankCovariance)):
        found = len(value.values if isinstance(value, Spectral) else value.variances)
        if found != d:
            raise ValueError(f"the covariance is of {found} numbers, the mean has {d}")
        return value
    tensor = torch.as_tensor(value, dtype=torch.float64)
    if tensor.dim() == 0:
        return DiagonalCovariance(tensor.expand(d))
    if tensor.shape == (d, d):
        return DenseCovariance(tensor)
    if tensor.numel() == d:
        return DiagonalCovariance(tensor)
    raise ValueError(
        f"the covariance must be {(d, d)}, or {d} variances; got {tuple(tensor.shape)}"
    )


def symmetric(matrix: Tensor) -> Tensor:
    """Matrices (..., d, d), rounding taken off.

    Raises:
        ValueError: If they are not symmetric, as a root is not.
    """
    if bool(((matrix - matrix.mT).abs() > _ROUNDED * matrix.abs().max()).any()):
        raise ValueError("a covariance must be symmetric; is this a root of one?")
    return (matrix + matrix.mT) / 2


def _positive(values: Tensor) -> Tensor:
    """Eigenvalues, rounding below zero taken off."""
    if bool((values < -1e-6 * values.abs().max()).any()):
        raise ValueError("a covariance has a negative eigenvalue")
    return values.clamp(min=0)


def _last(shift: Any, like: Tensor) -> Tensor:
    """A number, or numbers (...), shaped to be added to (..., d)."""
    shift = torch.as_tensor(shift, dtype=like.dtype, device=like.device)
    return shift[..., None] if shift.dim() else shift
