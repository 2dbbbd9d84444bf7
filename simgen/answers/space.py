r"""Answers of `infer` by chains and particles in the coordinates of the prior, and by weighing the
draws of a proposal.
"""

from __future__ import annotations

__all__ = ["chains", "from_prior", "proposed", "tempering"]

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..domain import check_domain
from ..randomness import seeded
from ..samplers.hmc import hmc_sample
from ..samplers.importance import RELIABLE, pareto_k, weighted
from ..samplers.slice import elliptical_slice, slice_sample
from ..samplers.smc import Particles, systematic
from ..samplers.space import Space
from ..samplers.tempered import tempered
from .answer import answer, of_chains, of_particles
from .posterior import Outcome, Posterior
from .question import Question

_CHAINS = 64
_FAR = 100.0  # nats a dimension between the best draws of the prior: none is near the posterior


def tempering(question: Question, where: Space, why: str) -> Posterior:
    """Particles from the prior to the posterior."""

    def run(n: int, generator: torch.Generator) -> Outcome:
        with torch.no_grad():
            found = tempered(where.log_prior, _factors(question, where), where.draw, n, generator)
            rows = where.unknowns(found.x)
        problem = None
        if found.error > 0.5:
            problem = (
                f"the islands' evidences differ by {found.error:.2g} nats: take more particles="
            )
        return of_particles(found, rows, problem)

    size = question.particles or 4096
    return answer(question, run, "smc", why, "asymptotic", size, lambda: question.calls)


def _factors(question: Question, where: Space) -> list[Callable[[Tensor], Tensor]]:
    """The likelihood's factors as functions of coordinates."""

    def of(factor: Callable[[dict[str, Tensor]], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda u: factor(where.unknowns(u))

    return [of(factor) for factor in question.factors()]


def chains(question: Question, where: Space, method: str, why: str) -> Posterior:
    """Chains in the coordinates of the prior, longer until they have converged."""

    def target(u: Tensor) -> Tensor:
        return where.log_prior(u) + question.log_likelihood(where.unknowns(u))

    def likelihood(u: Tensor) -> Tensor:
        return question.log_likelihood(where.unknowns(u))

    def run(n: int, generator: torch.Generator) -> Outcome:
        count = _CHAINS if where.size <= _CHAINS else _CHAINS // 4
        start = _started(question, where, count, generator)
        seed = int(torch.randint(2**31, (), generator=generator))
        kept = max(100, math.ceil(n / count))
        every = (1, 3) if method == "hmc" else (3, 10)  # slices take more to forget
        for longer in every if question.particles is None else (1,):
            if method == "hmc":
                found = hmc_sample(target, start, longer * kept, seed=seed)
            elif method == "slice":
                found = slice_sample(target, start, longer * kept, seed=seed)
            else:
                found = elliptical_slice(likelihood, start, longer * kept, seed=seed)
            if found.problem is None:
                break
        with torch.no_grad():
            rows = where.unknowns(found.flat)
        return of_chains(found, rows)

    size = question.particles or 6400
    return answer(question, run, method, why, "asymptotic", size, lambda: question.calls)


def from_prior(question: Question, where: Space, why: str) -> Posterior:
    """Draws of the prior, weighted by the likelihood."""

    def run(n: int, generator: torch.Generator) -> Outcome:
        with torch.no_grad():
            u = where.draw(n, generator)
            rows = where.unknowns(u)
            value = question.log_likelihood(rows)
        found = weighted(u, value, torch.zeros_like(value))
        return of_particles(found, rows, *_trust(found))

    size = question.particles or 100_000
    return answer(question, run, "importance", why, "asymptotic", size, lambda: question.calls)


def proposed(question: Question, proposal: Any) -> Posterior:
    """Draws of a proposal, weighted: all of them, and none but them, make the evidence and the
    efficiency.

    Raises:
        ValueError: If there are several unknowns, the proposal is a batch or over something else,
            has no density, or the prior reaches beyond it or beyond the prior of its training.
    """
    if len(question.priors) != 1:
        raise ValueError("a proposal is for one unknown: give a single prior")
    name, prior = next(iter(question.priors.items()))
    if math.prod(proposal.batch_shape) != 1:
        raise ValueError(
            f"the proposal is a batch of shape {tuple(proposal.batch_shape)}: call the posterior "
            "with the one observation"
        )
    event = torch.Size(prior.event_shape) or torch.Size((1,))
    if tuple(proposal.event_shape) != tuple(prior.event_shape):
        raise ValueError(
            f"the proposal draws {tuple(proposal.event_shape)}, the prior {tuple(event)}"
        )
    if getattr(proposal, "density", "exact") is None:
        raise ValueError("the proposal has no density to weigh its draws with: take a flow")
    check_domain(prior, proposal, "the proposal", question.seed)
    trained = getattr(getattr(proposal, "conditional", None), "prior", None)
    if trained is not None and tuple(trained.event_shape) == tuple(prior.event_shape):
        check_domain(prior, trained, "the prior that the proposal was trained with", question.seed)

    def run(n: int, generator: torch.Generator) -> Outcome:
        with torch.no_grad(), seeded(generator):
            x = proposal.sample((n,)).reshape(n, *event)
            log_q = proposal.log_prob(x.view(n, *proposal.batch_shape, *proposal.event_shape))
            log_prior = prior.log_prob(x.view(n, *prior.event_shape)).reshape(n).double()
            inside = log_prior > -math.inf
            value = torch.full_like(log_prior, -math.inf)
            if bool(inside.any()):
                value[inside] = question.log_likelihood({name: x[inside]})
        found = weighted(x, value + log_prior, log_q.reshape(n))
        return of_particles(found, {name: x}, *_trust(found))

    size = question.particles or 10_000
    why = "a proposal was given: its draws are weighted"
    bound = getattr(proposal, "density", "exact") == "bound"
    exactness = "approximate" if bound else "asymptotic"
    return answer(question, run, "importance", why, exactness, size, lambda: question.calls)


def _started(question: Question, where: Space, chains: int, generator: torch.Generator) -> Tensor:
    """Where chains start: draws of the prior, chosen by their likelihood; where all of these are
    far out, particles that went there by degrees: a first step from the far would throw chains
    anywhere.
    """
    with torch.no_grad():
        u = where.draw(20 * chains, generator)
        value = question.log_likelihood(where.unknowns(u))
    value = torch.where(value.isnan(), -math.inf, value)
    if not bool((value > -math.inf).any()):
        raise ValueError(
            "no draw of the prior has a finite likelihood: is the observation possible?"
        )
    best = value.topk(chains).indices
    best = best[value[best] > -math.inf]
    if float(value[best[0]] - value[best[-1]]) > _FAR * where.size:
        with torch.no_grad():
            factors = _factors(question, where)
            found = tempered(where.log_prior, factors, where.draw, 4 * chains, generator)
            return found.x[systematic(found.log_weights, chains, generator)]
    return u[best[torch.arange(chains) % len(best)]]


def _trust(found: Particles) -> tuple[str | None, dict[str, Any]]:
    """What the weights say of themselves."""
    k = pareto_k(found.log_weights)
    efficiency = found.ess / len(found.x)
    problem = None
    if k > RELIABLE:
        problem = (
            f"the weights' Pareto shape is {k:.2f}, above {RELIABLE}: a few draws decide; take a "
            "proposal nearer to the posterior, or more draws"
        )
    return problem, {"pareto_k": k, "efficiency": efficiency, "draws": len(found.x)}
