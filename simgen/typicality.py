r"""Typicality: could this observation have come from the simulator that the model was trained on?

.. math::
    P\bigl(p(x_m) \le a \mid m\bigr) \le a, \qquad x \sim p(x)

for every pattern m of what is observed: the p-value is that of `null`, whose held-out simulations
are hidden in the same places. A call warns of an observation that is suspect, the command line
refuses it.
"""

from __future__ import annotations

__all__ = [
    "SUSPECT",
    "PValue",
    "admit",
    "check_observation",
    "doubt",
    "p_values",
    "record",
]

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import torch
from torch import Tensor

from .null import Typicality, measures

if TYPE_CHECKING:
    from .conditional import Conditional
    from .fitting.source import Batch

SUSPECT = 0.01
"""The p-value up to which an observation is called unlike the simulations."""
_STEP = 256  # rows at once


class PValue(float):
    """A p-value.

    Attributes:
        parts: Of each score alone, approximately: the smallest says what is odd.
        rows: How many simulations the null holds; no p-value is below 1 / (rows + 1).
    """

    parts: dict[str, float]
    rows: int

    def __new__(cls, value: float, parts: Mapping[str, float], rows: int) -> PValue:
        """A float that knows where it comes from."""
        self = super().__new__(cls, value)
        self.parts, self.rows = dict(parts), rows
        return self

    @property
    def suspect(self) -> bool:
        """Whether it calls for a refusal."""
        return self <= SUSPECT

    @property
    def because(self) -> str:
        """The score that is farthest out."""
        return min(self.parts, key=lambda k: self.parts[k])

    @property
    def warning(self) -> str:
        """What to say of an observation that is suspect."""
        return (
            f"an observation unlike the simulations: p = {float(self):.2g} by {self.rows} that "
            f"were held out; farthest out is its {self.because}"
        )


def p_values(conditional: Conditional, *values: Any, **named: Any) -> Tensor:
    """The p-value of each of a batch of observations, (*batch,); each pattern of gaps has a null
    of its own.

    Arguments:
        conditional: A model that `fit` made.
        *values: The given field's value, as for a call of the model.
        **named: The given fields by name.

    Raises:
        ValueError: If the model has no null for what is observed, or a value does not fit.
    """
    rows, masks, batch, _ = conditional._inputs(values, named)
    p = torch.ones(batch.numel(), dtype=torch.float64)
    for at in _alike(rows, masks):
        null, surprise = _surprise(conditional, *_part(rows, masks, at))
        p[at] = null.p(surprise)
    return p.reshape(batch)


def check_observation(conditional: Conditional, *values: Any, **named: Any) -> PValue:
    """The p-value that an observation is one more simulation, from the null that `fit` stored.

    A simulation has a p-value below a in a share a of all cases, exactly; that of an observation
    from another world is small where scores see the difference. It sees none where the
    difference looks like another theta.

    What is missing (NaN) is not judged: the null is of simulations with the same gaps, so that
    the share is exact for each pattern, as long as nothing in x decides what is missing.

    Arguments:
        conditional: A model that `fit` made.
        *values: The given field's value, as for a call of the model.
        **named: The given fields by name.

    Returns:
        A float, with the parts it is made of.

    Raises:
        ValueError: If the model has no null for what is observed, a value does not fit, or there
            are several observations: `p_values` takes a batch.
    """
    rows, masks, batch, _ = conditional._inputs(values, named)
    if batch.numel() != 1:
        raise ValueError(f"one observation at a time; got a batch of shape {tuple(batch)}")
    return _p_value(*_surprise(conditional, rows, masks))


def doubt(
    conditional: Conditional, rows: Batch, masks: Batch, context: Tensor | None
) -> PValue | None:
    """The p-value of one row of given fields; None where a model has no null for it, or where
    parameters are given, whose support is the prior's.
    """
    prior = conditional.prior
    parameters = {"theta", *(() if prior is None else prior.names)}
    null = None if parameters & set(rows) else _null(conditional, rows, masks)
    if not isinstance(null, Typicality):
        return None
    found = measures(null.summaries, conditional.pipeline, rows, masks, context)
    return _p_value(null, null.surprise(found))


def admit(conditional: Conditional, given: Mapping[str, Any], force: bool) -> PValue | None:
    """The p-value of an observation, None where a model knows no null for it.

    Raises:
        ValueError: If it is suspect, and `force` does not say to go on.
    """
    rows, masks, batch, _ = conditional._inputs((), given)
    if batch.numel() != 1:
        return None
    with torch.no_grad():
        found = doubt(conditional, rows, masks, conditional._context(rows, masks)[0][0])
    if found is not None and found.suspect and not force:
        raise ValueError(f"{found.warning}; --force draws all the same, and records it")
    return found


