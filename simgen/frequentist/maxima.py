r"""Maximum-likelihood and maximum a posteriori points, with every mode and Hessian errors.

.. math::
    \hat\vartheta = \arg\max_\vartheta \log p(x \mid \vartheta) \;
        \bigl[ + \log p(\vartheta) \bigr], \qquad
    C^{-1}_{ij} = -\frac{\partial^2 \log p}{\partial \vartheta_i\, \partial \vartheta_j}

Starts from the prior climb in unconstrained coordinates. Maxima are one mode where a straight
path between them, or a chain of such through others, falls by less than half a nat: what a 68 %
interval would join. Second derivatives are differences over a third of an error, which says what
the surrogate means rather than how its network is kinked. A parameter at a bound has no error of
this kind, and is held there for the others'.
"""

from __future__ import annotations

__all__ = ["Maximum", "Mode", "maximum_a_posteriori", "maximum_likelihood", "search"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

from ..prior import Prior
from .ascent import climb
from .surface import Surface, as_prior, of_observation

BARRIER = 0.5
_DRAWS, _STARTS, _PATH = 2_048, 64, 9
_DEPTH = 12.0  # nats below the best at which a maximum is no mode worth telling
_AT_BOUND = 1e-3  # distance to a bound, in widths of the prior


@dataclass(frozen=True)
class Mode:
    """One maximum: ``theta`` (d,), its log-density ``value``, ``covariance`` (d, d) by the
    Hessian, NaN where that says nothing, and the parameters that are ``at_bound``.
    """

    theta: Array
    value: float
    covariance: Array
    at_bound: tuple[str, ...] = ()

    @property
    def errors(self) -> Array:
        """Standard errors (d,)."""
        return np.sqrt(np.diagonal(self.covariance))


@dataclass(frozen=True)
class Maximum:
    """Where a likelihood or posterior density is highest.

    Attributes:
        kind: "maximum likelihood" or "maximum a posteriori".
        names: Of the parameters.
        modes: Every mode found, the highest first.
    """

    kind: str
    names: tuple[str, ...]
    modes: tuple[Mode, ...]

    @property
    def theta(self) -> Array:
        """The highest point (d,)."""
        return self.modes[0].theta

    @property
    def value(self) -> float:
        """The log-density there."""
        return self.modes[0].value

    @property
    def covariance(self) -> Array:
        """Its inverse Hessian (d, d)."""
        return self.modes[0].covariance

    @property
    def errors(self) -> Array:
        """Standard errors (d,) by the Hessian."""
        return self.modes[0].errors

    @property
    def headline(self) -> str:
        """One sentence."""
        best = self.modes[0]
        values = ", ".join(
            f"{k} = {v:.4g} ± {e:.2g}" if math.isfinite(e) else f"{k} = {v:.4g}"
            for k, v, e in zip(self.names, best.theta, best.errors)
        )
        text = f"{self.kind.capitalize()}: {values} (errors by the Hessian)."
        if best.at_bound:
            text += f" At a bound, without an error: {', '.join(best.at_bound)}."
        if len(self.modes) > 1:
            depth = best.value - self.modes[1].value
            text += f" One of {len(self.modes)} modes; the next is {depth:.2g} nats lower."
        return text

    def __str__(self) -> str:
        width = max(10, *(len(k) for k in self.names))
        head = f"{'mode':<6}{'nats':>9}" + "".join(f"{k:>{width + 12}}" for k in self.names)
        lines = [self.headline, head]
        for i, mode in enumerate(self.modes):
            cells = "".join(
                f"{f'{v:.5g} ± {e:.2g}':>{width + 12}}" for v, e in zip(mode.theta, mode.errors)
            )
            lines.append(f"{i + 1:<6}{mode.value - self.value:>9.3f}{cells}")
        return "\n".join(lines)


def maximum_likelihood(
    surrogate: Any, x: Any, prior: Any = None, *, iid: bool = False, seed: int = 0
) -> Maximum:
    """The maximum-likelihood point, within the prior's support.

    Arguments:
        surrogate: A fitted "x | theta", any likelihood that `infer` takes, or a list of them.
        x: The observation; of a list of likelihoods a list.
        prior: Its support bounds theta, its width says where to start; the surrogate's own
            unless said.
        iid: Whether x is a set of independent events (events, *event).
        seed: Of the starting points.

    Raises:
        ValueError: If the likelihood is nowhere finite, or as of `infer`.
    """
    surface = of_observation(surrogate, x, prior, iid)
    return _maximum("maximum likelihood", surface, seed)


def maximum_a_posteriori(
    model: Any, x: Any, prior: Any = None, *, iid: bool = False, seed: int = 0
) -> Maximum:
    """The point of highest posterior density, per unit of theta.

    Arguments:
        model: A likelihood as of `maximum_likelihood`, or a fitted "theta | x".
        x: The observation; of a list of likelihoods a list.
        prior: The prior; the model's own unless said.
        iid: Whether x is a set of independent events (events, *event).
        seed: Of the starting points.

    Raises:
        ValueError: As of `maximum_likelihood`.
    """
    if "theta" in getattr(model, "target", ()):
        bounds = as_prior(prior, model)
        q = model(x)
        surface = Surface(bounds, lambda theta, row: q.log_prob(theta))
    else:
        likelihood = of_observation(model, x, prior, iid)
        bounds = likelihood.prior

        def log_density(theta: Tensor, row: Tensor) -> Tensor:
            return likelihood.log_density(theta, row) + bounds.log_prob(theta)

        surface = Surface(bounds, log_density, likelihood.differentiable)
    return _maximum("maximum a posteriori", surface, seed)


def _maximum(kind: str, surface: Surface, seed: int) -> Maximum:
    u, value = search(surface, seed)
    peaks = _separate(surface, u, value)
    modes = tuple(_mode(surface, u[i], float(value[i])) for i in peaks)
    return Maximum(kind, surface.prior.names, modes)


def search(surface: Surface, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Maxima of a surface, from many starts: u (m, d) and values (m,), the highest first.

    Raises:
        ValueError: If it is nowhere finite.
    """
    prior = surface.prior
    draws = prior.bijection.inv(prior.sample((_DRAWS,), seed=seed).double())
    row = torch.zeros(_DRAWS, dtype=torch.long)
    value = surface.value(draws, row)
    if not bool(value.isfinite().any()):
        raise ValueError(f"the likelihood is zero at all of {_DRAWS} draws of the prior")
    half = _STARTS // 2  # the best of all, and the best of small groups: lower modes have a chance
    groups = value.view(half, -1).argmax(1) + torch.arange(half) * (_DRAWS // half)
    start = draws[torch.cat([value.topk(half).indices, groups]).unique()]
    u, top = climb(surface, start, row[: len(start)])
    order = top.argsort(descending=True)
    order = order[top[order] > top.max() - _DEPTH]
    return u[order], top[order]


def _separate(surface: Surface, u: Tensor, value: Tensor) -> list[int]:
    """The highest of each group of points that no barrier parts."""
    m = len(u)
    i, j = torch.triu_indices(m, m, 1)
    t = torch.linspace(0, 1, _PATH + 2, dtype=u.dtype)[1:-1, None, None]
    path = (u[i] * (1 - t) + u[j] * t).reshape(-1, u.shape[1])
    along = surface.value(path, torch.zeros(len(path), dtype=torch.long)).view(_PATH, -1)
    joined = along.amin(0) > torch.minimum(value[i], value[j]) - BARRIER
    label = list(range(m))
    for a, b in zip(i[joined].tolist(), j[joined].tolist()):
        low, high = sorted((label[a], label[b]))
        label = [low if k == high else k for k in label]
    return sorted(set(label))  # points are in falling order: the first of a group is its highest


def _mode(surface: Surface, u: Tensor, value: float) -> Mode:
    prior = surface.prior
    theta = prior.bijection(u)
    width = _width(prior)
    room = torch.minimum(theta - prior.low, prior.high - theta)
    bound = room < _AT_BOUND * width
    free = (~bound).nonzero()[:, 0]

    def function(points: Tensor) -> Tensor:
        with torch.no_grad():
            row = torch.zeros(len(points), dtype=torch.long)
            return surface.log_density(points, row).double()

    covariance = torch.full((len(u), len(u)), math.nan, dtype=torch.float64)
    hessian = _hessian(function, theta, free, room, width)
    if len(free) and bool((torch.linalg.eigvalsh(hessian) < 0).all()):
        covariance[free[:, None], free] = torch.linalg.inv(-hessian)
    names = tuple(k for k, at in zip(prior.names, bound.tolist()) if at)
    return Mode(theta.numpy(), value, covariance.numpy(), names)


def _width(prior: Prior) -> Tensor:
    """Half the central 68 % of each parameter's prior (d,)."""
    ends = prior.bijection(torch.tensor([[-1.0], [1.0]]).double().expand(2, len(prior.names)))
    return (ends[1] - ends[0]) / 2


def _hessian(
    function: Callable[[Tensor], Tensor], theta: Tensor, free: Tensor, room: Tensor, width: Tensor
) -> Tensor:
    """Second derivatives by the free parameters, by differences over about a third of an error."""
    k = len(free)
    axes = torch.eye(len(theta), dtype=torch.float64)[free]
    room = 0.9 * room[free]
    h = torch.minimum(0.1 * width[free], room)
    centre = function(theta[None])
    for _ in range(8):
        ends = function(torch.cat([theta + h[:, None] * axes, theta - h[:, None] * axes]))
        bend = -(ends[:k] + ends[k:] - 2 * centre) / h.square()
        wanted = torch.where(bend > 0, 0.3 / bend.clamp(min=1e-300).sqrt(), h / 4)
        h = torch.minimum(torch.maximum(torch.minimum(wanted, 8 * h), h / 8), room)
    i, j = torch.triu_indices(k, k)
    a, b = h[i, None] * axes[i], h[j, None] * axes[j]
    signs = ((1, 1), (1, -1), (-1, 1), (-1, -1))
    values = [function(theta + p * a + q * b) for p, q in signs]
    second = (values[0] - values[1] - values[2] + values[3]) / (4 * h[i] * h[j])
    ends = function(torch.cat([theta + h[:, None] * axes, theta - h[:, None] * axes]))
    hessian = torch.zeros(k, k, dtype=torch.float64)
    hessian[i, j] = hessian[j, i] = second
    hessian.fill_diagonal_(0.0)
    return hessian + torch.diag((ends[:k] + ends[k:] - 2 * centre) / h.square())
