r"""Answers of `infer` where the prior is in closed form or denoises.

Each function takes a question and what its prior and instruments can do, and returns a posterior
that computes nothing before it is asked.
"""

from __future__ import annotations

__all__ = ["closed_form", "collapsed", "gaussian_part", "gibbs", "guidance", "noising", "steered"]

import math
import warnings
from typing import Any

import torch
from scipy.stats import chi2
from torch import Tensor

from ..gaussian import GaussianPrior
from ..likelihood import GaussianLikelihood
from ..samplers.ancestral import ancestral
from ..samplers.closed_form import LinearGaussian
from ..samplers.collapsed import Collapsed
from ..samplers.denoising import ClosedForm
from ..samplers.guidance import GUIDANCE, guided
from ..samplers.noise_denoise import noise_denoise
from ..samplers.problem import Problem, twist
from ..samplers.smc import smc, systematic
from ..samplers.space import joint_space
from ..samplers.tempered import tempered
from .answer import answer, of_chains, of_particles
from .instrument import Instrument
from .posterior import ApproximateWarning, Evidence, Outcome, Posterior
from .question import Question

_STEPS, _SHARED = 100, 24  # noise levels; where each needs a covariance of its own
_REDRAWN = 24  # noise levels of a denoising, of which each move of chains is one
_CHAINS, _BLOCKS = 64, 10  # chains, and blocks by which they are extended until they converge
_COLLAPSED = 256  # particles each of which needs a matrix of its own
_FAMILIES = 30  # independent draws that particles have to be worth
_CHANCE = 1e-6  # of an observation under the prior, below which there is a warning
_DRAWN = 64  # draws of the prior by which an instrument that bends is judged


def closed_form(question: Question, seen: Instrument, why: str) -> Posterior:
    """Exact draws and evidence."""
    assert seen.forward is not None and seen.adjoint is not None and seen.offset is not None
    part = seen.reduced()
    assert part.forward is not None and part.adjoint is not None and part.offset is not None
    y = part.y - part.offset
    solved = LinearGaussian.of(
        question.prior, part.forward, part.adjoint, y, part.scale, part.matrix
    )
    name = question.name
    event = question.event

    def run(n: int, generator: torch.Generator) -> Outcome:
        x = solved.draw(n, generator)
        evidence = None if part.matrix is None else Evidence(solved.log_evidence(), 0.0)
        return Outcome({name: x.view(n, *event)}, evidence=evidence)

    if part.matrix is not None:
        _warn_impossible(float(solved.squares.min()) + 2 * (seen.scale - part.scale), len(seen.y))
    return answer(question, run, "closed-form", why, "closed form", 1, lambda: 0, True)


def steered(
    question: Question,
    denoiser: Any,
    seen: Instrument,
    gaussian: bool,
    why: str,
    give_way: bool = False,
) -> Posterior:
    """Particles steered by a denoiser. Those that are worth next to no draws may give way to the
    same steps, unweighted.
    """
    name = question.name
    problem = _problem(question, denoiser, seen, gaussian)
    steps = question.steps or _steps(denoiser)
    _first(problem, seen)
    gave_way = False

    def run(n: int, generator: torch.Generator) -> Outcome:
        nonlocal gave_way
        said = None
        if not gave_way:
            found = smc(problem, n, steps, generator)
            if found.families < min(_FAMILIES, n / 2):
                said = (
                    f"its {n} particles are worth {found.families:.1f} independent draws: take "
                    "more (particles=)"
                )
            if said is None or not give_way:
                return of_particles(found, {name: denoiser.physical(found.x)}, said)
            said += "; these are draws by the same steps, unweighted"
            gave_way = True
        x = ancestral(problem, n, steps, generator)
        return Outcome({name: denoiser.physical(x)}, problem=said, instead="ancestral")

    def exact(method: str) -> Posterior:
        if method == "noise-denoise":
            return noising(question, denoiser, "to correct an approximate answer")
        raise ValueError("particles are tried already: take more, or reweight('noise-denoise')")

    size = _particles(question, denoiser)
    return answer(
        question,
        run,
        "smc",
        why,
        "asymptotic",
        size,
        lambda: denoiser.evaluations,
        exact=exact if give_way else None,
    )


