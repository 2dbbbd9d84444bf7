r"""infer(): Bayes' rule.

.. math::
    p(x \mid y) = \frac{p(y \mid x)\, p(x)}{\int p(y \mid x')\, p(x')\, dx'}

of any prior and any likelihood, learned or written down. What prior and likelihood can do decides
how: in closed form where both are linear and Gaussian; by particles steered by a denoiser; by
noising and denoising where the instrument is a black box; by particles or chains in the space of
a transport or a density. What it chose, why, and how exact that is, the posterior says.
"""

from __future__ import annotations

__all__ = ["METHODS", "infer"]

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import chi2
from torch import Tensor

from .gaussian import GaussianPrior, MixturePrior
from .instrument import Instrument, check_operator, instrument, observations
from .likelihood import Likelihood, as_likelihood
from .posterior import ApproximateWarning, Evidence, Outcome, Posterior
from .prior import Prior
from .samplers.ancestral import ancestral
from .samplers.chains import Chains
from .samplers.closed_form import LinearGaussian
from .samplers.denoising import ClosedForm, Network
from .samplers.guidance import GUIDANCE, guided
from .samplers.hmc import hmc_sample
from .samplers.importance import pareto_k, weighted
from .samplers.noise_denoise import noise_denoise
from .samplers.problem import Problem, twist
from .samplers.slice import elliptical_slice, slice_sample
from .samplers.smc import Particles, smc
from .samplers.space import Space, joint_space, space
from .samplers.tempered import tempered

METHODS = (
    "closed-form",
    "smc",
    "ancestral",
    "noise-denoise",
    *GUIDANCE,
    "hmc",
    "slice",
    "elliptical-slice",
    "importance",
)
"""Methods by name, beside "auto"."""

_MANY = 8  # dimensions above which chains with gradients beat particles without
_FAMILIES = 30  # independent draws that particles have to be worth
_BLOCKS = 10  # by which chains are extended until they have converged
_CHANCE = 1e-6  # of an observation under the prior, below which there is a warning


@dataclass
class _Question:
    """What was asked, checked."""

    priors: dict[str, Any]
    likelihoods: list[Likelihood]
    ys: list[Tensor]
    iid: bool
    steps: int | None
    particles: int | None
    seed: int
    joint: bool
    calls: int = 0

    @property
    def prior(self) -> Any:
        """The only prior."""
        return next(iter(self.priors.values()))

    def log_likelihood(self, rows: Mapping[str, Tensor]) -> Tensor:
        """The sum (n,) over instruments."""
        n = len(next(iter(rows.values())))
        self.calls += n
        total = None
        for likelihood, y in zip(self.likelihoods, self.ys):
            if self.iid:
                part = _of_events(likelihood, y, rows)
            else:
                part = likelihood.log_prob(y, rows)
            if part.shape != (n,):
                raise ValueError(
                    f"a likelihood must give one number a row, {(n,)}; got {tuple(part.shape)}"
                )
            total = part.double() if total is None else total + part.double()
        assert total is not None
        return total


def infer(
    prior: Any,
    likelihood: Any,
    observed: Any,
    *,
    method: str = "auto",
    proposal: Any = None,
    iid: bool = False,
    steps: int | None = None,
    particles: int | None = None,
    seed: int = 0,
) -> Posterior:
    """The posterior of what a prior describes, given what was observed.

    Arguments:
        prior: A `Prior`, a fitted "x" of any family (or "theta", or "x | theta" called with its
            theta), a `GaussianPrior` or `MixturePrior`, any torch Distribution; or several
            unknowns by name in ancestral order, {"theta": prior, "x": emulator}.
        likelihood: A fitted "x | theta", a `GaussianLikelihood` or `PoissonLikelihood`, any
            callable log p(y | x); or a list of them that look at the same unknowns.
        observed: What was observed, without a batch axis; of a list of likelihoods a list.
        method: "auto", or one of `METHODS`.
        proposal: A distribution to draw from instead of the prior, such as `posterior(x)`: the
            draws are weighted.
        iid: Whether `observed` is a set of independent events, (events, *event).
        steps: Noise levels of a method that has them; 100 unless said.
        particles: Particles, or draws of all chains; by the method unless said.
        seed: Of all random numbers.

    Returns:
        A torch Distribution with `.sample(n)`, `.log_evidence()`, `.ess`, `.chi2(y)`,
        `.exactness`, `.method` and `.why`. Nothing is computed before it is asked for.

    Raises:
        ValueError: If shapes do not agree, the likelihood is NaN where the prior draws, the
            observation is not finite, or the method asks for more than prior and likelihood can.
    """
    if method not in ("auto", *METHODS):
        raise ValueError(f"method is auto or one of {', '.join(METHODS)}; got {method!r}")
    question = _asked(prior, likelihood, observed, iid, steps, particles, seed)
    if proposal is not None:
        if method not in ("auto", "importance"):
            raise ValueError(f"a proposal goes with method='importance', not {method!r}")
        return _importance(question, proposal)
    ways = _ways(question)
    if method == "auto":
        name, why, make = ways[0]
        return make(why)
    for name, why, make in ways:
        if name == method:
            return make("asked for")
    possible = ", ".join(dict.fromkeys(name for name, _, _ in ways))
    raise ValueError(
        f"method {method!r} asks for more than this prior and likelihood can; possible: {possible}"
    )


