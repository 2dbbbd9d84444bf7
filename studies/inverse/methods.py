"""Draws of a posterior by name: simgen's methods, and azula's own where it is installed."""

from __future__ import annotations

__all__ = ["OURS", "Drawn", "draw", "names"]

import time
import warnings
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import simgen
from simgen.answers.posterior import ApproximateWarning
from simgen.samplers.denoising import ClosedForm, Network

from . import peers
from .mixture import Task

OURS = ("smc", "ancestral", "moment-matching", "pigdm", "diffpir", "dps")


@dataclass(frozen=True)
class Drawn:
    """What a method drew.

    Arguments:
        x: (n, d).
        seconds: CPU time of this process.
        particles: Of a sampler that weighs them; else 0.
        evidence: log p(y) and its standard error, where the method knows it.
    """

    x: Tensor
    seconds: float
    particles: int = 0
    evidence: tuple[float, float] | None = None


def names() -> tuple[str, ...]:
    """All methods; azula's where it is installed."""
    return (*OURS, *peers.METHODS) if peers.missing() is None else OURS


def draw(task: Task, method: str, n: int, seed: int, prior: Any = None) -> Drawn:
    """n draws.

    Arguments:
        task: The problem.
        method: One of `names`, or another that `simgen.infer` knows.
        n: How many.
        seed: Of the method.
        prior: What stands for the task's prior: a fitted "x".
    """
    start = time.process_time()
    prior = task.prior if prior is None else prior
    if method in peers.METHODS:
        known = isinstance(prior, simgen.MixturePrior)
        denoiser = ClosedForm(prior) if known else Network(prior(), len(task.y))
        x = peers.draw(method, denoiser, task.A, task.y, task.sigma, n, seed)
        return Drawn(x, time.process_time() - start)
    likelihood = simgen.GaussianLikelihood(task.A, task.sigma)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximateWarning)
        posterior = simgen.infer(prior, likelihood, task.y, method=method, seed=seed)
        x = posterior.sample(n)
    weights, evidence = posterior.outcome.log_weights, posterior.outcome.evidence
    return Drawn(
        x,
        time.process_time() - start,
        0 if weights is None else len(weights),
        None if evidence is None else (float(evidence), evidence.error),
    )