def guidance(
    question: Question, denoiser: Any, seen: Instrument, gaussian: bool, method: str, why: str
) -> Posterior:
    """Draws steered by a denoiser, not weighted."""
    name = question.name
    problem = _problem(question, denoiser, seen, gaussian)
    steps = question.steps or _steps(denoiser)
    _first(problem, seen)

    def run(n: int, generator: torch.Generator) -> Outcome:
        if method == "ancestral":
            x = ancestral(problem, n, steps, generator)
        else:
            x = guided(problem, n, steps, generator, GUIDANCE[method])
        return Outcome({name: denoiser.physical(x)})

    def exact(method: str) -> Posterior:
        if method == "noise-denoise":
            return noising(question, denoiser, "to correct an approximate answer")
        if method != "smc":
            raise ValueError(f"reweight by 'smc' or 'noise-denoise'; got {method!r}")
        return steered(question, denoiser, seen, gaussian, "to weigh an approximate answer")

    exactly = (
        method == "ancestral"
        and isinstance(question.prior, GaussianPrior)
        and (gaussian and seen.affine)
    )
    return answer(
        question,
        run,
        method,
        why,
        "closed form" if exactly else "approximate",
        1,
        lambda: denoiser.evaluations,
        independent=exactly,
        exact=None if exactly else exact,
    )


def noising(question: Question, denoiser: Any, why: str) -> Posterior:
    """Chains that noise and denoise, of any likelihood."""
    name = question.name

    def log_likelihood(z: Tensor) -> Tensor:
        return question.log_likelihood({name: denoiser.physical(z)})

    def run(n: int, generator: torch.Generator) -> Outcome:
        kept = max(100, math.ceil(n / _CHAINS))
        start = denoiser.draw(_CHAINS, generator)
        blocks = 1 if question.particles else _BLOCKS
        with torch.no_grad():
            found = noise_denoise(
                denoiser,
                log_likelihood,
                start,
                kept,
                kept,
                generator,
                question.steps or _REDRAWN,
                blocks,
            )
            return of_chains(found, {name: denoiser.physical(found.flat)})

    size = question.particles or 100 * _CHAINS
    return answer(
        question, run, "noise-denoise", why, "asymptotic", size, lambda: denoiser.evaluations
    )


def gibbs(question: Question, denoiser: Any, why: str) -> Posterior:
    """Chains of several unknowns, of which the last noises and denoises, the others move along
    differences between chains.
    """
    *others, last = question.priors
    where = joint_space({k: question.priors[k] for k in others})

    def unknowns(z: Tensor) -> dict[str, Tensor]:
        u, x = z.split((where.size, denoiser.size), -1)
        return where.unknowns(u) | {last: denoiser.physical(x)}

    def run(n: int, generator: torch.Generator) -> Outcome:
        kept = max(100, math.ceil(n / _CHAINS))
        parts = where.draw(_CHAINS, generator), denoiser.draw(_CHAINS, generator)
        with torch.no_grad():
            found = noise_denoise(
                denoiser,
                lambda z: question.log_likelihood(unknowns(z)),
                torch.cat(parts, -1),
                kept,
                kept,
                generator,
                question.steps or _REDRAWN,
                1 if question.particles else _BLOCKS,
                log_prior=where.log_prior,
            )
            return of_chains(found, unknowns(found.flat))

    size = question.particles or 100 * _CHAINS
    return answer(question, run, "gibbs", why, "asymptotic", size, lambda: denoiser.evaluations)


