r"""A problem as samplers see it: rows of numbers, a denoiser, and data of unit noise.

.. math::
    y = f(x_0) + N(0, I), \qquad x_0 \sim p(x_0), \qquad
    \mathbb{E}[x_0 \mid x_t], \; V = \mathrm{Cov}[x_0 \mid x_t], \quad x_t = x_0 + \sigma \epsilon

What is observed and predicted is divided by the noise, once. A likelihood that is not Gaussian
has a Gaussian beside it that guides; its own density has the last word.
"""

from __future__ import annotations

__all__ = ["Problem", "Twist", "twist"]

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..covariance import Covariance
from .levels import DenoisingPrior


@dataclass(frozen=True)
class Problem:
    """A prior and what was observed of one x.

    Arguments:
        prior: The prior.
        predict: f, (n, d) to (n, m), in units of the noise.
        y: What was observed, (m,), in the same units.
        scale: log of the noise's density at its mean, which the evidence needs.
        matrix: The derivative of f (m, d) where f is affine.
        log_likelihood: log p(y | x_0) (n,) of rows (n, d), where it is not the Gaussian one.
        unit: The noise's typical standard deviation.
    """

    prior: DenoisingPrior
    predict: Callable[[Tensor], Tensor]
    y: Tensor
    scale: float
    matrix: Tensor | None = None
    log_likelihood: Callable[[Tensor], Tensor] | None = None
    unit: float = 1.0

    def gaussian(self, x: Tensor) -> Tensor:
        """The log-density (n,) of y under the Gaussian likelihood of rows (n, d)."""
        return self.scale - 0.5 * (self.y - self.predict(x)).square().sum(-1)

    def correction(self, x: Tensor) -> Tensor:
        """Log of the likelihood over the Gaussian one (n,), of rows (n, d)."""
        if self.log_likelihood is None:
            return x.new_zeros(len(x))
        return self.log_likelihood(x) - self.gaussian(x)

    def slopes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f (n, m) and df/dx, (m, 1 or n, d), at rows (n, d)."""
        if self.matrix is not None:
            return self.predict(x), self.matrix[:, None, :]
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            found = self.predict(x)
            rows = [
                torch.autograd.grad(found[:, i].sum(), x, retain_graph=True)[0]
                for i in range(found.shape[1])
            ]
        return found.detach(), torch.stack(rows)


@dataclass(frozen=True)
class Twist:
    r"""What is known of x_0 and y at x_t, to second order.

    .. math::
        x_0 \mid x_t \approx N(\hat x, V), \qquad
        p(y \mid x_t) \approx N\bigl(y; f(\hat x), S\bigr), \quad S = I + A V A^\top

    Arguments:
        mean: The mean (n, d).
        covariance: V.
        slopes: A (m, 1 or n, d).
        spread: V A^T (m, 1 or n, d).
        factor: Cholesky factor of S, (1 or n, m, m).
        residual: y - f(mean), (n, m).
    """

    mean: Tensor
    covariance: Covariance
    slopes: Tensor
    spread: Tensor
    factor: Tensor
    residual: Tensor

    @property
    def log_prob(self) -> Tensor:
        """log N(y; f(mean), S) (n,), without the noise's own scale."""
        return gaussian(self.residual, self.factor)

    def draw(self, noise: Tensor, error: Tensor, led: Tensor | None = None) -> Tensor:
        """A draw of x_0 given x_t and y, from noise (n, d) and error (n, m), both N(0, I): one
        without y, then moved by what y says against it (Matheron's rule). Rows that are not led,
        (n,), are not moved.
        """
        z = self.covariance.root(noise)
        weights = solve(self.factor, self.residual - seen(self.slopes, z) - error)
        if led is not None:
            weights = weights * led[:, None]
        return self.mean + z + along(self.spread, weights)

    def guided(self) -> Tensor:
        """E[x_0 | x_t, y] (n, d)."""
        return self.mean + along(self.spread, solve(self.factor, self.residual))

    def foreseen(self, u: Tensor, kappa: float) -> Tensor:
        """log p(y | x_t, u) (n,) of one more look at x_0, u = x_0 + N(0, kappa I) (n, d)."""
        rest, V = u - self.mean, self.covariance
        if kappa == 0:
            moved = rest
            left = self.factor.new_zeros(1, *self.factor.shape[1:])
        else:
            moved = rest - kappa * V.solve(rest, kappa)
            left = kappa * inner(self.slopes, V.solve(self.spread, kappa))
        residual = self.residual - seen(self.slopes, moved)
        return gaussian(residual, cholesky(left))


def twist(problem: Problem, x_t: Tensor, sigma: float) -> Twist:
    """The twist at rows x_t (n, d)."""
    mean, covariance = problem.prior.moments(x_t, sigma)
    found, slopes = problem.slopes(mean)
    spread = covariance(slopes)
    residual = problem.y - found
    return Twist(mean, covariance, slopes, spread, cholesky(inner(slopes, spread)), residual)


def seen(slopes: Tensor, x: Tensor) -> Tensor:
    """A x (n, m) of slopes (m, 1 or n, d) and rows x (n, d)."""
    if slopes.shape[1] == 1:
        return x @ slopes[:, 0].mT
    return torch.einsum("mnd,nd->nm", slopes, x)


def along(columns: Tensor, weights: Tensor) -> Tensor:
    """The sum (n, d) of columns (m, 1 or n, d) with weights (n, m)."""
    if columns.shape[1] == 1:
        return weights @ columns[:, 0]
    return torch.einsum("mnd,nm->nd", columns, weights)


def inner(slopes: Tensor, spread: Tensor) -> Tensor:
    """A V A^T (1 or n, m, m) of A and V A^T (m, 1 or n, d)."""
    return slopes.movedim(1, 0) @ spread.movedim(1, 0).mT


def cholesky(matrix: Tensor) -> Tensor:
    """The Cholesky factor of I + matrix (..., m, m), where rounding or a network may have made
    the matrix less than positive.
    """
    total = (matrix + matrix.mT) / 2 + torch.eye(matrix.shape[-1]).to(matrix)
    factor, failed = torch.linalg.cholesky_ex(total)
    if not bool(failed.any()):
        return factor
    values, vectors = torch.linalg.eigh(total)
    return torch.linalg.cholesky((vectors * values.clamp(min=1)[..., None, :]) @ vectors.mT)


def solve(factor: Tensor, right: Tensor) -> Tensor:
    """S^-1 right (n, m) by the Cholesky factor (1 or n, m, m) of S."""
    if len(factor) == 1:
        return torch.cholesky_solve(right.mT, factor[0]).mT
    return torch.cholesky_solve(right[..., None], factor)[..., 0]


def gaussian(residual: Tensor, factor: Tensor) -> Tensor:
    """Of N(0, S) at residuals (n, m), over the density of N(0, I) at zero, its logarithm (n,)."""
    if len(factor) == 1:
        white = torch.linalg.solve_triangular(factor[0], residual.mT, upper=False).mT
    else:
        white = torch.linalg.solve_triangular(factor, residual[..., None], upper=False)[..., 0]
    return -0.5 * white.square().sum(-1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
