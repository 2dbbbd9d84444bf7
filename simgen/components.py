r"""The components of a mixture of Gaussians: densities, and what each says of x_0 given x_t.

.. math::
    x_t = \alpha x_0 + \sigma \epsilon, \qquad
    \mu_k = m_k + \alpha V_k (\alpha^2 V_k + \sigma^2 I)^{-1} (x_t - \alpha m_k)

Where all covariances have the same eigenvectors (they are equal, or diagonal), everything is
products of matrices (n, d) x (d, k), which is what makes thousands of particles in hundreds of
dimensions quick; else each component is rotated by its own.
"""

from __future__ import annotations

__all__ = ["Shared", "Stacked", "components"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .covariance import (
    Covariance,
    DenseCovariance,
    LowRankCovariance,
    Spectral,
    as_covariance,
    symmetric,
)
from .row_covariance import MatrixCovariance, MixtureCovariance, ProjectedCovariance

_MATRIX = 16  # dimensions up to which a matrix a row is the quickest


@dataclass(frozen=True)
class Shared:
    """k Gaussians over d numbers whose covariances have the same eigenvectors: all is products of
    matrices. Means (k, d) and eigenvalues (k, d) in the basis.
    """

    means: Tensor
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

    @property
    def structures(self) -> list[Covariance]:
        """The covariances as operators; one if they are equal."""
        every = self.values[:1] if self._equal else self.values
        return [Spectral(values, self.into, self.out) for values in every]

    @property
    def variances(self) -> Tensor:
        """Variances (k, d)."""
        return self.covariances.diagonal(dim1=1, dim2=2)

    @property
    def covariances(self) -> Tensor:
        """The covariances (k, d, d)."""
        unit = torch.eye(self.means.shape[1]).to(self.means)
        if self._equal:
            return self.out(self.into(unit) * self.values[0]).expand(len(self.means), -1, -1)
        return self.out(self.into(unit) * self.values[:, None])

    @property
    def shared(self) -> Tensor | None:
        """The covariance (1, d, d) that all have, or None."""
        return self.covariances[:1] if self._equal else None

    @property
    def _equal(self) -> bool:
        return bool((self.values == self.values[0]).all())

    def log_prob(self, x: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """log N(x_t; alpha m_k, alpha^2 V_k + sigma^2 I), (..., k)."""
        a, s, x = a[..., None], s[..., None], self.into(x)
        if s.numel() and bool((a == a.flatten()[0]).all() and (s == s.flatten()[0]).all()):
            a, s = a.flatten()[0], s.flatten()[0]
            variance = a**2 * self.values + s**2  # (k, d)
            centre = self.means.mean(0)  # keeps the squares small
            x, mean = x - a * centre, a * (self.means - centre)
            square = x**2 @ (1 / variance).mT - 2 * x @ (mean / variance).mT
            return -0.5 * (
                square + ((mean**2 / variance).sum(-1) + (2 * math.pi * variance).log().sum(-1))
            )
        variance = (a**2)[..., None] * self.values + (s**2)[..., None]
        rest = x[..., None, :] - a[..., None] * self.means
        return -0.5 * (rest**2 / variance + (2 * math.pi * variance).log()).sum(-1)

    def _gain(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """d mu_k / dx, and mu_k at x = 0, both (..., k, d)."""
        a, s = a[..., None, None], s[..., None, None]
        gain = a * self.values / (a**2 * self.values + s**2)
        return gain, (1 - a * gain) * self.means

    def mean(self, x: Tensor, a: Tensor, s: Tensor, share: Tensor) -> Tensor:
        """E[x_0 | x_t] (..., d), of responsibilities (..., k)."""
        x = self.into(x)
        if a.numel() and bool((a == a.flatten()[0]).all() and (s == s.flatten()[0]).all()):
            gain, offset = self._gain(a.flatten()[0], s.flatten()[0])
            return self.out(share @ offset + x * (share @ gain))
        gain, offset = self._gain(a, s)
        return self.out((share[..., None] * (offset + gain * x[..., None, :])).sum(-2))

    def covariance(self, x: Tensor, sigma: float, share: Tensor) -> Covariance:
        """Cov[x_0 | x_0 + sigma eps] of rows x (n, d), of responsibilities (n, k)."""
        d = x.shape[-1]
        level = torch.as_tensor(sigma).to(x)
        gain, offset = self._gain(torch.ones_like(level), level)
        values = sigma**2 * gain
        if self._equal and float(self.values.max() - self.values.min()) == 0 and d > _MATRIX:
            basis, inner = _span(offset, share)
            beta = float(values[0, 0])
            return ProjectedCovariance(beta, self.out(basis.mT).mT, MatrixCovariance.of(inner))
        products = MixtureCovariance(
            share, values, gain, offset, self.into(x), self.into, self.out
        )
        if d > _MATRIX:
            return products
        unit = torch.eye(d).to(x)[:, None, :].expand(d, len(x), d)
        return MatrixCovariance.of(products(unit).movedim(0, 1))

    def dense(self, x: Tensor, a: Tensor, s: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """E and Cov of x_0 given x_t, (..., d) and (..., d, d)."""
        gain, offset = self._gain(a, s)
        means = offset + gain * self.into(x)[..., None, :]
        mean = (share[..., None] * means).sum(-2)
        rest = (means - mean[..., None, :]) * share[..., None].sqrt()
        inner = rest.mT @ rest
        within = ((s**2 / a)[..., None] * (share[..., None] * gain).sum(-2)).diag_embed()
        total = self.out(self.out(inner + within).mT)
        return self.out(mean), total

    def root(self, noise: Tensor, pick: Tensor) -> Tensor:
        """V^(1/2) noise of noise (..., d), of components picked (...)."""
        return self.out(self.values[pick].sqrt() * self.into(noise))


@dataclass(frozen=True)
class Stacked:
    """k Gaussians over d numbers, each with eigenvectors of its own: means (k, d), eigenvectors
    (k, d, d) and -values (k, d).
    """

    means: Tensor
    vectors: Tensor
    values: Tensor
    shared = None

    @property
    def largest(self) -> float:
        """The largest eigenvalue."""
        return float(self.values.max())

    @property
    def smallest(self) -> float:
        """The smallest eigenvalue above rounding."""
        return float(self.values[self.values > 1e-12 * self.values.max()].min())

    @property
    def structures(self) -> list[Covariance]:
        """The covariances as operators; one if they are equal."""
        return [DenseCovariance(matrix) for matrix in self.covariances]

    @property
    def variances(self) -> Tensor:
        """Variances (k, d)."""
        return self.covariances.diagonal(dim1=1, dim2=2)

    @property
    def covariances(self) -> Tensor:
        """The covariances (k, d, d)."""
        return self._matrix(self.values)

    def _matrix(self, values: Tensor) -> Tensor:
        """U diag(values) U^T, for eigenvalues (..., k, d)."""
        return (self.vectors * values[..., None, :]) @ self.vectors.mT

    def _rotate(self, x: Tensor) -> Tensor:
        """U^T x of x (..., k, d)."""
        return torch.einsum("kij,...ki->...kj", self.vectors, x)

    def log_prob(self, x: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """log N(x_t; alpha m_k, alpha^2 V_k + sigma^2 I), (..., k)."""
        a, s = a[..., None, None], s[..., None, None]
        variance = a**2 * self.values + s**2
        white = self._rotate(x[..., None, :] - a * self.means)
        return -0.5 * (white**2 / variance + (2 * math.pi * variance).log()).sum(-1)

    def _means(self, x: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (..., k, d) of each component, and eigenvalues of its covariance, given x_t."""
        a, s = a[..., None, None], s[..., None, None]
        gain = self.values / (a**2 * self.values + s**2)
        white = self._rotate(x[..., None, :] - a * self.means)
        shift = torch.einsum("kij,...kj->...ki", self.vectors, a * gain * white)
        return self.means + shift, s**2 * gain

    def mean(self, x: Tensor, a: Tensor, s: Tensor, share: Tensor) -> Tensor:
        """E[x_0 | x_t] (..., d), of responsibilities (..., k)."""
        return (share[..., None] * self._means(x, a, s)[0]).sum(-2)

    def covariance(self, x: Tensor, sigma: float, share: Tensor) -> Covariance:
        """Cov[x_0 | x_0 + sigma eps] of rows x (n, d), of responsibilities (n, k)."""
        one = x.new_ones(len(x))
        return MatrixCovariance.of(self.dense(x, one, sigma * one, share)[1])

    def dense(self, x: Tensor, a: Tensor, s: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """E and Cov of x_0 given x_t, (..., d) and (..., d, d)."""
        means, values = self._means(x, a, s)
        mean = (share[..., None] * means).sum(-2)
        rest = (means - mean[..., None, :]) * share[..., None].sqrt()
        within = torch.einsum("...k,...kij->...ij", share, self._matrix(values))
        return mean, within + rest.mT @ rest

    def root(self, noise: Tensor, pick: Tensor) -> Tensor:
        """V^(1/2) noise of noise (..., d), of components picked (...)."""
        root = self._matrix(self.values.sqrt())
        return torch.einsum("...i,...ij->...j", noise, root[pick])


def components(means: Tensor, covariances: Any) -> Shared | Stacked:
    """The components, in the form that their covariances allow."""
    k, d = means.shape
    if not isinstance(covariances, Covariance):
        covariances = torch.as_tensor(covariances).to(means)
    if isinstance(covariances, Covariance) or covariances.shape in ((), (d, d)):
        one = as_covariance(covariances, d)
        if isinstance(one, LowRankCovariance):
            one = DenseCovariance(one.dense())
        return Shared(one.into(means), one.values.expand(k, d), one.into, one.out)
    if covariances.shape != (k, d, d):
        raise ValueError(f"the covariance must be {(k, d, d)}; got {tuple(covariances.shape)}")
    if k > 1 and bool((covariances == covariances[0]).all()):
        return components(means, covariances[0])
    diagonal = covariances.diagonal(dim1=1, dim2=2)
    if bool((covariances == diagonal.diag_embed()).all()):
        if bool((diagonal < 0).any()):
            raise ValueError("a covariance has a negative eigenvalue")

        def same(v: Tensor) -> Tensor:
            return v

        return Shared(means, diagonal, same, same)
    values, vectors = torch.linalg.eigh(symmetric(covariances))
    if bool((values[:, 0] < -1e-6 * values.abs().amax(-1)).any()):
        raise ValueError("a covariance has a negative eigenvalue")
    return Stacked(means, vectors, values.clamp(min=0))


def _span(offset: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """An orthonormal basis (d, r) of what k means (k, d) span beside their centre, and their
    covariances (n, r, r) in it under weights (n, k).
    """
    rest = offset - offset.mean(0)
    _, size, rows = torch.linalg.svd(rest, full_matrices=False)
    rows = rows[size > 1e-12 * size[0].clamp(min=1e-300)]
    inner = rest @ rows.mT  # (k, r)
    centred = inner - (share @ inner)[:, None, :]
    weighted = centred * share.sqrt()[..., None]
    return rows.mT, weighted.mT @ weighted
