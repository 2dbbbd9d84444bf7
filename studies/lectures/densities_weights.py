r"""The evidence of one observation by weighted draws, in a model where its error is known.

.. math::
    z \sim \mathcal{N}(0, I_d), \quad x = z + \sigma \epsilon, \qquad
    \hat p(x) = \frac1N \sum_k w_k, \quad w_k = \frac{p(x \mid z_k)\, p(z_k)}{q(z_k)}, \quad
    z_k \sim q

Naive is q(z) = p(z); importance sampling takes q near the posterior N(m, v I). With q(z) = N(m +
delta, tau^2 I) everything is known, a latent at a time:

.. math::
    \frac{\mathrm{Var}\, \hat p}{p(x)^2} = \frac1N \Bigl( \prod_i r_i - 1 \Bigr), \qquad
    r = \int \frac{p(z \mid x)^2}{q(z)}\, dz = \frac{\tau^2}{\sqrt{v (2 \tau^2 - v)}}
        \exp \frac{\delta^2}{2 \tau^2 - v}

.. math::
    \log p(x) - \mathrm{ELBO} = \tfrac12 \sum_i \Bigl( \frac{\tau^2 + \delta^2}{v} - 1
        - \log \frac{\tau^2}{v} \Bigr)

References:
    | Monte Carlo theory, methods and examples (Owen, 2013), chapter 9, section 9.1
    | https://artowen.su.domains/mc/
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014), eqs. 1 to 3
    | https://arxiv.org/abs/1312.6114
"""

from __future__ import annotations

__all__ = ["SHIFT", "SIGMA", "WIDTH", "Problem", "Reading", "elbo", "measure"]

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from simgen.models.elbo import importance_bound
from simgen.models.pca import ProbabilisticPCA

SIGMA = 0.5
SHIFT, WIDTH = 0.3, 1.2  # of the proposal, in standard deviations of the posterior
_HELD = 4_000_000  # numbers that are held at once


@dataclass(frozen=True)
class Problem:
    """A model with d latents, and one observation of typical length: every x_i^2 = 1 + sigma^2.

    Attributes:
        model: The model.
        x: The observation (1, d).
        proposals: q(z) by name.
    """

    model: ProbabilisticPCA
    x: Tensor
    proposals: Mapping[str, Independent]

    @classmethod
    def of(cls, latents: int, sigma: float = SIGMA) -> Problem:
        """The problem with this number of latents."""
        model = ProbabilisticPCA(latents, latents).double().requires_grad_(False)
        model.weight.copy_(torch.eye(latents))
        model.log_sigma.fill_(math.log(sigma))
        sign = 1.0 - 2.0 * (torch.arange(latents) % 2)
        x = (sign * math.sqrt(1 + sigma**2)).double()[None]
        exact = model.posterior(x)
        sd = exact.variance[0].sqrt()
        near = Independent(Normal(exact.mean[0] + SHIFT * sd, WIDTH * sd), 1)
        return cls(model, x, {"naive": model.prior, "importance": near})

    @property
    def evidence(self) -> float:
        """log p(x)."""
        return float(self.model.log_evidence(self.x))

    def moment(self, name: str) -> float:
        """log E_q[w^2] / p(x)^2 of a proposal: the sum of log r."""
        v, delta, tau2 = self._numbers(name)
        r = 0.5 * (tau2**2 / (v * (2 * tau2 - v))).log() + delta**2 / (2 * tau2 - v)
        return float(r.sum())

    def gap(self, name: str) -> float:
        """log p(x) less the ELBO of a proposal, KL(q || p(z | x))."""
        v, delta, tau2 = self._numbers(name)
        return float(0.5 * ((tau2 + delta**2) / v - 1 - (tau2 / v).log()).sum())

    def _numbers(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        q, exact = self.proposals[name], self.model.posterior(self.x)
        return exact.variance[0], q.mean - exact.mean[0], q.variance

    def log_weights(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Fresh log w of this shape."""
        q = self.proposals[name]
        z = q.sample(shape)
        return (
            self.model.log_likelihood(self.x[0], z) + self.model.prior.log_prob(z) - q.log_prob(z)
        )


@dataclass(frozen=True)
class Reading:
    """An estimate of log p(x) at a budget, over repeats, in nats.

    Attributes:
        error: Mean of log of the estimate less log p(x).
        sd: Its standard deviation.
        admitted: Relative standard error of p(x) that the draws admit, (1 / ESS - 1 / N)^(1/2);
            median.
        true: The real one, in closed form.
    """

    latents: int
    name: str
    draws: int
    error: float
    sd: float
    admitted: float
    true: float


def relative_error(moment: float, draws: int) -> float:
    """((exp(moment) - 1) / N)^(1/2)."""
    return math.sqrt(math.expm1(moment) / draws)


def measure(problem: Problem, name: str, draws: int, repeats: int = 100) -> Reading:
    """Estimates the evidence many times over."""
    latents = problem.model.latent
    at_once = max(1, _HELD // (draws * latents))
    estimates, admitted = [], []
    for first in range(0, repeats, at_once):
        log_w = problem.log_weights(name, (draws, min(at_once, repeats - first)))
        estimates.append(importance_bound(log_w))
        inverse_ess = log_w.softmax(0).square().sum(0)
        admitted.append((inverse_ess - 1 / draws).clamp(min=0).sqrt())
    error = torch.cat(estimates) - problem.evidence
    return Reading(
        latents=latents,
        name=name,
        draws=draws,
        error=float(error.mean()),
        sd=float(error.std()),
        admitted=float(torch.cat(admitted).median()),
        true=relative_error(problem.moment(name), draws),
    )


def elbo(problem: Problem, name: str, draws: int = 10_000) -> float:
    """The ELBO less log p(x), from the mean of log w."""
    return float(problem.log_weights(name, (draws,)).mean()) - problem.evidence
