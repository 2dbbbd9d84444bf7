r"""Denoisers as samplers see them: priors in closed form, and networks in their own space.

.. math::
    \mathbb{E}[x_0 \mid x_0 + \sigma \epsilon], \qquad
    V = \sigma^2 \frac{\partial\, \mathbb{E}[x_0 \mid x_t]}{\partial x_t}
    \quad \text{or} \quad V \approx \mathbb{E}_{x_t} V
    \quad \text{or} \quad V \approx \sigma^2 C (C + \sigma^2 I)^{-1}

A process with alpha is the same at x_t / alpha. Where a matrix a row is small, or little was
observed, V is the derivative at each row. Else all rows share its mean over the prior, found once
a level by one backward pass of d rows, each of which gives a row of the derivative at a draw of
its own: exact for a Gaussian prior. A network's derivative is not quite the covariance of its
errors, which is what V is, and a mean over few draws has small eigenvalues too small: they are
the mean squares of errors along the eigenvectors, over the prior's draws. Where d x d is too
large, C is the covariance of the prior's draws, of low rank and a diagonal.
"""

from __future__ import annotations

__all__ = ["ClosedForm", "Network"]

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..covariance import Covariance, LowRankCovariance, Spectral
from ..gaussian import GaussianPrior
from ..randomness import seeded
from ..row_covariance import JacobianCovariance
from .levels import Levels

_MATRIX = 32  # dimensions up to which V is a matrix a row
_FEW = 4  # numbers observed up to which V A^T is by products
_AVERAGED = 2048  # dimensions up to which V is averaged over the prior
_ROWS = 256  # of a backward pass
_DRAWS, _RANK = 1024, 256  # of the prior, for C
_TRUSTED = 1.5  # by how much the errors of a network may differ from its derivative, at most
_BELOW, _ABOVE = 0.05, 10.0  # noise levels beside the smallest and the largest deviation


