r"""The posterior of Gaussian and mixture priors under linear data with Gaussian noise, exactly.

.. math::
    y = A x + N(0, I), \qquad S = A C A^\top + I, \qquad
    x \mid y \;\sim\; x' + C A^\top S^{-1} (y - A x' - \epsilon), \quad
    x' \sim N(m, C), \; \epsilon \sim N(0, I)

by Matheron's rule: only the m x m matrix S is factorised, no d x d matrix is formed, and where
even S is too large each draw is a system by conjugate gradients. A mixture is conditioned
component by component; which of them a draw belongs to follows from their evidences.

References:
    | Efficiently Sampling Functions from Gaussian Process Posteriors (Wilson et al., 2020), eq. 10
    | https://arxiv.org/abs/2002.09309
    | Pattern Recognition and Machine Learning (Bishop, 2006), eqs. 2.113-2.117
"""

from __future__ import annotations

__all__ = ["LinearGaussian"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..covariance import Covariance
from ..gaussian import GaussianPrior, MixturePrior
from ..krylov import conjugate_gradients

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LinearGaussian:
    """k Gaussians of weights p under y = A x + N(0, I).

    Arguments:
        means: (k, d).
        covariances: One, shared, or k of them.
        log_weights: (k,).
        forward: A x of rows (n, d), (n, m).
        adjoint: A^T r of rows (n, m), (n, d).
        y: What was observed, (m,).
        scale: log of the noise's density at its mean.
        matrix: A (m, d), where it is formed.
    """

    means: Tensor
    covariances: list[Covariance]
    log_weights: Tensor
    forward: Map
    adjoint: Map
    y: Tensor
    scale: float
    matrix: Tensor | None = None

    @classmethod
    def of(
        cls,
        prior: GaussianPrior | MixturePrior,
        forward: Map,
        adjoint: Map,
        y: Tensor,
        scale: float,
        matrix: Tensor | None = None,
    ) -> LinearGaussian:
        """The posterior's parts of a prior and white data."""
        if isinstance(prior, GaussianPrior):
            means, weights = prior.mean.double().reshape(1, -1), torch.zeros(1).double()
            covariances: list[Covariance] = [prior.structure]
        else:
            means = prior.means.reshape(len(prior.means), -1)
            weights, covariances = prior.log_weights, prior.components.structures
        return cls(means, covariances, weights, forward, adjoint, y, scale, matrix)

    @cached_property
    def factors(self) -> list[Tensor] | None:
        """Cholesky factors of S, one a covariance; None where A is not formed."""
        if self.matrix is None:
            return None
        unit = torch.eye(len(self.matrix)).to(self.matrix)
        return [
            torch.linalg.cholesky(self.matrix @ C(self.matrix).mT + unit) for C in self.covariances
        ]

    @cached_property
    def squares(self) -> Tensor:
        """Squared distance (k,) of y from what each component predicts, in its own units."""
        residual = self.y - self.forward(self.means)
        white = [
            torch.linalg.solve_triangular(L, r[:, None], upper=False)
            for L, r in zip(self._every, residual)
        ]
        return torch.stack([w.square().sum() for w in white])

    @property
    def evidences(self) -> Tensor:
        """log p(y, component) (k,)."""
        logdet = torch.stack([L.diagonal().log().sum() for L in self._every])
        return self.scale - 0.5 * self.squares - logdet + self.log_weights

    @property
    def _every(self) -> list[Tensor]:
        """A factor for each component."""
        factors = self.factors
        assert factors is not None
        return factors if len(factors) > 1 else factors * len(self.means)

    def log_evidence(self) -> float:
        """log p(y).

        Raises:
            NotImplementedError: If A is too large to be formed.
        """
        if self.factors is None:
            raise NotImplementedError(
                "the evidence needs the determinant of a matrix that is too large to form here"
            )
        return float(self.evidences.logsumexp(0))

    def mean(self) -> Tensor:
        """E[x | y] (d,)."""
        factors = self.factors
        shares = (
            torch.ones(1).to(self.means)
            if factors is None or len(self.means) == 1
            else self.evidences.softmax(0)
        )
        pick = torch.arange(len(self.means))
        moved = self._moved(self.means, self.y - self.forward(self.means), pick, factors)
        return shares @ moved

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws (n, d)."""
        factors = self.factors
        pick = torch.zeros(n, dtype=torch.long)
        if len(self.means) > 1:
            if factors is None:
                raise NotImplementedError("a mixture needs A as a matrix; this one is too large")
            shares = self.evidences.softmax(0)
            pick = torch.multinomial(shares, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        x = self.means[pick] + self._each(pick, lambda i, rows: self._of(i).root(noise[rows]))
        error = torch.randn(n, len(self.y), generator=generator, dtype=torch.float64)
        return self._moved(x, self.y - self.forward(x) - error, pick, factors)

    def _of(self, i: int) -> Covariance:
        return self.covariances[i if len(self.covariances) > 1 else 0]

    def _each(self, pick: Tensor, apply: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Applies a function of (component, its rows) and puts the rows together again."""
        if len(self.covariances) == 1:
            return apply(0, torch.arange(len(pick)))
        rows = [(pick == i).nonzero()[:, 0] for i in range(len(self.means))]
        parts = torch.cat([apply(i, r) for i, r in enumerate(rows) if len(r)])
        return parts[torch.argsort(torch.cat(rows))]

    def _moved(
        self, x: Tensor, residual: Tensor, pick: Tensor, factors: list[Tensor] | None
    ) -> Tensor:
        """x + C A^T S^-1 residual, rows (n, d)."""

        def move(i: int, rows: Tensor) -> Tensor:
            C = self._of(i)
            if factors is not None:
                weights = torch.cholesky_solve(residual[rows].mT, factors[i]).mT
            else:
                weights = conjugate_gradients(
                    lambda r: self.forward(C(self.adjoint(r))) + r, residual[rows], 1e-10
                )
            return C(self.adjoint(weights))

        return x + self._each(pick, move)


def white_scale(logdet: float, m: int) -> float:
    """log N(mean; mean, Sigma) of m numbers, by log |Sigma|."""
    return -0.5 * (logdet + m * math.log(2 * math.pi))
