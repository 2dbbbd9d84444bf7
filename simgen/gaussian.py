r"""Gaussian distributions and their mixtures in closed form: density, denoiser, conditioning.

.. math::
    x_0 \sim N(m, C), \quad x_t = \alpha x_0 + \sigma \epsilon
    \quad \Rightarrow \quad
    p(x_t) = N(\alpha m, \alpha^2 C + \sigma^2 I), \quad
    p(x_0 \mid x_t) = N\bigl(m + \alpha C (\alpha^2 C + \sigma^2 I)^{-1} (x_t - \alpha m),\;
        \sigma^2 C (\alpha^2 C + \sigma^2 I)^{-1}\bigr)

.. math::
    y = A x_0 + N(0, S) \quad \Rightarrow \quad
    p(x_0 \mid y) = N\bigl(m + K (y - A m), (I - K A) C\bigr), \quad
    K = C A^\top (A C A^\top + S)^{-1}, \quad p(y) = N(A m, A C A^\top + S)

A mixture is conditioned component by component, its weights by Bayes' rule. These are the
references against which everything learned or sampled is checked. Inside, all is float64.

References:
    | Pattern Recognition and Machine Learning (Bishop, 2006), eqs. 2.113-2.117
    | https://www.microsoft.com/en-us/research/people/cmbishop/prml-book/
"""

from __future__ import annotations

__all__ = ["GaussianPrior", "MixturePrior"]

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints


