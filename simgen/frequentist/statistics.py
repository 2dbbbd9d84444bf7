r"""Test statistics of values of some parameters, of many observations at once.

The likelihood ratio needs, of each observation, the highest log-likelihood: climbs begin at
parameters of the simulations most like it and at draws of the prior. It is a function of
the observation alone, the same for a calibration and for data, so that a climb that ends too
early costs power and not coverage.
"""

from __future__ import annotations

__all__ = ["LikelihoodRatio", "Statistic", "Waldo"]

from abc import ABC, abstractmethod
from typing import Any

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ..prior import Prior
from .ascent import ascend
from .surface import of_rows

_NEIGHBOURS, _OTHERS, _KEEP, _STEPS = 12, 12, 2, 25
_FEATURES = 40  # numbers of an observation above which it is projected
_DRAWS, _BATCH = 400, 2_000


class Statistic(ABC):
    """t, large where data speak against theta.

    Attributes:
        what: In words.
        event: Shape of an observation; a set's first axis may be any.
        iid: Whether an observation is a set of independent events.
    """

    what: str
    event: tuple[int, ...]
    iid: bool = False

    @abstractmethod
    def __call__(self, x: Tensor, values: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """t (n,) of values (n, k) of the tested parameters and observations x[row], and the
        points (n, d) of all parameters at which it is attained.
        """

    @abstractmethod
    def of_pairs(self, theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same of the pairs themselves, theta (n, d) and x (n, ...)."""

    def rows(self, x: Any) -> Tensor:
        """Observations (n, ...) of one or several.

        Raises:
            ValueError: If they have another shape than those of the dataset, or are not finite.
        """
        x = torch.as_tensor(x).detach()
        wanted = self.event
        axes = x.dim() - len(wanted)
        found = tuple(x.shape[max(axes, 0) :])
        if axes not in (0, 1) or found != wanted:
            raise ValueError(
                f"an observation must have shape {wanted}, as calibrated; got {tuple(x.shape)}"
            )
        if not bool(x.isfinite().all()):
            raise ValueError("an observation holds NaN or infinite values")
        return x if axes else x[None]


class LikelihoodRatio(Statistic):
    """Twice the log of the highest likelihood over the highest at the tested values.

    Arguments:
        surrogate: A fitted "x | theta", or an explicit likelihood.
        prior: Of all parameters.
        columns: Of the tested ones.
        theta, x: Pairs, by which to begin.
        iid: Whether an observation is a set of events.
        seed: Of the draws to begin at.
    """

    what = "the likelihood ratio"

    def __init__(
        self,
        surrogate: Any,
        prior: Prior,
        columns: list[int],
        theta: Tensor,
        x: Tensor,
        iid: bool,
        seed: int,
    ) -> None:
        self.surrogate, self.prior, self.columns, self.iid = surrogate, prior, columns, iid
        self.event = tuple(x.shape[1:])
        self.free = torch.ones(len(prior.names), dtype=torch.bool)
        self.free[columns] = False
        self.u = prior.bijection.inv(theta)
        self.others = prior.bijection.inv(prior.sample((_OTHERS,), seed=seed).double())
        features = self._raw(x)
        self.mean, self.scale = features.mean(0), features.std(0).clamp(min=1e-12)
        generator = torch.Generator().manual_seed(seed)
        size = features.shape[1]
        self.projection = (
            torch.randn(size, _FEATURES, generator=generator, dtype=torch.float64) / size**0.5
            if size > _FEATURES
            else torch.eye(size, dtype=torch.float64)
        )
        self.tree = cKDTree(self._features(x).numpy())

    def __call__(self, x: Tensor, values: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """t (n,), and the points (n, d) at which it is attained."""
        return self._ratio(x, values, row, self._near(x, None))

    def of_pairs(self, theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same of the pairs themselves, none of which is its own neighbour."""
        row = torch.arange(len(theta))
        near = self._near(x, row)
        parts = [
            self._ratio(x[some], theta[some][:, self.columns], torch.arange(len(some)), near[some])
            for some in row.split(_BATCH)
        ]
        t, at = zip(*parts)
        return torch.cat(t), torch.cat(at)

    def _ratio(
        self, x: Tensor, values: Tensor, row: Tensor, near: Tensor
    ) -> tuple[Tensor, Tensor]:
        surface = of_rows(self.surrogate, x, self.prior, self.iid)
        start = torch.cat([near, self.others.expand(len(x), -1, -1)], 1)
        best, top = ascend(surface, start, torch.arange(len(x)), None, _KEEP, _STEPS)
        theta = self.prior.bijection(best)[row]
        theta[:, self.columns] = values
        fixed = self.prior.bijection.inv(theta)
        if not bool(self.free.any()):
            value, at = surface.value(fixed, row), fixed
        else:
            start = torch.cat([start, best[:, None]], 1)[row]
            start[:, :, self.columns] = fixed[:, None, self.columns]
            at, value = ascend(surface, start, row, self.free, _KEEP, _STEPS)
        t = 2 * (top[row] - value)
        return torch.nan_to_num(t, nan=torch.inf, posinf=torch.inf).clamp(min=0), (
            self.prior.bijection(at)
        )

    def _near(self, x: Tensor, own: Tensor | None) -> Tensor:
        """Parameters (n, k, d), in u, of the simulations most like x."""
        k = min(_NEIGHBOURS, len(self.u) - 1)
        _, near = self.tree.query(self._features(x).numpy(), k + 1)
        near = torch.as_tensor(near)
        if own is not None:  # its own row goes to the end, and out
            near = near.gather(1, (near == own[:, None]).int().argsort(dim=1, stable=True))
        return self.u[near[:, :k]]

    def _features(self, x: Tensor) -> Tensor:
        return ((self._raw(x) - self.mean) / self.scale) @ self.projection

    def _raw(self, x: Tensor) -> Tensor:
        x = x.double()
        if self.iid:  # the order of events says nothing
            return torch.cat([x.mean(1).flatten(1), x.std(1, correction=0).flatten(1)], 1)
        return x.flatten(1)


class Waldo(Statistic):
    """Squared distance of theta from the posterior's mean, in units of its covariance.

    Arguments:
        posterior: A fitted "theta | x".
        columns: Of the tested parameters.
        event: Shape of an observation.
        seed: Of the posterior's draws.
    """

    what = "Waldo"

    def __init__(
        self, posterior: Any, columns: list[int], event: tuple[int, ...], seed: int
    ) -> None:
        self.posterior, self.columns, self.event, self.seed = posterior, columns, event, seed

    def __call__(self, x: Tensor, values: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """t (n,), and points (n, d): the values, and the posterior's mean of the others."""
        means, factors = zip(*(self._moments(some) for some in x.split(_BATCH)))
        mean, factor = torch.cat(means), torch.cat(factors)
        rest = values - mean[:, self.columns][row]
        white = torch.linalg.solve_triangular(factor[row], rest[..., None], upper=False)
        at = mean[row].clone()
        at[:, self.columns] = values
        return white.square().sum((1, 2)), at

    def of_pairs(self, theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same of the pairs themselves."""
        return self(x, theta[:, self.columns], torch.arange(len(theta)))

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means (n, d), and Cholesky factors (n, k, k) of the tested parameters' covariance."""
        draws = self.posterior(x).sample((_DRAWS,), seed=self.seed).double()
        mean = draws.mean(0)
        rest = (draws - mean)[:, :, self.columns]
        covariance = torch.einsum("sni,snj->nij", rest, rest) / (_DRAWS - 1)
        diagonal = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        ridge = 1e-9 * diagonal * torch.eye(len(self.columns), dtype=torch.float64)
        return mean, torch.linalg.cholesky(covariance + ridge)
