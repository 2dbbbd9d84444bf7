r"""A Gaussian unknown taken out: the evidence of what else is unknown, in closed form.

.. math::
    y = A_u x + N(0, \Sigma_u), \quad x \sim N(m, C) \quad \Rightarrow \quad
    p(y \mid u) = N(y; A_u m, A_u C A_u^\top + \Sigma_u)

so that an instrument's own parameters u are sampled alone, and x given each of them exactly
(Rao and Blackwell). The matrix A_u is found anew for each row of u, by unit vectors.

References:
    | Gaussian Processes for Machine Learning (Rasmussen & Williams, 2006), eq. 2.30, section 5.4
    | https://gaussianprocess.org/gpml/
"""

from __future__ import annotations

__all__ = ["Collapsed"]

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..gaussian import GaussianPrior

_NUMBERS = 1 << 24  # of unit vectors and of what is seen of them, at once


@dataclass(frozen=True)
class Collapsed:
    """A Gaussian x under an instrument with other unknowns.

    Arguments:
        prior: Of x, of d numbers.
        white: What is predicted, (n, m) in units of the noise, of rows x (n, *event) and others,
            with the noise's log-determinants (n,), and y (n, m) in the same units.
    """

    prior: GaussianPrior
    white: Callable[[Tensor, dict[str, Tensor]], tuple[Tensor, Tensor, Tensor]]

    def log_evidence(self, others: dict[str, Tensor]) -> Tensor:
        """log p(y | others) (n,) of n rows."""
        n = len(next(iter(others.values())))
        return torch.cat([self._solve(part)[-1] for part in self._parts(others, n)])

    def draw(self, others: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """A draw of x (n, *event) for each of n rows."""
        n = len(next(iter(others.values())))
        draws = []
        for part in self._parts(others, n):
            A, factor, residual, _ = self._solve(part)
            rows, m, d = A.shape
            noise, error = (
                torch.randn(rows, k, generator=generator, dtype=torch.float64) for k in (d, m)
            )
            z = self.prior.structure.root(noise)
            rest = residual - (A @ z[..., None])[..., 0] - error
            weights = torch.cholesky_solve(rest[..., None], factor)
            draws.append(z + self.prior.structure((A.mT @ weights)[..., 0]))
        x = torch.cat(draws) + self.prior.mean.double().flatten()
        return x.view(n, *self.prior.event_shape)

    def affine(self, others: dict[str, Tensor]) -> bool:
        """Whether what is predicted is affine in x, for n rows of others."""
        n = len(next(iter(others.values())))
        shape = (n, *self.prior.event_shape)
        generator = torch.Generator().manual_seed(0)
        x, z = (torch.randn(shape, generator=generator).to(self.prior.dtype) for _ in range(2))
        zero, at_x, at_z, both = (
            self.white(v, others)[0] for v in (torch.zeros_like(x), x, z, 2 * x - 3 * z)
        )
        error = (both - zero) - 2 * (at_x - zero) + 3 * (at_z - zero)
        size = (at_x - zero).norm() + (at_z - zero).norm() + zero.norm()
        return bool(error.norm() <= 1e-4 * size)

    def _parts(self, others: dict[str, Tensor], n: int) -> list[dict[str, Tensor]]:
        """Rows of others, as many at once as memory allows."""
        d = self.prior.event_shape.numel()
        one = {k: v[:1] for k, v in others.items()}
        m = self.white(torch.zeros(1, *self.prior.event_shape, dtype=self.prior.dtype), one)[2]
        step = max(1, _NUMBERS // (d * (d + m.shape[1])))
        return [{k: v[i : i + step] for k, v in others.items()} for i in range(0, n, step)]

    def _solve(self, others: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A (n, m, d), the factor of A C A^T + I (n, m, m), y - A m (n, m), and log p(y) (n,)."""
        n = len(next(iter(others.values())))
        event, d = self.prior.event_shape, self.prior.event_shape.numel()
        mean = self.prior.mean.to(self.prior.dtype)
        base, logdet, y = self.white(mean.expand(n, *event), others)
        unit = torch.eye(d, dtype=self.prior.dtype).view(d, *event) + mean
        repeated = {k: v.repeat_interleave(d, 0) for k, v in others.items()}
        columns = self.white(unit.repeat(n, *[1] * len(event)), repeated)[0].view(n, d, -1)
        A = (columns - base[:, None]).mT.contiguous()
        total = A @ self.prior.structure(A).mT + torch.eye(A.shape[1]).to(A)
        factor = torch.linalg.cholesky(total)
        residual = y - base
        white = torch.linalg.solve_triangular(factor, residual[..., None], upper=False)[..., 0]
        constant = A.shape[1] * math.log(2 * math.pi) + logdet
        half = factor.diagonal(dim1=1, dim2=2).log().sum(-1)
        return A, factor, residual, -0.5 * (white.square().sum(-1) + constant) - half
