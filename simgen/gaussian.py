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
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MultivariateNormal, constraints

from .components import components
from .covariance import Covariance, Structured, as_covariance


class _ClosedForm(Distribution):
    """What the Gaussian and the mixture share: shapes and types."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    density = "exact"
    _like: Tensor

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
        like = self._like
        numbers = (torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in levels)
        flat = x.to(like).reshape(*lead, like.shape[-1])
        return (flat, *(v.expand(lead) for v in numbers))

    @abstractmethod
    def _noisy(self, x: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """log p(x_t) (...) of x_t (..., d)."""

    @abstractmethod
    def _mean(self, x: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """E[x_0 | x_t] (..., d) of x_t (..., d)."""

    @abstractmethod
    def moments(self, x_t: Tensor, sigma: float) -> tuple[Tensor, Covariance]:
        """E and Cov of x_0 given x_t = x_0 + sigma eps, rows (n, d) of float64."""

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value), shape (...)."""
        return self.noisy_log_prob(value, 1.0, 0.0)

    def noisy_log_prob(self, x_t: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """log p(x_t), shape (...), of x_t = alpha x_0 + sigma eps."""
        return self._noisy(*self._flat(x_t, alpha, sigma)).to(x_t.dtype)

    def denoise(self, x_t: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """E[x_0 | x_t] (..., *event); alpha and sigma are numbers or (...)."""
        return self._mean(*self._flat(x_t, alpha, sigma)).to(x_t.dtype).view_as(x_t)

    def _linear(self, A: Any, y: Any, S: Any) -> tuple[Tensor, Tensor, Tensor]:
        """A (m, d), y (m,), S (m, m), checked, float64."""
        A, y, S = (torch.as_tensor(v).to(self._like) for v in (A, y, S))
        m, d = y.numel(), self._like.shape[-1]
        if A.shape != (m, d) or y.dim() != 1 or S.shape != (m, m):
            raise ValueError(
                f"of {m} observed numbers y (m,), A must be (m, d) = {(m, d)} and S (m, m); "
                f"got y {tuple(y.shape)}, A {tuple(A.shape)}, S {tuple(S.shape)}"
            )
        return A, y, S

    def _draw(self, sample_shape: Any) -> tuple[Tensor, torch.Size]:
        shape = torch.Size([sample_shape] if isinstance(sample_shape, int) else sample_shape)
        like = self._like
        noise = torch.randn(*shape, like.shape[-1], dtype=like.dtype, device=like.device)
        return noise, shape


class GaussianPrior(_ClosedForm):
    """N(mean, covariance), with what samplers ask for in closed form.

    Arguments:
        mean: Of any shape (*event), of d numbers.
        covariance: Of the flattened numbers: (d, d), d variances, a number, or one of
            `DenseCovariance`, `DiagonalCovariance`, `FourierCovariance`, `LowRankCovariance`;
            positive semi-definite, `log_prob` needs it definite.

    Attributes:
        structure: The covariance as an operator.

    Raises:
        ValueError: If the shapes do not agree or the covariance has a negative eigenvalue.
    """

    has_rsample = True

    def __init__(self, mean: Any, covariance: Any) -> None:
        mean = torch.as_tensor(mean)
        super().__init__(mean.shape, mean.dtype)
        self._like = mean.double().flatten()
        self.structure: Structured = as_covariance(covariance, mean.numel())

    @property
    def noise_shape(self) -> torch.Size:
        """Shape of the N(0, I) noise of one draw."""
        return self.event_shape

    @property
    def mean(self) -> Tensor:
        """The mean (*event)."""
        return self._like.to(self.dtype).view(self.event_shape)

    @property
    def variance(self) -> Tensor:
        """The variance of each number, (*event)."""
        return self.structure.diagonal().to(self.dtype).view(self.event_shape)

    @property
    def covariance(self) -> Tensor:
        """The covariance (d, d), float64."""
        return self.structure.dense()

    def _noisy(self, x: Tensor, a: Tensor, s: Tensor) -> Tensor:
        rest = x / a[..., None] - self._like
        shift = (s / a) ** 2
        square = (rest * self.structure.solve(rest, shift)).sum(-1)
        logdet = self.structure.logdet(shift) + x.shape[-1] * (2 * a.log() + math.log(2 * math.pi))
        return -0.5 * (square + logdet)

    def _mean(self, x: Tensor, a: Tensor, s: Tensor) -> Tensor:
        rest = x / a[..., None] - self._like
        return self._like + self.structure(self.structure.solve(rest, (s / a) ** 2))

    def moments(self, x_t: Tensor, sigma: float) -> tuple[Tensor, Covariance]:
        """E and Cov of x_0 given x_t = x_0 + sigma eps, rows (n, d) of float64."""
        one = x_t.new_ones(len(x_t))
        return self._mean(x_t, one, sigma * one), self.structure.denoised(sigma)

    def posterior(self, x_t: Tensor, alpha: Any, sigma: Any) -> tuple[Tensor, Tensor]:
        """Mean (..., *event) and covariance (..., d, d) of x_0 given x_t."""
        x, a, s = self._flat(x_t, alpha, sigma)
        unit = torch.eye(x.shape[-1]).to(x).expand(*x.shape, x.shape[-1])
        ratio = ((s / a) ** 2)[..., None].expand(x.shape)
        covariance = ratio[..., None] * self.structure(self.structure.solve(unit, ratio))
        return self._mean(x, a, s).to(x_t.dtype).view_as(x_t), covariance.to(x_t.dtype)

    def transport(self, noise: Tensor) -> Tensor:
        """m + R noise of noise (..., *event) ~ N(0, I), with a square root R of the covariance."""
        (flat,) = self._flat(noise)
        return (self._like + self.structure.root(flat)).to(noise.dtype).view_as(noise)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws (*sample_shape, *event)."""
        noise, shape = self._draw(sample_shape)
        return self.transport(noise.view(*shape, *self.event_shape)).to(self.dtype)

    def log_evidence(self, A: Any, y: Any, S: Any) -> Tensor:
        """log p(y) of y = A x + N(0, S), float64."""
        A, y, S = self._linear(A, y, S)
        total = A @ self.structure(A).mT + S
        return MultivariateNormal(A @ self._like, total, validate_args=False).log_prob(y)

    def condition(self, A: Any, y: Any, S: Any) -> GaussianPrior:
        """p(x | y) of y = A x + N(0, S): A (m, d), y (m,), S (m, m)."""
        mean, covariance, _ = _conditioned(
            self._like[None], self.structure.dense()[None], *self._linear(A, y, S)
        )
        prior = GaussianPrior(mean[0].view(self.event_shape), covariance[0])
        prior.dtype = self.dtype
        return prior


class MixturePrior(_ClosedForm):
    """A mixture of Gaussians, with what samplers ask for in closed form.

    Arguments:
        weights: (k,), positive; normalised.
        means: (k, *event).
        covariances: (k, d, d) of the flattened numbers, or one that all components share: (d, d),
            a number, or a kind of covariance as `GaussianPrior` takes it.

    Raises:
        ValueError: If the shapes do not agree, a weight is not positive, or a covariance has a
            negative eigenvalue.
    """

    def __init__(self, weights: Any, means: Any, covariances: Any) -> None:
        means = torch.as_tensor(means)
        super().__init__(means.shape[1:], means.dtype)
        flat = means.double().reshape(len(means), -1)
        k = len(flat)
        weights = torch.as_tensor(weights).to(flat)
        if weights.shape != (k,) or not (weights > 0).all():
            raise ValueError(f"weights must be {(k,)} positive numbers; got {weights.tolist()}")
        self._like = flat
        self.components = components(flat, covariances)
        self.log_weights = (weights / weights.sum()).log()

    @property
    def weights(self) -> Tensor:
        """The weights (k,), float64."""
        return self.log_weights.exp()

    @property
    def means(self) -> Tensor:
        """The components' means (k, *event), float64."""
        return self._like.view(-1, *self.event_shape)

    @property
    def covariances(self) -> Tensor:
        """The components' covariances (k, d, d), float64."""
        return self.components.covariances

    @property
    def mean(self) -> Tensor:
        """The mean (*event)."""
        return (self.weights @ self._like).to(self.dtype).view(self.event_shape)

    @property
    def variance(self) -> Tensor:
        """The variance of each number, (*event)."""
        second = self.components.variances + self._like**2
        variance = self.weights @ second - (self.weights @ self._like) ** 2
        return variance.to(self.dtype).view(self.event_shape)

    @property
    def largest(self) -> float:
        """The largest variance in any direction."""
        rest = (self._like - self.weights @ self._like) * self.weights.sqrt()[:, None]
        return float(torch.linalg.eigvalsh(rest @ rest.mT)[-1]) + self.components.largest

    def _shares(self, x: Tensor, a: Tensor, s: Tensor) -> Tensor:
        """p(component | x_t), (..., k)."""
        return (self.components.log_prob(x, a, s) + self.log_weights).softmax(-1)

    def _noisy(self, x: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return (self.components.log_prob(x, a, s) + self.log_weights).logsumexp(-1)

    def _mean(self, x: Tensor, a: Tensor, s: Tensor) -> Tensor:
        return self.components.mean(x, a, s, self._shares(x, a, s))

    def moments(self, x_t: Tensor, sigma: float) -> tuple[Tensor, Covariance]:
        """E and Cov of x_0 given x_t = x_0 + sigma eps, rows (n, d) of float64."""
        one = x_t.new_ones(len(x_t))
        a, s = one, sigma * one
        share = self._shares(x_t, a, s)
        mean = self.components.mean(x_t, a, s, share)
        return mean, self.components.covariance(x_t, sigma, share)

    def posterior(self, x_t: Tensor, alpha: Any, sigma: Any) -> tuple[Tensor, Tensor]:
        """Mean (..., *event) and covariance (..., d, d) of x_0 given x_t."""
        x, a, s = self._flat(x_t, alpha, sigma)
        share = self._shares(x, a, s)
        mean, covariance = self.components.dense(x, a, s, share)
        return mean.to(x_t.dtype).view_as(x_t), covariance.to(x_t.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws (*sample_shape, *event)."""
        noise, shape = self._draw(sample_shape)
        pick = Categorical(logits=self.log_weights, validate_args=False).sample(shape)
        draws = self._like[pick] + self.components.root(noise, pick)
        return draws.to(self.dtype).view(*shape, *self.event_shape)

    def log_evidence(self, A: Any, y: Any, S: Any) -> Tensor:
        """log p(y) of y = A x + N(0, S), float64."""
        _, _, evidence = _conditioned(self._like, self.covariances, *self._linear(A, y, S))
        return (evidence + self.log_weights).logsumexp(-1)

    def condition(self, A: Any, y: Any, S: Any) -> MixturePrior:
        """p(x | y) of y = A x + N(0, S): A (m, d), y (m,), S (m, m)."""
        covariances = self.components.shared
        if covariances is None:
            covariances = self.covariances
        mean, new, evidence = _conditioned(self._like, covariances, *self._linear(A, y, S))
        log_weights = (self.log_weights + evidence).log_softmax(-1)
        tiny = torch.finfo(log_weights.dtype).tiny
        shared = new[0] if len(new) == 1 and len(mean) > 1 else new
        means = mean.view(-1, *self.event_shape)
        prior = MixturePrior(log_weights.exp().clamp(min=tiny), means, shared)
        prior.dtype = self.dtype
        return prior


def _conditioned(
    means: Tensor, covariances: Tensor, A: Tensor, y: Tensor, S: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Means (k, d), covariances (k or 1, d, d) and evidences (k,) of Gaussians given
    y = A x_0 + N(0, S).
    """
    total = A @ covariances @ A.T + S
    gain = torch.linalg.solve(total, A @ covariances).mT
    residual = y - means @ A.T
    mean = means + torch.einsum("kij,kj->ki", gain.expand(len(means), -1, -1), residual)
    rest = torch.eye(A.shape[1]).to(A) - gain @ A
    # Joseph's form stays positive where (I - K A) C cancels
    new = rest @ covariances @ rest.mT + gain @ S @ gain.mT
    evidence = MultivariateNormal(means @ A.T, total, validate_args=False).log_prob(y)
    return mean, (new + new.mT) / 2, evidence
