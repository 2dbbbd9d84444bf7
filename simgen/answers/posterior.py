r"""What `infer` returns: draws of the posterior, its evidence, and how far to trust both.

.. math::
    p(x \mid y) = \frac{p(y \mid x)\, p(x)}{p(y)}, \qquad
    \mathrm{ESS} = \frac{1}{\sum_i w_i^2}, \qquad
    \chi^2 = \sum_i \left( \frac{y_i - A(x)_i}{\sigma_i} \right)^2

A posterior in closed form draws anew each time; of a sampler the particles or chains are kept,
and run again only for more than there are.
"""

from __future__ import annotations

__all__ = ["ApproximateWarning", "Evidence", "Outcome", "Posterior", "mixed"]

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..samplers.smc import effective, systematic

_DRAWS = 23  # purpose of a random stream


class ApproximateWarning(UserWarning):
    """An answer is not exact in any limit, or a sampler says that it is not there yet."""


class Evidence(float):
    """log p(y), a number with its standard error: `value, error = posterior.log_evidence()`."""

    error: float

    def __new__(cls, value: float, error: float) -> Evidence:
        """From the value and its standard error; 0 where it is exact."""
        found = super().__new__(cls, value)
        found.error = error
        return found

    def __iter__(self) -> Iterator[float]:
        return iter((float(self), self.error))

    def __repr__(self) -> str:
        return f"{float(self):.4f} ± {self.error:.2g}"


@dataclass(frozen=True)
class Outcome:
    """What a sampler found.

    Arguments:
        unknowns: Rows of each unknown, (n, *event).
        log_weights: (n,), normalised; None if all rows count the same.
        evidence: log p(y) and its standard error, if the sampler knows it.
        ess: Effective draws, where the sampler knows better than the weights.
        problem: Why the draws are no answer yet, or None.
        notes: What else the sampler says of itself: acceptance, R-hat, Pareto k ...
        instead: The approximate method whose draws these are, where the one that was chosen found
            no answer.
    """

    unknowns: dict[str, Tensor]
    log_weights: Tensor | None = None
    evidence: Evidence | None = None
    ess: float | None = None
    problem: str | None = None
    notes: Mapping[str, Any] | None = None
    instead: str | None = None


