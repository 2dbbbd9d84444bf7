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

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .answers.denoising import (
    closed_form,
    collapsed,
    gaussian_part,
    gibbs,
    guidance,
    noising,
    steered,
)
from .answers.instrument import instrument
from .answers.posterior import Posterior, mixed
from .answers.question import Question, ask, unconditional
from .answers.space import chains, from_prior, proposed, tempering
from .gaussian import GaussianPrior, MixturePrior
from .likelihood import GaussianLikelihood
from .samplers.denoising import ClosedForm, Network
from .samplers.guidance import GUIDANCE
from .samplers.space import Space, joint_space, space

METHODS = (
    "closed-form",
    "smc",
    "ancestral",
    "noise-denoise",
    "gibbs",
    *GUIDANCE,
    "hmc",
    "slice",
    "elliptical-slice",
    "importance",
)
"""Methods by name, beside "auto"."""

_DRAWN = 64  # draws of the prior that say where it is
_MANY = 8  # dimensions above which chains with gradients beat particles without

Way = tuple[str, str, Callable[[str], Posterior]]
"""A method, why it is chosen, and what makes the posterior, told why."""


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
        prior: A `Prior`, a fitted "x" of any family (or "x | theta" called with its theta), a
            `GaussianPrior` or `MixturePrior`, any torch Distribution; or several unknowns by name
            in ancestral order, {"theta": prior, "x": emulator}.
        likelihood: A fitted "x | theta", a `GaussianLikelihood` or `PoissonLikelihood`, any
            callable log p(y | x) of (y, x) or of x alone; or a list of them that look at the same
            unknowns. Of several unknowns an instrument takes those that its arguments name.
        observed: What was observed, without a batch axis; of a list of likelihoods a list.
        method: "auto", or one of `METHODS`.
        proposal: A distribution to draw from instead of the prior, such as `posterior(x)`: the
            draws are weighted.
        iid: Whether `observed` is a set of independent events, (events, *event).
        steps: Noise levels of a method that has them; 100 unless said, 24 where an image's
            denoiser is averaged at each, and of each move of "noise-denoise" and "gibbs".
        particles: Particles, or draws of all chains; by the method unless said.
        seed: Of all random numbers.

    Returns:
        A torch Distribution with `.sample(n)`, `.log_evidence()`, `.ess`, `.chi2(y)`,
        `.exactness`, `.method` and `.why`. Nothing is computed before it is asked for.

    Raises:
        TypeError: If prior or likelihood are nothing that can be one.
        ValueError: If shapes do not agree, the likelihood is NaN where the prior draws, the
            observation is not finite, the prior is wider than what a surrogate was trained on, or
            the method asks for more than prior and likelihood can.

    Examples:
        >>> prior = GaussianPrior(torch.zeros(2), torch.eye(2))
        >>> seen = GaussianLikelihood(lambda x: x[:, :1], sigma=1.0)
        >>> posterior = infer(prior, seen, torch.tensor([2.0]))
        >>> posterior.method, posterior.sample(3).shape
        ('closed-form', torch.Size([3, 2]))
        >>> posterior.log_evidence()
        -2.2655 ± 0
    """
    if method not in ("auto", *METHODS):
        raise ValueError(f"method is auto or one of {', '.join(METHODS)}; got {method!r}")
    options: dict[str, Any] = {"iid": iid, "steps": steps, "particles": particles, "seed": seed}
    if not isinstance(prior, dict):
        members = getattr(unconditional(prior), "members", [prior])
        if len(members) > 1 and proposal is None:
            parts = [infer(one, likelihood, observed, method=method, **options) for one in members]
            return mixed(parts)
    question = ask(prior, likelihood, observed, **options)
    if proposal is not None:
        if method not in ("auto", "importance"):
            raise ValueError(f"a proposal goes with method='importance', not {method!r}")
        return proposed(question, proposal)
    ways = _ways(question, method)
    if method == "auto":
        _, why, make = ways[0]
        return make(why)
    for name, _, make in ways:
        if name == method:
            return make("asked for")
    possible = ", ".join(dict.fromkeys(name for name, _, _ in ways))
    raise ValueError(
        f"method {method!r} asks for more than this prior and likelihood can; possible: {possible}"
    )


def _ways(question: Question, method: str) -> list[Way]:
    """The methods that this prior and likelihood allow, the best first."""
    if not question.single:
        return _joint_ways(question, method)
    ways = [] if question.iid else _denoising_ways(question, method)
    known = {name for name, _, _ in ways}
    prior = question.prior
    bare = getattr(prior, "noise_shape", None) is None and not hasattr(prior, "log_prob")
    if ways and (method in ("auto", *known) or bare):
        return ways
    more = _space_ways(question, space(prior, question.name))
    return ways + [way for way in more if way[0] not in known]


def _denoiser(prior: Any, observed: int) -> Any:
    """A prior as a denoiser, if it is one."""
    if isinstance(prior, (GaussianPrior, MixturePrior)):
        return ClosedForm(prior)
    if hasattr(prior, "moments") and hasattr(prior, "smallest"):
        return prior  # it is what samplers ask for, such as `Windows`
    ours = hasattr(prior, "modelled_shape")
    if not hasattr(prior, "denoise") or (ours and prior.process is None):
        return None
    return Network(prior, observed)


def _denoising_ways(question: Question, method: str) -> list[Way]:
    prior = question.prior
    denoiser = _denoiser(prior, sum(y.numel() for y in question.ys))
    if denoiser is None:
        return []
    closed = isinstance(denoiser, ClosedForm)
    seen = instrument(
        question.likelihoods,
        question.ys,
        question.event,
        denoiser.inside,
        None if closed else lambda z: denoiser.physical(z.flatten(1)),
        None if closed else torch.Size([denoiser.size]),
        _typical(denoiser) if closed else None,
    )
    gaussian = all(isinstance(v, GaussianLikelihood) for v in question.likelihoods)
    ways: list[Way] = []
    formed = seen is not None and (seen.matrix is not None or not seen.affine)
    if seen is not None and seen.affine and gaussian and closed and seen.adjoint is not None:
        if seen.matrix is not None or isinstance(prior, GaussianPrior):
            why = "prior and noise are Gaussian, or a mixture, and the instrument is linear"
            ways.append(("closed-form", why, lambda w: closed_form(question, seen, w)))
    if seen is not None and formed:
        why = "the prior denoises, and the instrument says what noise it has"
        free = method == "auto"  # to give way to another
        ways.append(("smc", why, lambda w: steered(question, denoiser, seen, gaussian, w, free)))
    why = "the prior denoises, and the likelihood is a black box"
    ways.append(("noise-denoise", why, lambda w: noising(question, denoiser, w)))
    if seen is not None and formed:
        for name in ("ancestral", *GUIDANCE):
            ways.append(
                (name, "", lambda w, k=name: guidance(question, denoiser, seen, gaussian, k, w))  # type: ignore[misc]
            )
    return ways


def _typical(denoiser: ClosedForm) -> Callable[[Tensor], Tensor]:
    """Rows (n, *event) about where the prior draws, of rows z ~ N(0, I)."""
    x = denoiser.draw(_DRAWN, torch.Generator().manual_seed(0))
    return lambda z: denoiser.physical(x.mean(0) + x.std(0) * z.flatten(1).double())


def _joint_ways(question: Question, method: str) -> list[Way]:
    """Of several unknowns: a last one that is Gaussian, taken out; one that denoises, by Gibbs'
    moves; all in one space.
    """
    name, last = list(question.priors.items())[-1]
    ways: list[Way] = []
    if not (hasattr(last, "expression") and last.given):
        denoiser = _denoiser(unconditional(last), sum(y.numel() for y in question.ys))
        if denoiser is not None:
            why = f"{name!r} denoises, and the others are few: they move in turn"
            ways = [("gibbs", why, lambda w: gibbs(question, denoiser, w))]
    part = gaussian_part(question)
    if part is not None:
        why = f"{name!r} is Gaussian and seen linearly: particles of the others, {name!r} exactly"
        ways = [("smc", why, lambda w: collapsed(question, part, w)), *ways]
    known = {way[0] for way in ways}
    if ways and method in ("auto", *known):
        return ways
    more = _space_ways(question, joint_space(question.priors))
    return ways + [way for way in more if way[0] not in known]


def _space_ways(question: Question, where: Space) -> list[Way]:
    why_particles = f"{where.size} unknown numbers: particles find every mode, without gradients"
    why_chains = f"{where.size} unknown numbers: chains that follow gradients"
    particles: Way = ("smc", why_particles, lambda w: tempering(question, where, w))
    ways: list[Way] = [particles]
    gradient = _differentiable(question, where)
    if gradient:
        hmc: Way = ("hmc", why_chains, lambda w: chains(question, where, "hmc", w))
        ways = [particles, hmc] if where.size <= _MANY else [hmc, particles]
    ways.append(("slice", "", lambda w: chains(question, where, "slice", w)))
    if where.white:
        elliptical: Way = (
            "elliptical-slice",
            f"{where.size} unknown numbers and no gradient: slices in the prior's noise",
            lambda w: chains(question, where, "elliptical-slice", w),
        )
        ways = [elliptical, *ways] if not gradient and where.size > _MANY else [*ways, elliptical]
    ways.append(("importance", "", lambda w: from_prior(question, where, w)))
    return ways


def _differentiable(question: Question, where: Space) -> bool:
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