def record(path: Path, found: PValue) -> None:
    """Keeps a p-value with the draws that it belongs to: in the attributes of HDF5, else, of a
    suspect one, in a JSON file beside.
    """
    about = {"p_value": float(found), "rows": found.rows, "forced": found.suspect}
    said = {**about, "parts": found.parts}
    if path.suffix.lower() not in (".csv", ".npy", ".npz"):
        with h5py.File(path, "a") as file:
            file.attrs["check_observation"] = json.dumps(said)
    elif found.suspect:
        path.with_name(f"{path.name}.check.json").write_text(json.dumps(said, indent=1) + "\n")


def _p_value(null: Typicality, surprise: Mapping[str, Tensor]) -> PValue:
    parts = {k: math.exp(-float(v)) for k, v in surprise.items()}
    return PValue(float(null.p(surprise)), parts, len(null.null))


def _surprise(
    conditional: Conditional, rows: Batch, masks: Batch
) -> tuple[Typicality, dict[str, Tensor]]:
    """The null of rows with the same gaps, and how surprising they are."""
    null = _null(conditional, rows, masks)
    if not isinstance(null, Typicality):
        raise ValueError(null)
    parts = []
    for at in torch.arange(len(next(iter(rows.values())))).split(_STEP):
        some, there = _part(rows, masks, at)
        with torch.no_grad():
            context = conditional._context(some, there)[0][0]
        found = measures(null.summaries, conditional.pipeline, some, there, context)
        parts.append(null.surprise(found))
    return null, {k: torch.cat([p[k] for p in parts]) for k in parts[0]}


def _null(conditional: Conditional, rows: Batch, masks: Batch) -> Typicality | str:
    """The null of rows that have the gaps of the first, or why there is none."""
    reference, about = conditional.reference, repr(conditional.expression)
    if not rows:
        which = "" if reference is None else ', but its conditionals are: .condition("theta | x")'
        return f"{about} knows no null: it is given nothing{which}"
    gaps = [k for k, v in rows.items() if bool(v[:1].isnan().any())]
    if not gaps and conditional.typicality is not None:
        return conditional.typicality
    if reference is None:
        if gaps and conditional.typicality is not None:
            why = "its patterns are recorded, or it was fitted before simulations were kept"
            return f"{about} has no null of observations with gaps: {why}"
        return (
            f"{about} knows no null: it was fitted before there was one, or was trained on "
            "negative weights or on no complete rows"
        )
    if told := [k for k in gaps if k not in reference.hidden]:
        return (
            f"gaps in {told[0]!r} are recorded by the simulator, and may tell of what is there: "
            "simulations hidden in the same places are no null of it"
        )
    observed = {}
    for name in reference.hidden:
        there = masks[name][0].cpu() if name in masks else None
        pattern = _pattern(~rows[name][0].isnan().cpu(), there)
        if pattern is None:
            return (
                f"the gaps of {name!r} differ from element to element, and simulations may have "
                "more elements: of a variable length whole features may be missing"
            )
        observed[name] = pattern
    return reference.null(conditional.pipeline, observed)


def _pattern(pattern: Tensor, there: Tensor | None) -> Tensor | None:
    """Of a row whose elements are not all there (K,), the pattern of longer ones: None where that
    is not known.
    """
    if there is None or there.all():
        return pattern
    inside = pattern[there]
    if not len(inside):
        return torch.ones_like(pattern)
    if bool((inside != inside[0]).any()):
        return None
    return inside[:1].expand(pattern.shape).contiguous()


def _part(rows: Batch, masks: Batch, at: Tensor) -> tuple[Batch, Batch]:
    return {k: v[at] for k, v in rows.items()}, {k: v[at] for k, v in masks.items()}


def _alike(rows: Batch, masks: Batch) -> list[Tensor]:
    """Places of the rows that have the same gaps, and are as long where there are any; all
    complete rows go together.
    """
    if not rows:
        return [torch.arange(0)]
    gaps = torch.cat([v.isnan().reshape(len(v), -1) for v in rows.values()], 1)
    some = gaps.any(1, keepdim=True)
    kinds = torch.cat([gaps, *(v & some for v in masks.values())], 1).cpu()
    found, which = kinds.unique(dim=0, return_inverse=True)
    return [torch.nonzero(which == i)[:, 0] for i in range(len(found))]
