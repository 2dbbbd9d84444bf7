r"""Cross-check without a reference: posterior and surrogate likelihood, learned apart, on one x.

.. math::
    c(\vartheta) = \log \hat p(x \mid \vartheta) + \log p(\vartheta) - \log q(\vartheta \mid x),
    \qquad \vartheta \sim q(\vartheta \mid x)

By Bayes' rule c is log p(x) at every theta if both are right. Its standard deviation over draws
of q, in nats, is the error bar of the two for this observation: a density is known to a factor
exp(sd). Between Gaussians of the same mean, q wider by a factor r in each of d parameters,

.. math::
    \mathrm{sd}[c] = \sqrt{d/2}\, |r^2 - 1|, \qquad
    \mathrm{sd}[c] = \delta \;\text{ for a mean that is off by } \delta \text{ deviations.}

The same numbers weigh the draws of q (`infer` with `proposal=`): evidence, effective draws, and by
how much each parameter moves. What both learned wrong alike, no comparison of the two shows.

References:
    | Neural Importance Sampling for Rapid and Reliable Gravitational-Wave Inference (Dax et al.,
    | 2023), eqs. 2 to 4, https://arxiv.org/abs/2210.05686
"""

from __future__ import annotations

__all__ = ["CrossCheck", "cross_check"]

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .answers.posterior import Evidence
from .domain import check_domain
from .randomness import seeded
from .samplers.importance import RELIABLE, pareto_k, weighted

_FINE, _FAIR = 0.3, 1.0
"""Nats up to which the two agree, and up to which they differ a little."""
_CHUNK = 20_000


@dataclass(frozen=True)
class CrossCheck:
    """How far posterior and surrogate agree on one observation.

    Arguments:
        spread: Standard deviation of c over draws of the posterior, in nats; 0 is perfect.
        divergence: The mean of log q(theta | x) / p(theta | x) over them, in nats, where p is
            what the surrogate makes the posterior: KL(q || p).
        evidence: log p(x) by the surrogate, with its standard error.
        ess: Effective draws once they are weighted towards the surrogate's posterior.
        draws: How many were made; all count.
        outside: Share of them where prior or surrogate have no density; left out of the spread.
        pareto_k: The shape of the largest weights: above 0.7 the weighted draws are no answer.
        names: Of the parameters.
        shifts: By how much the weights move each mean (d,), in deviations of the posterior.
        widths: What they make of each deviation (d,), over that of the posterior.
    """

    spread: float
    divergence: float
    evidence: Evidence
    ess: float
    draws: int
    outside: float
    pareto_k: float
    names: tuple[str, ...]
    shifts: tuple[float, ...]
    widths: tuple[float, ...]

    @property
    def efficiency(self) -> float:
        """Effective draws over draws."""
        return self.ess / self.draws

    @property
    def agrees(self) -> bool:
        """Whether either may stand for the other."""
        return self.spread <= _FINE and self.outside < 0.01

    @property
    def contradicts(self) -> bool:
        """Whether one of the two is wrong here."""
        return self.spread > _FAIR or not self.correctable

    @property
    def correctable(self) -> bool:
        """Whether the weighted draws are an answer."""
        return self.pareto_k <= RELIABLE

    @property
    def verdict(self) -> str:
        """What to do, in a sentence."""
        said = f"posterior and surrogate differ by {self.spread:.2g} nats for this observation"
        most = max(range(len(self.shifts)), key=lambda i: abs(self.shifts[i]), default=None)
        moved = "" if most is None else f" {self.names[most]} moves by {self.shifts[most]:+.2f} sd"
        if self.outside >= 0.01:
            said += f", and {self.outside:.1%} of the draws are where prior or surrogate have none"
        if not self.correctable:
            return (
                f"{said}: they contradict each other, and no weights reconcile them (Pareto shape "
                f"{self.pareto_k:.2f}); trust neither before one is trained longer or on more "
                "simulations"
            )
        if self.agrees:
            return f"{said}: they agree, either may be used;{moved} between the two"
        share = f"{100 * self.efficiency:.2g} % of the draws count"
        if self.spread <= _FAIR:
            return f"{said}, a little: use the corrected posterior ({share});{moved}"
        return (
            f"{said}, which is much: one of the two is wrong here; the corrected posterior "
            f"({share}) takes the surrogate's word;{moved}"
        )

    def __str__(self) -> str:
        return self.verdict


