r"""Posteriors of single events, multiplied: a posterior as a likelihood.

.. math::
    p(\vartheta \mid x_1 \dots x_n) \propto p(\vartheta) \prod_i
        \frac{q(\vartheta \mid x_i)}{p(\vartheta)}
        = p(\vartheta)^{1 - n} \prod_i q(\vartheta \mid x_i)

By Bayes' rule q(theta | x) / p(theta) is p(x | theta) / p(x): what depends on theta of it is the
likelihood, and `infer` needs no more. So a posterior that was trained on single events tells of
any number of them, and of another prior than its own. Errors of q add up with the number of
events: n of them need q to be right to some 1 / n nats.

References:
    | Compositional Score Modeling for Simulation-Based Inference (Geffner et al., 2023), eq. 4
    | https://arxiv.org/abs/2209.14249
"""

from __future__ import annotations

__all__ = ["PosteriorLikelihood"]

import math
from typing import Any

import torch
from torch import Tensor

from ..answers.unknowns import Rows, Unknowns, parameters
from ..learned_likelihood import trained_with
from ..likelihood import EVENTS, Likelihood
from ..prior import Prior

_KEPT = 32  # sets of events whose posteriors are kept


class PosteriorLikelihood(Likelihood):
    """p(x | theta) / p(x), of a posterior q(theta | x) and the prior that it was trained with.

    Evidences that follow are of the events together, in units of the product of those of each.
    A posterior of some parameters, "mu | x", gives the likelihood of these, averaged over the
    others by the prior.

    Arguments:
        posterior: A fitted "theta | x", or any callable of x (n, *event) to a batch of n torch
            distributions over theta.
        prior: The prior of theta in its training; the posterior's own unless said.

    Raises:
        ValueError: If no prior is known, or it has other parameters.
    """

    def __init__(self, posterior: Any, prior: Any = None) -> None:
        own = getattr(posterior, "prior", None) if prior is None else prior
        if own is None:
            raise ValueError(
                "the posterior brings no prior: give the one that it was trained with"
            )
        self.parameters = tuple(getattr(posterior, "names", getattr(own, "names", ("theta",))))
        if isinstance(own, Prior) and prior is None and own.names != self.parameters:
            if not own.factors or not set(self.parameters) <= set(own.names):
                raise ValueError(
                    f"the posterior is of {', '.join(self.parameters)}, its prior of "
                    f"{', '.join(own.names)}: give the prior of the former"
                )
            own = Prior({k: own.factors[k] for k in self.parameters})
        self.posterior, self.prior = posterior, own
        self._seen: dict[int, tuple[Tensor, Any]] = {}

    def trained(self, rows: Rows) -> tuple[Any, Tensor] | None:
        """The prior that it was trained with, and its parameters (n, d); None if not known."""
        return trained_with(self.prior, rows)

    def log_prob(self, y: Tensor, unknowns: Unknowns) -> Tensor:
        """log p(y | theta) / p(y) (n,) of n rows of theta."""
        return self._sum(y, y[None], unknowns)

    def of_events(self, y: Tensor, unknowns: Unknowns) -> Tensor:
        """The sum (n,) over independent events y (events, *event)."""
        return self._sum(y, y, unknowns)

    def _sum(self, key: Tensor, events: Tensor, unknowns: Unknowns) -> Tensor:
        if id(key) not in self._seen:  # the events stay, theta moves
            if len(self._seen) >= _KEPT:
                self._seen.clear()
            self._seen[id(key)] = key, self.posterior(events)
        q, theta = self._seen[id(key)][1], parameters(unknowns, self.parameters)
        chunks = theta.split(max(1, EVENTS // len(events)))
        total = torch.cat([q.log_prob(part[:, None]).sum(-1) for part in chunks])
        log_prior = self.prior.log_prob(theta).to(total)
        inside = log_prior > -math.inf
        return torch.where(inside, total - len(events) * log_prior, -math.inf)
