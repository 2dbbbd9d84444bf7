"""Masks: what `mask=` says of the given fields of an expression, as patterns of rows."""

from __future__ import annotations

__all__ = ["Masks"]

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

from ..field import Field
from ..missing import Missing, as_pattern, spread


class Masks:
    """What `mask=` says, for the given fields of an expression.

    Arguments:
        mask: A `Missing`, for all given fields; a function mask(rng) → one row's pattern, or
            mask(rng, n) → n of them, as an array of the one given field or as a dict by name; the
            name of a dataset's boolean field that records the pattern; or a dict of these by name.
        given: The given fields.
        stored: The fields of the dataset, by name.

    Attributes:
        names: Given fields that may be missing in part.
        recorded: Names of the fields that record their patterns.

    Raises:
        ValueError: If nothing is given, a name is not, or a pattern does not fit its field.
        TypeError: If it is something else.
    """

    def __init__(self, mask: Any, given: Mapping[str, Field], stored: Mapping[str, Field]) -> None:
        if not given:
            raise ValueError("mask= says what is observed of what is given; nothing is given here")
        self.mask, self.given = mask, dict(given)
        whole = not isinstance(mask, (str, Missing, Mapping))
        if isinstance(mask, Missing):
            mask = dict.fromkeys(given, mask)
        elif isinstance(mask, str):
            mask = {self._only(): mask}
        self.parts: dict[str, Any] = {} if whole else dict(mask)
        self.whole = mask if whole else None
        if not whole and not self.parts:
            raise ValueError("mask={} names no given field")
        for rule in (mask,) if whole else self.parts.values():
            if not isinstance(rule, (str, Missing)) and not callable(rule):
                raise TypeError(
                    "mask is one of simgen.missing, a function of a generator, or the name of a "
                    f"field; got {rule!r}"
                )
        self.recorded = {k: v for k, v in self.parts.items() if isinstance(v, str)}
        self._check_names(self.parts)
        for name, record in self.recorded.items():
            self._check_record(name, record, stored)
        drawn = self(np.random.default_rng(0), 2)
        self.names = (*self.recorded, *drawn)

    @property
    def random(self) -> bool:
        """Whether any pattern is drawn, not recorded."""
        return len(self.names) > len(self.recorded)

    def __call__(self, rng: np.random.Generator, n: int) -> dict[str, Tensor]:
        """Which entries are observed, (n, *shape) of each field whose pattern is drawn."""
        if self.whole is not None:
            found = _rows(self.whole, rng, n)
            found = found if isinstance(found, Mapping) else {self._only(): found}
            self._check_names(found)
        else:
            found = {
                k: rule.draw(rng, n, self.given[k])
                if isinstance(rule, Missing)
                else _rows(rule, rng, n)
                for k, rule in self.parts.items()
                if not isinstance(rule, str)
            }
        return {k: torch.from_numpy(self._patterns(k, v, n)) for k, v in found.items()}

    def record(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch of fields, NaN where a record says that nothing was observed."""
        out = dict(batch)
        for name, record in self.recorded.items():
            observed = torch.as_tensor(batch[record]).bool()
            out[name] = _floating(batch[name]).masked_fill(~observed, torch.nan)
        return out

    def apply(self, batch: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """A batch of fields, NaN where nothing is observed, as recorded or drawn."""
        out = self.record(batch)
        for name, observed in self(rng, len(next(iter(batch.values())))).items():
            out[name] = _floating(out[name]).masked_fill(~observed, torch.nan)
        return out

    def describe(self) -> Any:
        """As JSON values, to tell one mask from another."""
        if isinstance(self.mask, Mapping):
            return {k: _described(v) for k, v in self.mask.items()}
        return _described(self.mask)

    def _only(self) -> str:
        if len(self.given) > 1:
            raise ValueError(
                f"{len(self.given)} fields are given: mask must name them, mask={{name: ...}}"
            )
        return next(iter(self.given))

    def _check_names(self, found: Mapping[str, Any]) -> None:
        names = getattr(self, "names", None)
        for name in found:
            if name not in self.given:
                raise ValueError(f"mask of {name!r}: given are {', '.join(self.given)}")
        if names is not None and set(found) != set(names) - set(self.recorded):
            raise ValueError(
                f"mask must name the same fields in each row, {', '.join(names)}; got "
                f"{', '.join(found) or 'none'}"
            )

    def _check_record(self, name: str, record: str, stored: Mapping[str, Field]) -> None:
        field, wanted = stored.get(record), self.given[name].shape
        if field is None:
            raise ValueError(
                f"mask of {name!r}: no field {record!r} in the dataset; there are "
                f"{', '.join(stored)}"
            )
        if field.shape != wanted or not field.discrete:
            raise ValueError(
                f"mask of {name!r}: the field {record!r} must hold booleans of shape {wanted}; it "
                f"has shape {field.shape} and type {field.dtype}"
            )

    def _patterns(self, name: str, value: Any, n: int) -> Array:
        shape, what = self.given[name].shape, f"the mask of {name!r}"
        if isinstance(value, list) and len(value) == n:
            return np.stack([spread(as_pattern(v, what), shape, what) for v in value])
        array = as_pattern(value, what)
        if array.ndim == 0 or len(array) != n or array.ndim > 1 + len(shape):
            raise ValueError(
                f"{what} must be {n} patterns, {(n, *shape)}; got shape {array.shape}"
            )
        array = array.reshape(n, *[1] * (1 + len(shape) - array.ndim), *array.shape[1:])
        return np.array(spread(array, (n, *shape), what))


def _rows(mask: Any, rng: np.random.Generator, n: int) -> Any:
    """n patterns of a function: an array, or a list of one a row; or a dict of these."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = inspect.signature(mask).parameters.values()
    if sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in taken) == 2:
        return mask(rng, n)
    rows = [mask(rng) for _ in range(n)]
    if isinstance(rows[0], Mapping):
        if any(set(row) != set(rows[0]) for row in rows):
            raise ValueError("mask must name the same fields in each row")
        return {k: [row[k] for row in rows] for k in rows[0]}
    return rows


def _floating(values: Any) -> Tensor:
    tensor = torch.as_tensor(values)
    return tensor if tensor.is_floating_point() else tensor.double()


def _described(rule: Any) -> str:
    if isinstance(rule, (str, Missing)):
        return str(rule)
    kind = rule if hasattr(rule, "__qualname__") else type(rule)
    return f"{kind.__module__}.{kind.__qualname__}"
