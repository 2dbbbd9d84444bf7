r"""Probabilistic PCA: the linear-Gaussian latent-variable model, where everything is known.

.. math::
    z \sim \mathcal{N}(0, I), \quad x = W z + \mu + \sigma \epsilon, \qquad
    x \sim \mathcal{N}(\mu, W W^\top + \sigma^2 I)

With Lambda the l largest eigenvalues of the sample covariance and U their eigenvectors, the
maximum of the likelihood is at

.. math::
    W = U (\Lambda - \sigma^2 I)^{1/2}, \qquad
    \sigma^2 = \frac{1}{k - l} \sum_{j > l} \lambda_j .

References:
    | Probabilistic Principal Component Analysis (Tipping & Bishop, 1999), eqs. 4, 6 to 8
    | https://doi.org/10.1111/1467-9868.00196
"""

from __future__ import annotations

__all__ = ["PrincipalAxes", "ProbabilisticPCA", "principal_axes", "regression"]

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
)
from torch.nn.functional import pad

_LEAST = 1e-6  # smallest eigenvalue of a covariance, of columns with one near 1


@dataclass(frozen=True)
class PrincipalAxes:
    """Probabilistic PCA at its maximum; latents that no direction is left for do nothing.

    Attributes:
        outward: W, (k, l).
        variance: sigma^2, ().
        inward: The matrix of E[z | x] = V (x - mu), (l, k).
        spread: Standard deviations of p(z | x), which is diagonal here, (l,).
    """

    outward: Tensor
    variance: Tensor
    inward: Tensor
    spread: Tensor


def principal_axes(covariance: Tensor, latent: int, noise: float = 0.01) -> PrincipalAxes:
    """The maximum of the likelihood, where rows have a covariance (k, k).

    Arguments:
        covariance: Of rows.
        latent: Length l of z.
        noise: sigma^2 as a share of the smallest eigenvalue where no direction is left to
            measure it on: any share up to 1 is equally likely.
    """
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0).clamp(min=_LEAST), vectors.flip(1)
    k = len(values)
    variance = values[latent:].mean() if latent < k else noise * values[-1]
    values, vectors = values[:latent], vectors[:, :latent]
    extra = max(0, latent - k)
    signal = (values - variance).clamp(min=0).sqrt()
    return PrincipalAxes(
        pad(vectors * signal, (0, extra)),
        variance,
        pad((vectors * signal / values).T, (0, 0, 0, extra)),
        pad((variance / values).sqrt(), (0, extra), value=1.0),
    )


def regression(x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Slope (c, k) and shift (k,) of x (n, k) on contexts (n, c), and what is left: its
    covariance (k, k); in float64.
    """
    x = x.double()
    if context is None:
        return x.new_zeros(0, x.shape[1]), x.mean(0), _covariance(x)
    c = context.double()
    centred = c - c.mean(0)
    gram = centred.T @ centred / len(c)
    ridge = 1e-6 * gram.diagonal().mean().clamp(min=1e-12)
    gram.diagonal().add_(ridge)
    slope = torch.linalg.solve(gram, centred.T @ (x - x.mean(0)) / len(c))
    shift = x.mean(0) - c.mean(0) @ slope
    return slope, shift, _covariance(x - c @ slope)


def _covariance(x: Tensor) -> Tensor:
    """Of rows (n, k), (k, k)."""
    centred = x - x.mean(0)
    return centred.T @ centred / len(x)


class ProbabilisticPCA(nn.Module):
    """A prescribed latent-variable model p(x, z) with W, mu and sigma to be fitted.

    Arguments:
        features: Length k of x.
        latent: Length l of z.
    """

    def __init__(self, features: int, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.weight = nn.Parameter(torch.randn(features, latent) / latent**0.5)
        self.mean = nn.Parameter(torch.zeros(features))
        self.log_sigma = nn.Parameter(torch.zeros(()))

    @property
    def covariance(self) -> Tensor:
        """Of x, (k, k)."""
        eye = torch.eye(len(self.mean), dtype=self.mean.dtype, device=self.mean.device)
        return self.weight @ self.weight.T + (2 * self.log_sigma).exp() * eye

    @property
    def prior(self) -> Independent:
        """p(z)."""
        zero = torch.zeros(self.latent, dtype=self.mean.dtype, device=self.mean.device)
        return Independent(Normal(zero, zero + 1), 1)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z), (...,), of x (..., k) and z (..., l)."""
        residual = (x - self.mean - z @ self.weight.T) * (-self.log_sigma).exp()
        constant = len(self.mean) * (self.log_sigma + 0.5 * math.log(2 * math.pi))
        return -0.5 * residual.square().sum(-1) - constant

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x), (n,), in closed form."""
        noise = (2 * self.log_sigma).exp().expand(len(self.mean))
        return LowRankMultivariateNormal(
            self.mean, self.weight, noise, validate_args=False
        ).log_prob(x)

    def posterior(self, x: Tensor) -> Any:
        """p(z | x), a Gaussian of batch (n,), in closed form."""
        variance = (2 * self.log_sigma).exp()
        eye = torch.eye(self.latent, dtype=x.dtype, device=x.device)
        precision = self.weight.T @ self.weight / variance + eye
        mean = torch.linalg.solve(precision, self.weight.T @ (x - self.mean).T / variance).T
        return MultivariateNormal(mean, precision_matrix=precision, validate_args=False)

    @torch.no_grad()
    def maximise(self, x: Tensor) -> ProbabilisticPCA:
        """Sets W, mu and sigma to the maximum of the likelihood of rows x (n, k)."""
        self.mean.copy_(x.mean(0))
        pca = principal_axes(_covariance(x), self.latent)
        self.weight.copy_(pca.outward)
        self.log_sigma.copy_(0.5 * pca.variance.log())
        return self