def _asked(
    prior: Any,
    likelihood: Any,
    observed: Any,
    iid: bool,
    steps: int | None,
    particles: int | None,
    seed: int,
) -> _Question:
    """The question, checked on draws of the prior."""
    several = isinstance(likelihood, (list, tuple))
    likelihoods = [as_likelihood(v) for v in (likelihood if several else [likelihood])]
    ys = observations(
        likelihoods,
        observed if several and len(likelihoods) > 1 else observed[0] if several else observed,
    )
    joint = isinstance(prior, Mapping)
    if joint:
        priors = dict(prior)
        if not priors:
            raise ValueError("name at least one unknown")
    else:
        priors = {"theta" if isinstance(prior, Prior) else "x": _unconditional(prior)}
    if len(priors) == 1:
        priors = {k: _unconditional(v) for k, v in priors.items()}
    for what, value in (("steps", steps), ("particles", particles)):
        if value is not None and value < 1:
            raise ValueError(f"{what} must be positive; got {value}")
    question = _Question(priors, likelihoods, ys, iid, steps, particles, seed, joint)
    rows = _rows(question, 64)
    if not iid:
        for one, y in zip(likelihoods, ys):
            check_operator(one, y, {k: v[:2] for k, v in rows.items()})
    with torch.no_grad():
        value = question.log_likelihood(rows)
    question.calls = 0
    if bool(value.isnan().any()) or bool((value == math.inf).any()):
        raise ValueError(
            f"the likelihood is NaN or infinite for {int((~(value < math.inf)).sum())} of "
            f"{len(value)} draws of the prior"
        )
    return question


def _unconditional(prior: Any) -> Any:
    """A distribution of a prior that may be a fitted "x"."""
    if hasattr(prior, "expression") and callable(prior):
        if prior.expression.given:
            raise ValueError(
                f"the prior {str(prior.expression)!r} is conditional: call it with what is given, "
                "or name all unknowns in a dict in ancestral order"
            )
        return prior()
    return prior


def _rows(question: _Question, n: int) -> dict[str, Tensor]:
    """n draws of the prior."""
    generator = torch.Generator().manual_seed(question.seed)
    if len(question.priors) == 1:
        name, prior = next(iter(question.priors.items()))
        if not hasattr(prior, "sample"):
            raise TypeError(f"a prior is a distribution; got {type(prior).__name__}")
        with torch.no_grad(), torch.random.fork_rng([]):
            torch.manual_seed(question.seed)
            x = prior.sample((n,))
        event = torch.Size(prior.event_shape) or torch.Size((1,))
        return {name: x.reshape(n, *event)}
    where = joint_space(question.priors)
    return where.unknowns(where.draw(n, generator))