class Posterior(Distribution):
    """p(unknowns | observed), by the method that `infer` chose.

    Attributes:
        method: Its name; after the first draws, of the one that found them.
        why: Why that one.
        exactness: "closed form"; "asymptotic": exact as particles, steps or draws grow; or
            "approximate": biased in a way that nothing measures.
        names, labels, units: Of the unknown's columns, where the prior names them.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self,
        run: Callable[[int, torch.Generator], Outcome],
        *,
        method: str,
        why: str,
        exactness: str,
        size: int,
        log_joint: Callable[[dict[str, Tensor]], Tensor] | None,
        misfit: Callable[[dict[str, Tensor], Any], Tensor] | None,
        evaluations: Callable[[], int],
        event_shapes: Mapping[str, torch.Size],
        support: Any = None,
        columns: Mapping[str, tuple[str, ...]] | None = None,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        independent: bool = False,
        exact: Callable[[str], Posterior] | None = None,
    ) -> None:
        single = len(event_shapes) == 1
        event = next(iter(event_shapes.values())) if single else torch.Size()
        super().__init__(torch.Size(), event, validate_args=False)
        self._run, self.method, self.why, self.exactness = run, method, why, exactness
        self._size, self._log_joint, self._misfit = size, log_joint, misfit
        self._evaluations, self._event_shapes = evaluations, dict(event_shapes)
        self._support, self._dtype, self._independent = support, dtype, independent
        self._generator = _stream(seed)
        self._exact = exact
        self._outcome: Outcome | None = None
        for key, value in (columns or {}).items():
            setattr(self, key, value)

    @property
    def support(self) -> Any:  # type: ignore[override]
        """The prior's support."""
        if self._support is not None:
            return self._support
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def outcome(self) -> Outcome:
        """What the sampler found; it runs when first asked."""
        if self._outcome is None:
            self._outcome = self._start(self._size)
        return self._outcome

    def _start(self, n: int) -> Outcome:
        if self.exactness == "approximate":
            offer = "" if self._exact is None else ": `.reweight()` gives one that is"
            warnings.warn(
                f"{self.method!r} is approximate, and nothing measures by how much{offer}",
                ApproximateWarning,
                stacklevel=4,
            )
        outcome = self._run(n, self._generator)
        if outcome.problem is not None:
            warnings.warn(
                f"{self.method!r} is no answer yet: {outcome.problem}",
                ApproximateWarning,
                stacklevel=4,
            )
        if outcome.instead not in (None, self.method):
            self.why = f"{self.method!r} found no answer: {outcome.problem}"
            self.method, self.exactness = outcome.instead, "approximate"
        return outcome

    def sample(  # type: ignore[override]
        self, sample_shape: Any = (), seed: int | None = None, weighted: bool = False
    ) -> Any:
        """Draws (*sample_shape, *event), or a dict of them where there are several unknowns.

        Arguments:
            sample_shape: How many.
            seed: Makes the choice of draws repeatable.
            weighted: Return (draws, log-weights): the sampler's own weighted particles, of
                which no draw is there twice; only a number may be asked for.
        """
        shape = torch.Size([sample_shape] if isinstance(sample_shape, int) else sample_shape)
        n = shape.numel()
        generator = self._generator if seed is None else _stream(seed)
        if self._independent:
            found = self._run(n, generator) if n else self.outcome
            draws = self._shaped(found.unknowns, shape) if n else self._none(shape)
            same = torch.full((n,), -math.log(max(n, 1)), dtype=torch.float64)
            return (draws, same) if weighted else draws
        count = self._count(self.outcome)
        if n > count:
            self._outcome = self._start(n)
            count = self._count(self._outcome)
        outcome = self.outcome
        log_w = outcome.log_weights
        if weighted:
            if log_w is None:
                log_w = torch.full((count,), -math.log(count), dtype=torch.float64)
            keep = torch.arange(count)
            if n and n < count:  # a random part keeps its weights
                keep = torch.randperm(count, generator=generator)[:n]
            part = log_w[keep]
            rows = {k: v[keep] for k, v in outcome.unknowns.items()}
            return self._shaped(rows, torch.Size([len(keep)])), part - part.logsumexp(0)
        if log_w is not None:
            keep = systematic(log_w, n, generator) if n else torch.zeros(0, dtype=torch.long)
            keep = keep[torch.randperm(n, generator=generator)]
        else:
            keep = torch.randperm(count, generator=generator)[:n]
        return self._shaped({k: v[keep] for k, v in outcome.unknowns.items()}, shape)

    def log_prob(self, value: Any) -> Tensor:
        """log p(value | y) (...), normalised by the estimated evidence; where there is none, up
        to a constant, which a warning says.

        Raises:
            NotImplementedError: If the prior has no density.
        """
        if self._log_joint is None:
            raise NotImplementedError("the prior has no density: the posterior can only draw")
        if len(self._event_shapes) == 1:
            value = {next(iter(self._event_shapes)): value}
        lead, rows = torch.Size(), {}
        for name, event in self._event_shapes.items():
            one = torch.as_tensor(value[name])
            lead = one.shape[: one.dim() - len(event)]
            rows[name] = one.reshape(-1, *event)
        joint = self._log_joint(rows).view(lead)
        evidence = self.outcome.evidence
        if evidence is None:
            warnings.warn(
                f"{self.method!r} knows no evidence: log_prob is up to a constant",
                ApproximateWarning,
                stacklevel=2,
            )
            return joint
        return joint - float(evidence)

    def log_evidence(self) -> Evidence:
        """log p(y), with its standard error as `.error`.

        Raises:
            NotImplementedError: If the method does not know it.
        """
        evidence = self.outcome.evidence
        if evidence is None:
            raise NotImplementedError(
                f"{self.method!r} does not estimate the evidence; method='smc' does"
            )
        return evidence

    @property
    def ess(self) -> float:
        """Effective number of independent draws; infinite where each draw is made anew."""
        if self._independent:
            return math.inf
        outcome = self.outcome
        if outcome.ess is not None:
            return outcome.ess
        if outcome.log_weights is None:
            return float(self._count(outcome))
        return effective(outcome.log_weights)

    @property
    def evaluations(self) -> int:
        """How often prior or likelihood were evaluated so far, in rows."""
        return self._evaluations()

    @property
    def notes(self) -> dict[str, Any]:
        """What the sampler says of itself: acceptance, R-hat, Pareto k ..."""
        return dict(self.outcome.notes or {})

    def chi2(self, y: Any = None, n: int = 256) -> Tensor:
        """Squared residuals in units of the noise, summed, of n draws, (n,): about as many as
        numbers observed where the model is right.

        Arguments:
            y: Another observation than the one inferred from, of the same shape.
            n: How many draws, at most: of a sampler, no more than it has kept.

        Raises:
            NotImplementedError: If the likelihood is no instrument with a noise.
        """
        if self._misfit is None:
            raise NotImplementedError("chi2 needs a GaussianLikelihood or PoissonLikelihood")
        if not self._independent:  # particles are drawn from, not run again for more
            n = min(n, self._count(self.outcome))
        draws = self.sample((n,))
        if not isinstance(draws, dict):
            draws = {next(iter(self._event_shapes)): draws}
        return self._misfit(draws, y)

    def reweight(self, method: str = "smc") -> Posterior:
        """The same question by a method that is exact in a limit.

        Arguments:
            method: "smc": the same guidance, every step weighted; "noise-denoise": chains.

        Raises:
            NotImplementedError: If there is nothing to weigh with.
        """
        if self._exact is None:
            raise NotImplementedError(f"{self.method!r} is exact already, or cannot be weighted")
        return self._exact(method)

    def _count(self, outcome: Outcome) -> int:
        return len(next(iter(outcome.unknowns.values())))

    def _shaped(self, rows: dict[str, Tensor], shape: torch.Size) -> Any:
        found = {
            k: v.detach().to(self._dtype).reshape(*shape, *self._event_shapes[k])
            for k, v in rows.items()
        }
        return next(iter(found.values())) if len(found) == 1 else found

    def _none(self, shape: torch.Size) -> Any:
        empty = {k: torch.zeros(0, *event) for k, event in self._event_shapes.items()}
        return self._shaped(empty, shape)

    def __repr__(self) -> str:
        names = ", ".join(f"{k} {tuple(v)}" for k, v in self._event_shapes.items())
        return f"Posterior of {names} by {self.method} ({self.exactness}): {self.why}"