@dataclass(frozen=True)
class Gaussians:
    """k Gaussians over d numbers, by mean (k, d) and eigenvectors (k, d, d) and -values (k, d) of
    their covariances; float64.
    """

    mean: Tensor
    vectors: Tensor
    values: Tensor

    @classmethod
    def of(cls, mean: Tensor, covariance: Tensor) -> Gaussians:
        """From means (k, d) and covariances (k, d, d)."""
        values, vectors = torch.linalg.eigh(covariance)
        if (values[:, 0] < -1e-6 * values.abs().amax(-1)).any():
            raise ValueError("a covariance has a negative eigenvalue")
        return cls(mean, vectors, values.clamp(min=0))

    @property
    def covariance(self) -> Tensor:
        """The covariances (k, d, d)."""
        return self._matrix(self.values)

    def _matrix(self, values: Tensor) -> Tensor:
        """U diag(values) U^T, for eigenvalues (..., k, d)."""
        return (self.vectors * values[..., None, :]) @ self.vectors.mT

    def _rotate(self, x: Tensor) -> Tensor:
        """U^T x of x (..., k, d)."""
        return torch.einsum("kij,...ki->...kj", self.vectors, x)

    def log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """log p(x_t) (..., k) of x_t (..., d), alpha and sigma (...)."""
        a, s = alpha[..., None, None], sigma[..., None, None]
        variance = a**2 * self.values + s**2
        white = self._rotate(x[..., None, :] - a * self.mean)
        terms = white.square() / variance + variance.log() + math.log(2 * math.pi)
        return -0.5 * terms.sum(-1)

    def posterior(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (..., k, d) and eigenvalues (..., k, d) of the covariance of x_0 given x_t."""
        a, s = alpha[..., None, None], sigma[..., None, None]
        gain = self.values / (a**2 * self.values + s**2)
        white = self._rotate(x[..., None, :] - a * self.mean)
        shift = torch.einsum("kij,...kj->...ki", self.vectors, a * gain * white)
        return self.mean + shift, s**2 * gain

    def condition(self, A: Tensor, y: Tensor, S: Tensor) -> tuple[Gaussians, Tensor]:
        """The Gaussians given y = A x_0 + N(0, S), and the evidence log p(y) of each, (k,)."""
        covariance = self.covariance
        total = A @ covariance @ A.T + S
        gain = torch.linalg.solve(total, A @ covariance).mT
        residual = y - self.mean @ A.T
        mean = self.mean + torch.einsum("kij,kj->ki", gain, residual)
        rest = torch.eye(A.shape[1], dtype=A.dtype, device=A.device) - gain @ A
        # Joseph's form stays positive where (I - K A) C cancels
        new = rest @ covariance @ rest.mT + gain @ S @ gain.mT
        evidence = torch.distributions.MultivariateNormal(
            self.mean @ A.T, total, validate_args=False
        ).log_prob(y)
        return Gaussians.of(mean, (new + new.mT) / 2), evidence


class _ClosedForm(Distribution):
    """What the Gaussian and the mixture share: shapes, types, and the weighted components."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    density = "exact"
    gaussians: Gaussians
    log_weights: Tensor

    def __init__(self, event: torch.Size, dtype: torch.dtype) -> None:
        super().__init__(torch.Size(), event, validate_args=False)
        self.dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()

    @property
    def support(self) -> constraints.Constraint:
        """All of R^d."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def _flat(self, x: Tensor, *levels: Any) -> tuple[Tensor, ...]:
        """x (..., d) and numbers (...), float64."""
        axes = len(self.event_shape)
        lead = x.shape[: x.dim() - axes]
        if x.shape[x.dim() - axes :] != self.event_shape:
            raise ValueError(
                f"values must be (..., {', '.join(map(str, self.event_shape))}); "
                f"got {tuple(x.shape)}"
            )
        like = self.gaussians.mean
        numbers = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in levels)
        flat = x.to(like).reshape(*lead, like.shape[-1])
        return (flat, *(v.expand(lead) for v in numbers))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), shape (...)."""
        return self.noisy_log_prob(value, 1.0, 0.0)

    def noisy_log_prob(self, x_t: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """log p(x_t), shape (...), of x_t = alpha x_0 + sigma eps."""
        x, a, s = self._flat(x_t, alpha, sigma)
        log_p = self.gaussians.log_prob(x, a, s) + self.log_weights
        return log_p.logsumexp(-1).to(x_t.dtype)

    def _responsible(self, x: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """p(component | x_t), (..., k)."""
        return (self.gaussians.log_prob(x, a, s) + self.log_weights).softmax(-1)

    def denoise(self, x_t: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """E[x_0 | x_t] (..., *event); alpha and sigma are numbers or (...)."""
        x, a, s = self._flat(x_t, alpha, sigma)
        means, _ = self.gaussians.posterior(x, a, s)
        mean = (self._responsible(x, a, s)[..., None] * means).sum(-2)
        return mean.to(x_t.dtype).view_as(x_t)

    def posterior(self, x_t: Tensor, alpha: Any, sigma: Any) -> tuple[Tensor, Tensor]:
        """Mean (..., *event) and covariance (..., d, d) of x_0 given x_t."""
        x, a, s = self._flat(x_t, alpha, sigma)
        means, values = self.gaussians.posterior(x, a, s)
        share = self._responsible(x, a, s)
        mean = (share[..., None] * means).sum(-2)
        between = means - mean[..., None, :]
        covariance = torch.einsum("...k,...kij->...ij", share, self.gaussians._matrix(values))
        covariance = covariance + torch.einsum("...k,...ki,...kj->...ij", share, between, between)
        return mean.to(x_t.dtype).view_as(x_t), covariance.to(x_t.dtype)

    def log_evidence(self, A: Any, y: Any, S: Any) -> Tensor:
        """log p(y) of y = A x + N(0, S), float64."""
        _, evidence = self.gaussians.condition(*self._linear(A, y, S))
        return (evidence + self.log_weights).logsumexp(-1)

    def _linear(self, A: Any, y: Any, S: Any) -> tuple[Tensor, Tensor, Tensor]:
        """A (m, d), y (m,), S (m, m), checked, float64."""
        like = self.gaussians.mean
        A, y, S = (torch.as_tensor(v).to(like) for v in (A, y, S))
        m, d = y.numel(), like.shape[-1]
        if A.shape != (m, d) or y.dim() != 1 or S.shape != (m, m):
            raise ValueError(
                f"of {m} observed numbers y (m,), A must be (m, d) = {(m, d)} and S (m, m); "
                f"got y {tuple(y.shape)}, A {tuple(A.shape)}, S {tuple(S.shape)}"
            )
        return A, y, S

    def _draw(self, sample_shape: Any) -> tuple[Tensor, torch.Size]:
        shape = torch.Size([sample_shape] if isinstance(sample_shape, int) else sample_shape)
        like = self.gaussians.mean
        noise = torch.randn(*shape, like.shape[-1], dtype=like.dtype, device=like.device)
        return noise, shape

    @property
    def noise_shape(self) -> torch.Size:
        """Shape of the N(0, I) noise of one draw."""
        return self.event_shape


class GaussianPrior(_ClosedForm):
    """N(mean, covariance), with what samplers ask for in closed form.

    Arguments:
        mean: Of any shape (*event), of d numbers.
        covariance: Of the flattened numbers, (d, d), positive semi-definite; `log_prob` needs it
            definite.

    Raises:
        ValueError: If the shapes do not agree or the covariance has a negative eigenvalue.
    """

    has_rsample = True

    def __init__(self, mean: Any, covariance: Any) -> None:
        mean = torch.as_tensor(mean)
        super().__init__(mean.shape, mean.dtype)
        flat = mean.double().reshape(1, -1)
        matrix = _square(covariance, (flat.shape[1],) * 2, flat)
        self.gaussians = Gaussians.of(flat, matrix[None])
        self.log_weights = flat.new_zeros(1)

    @property
    def mean(self) -> Tensor:
        """The mean (*event)."""
        return self.gaussians.mean[0].to(self.dtype).view(self.event_shape)

    @property
    def variance(self) -> Tensor:
        """The variance of each number, (*event)."""
        return self.covariance.diagonal().to(self.dtype).view(self.event_shape)

    @property
    def covariance(self) -> Tensor:
        """The covariance (d, d), float64."""
        return self.gaussians.covariance[0]

    def transport(self, noise: Tensor) -> Tensor:
        """m + C^(1/2) noise of noise (..., *event) ~ N(0, I), with the symmetric root."""
        (flat,) = self._flat(noise)
        root = self.gaussians._matrix(self.gaussians.values.sqrt())[0]
        return (self.gaussians.mean[0] + flat @ root).to(noise.dtype).view_as(noise)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws (*sample_shape, *event)."""
        noise, shape = self._draw(sample_shape)
        return self.transport(noise.view(*shape, *self.event_shape)).to(self.dtype)

    def condition(self, A: Any, y: Any, S: Any) -> GaussianPrior:
        """p(x | y) of y = A x + N(0, S): A (m, d), y (m,), S (m, m)."""
        new, _ = self.gaussians.condition(*self._linear(A, y, S))
        prior = GaussianPrior(new.mean[0].view(self.event_shape), new.covariance[0])
        prior.dtype = self.dtype
        return prior


class MixturePrior(_ClosedForm):
    """A mixture of Gaussians, with what samplers ask for in closed form.

    Arguments:
        weights: (k,), positive; normalised.
        means: (k, *event).
        covariances: (k, d, d), of the flattened numbers.

    Raises:
        ValueError: If the shapes do not agree, a weight is not positive, or a covariance has a
            negative eigenvalue.
    """

    def __init__(self, weights: Any, means: Any, covariances: Any) -> None:
        means = torch.as_tensor(means)
        super().__init__(means.shape[1:], means.dtype)
        flat = means.double().reshape(len(means), -1)
        k, d = flat.shape
        weights = torch.as_tensor(weights).to(flat)
        if weights.shape != (k,) or not (weights > 0).all():
            raise ValueError(f"weights must be {(k,)} positive numbers; got {weights.tolist()}")
        self.gaussians = Gaussians.of(flat, _square(covariances, (k, d, d), flat))
        self.log_weights = (weights / weights.sum()).log()

    @property
    def weights(self) -> Tensor:
        """The weights (k,), float64."""
        return self.log_weights.exp()

    @property
    def mean(self) -> Tensor:
        """The mean (*event)."""
        mean = self.weights @ self.gaussians.mean
        return mean.to(self.dtype).view(self.event_shape)

    @property
    def variance(self) -> Tensor:
        """The variance of each number, (*event)."""
        gaussians, weights = self.gaussians, self.weights[:, None]
        second = gaussians.covariance.diagonal(dim1=1, dim2=2) + gaussians.mean**2
        mean = (weights * gaussians.mean).sum(0)
        return ((weights * second).sum(0) - mean**2).to(self.dtype).view(self.event_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws (*sample_shape, *event)."""
        noise, shape = self._draw(sample_shape)
        pick = Categorical(logits=self.log_weights, validate_args=False).sample(shape)
        root = self.gaussians._matrix(self.gaussians.values.sqrt())
        draws = self.gaussians.mean[pick] + torch.einsum("...i,...ij->...j", noise, root[pick])
        return draws.to(self.dtype).view(*shape, *self.event_shape)

    def condition(self, A: Any, y: Any, S: Any) -> MixturePrior:
        """p(x | y) of y = A x + N(0, S): A (m, d), y (m,), S (m, m)."""
        new, evidence = self.gaussians.condition(*self._linear(A, y, S))
        log_weights = (self.log_weights + evidence).log_softmax(-1)
        tiny = torch.finfo(log_weights.dtype).tiny
        means = new.mean.view(-1, *self.event_shape)
        prior = MixturePrior(log_weights.exp().clamp(min=tiny), means, new.covariance)
        prior.dtype = self.dtype
        return prior


def _square(covariance: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A covariance or several, checked, float64."""
    matrix = torch.as_tensor(covariance).to(like)
    if matrix.shape != shape:
        raise ValueError(f"the covariance must be {shape}; got {tuple(matrix.shape)}")
    return (matrix + matrix.mT) / 2
