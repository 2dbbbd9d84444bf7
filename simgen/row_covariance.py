r"""Covariances of x_0 given x_t, one a row: as matrices, by what spans their difference from the
identity, by products alone.

.. math::
    V_n = \sum_k w_{nk} \bigl( V_k + (\mu_{nk} - \bar\mu_n)(\mu_{nk} - \bar\mu_n)^\top \bigr),
    \qquad
    V_n = \frac{\sigma^2}{\alpha} \frac{\partial D(x_{t,n})}{\partial x_{t,n}}

the first of a mixture with responsibilities w, the second of any denoiser (Tweedie's formula of
second order).

References:
    | Learning Diffusion Priors from Observations by Expectation Maximization (Rozet et al., 2024),
    | eq. 20, https://arxiv.org/abs/2405.13712
"""

from __future__ import annotations

__all__ = ["JacobianCovariance", "MatrixCovariance", "MixtureCovariance", "ProjectedCovariance"]

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .covariance import Covariance


@dataclass(frozen=True)
class MatrixCovariance(Covariance):
    """Matrices by their eigenvalues (n, d) and -vectors (n, d, d), of rows v (..., n, d)."""

    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> MatrixCovariance:
        """From matrices (n, d, d): made symmetric, negative eigenvalues zero."""
        values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
        return cls(values.clamp(min=0), vectors)

    def _apply(self, v: Tensor, factor: Tensor) -> Tensor:
        inside = torch.einsum("nij,...ni->...nj", self.vectors, v)
        return torch.einsum("nij,...nj->...ni", self.vectors, inside * factor)

    def __call__(self, v: Tensor) -> Tensor:
        """V v of v (..., n, d)."""
        return self._apply(v, self.values)

    def solve(self, v: Tensor, shift: Any = 0.0) -> Tensor:
        """(V + shift I)^-1 v of v (..., n, d), of a positive number."""
        return self._apply(v, 1 / (self.values + shift))

    def root(self, noise: Tensor) -> Tensor:
        """V^(1/2) noise of noise (n, d)."""
        return self._apply(noise, self.values.sqrt())


@dataclass(frozen=True)
class ProjectedCovariance(Covariance):
    """beta I + Q M_n Q^T.

    Arguments:
        beta: The variance outside the span of Q.
        basis: Q (d, r), orthonormal.
        inner: M_n, (n, r, r) through its eigenvalues.
    """

    beta: float
    basis: Tensor
    inner: MatrixCovariance

    def _apply(self, v: Tensor, outside: float, inside: Tensor) -> Tensor:
        part = v @ self.basis
        return outside * v + self.inner._apply(part, inside - outside) @ self.basis.mT

    def __call__(self, v: Tensor) -> Tensor:
        """V v of v (..., n, d)."""
        return self._apply(v, self.beta, self.beta + self.inner.values)

    def solve(self, v: Tensor, shift: Any = 0.0) -> Tensor:
        """(V + shift I)^-1 v of v (..., n, d), of a number."""
        total = self.beta + shift
        return self._apply(v, 1 / total, 1 / (total + self.inner.values))

    def root(self, noise: Tensor) -> Tensor:
        """V^(1/2) noise of noise (n, d)."""
        return self._apply(noise, self.beta**0.5, (self.beta + self.inner.values).sqrt())


@dataclass(frozen=True)
class MixtureCovariance(Covariance):
    """Of a mixture whose components share eigenvectors, by products alone.

    Arguments:
        share: Responsibilities (n, k).
        values: Of each component's covariance given x_t, (k, d), in the basis.
        gain: dmu_nk / dx, (k, d), in the basis.
        offset: mu_nk at x = 0, (k, d), in the basis.
        x: x_t (n, d), in the basis.
        into: Into the basis, of (..., d).
        out: Out of it.
    """

    share: Tensor
    values: Tensor
    gain: Tensor
    offset: Tensor
    x: Tensor
    into: Any
    out: Any

    def __call__(self, v: Tensor) -> Tensor:
        """V v of v (..., n, d)."""
        v = self.into(v)
        along = v @ self.offset.mT + (self.x * v) @ self.gain.mT  # mu_nk . v
        weight = self.share * (along - (self.share * along).sum(-1, keepdim=True))
        between = weight @ self.offset + self.x * (weight @ self.gain)
        return self.out(v * (self.share @ self.values) + between)


@dataclass(frozen=True)
class JacobianCovariance(Covariance):
    """Of a differentiable denoiser, by products alone: scale dD/dx_t, transposed.

    Arguments:
        x_t: Where, (n, d), with its gradient asked for.
        mean: D(x_t) (n, d), with its graph.
        scale: sigma^2 / alpha.
    """

    x_t: Tensor
    mean: Tensor
    scale: float

    def __call__(self, v: Tensor) -> Tensor:
        """V v of v (..., n, d)."""
        rows = v.expand(*v.shape[:-2], *self.mean.shape).reshape(-1, *self.mean.shape)
        parts = [
            torch.autograd.grad(self.mean, self.x_t, row, retain_graph=True)[0] for row in rows
        ]
        return self.scale * torch.stack(parts).view(*v.shape[:-2], *self.mean.shape)

    def matrices(self) -> MatrixCovariance:
        """The same, as matrices: d products."""
        d = self.mean.shape[-1]
        unit = torch.eye(d, dtype=self.mean.dtype, device=self.mean.device)
        columns = self(unit[:, None, :].expand(d, len(self.mean), d))
        return MatrixCovariance.of(columns.movedim(0, 1))