def _stream(seed: int) -> torch.Generator:
    """Random numbers of a seed that no generator of the user's with the same seed gives: an
    instrument drawn from one would look like the prior's draws.
    """
    state = np.random.SeedSequence(seed, spawn_key=(_DRAWS,)).generate_state(2)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))


def mixed(parts: Sequence[Posterior]) -> Posterior:
    """The posterior under a mixture of priors, such as an ensemble's members: theirs, in
    proportion to their evidences.
    """
    first = parts[0]

    def run(n: int, generator: torch.Generator) -> Outcome:
        evidence = torch.tensor([float(p.log_evidence()) for p in parts], dtype=torch.float64)
        errors = torch.tensor([p.log_evidence().error for p in parts], dtype=torch.float64)
        shares = evidence.softmax(0)
        total = float(evidence.logsumexp(0)) - math.log(len(parts))
        error = float((shares * errors).square().sum().sqrt())
        drawn = [p.sample(n, weighted=True) for p in parts]
        weights = torch.cat([w + s.log() for (_, w), s in zip(drawn, shares)])
        name = next(iter(first._event_shapes))
        rows = {name: torch.cat([x for x, _ in drawn])}
        ess = 1 / float((shares.square() / torch.tensor([p.ess for p in parts])).sum())
        return Outcome(rows, weights, Evidence(total, error), ess)

    order = ("approximate", "asymptotic", "closed form")
    return Posterior(
        run,
        method=first.method,
        why=f"{len(parts)} members, mixed by their evidences: {first.why}",
        exactness=min((p.exactness for p in parts), key=order.index),
        size=first._size,
        log_joint=None,
        misfit=first._misfit,
        evaluations=lambda: sum(p.evaluations for p in parts),
        event_shapes=first._event_shapes,
        support=first._support,
        dtype=first._dtype,
    )
