r"""Gate 2: a mixture of 25 Gaussians through a random matrix.

.. math::
    x \sim \sum_{i, j = -2}^{2} w_{ij}\, N\bigl((8i, 8j, 8i, 8j, \dots), I\bigr), \qquad
    y = U \operatorname{diag}(s) V^\top x + N(0, \sigma^2 I)

weights are squares of normal numbers, s sorted uniform ones, sigma is uniform times the largest of
them. The posterior is a mixture: exact draws and evidence need nothing but m x m systems.

References:
    | Monte Carlo guided Diffusion for Bayesian linear inverse problems (Cardoso et al., 2024),
    | section 4, https://arxiv.org/abs/2308.07983
"""

from __future__ import annotations

__all__ = ["Task", "mixture"]

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import Categorical, MultivariateNormal

import simgen


def mixture(dx: int, generator: torch.Generator) -> simgen.MixturePrior:
    """The prior over dx numbers, with random weights."""
    steps = torch.arange(-2, 3).double()
    means = 8 * torch.cartesian_prod(steps, steps).repeat(1, dx // 2)
    weights = torch.randn(25, generator=generator, dtype=torch.float64).square() + 1e-6
    return simgen.MixturePrior(weights, means, torch.eye(dx, dtype=torch.float64))


@dataclass(frozen=True)
class Task:
    """A prior, an instrument, and what was observed.

    Arguments:
        prior: The mixture.
        A: (m, d).
        sigma: The noise.
        y: (m,).
    """

    prior: simgen.MixturePrior
    A: Tensor
    sigma: float
    y: Tensor

    @classmethod
    def of(cls, dx: int, dy: int, seed: int, prior: simgen.MixturePrior | None = None) -> Task:
        """The task of a seed; of a given prior where its weights are not to follow the seed."""
        generator = torch.Generator().manual_seed(seed)
        prior = prior or mixture(dx, generator)
        matrix = torch.randn(dy, dx, generator=generator, dtype=torch.float64)
        U, _, V = torch.linalg.svd(matrix, full_matrices=False)
        s = torch.rand(dy, generator=generator, dtype=torch.float64).sort(descending=True).values
        A = U @ (s[:, None] * V)
        sigma = float(torch.rand((), generator=generator, dtype=torch.float64) * s[0])
        torch.manual_seed(seed)
        y = A @ prior.sample() + sigma * torch.randn(dy, dtype=torch.float64)
        return cls(prior, A, sigma, y)

    @cached_property
    def _total(self) -> Tensor:
        """Covariance (m, m) of y given a component."""
        return self.A @ self.A.mT + self.sigma**2 * torch.eye(len(self.y), dtype=torch.float64)

    @cached_property
    def _evidences(self) -> Tensor:
        """log p(y, component) (25,)."""
        law = MultivariateNormal(self.prior.means @ self.A.mT, self._total, validate_args=False)
        return law.log_prob(self.y) + self.prior.log_weights

    @property
    def log_evidence(self) -> float:
        """log p(y)."""
        return float(self._evidences.logsumexp(0))

    def exact(self, n: int, seed: int) -> Tensor:
        """n exact draws (n, d): a component, a draw of it, and what y says against it."""
        torch.manual_seed(seed)
        pick = Categorical(logits=self._evidences).sample((n,))
        x = self.prior.means[pick]
        x = x + torch.randn_like(x)
        error = self.sigma * torch.randn(n, len(self.y), dtype=torch.float64)
        rest = self.y - x @ self.A.mT - error
        return x + torch.linalg.solve(self._total, rest.mT).mT @ self.A
