r"""A question of `infer`: priors, likelihoods and observations, checked before anything is done.

.. math::
    \log p(y_1 \dots y_K \mid x) = \sum_k \log p_k(y_k \mid x)

summed over instruments that look at the same unknowns, and over independent events.
"""

from __future__ import annotations

__all__ = ["Question", "ask", "unconditional"]

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..domain import check_trained
from ..likelihood import Likelihood, as_likelihood
from ..prior import Prior
from ..randomness import seeded
from ..samplers.space import joint_space
from .instrument import check_operator, observations
from .unknowns import Rows

_TRIED = 64  # draws of the prior that a likelihood is tried on
_FEW = 8  # events that are looked at first


@dataclass
class Question:
    """What was asked.

    Attributes:
        priors: Of each unknown, by name; conditionals among several.
        likelihoods: Of the instruments.
        ys: What each observed, float64.
        iid: Whether each observation is a set of independent events.
        steps, particles, seed: As of `infer`.
        calls: Rows of which the likelihood was computed so far.
    """

    priors: dict[str, Any]
    likelihoods: list[Likelihood]
    ys: list[Tensor]
    iid: bool = False
    steps: int | None = None
    particles: int | None = None
    seed: int = 0
    calls: int = 0

    @property
    def name(self) -> str:
        """The first unknown's."""
        return next(iter(self.priors))

    @property
    def prior(self) -> Any:
        """The first unknown's."""
        return self.priors[self.name]

    @property
    def single(self) -> bool:
        """Whether there is one unknown."""
        return len(self.priors) == 1

    @property
    def event(self) -> torch.Size:
        """Shape of the only unknown."""
        return torch.Size(self.prior.event_shape) or torch.Size((1,))

    def named(self, rows: Mapping[str, Tensor]) -> Rows:
        """Rows of the unknowns, with the names of their parameters."""
        named = {k: p.names for k, p in self.priors.items() if isinstance(p, Prior)}
        return Rows(rows, named)

    def training(self, likelihood: Any) -> Callable[[dict[str, Tensor]], Any]:
        """What maps rows of the unknowns to the prior that a likelihood was trained with, and its
        columns of them; to None where that is not known.
        """
        return lambda rows: likelihood.trained(self.named(rows))

    def log_likelihood(self, rows: Mapping[str, Tensor]) -> Tensor:
        """The sum (n,) over instruments and events, of n rows of the unknowns."""
        self.calls += len(next(iter(rows.values())))
        return self._sum(rows, self.ys)

    def factors(self) -> list[Callable[[Mapping[str, Tensor]], Tensor]]:
        """Functions as `log_likelihood`, of which it is the sum: of a few events of each set in
        random order, then of as many more as came before, again and again.
        """
        parts = [
            _doubling(y, self.seed) if one.dear(self.iid) and y.dim() else [y]
            for one, y in zip(self.likelihoods, self.ys)
        ]
        count = max(map(len, parts))
        stages = [[p[i] if i < len(p) else None for p in parts] for i in range(count)]
        return [functools.partial(self._factor, ys=ys) for ys in stages]

    def _factor(self, rows: Mapping[str, Tensor], ys: list[Tensor | None]) -> Tensor:
        share = sum(y.numel() for y in ys if y is not None) / max(
            sum(y.numel() for y in self.ys), 1
        )
        self.calls += math.ceil(share * len(next(iter(rows.values()))))
        return self._sum(rows, ys)

    def _sum(self, rows: Mapping[str, Tensor], ys: Sequence[Tensor | None]) -> Tensor:
        n = len(next(iter(rows.values())))
        rows, parts = self.named(rows), []
        for likelihood, y in zip(self.likelihoods, ys):
            if y is None:
                continue
            part = likelihood.of_events(y, rows) if self.iid else likelihood.log_prob(y, rows)
            if part.shape != (n,):
                raise ValueError(
                    f"a likelihood must give one number a row, {(n,)}; got {tuple(part.shape)}"
                )
            parts.append(part.double())
        return torch.stack(parts).sum(0)

    def log_joint(self, rows: Mapping[str, Tensor]) -> Tensor:
        """log p(y, x) (n,) of the only unknown's rows; -inf outside the prior's support."""
        x = rows[self.name]
        log_prior = self.prior.log_prob(x.view(len(x), *self.prior.event_shape))
        value = log_prior.reshape(-1).double().clone()
        inside = value > -math.inf
        if bool(inside.any()):
            value[inside] += self.log_likelihood({self.name: x[inside]})
        return value

    def draw(self, n: int) -> dict[str, Tensor]:
        """n rows of the prior."""
        if not self.single:
            where = joint_space(self.priors)
            return where.unknowns(where.draw(n, torch.Generator().manual_seed(self.seed)))
        with torch.no_grad(), seeded(self.seed):
            return {self.name: self.prior.sample((n,)).reshape(n, *self.event)}

    @property
    def misfit(self) -> Callable[[dict[str, Tensor], Any], Tensor] | None:
        """chi2 (n,) of n rows against an observation; None where an instrument has no noise."""
        if self.iid or not all(hasattr(v, "chi2") for v in self.likelihoods):
            return None

        def misfit(rows: dict[str, Tensor], y: Any) -> Tensor:
            ys = self.ys if y is None else observations(self.likelihoods, y)
            for i, (seen, own) in enumerate(zip(ys, self.ys)):
                if seen.shape != own.shape:
                    raise ValueError(
                        f"observation {i} must be {tuple(own.shape)}; got {tuple(seen.shape)}"
                    )
            every: list[Any] = self.likelihoods
            rows = self.named(rows)
            return torch.stack([v.chi2(seen, rows) for v, seen in zip(every, ys)]).sum(0)

        return misfit