class ClosedForm:
    """A `GaussianPrior` or `MixturePrior`.

    Attributes:
        size, smallest, largest, farthest, evaluations, dtype, device: As of `DenoisingPrior`.
        inside: Precision of the prior itself.
    """

    dtype, device = torch.float64, torch.device("cpu")
    shared = False

    def __init__(self, prior: Any) -> None:
        self.prior, self.inside = prior, prior.dtype
        self.size = prior.event_shape.numel()
        gaussian = isinstance(prior, GaussianPrior)
        high = prior.structure.largest if gaussian else prior.largest
        low = prior.structure.smallest if gaussian else prior.components.smallest
        self.smallest, self.largest = _BELOW * math.sqrt(low), _ABOVE * math.sqrt(high)
        self.farthest = 1e3 * self.largest
        self.evaluations = 0

    @cached_property
    def levels(self) -> Levels:
        """Where noise levels belong."""
        return Levels.of(self)

    def mean(self, x_t: Tensor, sigma: float) -> Tensor:
        """E[x_0 | x_t] (n, d)."""
        self.evaluations += len(x_t)
        return self.prior.denoise(self._rows(x_t), 1.0, sigma).flatten(1).to(x_t)

    def moments(self, x_t: Tensor, sigma: float) -> tuple[Tensor, Covariance]:
        """E[x_0 | x_t] (n, d) and Cov[x_0 | x_t]."""
        self.evaluations += len(x_t)
        return self.prior.moments(x_t, sigma)

    def physical(self, z: Tensor) -> Tensor:
        """x (n, *event) of rows z (n, d), in the precision of the prior."""
        return self._rows(z).to(self.inside)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws (n, d) of the prior."""
        with seeded(generator):
            return self.prior.sample((n,)).reshape(n, -1).double()

    def _rows(self, z: Tensor) -> Tensor:
        return z.view(len(z), *self.prior.event_shape)


class Network:
    """A distribution that denoises in its own space: a fitted diffusion model, or any object with
    `event_shape` and `denoise(x_t, alpha, sigma)`.

    Arguments:
        distribution: The distribution.
        observed: How many numbers are observed of a row.

    Attributes:
        size, smallest, largest, farthest, evaluations, dtype, device: As of `DenoisingPrior`.
        inside: Precision of the denoiser itself.
        shared: Whether V is the same for all rows.
    """

    dtype = torch.float64  # of all but the network

    def __init__(self, distribution: Any, observed: int) -> None:
        self.distribution = distribution
        self.shape = torch.Size(getattr(distribution, "modelled_shape", distribution.event_shape))
        self.size = self.shape.numel()
        self.process = getattr(distribution, "process", None)
        self.device = torch.device(getattr(distribution, "device", "cpu"))
        self.shared = self.size > _MATRIX and observed > _FEW
        self.inside = torch.float32 if self.process is not None else torch.float64
        self.evaluations = 0
        if self.process is not None:
            self.farthest = float(self.process.sigma_max)
            self.smallest, self.largest = 20 * float(self.process.sigma_min), self.farthest / 8
        else:
            sd = self.draw(_DRAWS, torch.Generator().manual_seed(0)).double()
            _, values, _ = torch.linalg.svd(sd - sd.mean(0), full_matrices=False)
            scale = values[values > 1e-6 * values[0]] / math.sqrt(len(sd))
            self.smallest, self.largest = _BELOW * float(scale[-1]), _ABOVE * float(scale[0])
            self.farthest = self.largest
        self._covariance: LowRankCovariance | None = None
        self._found: dict[float, tuple[Spectral, float]] = {}
        self._draws: Tensor | None = None

    @cached_property
    def levels(self) -> Levels:
        """Where noise levels belong."""
        return Levels.of(self)

    @property
    def averages(self) -> bool:
        """Whether V is the mean over the prior."""
        return self.shared and self.size <= _AVERAGED

    def mean(self, x_t: Tensor, sigma: float) -> Tensor:
        """E[x_0 | x_t] (n, d)."""
        self.evaluations += len(x_t)
        alpha, level = torch.ones(()), torch.tensor(float(sigma))
        if self.process is not None:
            ratio = torch.tensor(float(sigma), dtype=torch.float64)
            alpha, level = (v.float() for v in self.process.at(ratio))
        rows = (alpha * x_t).view(len(x_t), *self.shape).to(self.inside)
        mean = self.distribution.denoise(rows, alpha.to(rows), level.to(rows))
        return mean.reshape(len(x_t), -1).to(x_t)

    def moments(self, x_t: Tensor, sigma: float) -> tuple[Tensor, Covariance]:
        """E[x_0 | x_t] (n, d) and Cov[x_0 | x_t]."""
        if self.shared:
            with torch.no_grad():
                mean = self.mean(x_t, sigma)
            if self.size > _AVERAGED:
                return mean, self.covariance.denoised(sigma)
            return mean, self.averaged(sigma)
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            mean = self.mean(x, sigma)
        V = JacobianCovariance(x, mean, sigma**2)
        return mean.detach(), V.matrices() if self.size <= _MATRIX else V

    def averaged(self, sigma: float) -> Spectral:
        """E Cov[x_0 | x_t] over x_t of the prior at a noise level, found once."""
        return self._averaged(sigma)[0]

    def variance(self, sigma: float) -> float:
        """What the derivative at a row is multiplied by to give V: sigma^2, but for how much
        larger or smaller a network's errors are.
        """
        return sigma**2 * self._averaged(sigma)[1]

    def _averaged(self, sigma: float) -> tuple[Spectral, float]:
        """E Cov[x_0 | x_t], and the mean square of errors over its trace before."""
        if sigma not in self._found:
            generator = torch.Generator().manual_seed(1)
            if self._draws is None:
                n = self.size if self.process is None else max(self.size, _DRAWS)
                self._draws = self.draw(n, torch.Generator().manual_seed(0))
            noise = torch.randn(self._draws.shape, generator=generator, dtype=self.dtype)
            x_t = self._draws + sigma * noise.to(self._draws)
            which = torch.arange(len(x_t), device=x_t.device) % self.size
            rows = zip(which.split(_ROWS), x_t.split(_ROWS), strict=True)
            parts = [self._slopes(i, x, sigma) for i, x in rows]
            slope, mean = (torch.cat(part) for part in zip(*parts, strict=True))
            slope = slope[: self.size]
            values, vectors = torch.linalg.eigh(sigma**2 * (slope + slope.mT) / 2)
            share = 1.0
            if self.process is not None:
                errors = self._draws - mean
                values = (errors @ vectors).square().mean(0)
                share = float(values.sum() / (sigma**2 * slope.trace()))
                share = min(max(share, 1 / _TRUSTED), _TRUSTED)
            values = values.clamp(min=1e-6 * float(values.max()))
            found = Spectral(values, lambda v: v @ vectors, lambda v: v @ vectors.mT)
            self._found[sigma] = found, share
        return self._found[sigma]

    def _slopes(self, which: Tensor, x_t: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Rows `which` of the denoiser's derivative, each at a row of x_t; and the denoised."""
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            mean = self.mean(x_t, sigma)
            chosen = mean.gather(1, which[:, None]).sum()
            return torch.autograd.grad(chosen, x_t)[0], mean.detach()

    @property
    def covariance(self) -> LowRankCovariance:
        """C, of the prior's own draws: their leading directions, and what is left of each number's
        variance.
        """
        if self._covariance is None:
            x = self.draw(_DRAWS, torch.Generator().manual_seed(0)).double()
            rest = x - x.mean(0)
            _, values, rows = torch.linalg.svd(rest / math.sqrt(len(x)), full_matrices=False)
            rank = min(_RANK, len(values), self.size)
            factor = (values[:rank, None] * rows[:rank]).mT
            left = rest.square().mean(0) - factor.square().sum(1)
            floor = left.mean().clamp(min=0) + 1e-6 * values[0] ** 2
            self._covariance = LowRankCovariance(left.clamp(min=float(floor)), factor)
        return self._covariance

    def physical(self, z: Tensor) -> Tensor:
        """x (n, *event) of rows z (n, d)."""
        rows = z.view(len(z), *self.shape)
        if hasattr(self.distribution, "to_physical"):
            return self.distribution.to_physical(rows.float())
        return rows

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws (n, d) of the prior, in its own space."""
        with torch.no_grad(), seeded(generator):
            draw = getattr(self.distribution, "modelled_sample", self.distribution.sample)
            return draw((n,)).reshape(n, -1).double()
