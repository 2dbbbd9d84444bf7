"""What every answer of `infer` is made of: a question, a sampler's run, and its outcome."""

from __future__ import annotations

__all__ = ["answer", "of_chains", "of_particles"]

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..gaussian import GaussianPrior, MixturePrior
from ..samplers.chains import Chains
from ..samplers.smc import Particles
from .posterior import Evidence, Outcome, Posterior
from .question import Question


def answer(
    question: Question,
    run: Callable[[int, torch.Generator], Outcome],
    method: str,
    why: str,
    exactness: str,
    size: int,
    evaluations: Callable[[], int],
    independent: bool = False,
    exact: Callable[[str], Posterior] | None = None,
) -> Posterior:
    """The posterior of a question by a sampler. Arguments as of `Posterior`."""
    columns, support, log_joint = {}, None, None
    if question.single:
        prior = question.prior
        shapes = {question.name: question.event}
        if not isinstance(prior, (GaussianPrior, MixturePrior)):
            support = getattr(prior, "support", None)
        columns = {k: getattr(prior, k) for k in ("names", "labels", "units") if hasattr(prior, k)}
        if getattr(prior, "density", "exact") is not None and hasattr(prior, "log_prob"):
            log_joint = question.log_joint
    else:
        shapes = {k: v.shape[1:] for k, v in question.draw(2).items()}
    return Posterior(
        run,
        method=method,
        why=why,
        exactness=exactness,
        size=size,
        log_joint=log_joint,
        misfit=question.misfit,
        evaluations=evaluations,
        event_shapes=shapes,
        support=support,
        columns=columns,
        dtype=getattr(question.prior, "dtype", torch.float32),
        seed=question.seed,
        independent=independent,
        exact=exact,
    )


def of_particles(
    found: Particles,
    rows: dict[str, Tensor],
    problem: str | None = None,
    notes: dict[str, Any] | None = None,
) -> Outcome:
    """The outcome of particles, whose unknowns are rows."""
    evidence = Evidence(found.log_evidence, found.error)
    return Outcome(rows, found.log_weights, evidence, found.ess, problem, notes)


def of_chains(found: Chains, rows: dict[str, Tensor]) -> Outcome:
    """The outcome of chains, whose unknowns are rows."""
    varies = found.draws.flatten(0, 1).std(0) > 0
    ess = float(found.ess_bulk[varies].min()) if bool(varies.any()) else 1.0
    notes = {
        "accept": found.accept,
        "rhat": float(found.rhat[varies].max()) if bool(varies.any()) else math.nan,
        "divergences": found.divergences,
    }
    return Outcome(rows, None, None, ess, found.problem, notes)