def _of_events(likelihood: Likelihood, y: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
    """The sum over independent events of log p(y_k | rows), (n,)."""
    several = getattr(likelihood, "of_events", None)
    if several is not None:
        return several(y, rows)
    return torch.stack([likelihood.log_prob(event, rows) for event in y]).sum(0)


Way = tuple[str, str, Callable[[str], Posterior]]


def _ways(question: _Question) -> list[Way]:
    """The methods that this prior and likelihood allow, the best first."""
    ways: list[Way] = []
    if len(question.priors) == 1 and not question.iid:
        ways += _denoising_ways(question)
    if not ways or not hasattr(question.prior, "denoise") or len(question.priors) > 1:
        return ways + _space_ways(question)
    fixed = getattr(question.prior, "noise_shape", None) is not None
    if fixed or getattr(question.prior, "density", None) == "exact":
        ways += [way for way in _space_ways(question) if way[0] != "smc"]
    return ways


def _denoising_ways(question: _Question) -> list[Way]:
    prior = question.prior
    closed = isinstance(prior, (GaussianPrior, MixturePrior))
    process = getattr(prior, "process", None)
    if not closed and not (
        hasattr(prior, "denoise") and (process is not None or not hasattr(prior, "_pipeline"))
    ):
        return []
    event = torch.Size(prior.event_shape)
    ways: list[Way] = []
    if closed:
        seen = instrument(question.likelihoods, question.ys, event, prior.dtype)
        denoiser: Any = ClosedForm(prior)
    else:
        observed = sum(y.numel() for y in question.ys)
        denoiser = Network(prior, observed)
        seen = instrument(
            question.likelihoods,
            question.ys,
            event,
            torch.float32 if process is not None else torch.float64,
            lambda z: denoiser.physical(z.flatten(1)),
            torch.Size([denoiser.size]),
        )
    gaussian = all(type(v).__name__ == "GaussianLikelihood" for v in question.likelihoods)
    if seen is not None and seen.affine and gaussian and closed and seen.adjoint is not None:
        if seen.matrix is not None or isinstance(prior, GaussianPrior):
            why = "the prior is Gaussian, or a mixture, and the instrument linear with Gaussian noise"
            ways.append(("closed-form", why, lambda w: _closed(question, seen, w)))
    if seen is not None and (seen.matrix is not None or not seen.affine):
        why = "the prior denoises, and the instrument says what noise it has"
        ways.append(("smc", why, lambda w: _smc(question, denoiser, seen, gaussian, w)))
    why = "the prior denoises, and the likelihood is a black box"
    ways.append(("noise-denoise", why, lambda w: _noise_denoise(question, denoiser, seen, w)))
    if seen is not None and (seen.matrix is not None or not seen.affine):
        for name in ("ancestral", *GUIDANCE):
            ways.append(
                (name, why, lambda w, k=name: _guided(question, denoiser, seen, gaussian, k, w))  # type: ignore[misc]
            )
    return ways


def _space_ways(question: _Question) -> list[Way]:
    where = _space(question)
    why_particles = f"{where.size} unknown numbers: particles find every mode, without gradients"
    why_chains = f"{where.size} unknown numbers: chains that follow gradients"
    particles: Way = ("smc", why_particles, lambda w: _tempered(question, where, w))
    ways: list[Way] = [particles]
    gradient = _differentiable(question, where)
    if gradient:
        hmc: Way = ("hmc", why_chains, lambda w: _chains(question, where, "hmc", w))
        ways = [particles, hmc] if where.size <= _MANY else [hmc, particles]
    ways.append(("slice", "", lambda w: _chains(question, where, "slice", w)))
    if where.white:
        elliptical: Way = (
            "elliptical-slice",
            f"{where.size} unknown numbers and no gradient: slices in the prior's noise",
            lambda w: _chains(question, where, "elliptical-slice", w),
        )
        ways = [elliptical, *ways] if not gradient and where.size > _MANY else [*ways, elliptical]
    ways.append(("importance", "", lambda w: _from_prior(question, where, w)))
    return ways


def _space(question: _Question) -> Space:
    if len(question.priors) == 1:
        name, prior = next(iter(question.priors.items()))
        return space(prior, name)
    return joint_space(question.priors)


def _differentiable(question: _Question, where: Space) -> bool:
    """Whether autograd leads from the likelihood back to the coordinates."""
    generator = torch.Generator().manual_seed(question.seed)
    try:
        with torch.enable_grad():
            u = where.draw(2, generator).requires_grad_()
            value = question.log_likelihood(where.unknowns(u)).sum()
            (slope,) = torch.autograd.grad(value, u)
    except (RuntimeError, TypeError, ValueError):
        return False
    return bool(slope.isfinite().all()) and bool((slope != 0).any())


def _closed(question: _Question, seen: Instrument, why: str) -> Posterior:
    assert seen.forward is not None and seen.adjoint is not None and seen.offset is not None
    part = seen.reduced()
    assert part.forward is not None and part.adjoint is not None and part.offset is not None
    y = part.y - part.offset
    solved = LinearGaussian.of(
        question.prior, part.forward, part.adjoint, y, part.scale, part.matrix
    )
    name = next(iter(question.priors))
    event = torch.Size(question.prior.event_shape)

    def run(n: int, generator: torch.Generator) -> Outcome:
        x = solved.draw(n, generator)
        evidence = None if part.matrix is None else Evidence(solved.log_evidence(), 0.0)
        return Outcome({name: x.view(n, *event)}, evidence=evidence)

    if part.matrix is not None:
        _warn_impossible(_prior_chi2(solved), len(y))
    return _posterior(question, run, "closed-form", why, "closed form", 1, lambda: 0, True)


def _prior_chi2(solved: LinearGaussian) -> float:
    """The least squared distance of y from a component, in its own units."""
    factors = solved.factors()
    assert factors is not None
    residual = solved.y - solved.forward(solved.means)
    every = factors if len(factors) > 1 else factors * len(residual)
    white = [
        torch.linalg.solve_triangular(L, r[:, None], upper=False) for L, r in zip(every, residual)
    ]
    return min(float(w.square().sum()) for w in white)


def _warn_impossible(square: float, m: int) -> None:
    if chi2.sf(square, m) < _CHANCE:
        warnings.warn(
            f"the observation is far from what the prior predicts: chi2 = {square:.4g} for {m} "
            "numbers; is the instrument, the noise or the prior what it is said to be?",
            ApproximateWarning,
            stacklevel=4,
        )


def _problem(question: _Question, denoiser: Any, seen: Instrument, gaussian: bool) -> Problem:
    """The problem in the denoiser's coordinates."""
    part = seen.reduced() if gaussian else seen
    name = next(iter(question.priors))
    exact = None
    if not gaussian:

        def exact(z: Tensor) -> Tensor:
            return question.log_likelihood({name: denoiser.physical(z)})

    unit = math.exp(-seen.scale / len(seen.y)) / math.sqrt(2 * math.pi)
    return Problem(denoiser, part.predict, part.y, part.scale, part.matrix, exact, unit)


def _first(problem: Problem) -> None:
    """Warns of an observation that the prior does not foresee."""
    prior = problem.prior
    x = torch.zeros(1, prior.size, dtype=prior.dtype, device=prior.device)
    known = twist(problem, prior.mean(x, prior.farthest).detach(), prior.farthest)
    white = torch.linalg.solve_triangular(known.factor[0], known.residual.mT, upper=False)
    _warn_impossible(float(white.square().sum()), len(problem.y))


def _particles(question: _Question, denoiser: Any) -> int:
    if question.particles is not None:
        return question.particles
    if isinstance(denoiser, ClosedForm):
        return 8192 if denoiser.size <= 128 else 4096
    return 4096 if denoiser.size <= 32 else 256


def _smc(
    question: _Question, denoiser: Any, seen: Instrument, gaussian: bool, why: str
) -> Posterior:
    name = next(iter(question.priors))
    problem = _problem(question, denoiser, seen, gaussian)
    steps = question.steps or 100
    _first(problem)

    def run(n: int, generator: torch.Generator) -> Outcome:
        found = smc(problem, n, steps, generator)
        problems = None
        if found.families < _FAMILIES:
            problems = (
                f"its {n} particles are worth {found.families:.1f} independent draws: take more "
                "(particles=)"
            )
        return _outcome(found, {name: denoiser.physical(found.x)}, problems)

    size = _particles(question, denoiser)
    return _posterior(question, run, "smc", why, "asymptotic", size, lambda: denoiser.evaluations)


def _guided(
    question: _Question, denoiser: Any, seen: Instrument, gaussian: bool, method: str, why: str
) -> Posterior:
    name = next(iter(question.priors))
    problem = _problem(question, denoiser, seen, gaussian)
    steps = question.steps or 100
    _first(problem)

    def run(n: int, generator: torch.Generator) -> Outcome:
        if method == "ancestral":
            x = ancestral(problem, n, steps, generator)
        else:
            x = guided(problem, n, steps, generator, GUIDANCE[method])
        return Outcome({name: denoiser.physical(x)})

    def exact(method: str) -> Posterior:
        if method == "noise-denoise":
            return _noise_denoise(question, denoiser, seen, "asked for")
        if method != "smc":
            raise ValueError(f"reweight by 'smc' or 'noise-denoise'; got {method!r}")
        return _smc(question, denoiser, seen, gaussian, "to weigh an approximate answer")

    exactly = (
        method == "ancestral"
        and isinstance(question.prior, GaussianPrior)
        and (gaussian and seen.affine)
    )
    return _posterior(
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


def _noise_denoise(
    question: _Question, denoiser: Any, seen: Instrument | None, why: str
) -> Posterior:
    name = next(iter(question.priors))
    chains = 64

    def log_likelihood(z: Tensor) -> Tensor:
        with torch.no_grad():
            return question.log_likelihood({name: denoiser.physical(z)})

    def run(n: int, generator: torch.Generator) -> Outcome:
        kept = max(100, math.ceil(n / chains))
        start = denoiser.draw(chains, generator)
        blocks = 1 if question.particles else _BLOCKS
        found = noise_denoise(
            denoiser, log_likelihood, start, kept, kept, generator, blocks=blocks
        )
        return _of_chains(found, {name: denoiser.physical(found.flat)})

    size = question.particles or 6400
    return _posterior(
        question, run, "noise-denoise", why, "asymptotic", size, lambda: denoiser.evaluations
    )


def _tempered(question: _Question, where: Space, why: str) -> Posterior:
    def run(n: int, generator: torch.Generator) -> Outcome:
        with torch.no_grad():
            found = tempered(
                where.log_prior,
                lambda u: question.log_likelihood(where.unknowns(u)),
                where.draw,
                n,
                generator,
            )
            rows = where.unknowns(found.x)
        problem = None
        if found.error > 0.5:
            problem = (
                f"the islands' evidences differ by {found.error:.2g} nats: take more particles="
            )
        return _outcome(found, rows, problem)

    size = question.particles or 4096
    return _posterior(question, run, "smc", why, "asymptotic", size, lambda: question.calls)


def _chains(question: _Question, where: Space, method: str, why: str) -> Posterior:
    def target(u: Tensor) -> Tensor:
        return where.log_prior(u) + question.log_likelihood(where.unknowns(u))

    def run(n: int, generator: torch.Generator) -> Outcome:
        count = 64 if where.size <= 64 else 16
        start = _started(question, where, count, generator)
        seed = int(torch.randint(2**31, (), generator=generator))
        kept = max(100, math.ceil(n / count))
        if method == "hmc":
            found = hmc_sample(target, start, kept, seed=seed)
        elif method == "slice":
            found = slice_sample(target, start, kept, seed=seed)
        else:
            found = elliptical_slice(
                lambda u: question.log_likelihood(where.unknowns(u)), start, kept, seed=seed
            )
        with torch.no_grad():
            rows = where.unknowns(found.flat)
        return _of_chains(found, rows)

    size = question.particles or 6400
    return _posterior(question, run, method, why, "asymptotic", size, lambda: question.calls)


def _started(question: _Question, where: Space, chains: int, generator: torch.Generator) -> Tensor:
    """Where chains start: draws of the prior, chosen by their likelihood."""
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
    return u[best[torch.arange(chains) % len(best)]]


def _from_prior(question: _Question, where: Space, why: str) -> Posterior:
    def run(n: int, generator: torch.Generator) -> Outcome:
        with torch.no_grad():
            u = where.draw(n, generator)
            rows = where.unknowns(u)
            value = question.log_likelihood(rows)
        found = weighted(u, value, torch.zeros_like(value))
        return _outcome(found, rows, *_trust(found))

    size = question.particles or 100_000
    return _posterior(question, run, "importance", why, "asymptotic", size, lambda: question.calls)


def _importance(question: _Question, proposal: Any) -> Posterior:
    """Draws of a proposal, weighted."""
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

    def run(n: int, generator: torch.Generator) -> Outcome:
        with torch.no_grad(), torch.random.fork_rng([]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            x = proposal.sample((n,)).reshape(n, *event)
            log_q = proposal.log_prob(x.view(n, *proposal.batch_shape, *proposal.event_shape))
            log_prior = prior.log_prob(x.view(n, *prior.event_shape)).reshape(n).double()
            inside = log_prior > -math.inf
            value = torch.full_like(log_prior, -math.inf)
            if bool(inside.any()):
                value[inside] = question.log_likelihood({name: x[inside]})
        found = weighted(x, value + log_prior, log_q.reshape(n))
        return _outcome(found, {name: x}, *_trust(found))

    size = question.particles or 10_000
    why = "a proposal was given: its draws are weighted"
    return _posterior(question, run, "importance", why, "asymptotic", size, lambda: question.calls)


def _trust(found: Particles) -> tuple[str | None, dict[str, Any]]:
    """What the weights say of themselves."""
    k = pareto_k(found.log_weights)
    efficiency = found.ess / len(found.x)
    problem = None
    if k > 0.7:
        problem = (
            f"the weights' Pareto shape is {k:.2f}, above 0.7: a few draws decide; take a "
            "proposal nearer to the posterior, or more draws"
        )
    return problem, {"pareto_k": k, "efficiency": efficiency}


def _outcome(
    found: Particles,
    rows: dict[str, Tensor],
    problem: str | None = None,
    notes: dict[str, Any] | None = None,
) -> Outcome:
    evidence = Evidence(found.log_evidence, found.error)
    return Outcome(rows, found.log_weights, evidence, found.ess, problem, notes)


def _of_chains(found: Chains, rows: dict[str, Tensor]) -> Outcome:
    varies = found.draws.flatten(0, 1).std(0) > 0
    ess = float(found.ess_bulk[varies].min()) if bool(varies.any()) else 1.0
    notes = {
        "accept": found.accept,
        "rhat": float(found.rhat[varies].max()) if bool(varies.any()) else math.nan,
        "divergences": found.divergences,
    }
    return Outcome(rows, None, None, ess, found.problem, notes)


def _posterior(
    question: _Question,
    run: Callable[[int, torch.Generator], Outcome],
    method: str,
    why: str,
    exactness: str,
    size: int,
    evaluations: Callable[[], int],
    independent: bool = False,
    exact: Callable[[str], Posterior] | None = None,
) -> Posterior:
    shapes, columns, support = {}, {}, None
    if len(question.priors) == 1:
        name, prior = next(iter(question.priors.items()))
        shapes[name] = torch.Size(prior.event_shape) or torch.Size((1,))
        support = None if isinstance(prior, (GaussianPrior, MixturePrior)) else prior.support
        columns = {k: getattr(prior, k) for k in ("names", "labels", "units") if hasattr(prior, k)}
    else:
        shapes = {k: v.shape[1:] for k, v in _rows(question, 2).items()}
    log_joint = None
    if len(question.priors) == 1 and getattr(question.prior, "density", "exact") is not None:

        def log_joint(rows: dict[str, Tensor]) -> Tensor:
            name, prior = next(iter(question.priors.items()))
            x = rows[name]
            log_prior = prior.log_prob(x.view(len(x), *prior.event_shape)).reshape(-1).double()
            value = torch.full_like(log_prior, -math.inf)
            inside = log_prior > -math.inf
            if bool(inside.any()):
                value[inside] = question.log_likelihood({name: x[inside]})
            return torch.where(inside, log_prior + value, value)

    misfit = None
    if not question.iid and all(hasattr(v, "predict") for v in question.likelihoods):
        misfit = _misfit(question)
    return Posterior(
        run,
        method=method,
        why=why,
        exactness=exactness,
        size=size,
        log_joint=log_joint,
        misfit=misfit,
        evaluations=evaluations,
        event_shapes=shapes,
        support=support,
        columns=columns,
        dtype=getattr(question.prior, "dtype", torch.float32),
        seed=question.seed,
        independent=independent,
        exact=exact,
    )


def _misfit(question: _Question) -> Callable[[dict[str, Tensor], Any], Tensor]:
    def misfit(rows: dict[str, Tensor], y: Any) -> Tensor:
        ys = question.ys if y is None else observations(question.likelihoods, y)
        total = torch.zeros(len(next(iter(rows.values()))), dtype=torch.float64)
        for likelihood, seen in zip(question.likelihoods, ys):
            total = total + likelihood.chi2(seen, rows)
        return total

    return misfit