def cross_check(
    posterior: Any,
    surrogate: Any,
    x: Any,
    prior: Any = None,
    *,
    draws: int = 4_000,
    seed: int = 0,
) -> CrossCheck:
    """Whether a learned posterior and a learned likelihood tell the same of one observation.

    Arguments:
        posterior: A fitted "theta | x", or any callable of x to a distribution over theta.
        surrogate: A fitted "x | theta", or any callable of theta (n, d) to a distribution over x;
            an explicit log p(x | theta) of (x, theta) will do.
        x: What was observed, without a batch axis.
        prior: The posterior's unless said.
        draws: Draws of the posterior.
        seed: Of them.

    Raises:
        ValueError: If there is no prior or no density, the prior reaches beyond the posterior's,
            or no draw has any density.

    References:
        | Neural Importance Sampling for Rapid and Reliable Gravitational-Wave Inference (Dax et
        | al., 2023), https://arxiv.org/abs/2210.05686

    Examples:
        >>> from torch.distributions import Independent, Normal
        >>> prior = Independent(Normal(torch.zeros(1), 1.0), 1)
        >>> q = lambda x: Independent(Normal(x / 2, 0.5**0.5), 1)
        >>> found = cross_check(q, lambda x, theta: Normal(theta, 1.0).log_prob(x)[:, 0],
        ...     torch.tensor([0.4]), prior)
        >>> found.agrees, round(found.efficiency, 3)
        (True, 1.0)
    """
    prior = getattr(posterior, "prior", None) if prior is None else prior
    if prior is None:
        raise ValueError("the posterior does not know its prior: give prior=")
    if draws < 100:
        raise ValueError(f"a cross-check needs 100 draws or more; got {draws}")
    x = torch.as_tensor(x)
    q = posterior(x)
    if getattr(q, "density", "exact") is None:
        raise ValueError("the posterior has no density to check: take a flow")
    if math.prod(q.batch_shape) != 1:
        raise ValueError(f"x is a batch of shape {tuple(q.batch_shape)}: give one observation")
    check_domain(prior, q, "the posterior", seed)
    d = torch.Size(q.event_shape).numel()
    with torch.no_grad(), seeded(seed):
        theta = q.sample((draws,)).reshape(draws, d)
        log_q = q.log_prob(theta.view(draws, *q.batch_shape, *q.event_shape)).reshape(draws)
        log_p = prior.log_prob(theta.view(draws, *prior.event_shape)).reshape(draws).double()
        inside = log_p > -math.inf
        rows = theta[inside].split(_CHUNK)
        if len(theta[inside]):
            log_p[inside] += torch.cat([_log_likelihood(surrogate, x, part) for part in rows])
    found = weighted(theta, log_p, log_q)
    c = (log_p - log_q.double())[log_p > -math.inf]
    w = found.log_weights.exp()
    mean, weighted_mean = theta.double().mean(0), (w[:, None] * theta).sum(0)
    sd = theta.double().std(0)
    weighted_sd = (w[:, None] * (theta - weighted_mean).square()).sum(0).sqrt()
    names = getattr(prior, "names", None) or tuple(f"theta_{i}" for i in range(d))
    return CrossCheck(
        spread=float(c.std()),
        divergence=max(0.0, found.log_evidence - float(c.mean())),
        evidence=Evidence(found.log_evidence, found.error),
        ess=found.ess,
        draws=draws,
        outside=1 - len(c) / draws,
        pareto_k=pareto_k(found.log_weights),
        names=tuple(names),
        shifts=tuple(((weighted_mean - mean) / sd).tolist()),
        widths=tuple((weighted_sd / sd).tolist()),
    )


def _log_likelihood(surrogate: Any, x: Tensor, theta: Tensor) -> Tensor:
    """log p(x | theta) (n,), float64, of rows theta (n, d)."""
    from .likelihood import as_likelihood

    found = as_likelihood(surrogate).log_prob(x.double(), {"theta": theta})
    if found.shape != (len(theta),) or bool(found.isnan().any()):
        raise ValueError(
            f"the surrogate must give one number a row of theta, {(len(theta),)}, and none NaN; "
            f"got {tuple(found.shape)}"
        )
    return found.double()