def gaussian_part(question: Question) -> Collapsed | None:
    """The last of several unknowns, if it is Gaussian and seen linearly by all instruments."""
    *others, last = question.priors
    prior = question.priors[last]
    every = question.likelihoods
    if not isinstance(prior, GaussianPrior) or question.iid:
        return None
    if not all(isinstance(v, GaussianLikelihood) for v in every):
        return None

    def white(x: Tensor, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        unknowns, n = question.named(rows | {last: x}), len(x)
        seen: list[Tensor] = []
        logdets: list[Tensor] = []
        ys: list[Tensor] = []
        for likelihood, y in zip(every, question.ys):
            assert isinstance(likelihood, GaussianLikelihood)
            parts = likelihood.white(unknowns, y)
            for values, found in zip((seen, logdets, ys), parts):
                values.append(found.expand(n, *found.shape[1:]))
        return torch.cat(seen, -1), torch.stack(logdets).sum(0), torch.cat(ys, -1)

    part = Collapsed(prior, white)
    with torch.no_grad():
        rows = {k: v[:2] for k, v in question.draw(2).items() if k in others}
        return part if part.affine(rows) else None


def collapsed(question: Question, part: Collapsed, why: str) -> Posterior:
    """Particles of the other unknowns by the evidence of each, and the Gaussian one exactly."""
    *others, last = question.priors
    where = joint_space({k: question.priors[k] for k in others})

    def evidence(u: Tensor) -> Tensor:
        question.calls += len(u)
        return part.log_evidence(where.unknowns(u))

    def run(n: int, generator: torch.Generator) -> Outcome:
        with torch.no_grad():
            found = tempered(where.log_prior, [evidence], where.draw, size, generator)
            keep = systematic(found.log_weights, n, generator) if n > size else slice(None)
            log_w = found.log_weights if n <= size else None
            rows = where.unknowns(found.x[keep])
            x = part.draw(rows, generator)
        return Outcome(
            rows | {last: x}, log_w, Evidence(found.log_evidence, found.error), found.ess
        )

    size = question.particles or _COLLAPSED
    return answer(question, run, "smc", why, "asymptotic", size, lambda: question.calls)


def _warn_impossible(square: float, m: int) -> None:
    if chi2.sf(square, m) < _CHANCE:
        warnings.warn(
            f"the observation is far from what the prior predicts: chi2 = {square:.4g} for {m} "
            "numbers; is the instrument, the noise or the prior what it is said to be?",
            ApproximateWarning,
            stacklevel=4,
        )


def _problem(question: Question, denoiser: Any, seen: Instrument, gaussian: bool) -> Problem:
    """The problem in the denoiser's coordinates."""
    part = seen.reduced() if gaussian else seen
    name = question.name
    exact = None
    if not gaussian:

        def exact(z: Tensor) -> Tensor:
            return question.log_likelihood({name: denoiser.physical(z)})

    unit = math.exp(-seen.scale / len(seen.y)) / math.sqrt(2 * math.pi)
    return Problem(denoiser, part.predict, part.y, part.scale, part.matrix, exact, unit)


def _first(problem: Problem, seen: Instrument) -> None:
    """Warns of an observation that the prior does not foresee."""
    prior = problem.prior
    x = torch.zeros(1, prior.size, dtype=prior.dtype, device=prior.device)
    known = twist(problem, prior.mean(x, prior.farthest).detach(), prior.farthest)
    white = torch.linalg.solve_triangular(known.factor[0], known.residual.mT, upper=False)
    square, m = float(white.square().sum()), len(seen.y)
    if problem.matrix is None and chi2.sf(square, m) < _CHANCE:
        square = min(square, _among_draws(problem))
    _warn_impossible(square + 2 * (seen.scale - problem.scale), m)


def _among_draws(problem: Problem) -> float:
    """Squared distance of y from what draws of the prior predict, in units of their covariance and
    the noise: of an instrument that bends, whose slope at the mean says little.
    """
    draws = problem.prior.draw(_DRAWN, torch.Generator().manual_seed(0))  # type: ignore[attr-defined]
    with torch.no_grad():
        found = problem.predict(draws)
    rest = problem.y - found.mean(0)
    root = (found - found.mean(0)) / math.sqrt(_DRAWN)
    along = root @ rest
    inner = root @ root.mT + torch.eye(_DRAWN).to(root)
    return float(rest @ rest - along @ torch.linalg.solve(inner, along))


def _steps(denoiser: Any) -> int:
    return _SHARED if getattr(denoiser, "shared", False) else _STEPS


def _particles(question: Question, denoiser: Any) -> int:
    if question.particles is not None:
        return question.particles
    if isinstance(denoiser, ClosedForm):
        return 8192 if denoiser.size <= 128 else 4096
    return 4096 if denoiser.size <= 32 else 256
