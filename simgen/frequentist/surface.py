r"""The likelihood as a surface over unconstrained coordinates u of theta.

.. math::
    \ell_r(u) = \log p\bigl(x_r \mid \vartheta = T(u)\bigr), \qquad T: R^d \to \text{support}

Rows of u each belong to an observation x_r: one for an interval, thousands for a calibration. A
likelihood that autograd does not lead through is differenced.
"""

from __future__ import annotations

__all__ = ["Surface", "as_prior", "of_observation", "of_rows"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..answers.question import ask
from ..answers.unknowns import Rows
from ..learned_likelihood import ConditionalLikelihood
from ..likelihood import GaussianLikelihood, Likelihood, PoissonLikelihood, as_likelihood
from ..prior import Prior

CHUNK = 8_192  # rows whose graph is held at once
_STEP = 1e-4  # of central differences in u


@dataclass(frozen=True)
class Surface:
    """A function of theta in unconstrained coordinates.

    Arguments:
        prior: Names, bounds and the bijection T.
        log_density: Of theta (n, d) and the observations' numbers (n,), to (n,).
        differentiable: Whether autograd leads through it.
    """

    prior: Prior
    log_density: Callable[[Tensor, Tensor], Tensor]
    differentiable: bool = True

    def value(self, u: Tensor, row: Tensor) -> Tensor:
        """The function (n,) at u (n, d), float64; -inf in place of NaN."""
        with torch.no_grad():
            parts = [self._value(a, b) for a, b in zip(u.split(CHUNK), row.split(CHUNK))]
        return torch.cat(parts)

    def slope(self, u: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """The function (n,) and its gradient by u (n, d); zero where it is not finite."""
        parts = [self._slope(a, b) for a, b in zip(u.split(CHUNK), row.split(CHUNK))]
        value, slope = (torch.cat(p) for p in zip(*parts))
        return value, torch.where(slope.isfinite(), slope, torch.zeros_like(slope))

    def _value(self, u: Tensor, row: Tensor) -> Tensor:
        found = self.log_density(self.prior.bijection(u), row).double()
        return torch.where(found.isnan(), torch.full_like(found, -torch.inf), found)

    def _slope(self, u: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        if self.differentiable:
            with torch.enable_grad():
                u = u.detach().requires_grad_()
                value = self._value(u, row)
                (slope,) = torch.autograd.grad(value.sum(), u)
            return value.detach(), slope
        d = u.shape[1]
        steps = _STEP * torch.cat([torch.eye(d, dtype=u.dtype), -torch.eye(d, dtype=u.dtype)])
        around = (u[:, None] + steps).reshape(-1, d)
        found = self.value(around, row.repeat_interleave(2 * d)).view(-1, 2, d)
        return self.value(u, row), (found[:, 0] - found[:, 1]) / (2 * _STEP)


def as_prior(prior: Any, model: Any) -> Prior:
    """The prior, or the one that a model was trained with.

    Raises:
        TypeError: If it is no distribution.
        ValueError: If there is none.
    """
    found = getattr(model, "prior", None) if prior is None else prior
    if found is None:
        raise ValueError("say where theta lives: give prior=, a Prior over its parameters")
    if isinstance(found, Prior):
        return found
    if not isinstance(found, torch.distributions.Distribution):
        raise TypeError(f"a prior is a Prior; got {type(found).__name__}")
    return Prior(found)


def of_observation(surrogate: Any, x: Any, prior: Any, iid: bool) -> Surface:
    """The log-likelihood of one observation, checked as `infer` checks it.

    Arguments:
        surrogate: A fitted "x | theta", an explicit likelihood, or a list of instruments.
        x: The observation, or a list of them.
        prior: Of theta; the surrogate's own unless said.
        iid: Whether x is a set of independent events, whose log-likelihoods are summed.
    """
    prior = as_prior(prior, surrogate)
    question = ask(prior, surrogate, x, iid=iid)

    def log_density(theta: Tensor, row: Tensor) -> Tensor:
        return question.log_likelihood({question.name: theta})

    return _tried(prior, log_density)


def of_rows(surrogate: Any, x: Tensor, prior: Prior, iid: bool) -> Surface:
    """The log-likelihoods of many observations x (r, *observed)."""
    likelihood = as_likelihood(surrogate)
    x = x.double()

    def named(theta: Tensor) -> Rows:
        return Rows({"theta": theta}, {"theta": prior.names})

    def together(theta: Tensor, row: Tensor) -> Tensor:
        return _paired(likelihood, x[row], named(theta), iid)

    def apart(theta: Tensor, row: Tensor) -> Tensor:
        out = theta.new_zeros(len(theta))
        for r in row.unique():
            one = named(theta[row == r])
            found = likelihood.of_events(x[r], one) if iid else likelihood.log_prob(x[r], one)
            out = out.index_put(((row == r).nonzero()[:, 0],), found.to(out))
        return out

    theta, row = prior.sample((3,), seed=0).double(), torch.arange(3) % len(x)
    with torch.no_grad():
        wanted = apart(theta, row)
        try:  # a user's function may or may not take a row of x for each row of theta
            found = together(theta, row).to(wanted)
            same = found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-4)
        except (RuntimeError, TypeError, ValueError):
            same = False
    return _tried(prior, together if same else apart)


def _paired(likelihood: Likelihood, x: Tensor, unknowns: Rows, iid: bool) -> Tensor:
    """log p(x_i | theta_i) (n,) of rows of both."""
    if isinstance(likelihood, ConditionalLikelihood):
        q = likelihood._at(unknowns)
        single = iid and len(q.event_shape) == x.dim() - 2
        return q.log_prob(x.movedim(1, 0)).sum(0) if single else q.log_prob(x)
    if iid:
        parts = [_paired(likelihood, event, unknowns, False) for event in x.unbind(1)]
        return torch.stack(parts).sum(0)
    if isinstance(likelihood, GaussianLikelihood) and not callable(likelihood.sigma):
        mean = likelihood.predict(unknowns).double()
        noise = likelihood.noise(x.shape[1:])
        rest = noise.white((x - mean).flatten(1))
        constant = rest.shape[1] * math.log(2 * math.pi) + noise.logdet
        return -0.5 * (rest.square().sum(-1) + constant)
    if isinstance(likelihood, PoissonLikelihood):  # its constant is summed over all rows
        rate = likelihood.predict(unknowns).double().clamp(min=1e-300)
        terms = x * rate.log() - rate - torch.lgamma(x + 1)
        return terms.flatten(1).sum(-1)
    return likelihood.log_prob(x, unknowns)


def _tried(prior: Prior, log_density: Callable[[Tensor, Tensor], Tensor]) -> Surface:
    """A surface that knows whether it can be differentiated."""
    surface = Surface(prior, log_density)
    u = prior.bijection.inv(prior.sample((2,), seed=0).double())
    try:
        surface._slope(u, torch.zeros(2, dtype=torch.long))
    except (RuntimeError, TypeError, ValueError):
        return Surface(prior, log_density, differentiable=False)
    return surface
