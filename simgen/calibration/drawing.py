"""Draws from q(target | given), many contexts at once, whatever kind of callable q is."""

from __future__ import annotations

__all__ = ["Draws", "draw"]

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from ..samples import sample

_NUMBERS = 4_000_000  # in one batch of draws
_LARGEST = 512


@dataclass(frozen=True)
class Draws:
    """Of the pairs in ``rows``: draws (S, B, *event), truth (B, *event), log q of both or None."""

    rows: slice
    draws: Tensor
    truth: Tensor
    log_q: Tensor | None
    log_q_truth: Tensor | None


def draw(
    conditional: Callable[..., Any],
    truth: np.ndarray,
    given: Mapping[str, np.ndarray],
    draws: int,
    seed: int,
) -> Iterator[Draws]:
    """Draws for every pair, in batches.

    A callable that does not answer a batch of given values with a batch of distributions is asked
    one by one.

    Arguments:
        conditional: Maps the given fields to a distribution.
        truth: True targets (n, *event).
        given: The given fields, (n, ...) by name.
        draws: The number S of draws a pair.
        seed: Of the draws.

    Raises:
        ValueError: If the distribution is not one over the target, or draws are NaN.
    """
    n, event = len(truth), tuple(truth.shape[1:])
    size = int(np.prod(event))
    width = int(np.clip(_NUMBERS // (draws * size), 1, _LARGEST))
    tensors = {k: torch.as_tensor(np.ascontiguousarray(v)) for k, v in given.items()}
    one_by_one = False
    for start in range(0, n, width):
        rows = slice(start, min(start + width, n))
        part = {k: v[rows] for k, v in tensors.items()}
        y = torch.as_tensor(np.ascontiguousarray(truth[rows]))
        count, batch_seed = len(y), (seed * 1_000_003 + start) % 2**62
        found = None if one_by_one else _batched(conditional, part, count, event, start == 0)
        if found is None:
            one_by_one = True
            singles = []
            for i in range(count):
                q = _single(conditional, {k: v[i] for k, v in part.items()}, event)
                singles.append(_values(q, y[i : i + 1], (draws, 1), batch_seed + i))
            theta = torch.cat([s[0] for s in singles], 1)
            log_qs = [s[1] for s in singles if s[1] is not None]
            log_q_truths = [s[2] for s in singles if s[2] is not None]
            known = len(log_qs) == count
            log_q = torch.cat(log_qs, 1) if known else None
            log_q_truth = torch.cat(log_q_truths) if known else None
        else:
            shape = (draws,) if found.batch_shape else (draws, count)
            theta, log_q, log_q_truth = _values(found, y, shape, batch_seed)
        if torch.isnan(theta).any():
            raise ValueError(f"draws given pair {start} and following are NaN")
        yield Draws(rows, theta, y.to(theta), log_q, log_q_truth)


def _call(conditional: Callable[..., Any], given: Mapping[str, Tensor]) -> Any:
    """Positional for one field, by keyword for several and for lengths, bare for none."""
    fields = [k for k in given if not (k.endswith("_length") and k[: -len("_length")] in given)]
    if len(fields) == 1:
        rest = {k: v for k, v in given.items() if k != fields[0]}
        return conditional(given[fields[0]], **rest)
    return conditional(**given)


def _shaped(q: Any, lead: tuple[int, ...], event: tuple[int, ...]) -> Distribution | None:
    """The answer as a distribution of these batch and event shapes; None if it is none."""
    if not hasattr(q, "sample") or not hasattr(q, "batch_shape"):
        raise TypeError(
            f"the conditional must return a torch Distribution; it returned {type(q).__name__}"
        )
    batch, inner = tuple(q.batch_shape), tuple(q.event_shape)
    if batch + inner == lead + event and len(inner) <= len(event):
        return Independent(q, len(event) - len(inner)) if inner != event else q
    if event == (1,) and (batch, inner) == (lead, ()):
        return _Column(q)
    return None


def _batched(
    conditional: Callable[..., Any],
    given: Mapping[str, Tensor],
    count: int,
    event: tuple[int, ...],
    first: bool,
) -> Distribution | None:
    """The distribution of a whole batch; None if the callable takes one at a time."""
    if not given:
        q = _shaped(_call(conditional, given), (), event)
        if q is None:
            raise ValueError(_mismatch(conditional(), event))
        return q
    if hasattr(conditional, "provenance"):
        q = _call(conditional, given)
        shaped = _shaped(q, (count,), event)
        if shaped is None:
            raise ValueError(_mismatch(q, event))
        return shaped
    try:
        q = _call(conditional, given)
    except Exception:  # whatever a function of one x does when it gets many
        if not first:
            raise
        return None
    return _shaped(q, (count,), event)


def _single(
    conditional: Callable[..., Any], given: Mapping[str, Tensor], event: tuple[int, ...]
) -> Distribution:
    q = _call(conditional, given)
    for lead in ((1,), ()):
        shaped = _shaped(q, lead, event)
        if shaped is not None:
            return shaped
    raise ValueError(_mismatch(q, event))


def _mismatch(q: Any, event: tuple[int, ...]) -> str:
    return (
        f"the target has event shape {event}; the conditional's distribution has event shape "
        f"{tuple(q.event_shape)} and batch shape {tuple(q.batch_shape)}"
    )


class _Column(Distribution):
    """A distribution of one number as one over (1,)."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, base: Distribution) -> None:
        self.base = base
        super().__init__(base.batch_shape, torch.Size((1,)), validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.base.sample(sample_shape)[..., None]

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_prob(value[..., 0])


def _values(
    q: Any, truth: Tensor, shape: tuple[int, ...], seed: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Draws (S, B, *event) and, where q has a density, its logarithm at them and at the truth."""
    if len(shape) == 2 and q.batch_shape:
        shape = shape[:1]
    with torch.no_grad():
        theta = sample(q, shape, seed)
        theta = theta.cpu()
        if getattr(q, "density", "exact") is None:
            return theta, None, None
        truth = truth.to(theta)
        with _unvalidated(q):
            try:
                log_q, log_q_truth = q.log_prob(theta).cpu(), q.log_prob(truth).cpu()
            except (NotImplementedError, AttributeError):
                return theta, None, None
            outside = torch.isnan(log_q_truth)
            if outside.any():
                outside &= ~q.support.check(truth)
                log_q_truth = torch.where(outside, -torch.inf, log_q_truth)
        return theta, log_q, log_q_truth


@contextmanager
def _unvalidated(q: Any) -> Iterator[None]:
    """Lets torch's own distributions answer -inf outside their support, where they would raise."""
    chain = []
    while q is not None:
        chain.append((q, getattr(q, "_validate_args", False)))
        q = getattr(q, "base_dist", None) or getattr(q, "base", None)
    try:
        for part, _ in chain:
            part._validate_args = False
        yield
    finally:
        for part, old in chain:
            part._validate_args = old