def ask(
    prior: Any,
    likelihood: Any,
    observed: Any,
    *,
    iid: bool = False,
    steps: int | None = None,
    particles: int | None = None,
    seed: int = 0,
) -> Question:
    """The question, checked on draws of the prior. Arguments as of `infer`.

    Raises:
        TypeError: If a prior is no distribution, or a likelihood nothing that can be one.
        ValueError: If shapes do not agree, the observation is not finite, the likelihood is NaN
            where the prior draws, or the prior reaches beyond what a surrogate was trained on.
    """
    for what, value in (("steps", steps), ("particles", particles)):
        if value is not None and value < 1:
            raise ValueError(f"{what} must be positive; got {value}")
    several = isinstance(likelihood, (list, tuple))
    likelihoods = [as_likelihood(v) for v in (likelihood if several else [likelihood])]
    if several and len(likelihoods) == 1:
        if len(observed) != 1:
            raise ValueError("1 likelihoods need as many observations in a list")
        observed = observed[0]
    if isinstance(prior, Mapping):
        priors = dict(prior)
        if not priors:
            raise ValueError("name at least one unknown")
    else:
        priors = {"theta" if isinstance(prior, Prior) else "x": prior}
    if len(priors) == 1:
        priors = {k: unconditional(v) for k, v in priors.items()}
    _check_names(priors)
    ys = _seen(likelihoods, observed)
    if iid and any(y.dim() == 0 for y in ys):
        raise ValueError("iid=True: what is observed are events, (events, *event); got one number")
    own = [("theta", *p.names) for p in priors.values() if isinstance(p, Prior)]
    for one in likelihoods:
        surrogate: Any = getattr(one, "surrogate", None)
        if {k for names in own for k in names} & set(getattr(surrogate, "target", ())):
            raise ValueError(
                f"{surrogate.expression!r} is a posterior: as a likelihood it is "
                "PosteriorLikelihood(posterior), which divides by its prior"
            )
    question = Question(priors, likelihoods, ys, iid, steps, particles, seed)
    rows = question.draw(_TRIED)
    for one, y in zip(likelihoods, ys):
        if hasattr(one, "trained"):
            check_trained(question.training(one), priors, seed)
        if not iid:
            check_operator(one, y, question.named({k: v[:2] for k, v in rows.items()}))
    with torch.no_grad():
        found = question.log_likelihood(rows)
    question.calls = 0
    bad = found.isnan() | (found == math.inf)
    if bool(bad.any()):
        raise ValueError(
            f"the likelihood is NaN or infinite for {int(bad.sum())} of {len(found)} draws of the "
            "prior"
        )
    return question


def _doubling(y: Tensor, seed: int) -> list[Tensor]:
    """Events y (events, ...) in random order, in parts: each as many as all before it."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    sizes, rest = [], len(y)
    while rest >= 2 * _FEW:
        sizes.append(rest // 2)
        rest -= rest // 2
    return list(y[order.to(y.device)].split([rest, *reversed(sizes)]))


def unconditional(prior: Any) -> Any:
    """A distribution, of a prior that may be a fitted "x".

    Raises:
        TypeError: If it is neither.
        ValueError: If it is conditional on something.
    """
    if hasattr(prior, "expression") and callable(prior):
        if prior.given:
            raise ValueError(
                f"the prior {prior.expression!r} is conditional: call it with what is given, "
                "or name all unknowns in a dict in ancestral order"
            )
        return prior()
    if not hasattr(prior, "sample") or not hasattr(prior, "event_shape"):
        raise TypeError(f"a prior is a distribution; got {type(prior).__name__}")
    return prior


def _check_names(priors: Mapping[str, Any]) -> None:
    """Refuses a parameter's name that another unknown has too: who asks for it means which?"""
    known: dict[str, str] = {}
    for name, prior in priors.items():
        for k in {name, *(prior.names if isinstance(prior, Prior) else ())}:
            if k in known:
                raise ValueError(f"both {known[k]!r} and {name!r} have a parameter {k!r}: rename")
            known[k] = name


def _seen(likelihoods: list[Likelihood], observed: Any) -> list[Tensor]:
    """What was observed; of a likelihood that counts events it may be none."""
    several = len(likelihoods) > 1
    if several and not isinstance(observed, (list, tuple)) and torch.as_tensor(observed).dim() < 1:
        raise ValueError(f"{len(likelihoods)} likelihoods need as many observations in a list")
    values = list(observed) if several else [observed]
    none = {
        i: torch.zeros(0, dtype=torch.float64)
        for i, (one, value) in enumerate(zip(likelihoods, values))
        if getattr(one, "counts", False) and torch.as_tensor(value).numel() == 0
    }
    rest = [value for i, value in enumerate(values) if i not in none]
    if not none:
        return observations(likelihoods, observed)
    kept = [one for i, one in enumerate(likelihoods) if i not in none]
    found = iter(observations(kept, rest if len(kept) > 1 else rest[0]) if kept else ())
    return [none[i] if i in none else next(found) for i in range(len(values))]
