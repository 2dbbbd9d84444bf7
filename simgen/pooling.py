r"""Pooling: a learned posterior and a learned likelihood, as one answer better than either.

.. math::
    p_\lambda(\vartheta \mid x) \propto q(\vartheta \mid x)^{1 - \lambda}
        \bigl[ \hat p(x \mid \vartheta)\, p(\vartheta) \bigr]^\lambda
    = q(\vartheta \mid x)\, e^{\lambda c(\vartheta)}, \qquad
    c = \log \hat p(x \mid \vartheta) + \log p(\vartheta) - \log q(\vartheta \mid x)

lambda = 0 is the posterior, lambda = 1 what the surrogate makes of the prior: its importance
correction in full. Two networks err apart, and in a mean of logarithms errors that are apart
cancel. Held-out simulations choose lambda, by the density of their true parameters,

.. math::
    s(\lambda) = \Bigl\langle \log q(\vartheta^* \mid x) + \lambda c(\vartheta^*)
        - \log \mathbb{E}_{\vartheta \sim q}\, e^{\lambda c(\vartheta)} \Bigr\rangle ,

so that, but for chance, it is no worse than the better of the two.

References:
    | Combining Probability Distributions: A Critique and an Annotated Bibliography (Genest &
    | Zidek, 1986), section 3: the logarithmic opinion pool
    | https://doi.org/10.1214/ss/1177013825
"""

from __future__ import annotations

__all__ = ["Pooled", "pool"]

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .answers.posterior import Posterior
from .randomness import seeded

_GRID = torch.linspace(0, 1, 21, dtype=torch.float64)
_CHUNK = 20_000


@dataclass(frozen=True)
class Pooled:
    """A posterior and a surrogate, weighed against each other; called with x like either.

    Arguments:
        posterior: A fitted "theta | x".
        surrogate: A fitted "x | theta".
        prior: p(theta).
        share: lambda, the surrogate's share.
        scores: Mean held-out log-density of lambda = 0, 0.05 ... 1, in nats; empty if the share
            was said.
        gain: By how much that of the share is above the posterior's alone, and its standard error.
    """

    posterior: Any
    surrogate: Any
    prior: Any
    share: float
    scores: tuple[float, ...] = ()
    gain: tuple[float, float] = (0.0, 0.0)

    def __call__(
        self, x: Any, *, method: str = "importance", particles: int | None = None, seed: int = 0
    ) -> Posterior:
        """The pooled posterior of one observation.

        Arguments:
            x: What was observed, without a batch axis.
            method: "importance": draws of the posterior, weighted; "smc": moved step by step, for
                a posterior that is far off.
            particles: How many draws.
            seed: Of them.
        """
        from .inference import infer
        from .likelihood import as_likelihood

        x = torch.as_tensor(x)
        q, likelihood = self.posterior(x), as_likelihood(self.surrogate)

        def tilt(theta: Tensor) -> Tensor:
            log_p = self.prior.log_prob(theta).double()
            log_q = q.log_prob(theta.view(len(theta), *q.batch_shape, *q.event_shape))
            parts = theta.split(_CHUNK)
            log_l = torch.cat([likelihood.log_prob(x.double(), {"theta": t}) for t in parts])
            return self.share * (log_l.double() + log_p - log_q.reshape(len(theta)).double())

        return infer(q, tilt, x, method=method, particles=particles, seed=seed)

    def __repr__(self) -> str:
        return (
            f"Pooled(share={self.share:.2f} of the surrogate: "
            f"{self.gain[0]:+.3f} ± {self.gain[1]:.2g} nats over the posterior alone)"
        )


def pool(
    posterior: Any,
    surrogate: Any,
    held_out: Any,
    prior: Any = None,
    *,
    rows: int = 300,
    draws: int = 200,
    seed: int = 0,
) -> Pooled:
    """Weighs a posterior and a surrogate against each other on held-out simulations.

    Arguments:
        posterior: A fitted "theta | x".
        surrogate: A fitted "x | theta".
        held_out: Simulations that neither was trained on: a dataset, of which the test rows, else
            the validation rows are used; or {"theta": (n, d), "x": (n, ...)}.
        prior: The posterior's unless said.
        rows: The most simulations to use.
        draws: Draws of the posterior for each, by which it is normalised.
        seed: Of them.

    Raises:
        ValueError: If there is no prior, or there are fewer than 50 rows.
    """
    prior = getattr(posterior, "prior", None) if prior is None else prior
    if prior is None:
        raise ValueError("the posterior does not know its prior: give prior=")
    theta, x = (v[:rows] for v in _held_out(held_out))
    if len(theta) < 50:
        raise ValueError(f"pooling needs 50 held-out simulations or more; found {len(theta)}")
    with torch.no_grad(), seeded(seed):
        q = posterior(x)
        drawn = torch.cat([theta[None], q.sample((draws,)).reshape(draws, *theta.shape)])
        log_q = q.log_prob(drawn).double()
        log_p = prior.log_prob(drawn).double()
        inside = log_p > -math.inf
        seen = x.expand(len(drawn), *x.shape)[inside].split(_CHUNK)
        parts = zip(drawn[inside].split(_CHUNK), seen)
        log_p[inside] += torch.cat([surrogate(t).log_prob(y.double()).double() for t, y in parts])
    score = _scores(log_q[0], log_p[0] - log_q[0], log_p[1:] - log_q[1:])
    best = int(score.mean(1).argmax())
    gain = score[best] - score[0]
    return Pooled(
        posterior,
        surrogate,
        prior,
        float(_GRID[best]),
        tuple(score.mean(1).tolist()),
        (float(gain.mean()), float(gain.std() / math.sqrt(len(gain)))),
    )


def _scores(log_q: Tensor, truth: Tensor, drawn: Tensor) -> Tensor:
    """log p_lambda (grid, n) of true parameters, from log q and c (n,) there and c (s, n) of
    draws. The logarithm of a mean of few draws is low by half its variance, which is added.
    """
    out = []
    for share in _GRID.tolist():
        tilt = share * drawn if share else torch.zeros_like(drawn)
        log_w = tilt - tilt.logsumexp(0)
        variance = (2 * log_w).logsumexp(0).exp() - 1 / len(drawn)
        log_z = tilt.logsumexp(0) - math.log(len(drawn)) + variance / 2
        out.append(log_q + (share * truth if share else 0) - log_z)
    return torch.stack(out)


def _held_out(source: Any) -> tuple[Tensor, Tensor]:
    """theta (n, d) and x (n, ...) of a dataset's unseen rows, or of arrays."""
    if not isinstance(source, Mapping):
        view = source.test if len(source.test) else source.validation
        source = view.read(["theta", "x"])
    theta, x = (torch.as_tensor(np.asarray(source[k])) for k in ("theta", "x"))
    return theta, x
