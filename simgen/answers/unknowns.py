"""Unknowns: rows of what is inferred, by name, as a function asks for them.

A function of one argument takes the only unknown as it is; of several, unknowns by the names of
its arguments, or columns of one, by what a prior calls them.
"""

from __future__ import annotations

__all__ = ["Rows", "Unknowns", "arguments", "as_rows", "by_name", "call", "parameters", "whole"]

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Unknowns = Mapping[str, Tensor]
"""Rows of each unknown, by name."""


class Rows(dict[str, Tensor]):
    """Rows of each unknown, by name, and what their priors call their columns.

    Arguments:
        unknowns: Rows (n, *event) of each.
        parameters: Names of the columns of those that have them.
    """

    def __init__(
        self, unknowns: Unknowns, parameters: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        super().__init__(unknowns)
        self.parameters = dict(parameters or {})

    def named(self, name: str) -> Tensor:
        """The rows of an unknown, or a column (n, 1) of one.

        Raises:
            ValueError: If there is none of that name.
        """
        if name in self:
            return self[name]
        for unknown, columns in self.parameters.items():
            if name in columns:
                at = columns.index(name)
                return self[unknown][:, at : at + 1]
        every = [k for u in self for k in (u, *self.parameters.get(u, ())) if k != name]
        raise ValueError(
            f"a likelihood asks for {name!r}; the unknowns are {', '.join(dict.fromkeys(every))}"
        )

    def knows(self, names: tuple[str, ...]) -> bool:
        """Whether there are unknowns or columns of these names."""
        return set(names) <= {*self, *(k for u in self for k in self.parameters.get(u, ()))}

    def check(self, unknown: str, names: tuple[str, ...]) -> None:
        """Refuses an unknown of whose columns some have these names and some have others.

        Raises:
            ValueError: If it is so: by their order they would be taken one for another.
        """
        every = self.parameters.get(unknown, ())
        if (missing := [k for k in names if k not in every]) and len(missing) < len(names):
            raise ValueError(
                f"a likelihood was learned for {', '.join(names)}; {missing[0]!r} is not among "
                f"the parameters {', '.join(every)}: name them alike"
            )

    def columns(self, names: tuple[str, ...]) -> Tensor:
        """Columns (n, d) by name."""
        return torch.cat([self.named(k).flatten(1) for k in names], -1)


def arguments(function: Callable[..., Any]) -> list[str]:
    """Names of the arguments that a function needs."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return ["y", "x"]
    kinds = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    )
    return [p.name for p in parameters if p.kind in kinds and p.default is p.empty]


def call(function: Callable[..., Any], unknowns: Unknowns) -> Any:
    """Calls a function with one unknown as it is, with several, or parameters, by name."""
    names = tuple(arguments(function))
    if whole(unknowns, names):
        return function(next(iter(unknowns.values())))
    return function(**by_name(unknowns, names))


def whole(unknowns: Unknowns, names: tuple[str, ...]) -> bool:
    """Whether a function takes the only unknown as it is, rather than parameters by name."""
    return len(unknowns) == 1 and (len(names) < 2 or not getattr(unknowns, "parameters", None))


def by_name(unknowns: Unknowns, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Unknowns, or columns of theirs, by name."""
    rows = as_rows(unknowns)
    return {k: rows.named(k) for k in names}


def as_rows(unknowns: Unknowns) -> Rows:
    """Unknowns whose columns may have names."""
    return unknowns if isinstance(unknowns, Rows) else Rows(unknowns)


def parameters(unknowns: Unknowns, names: tuple[str, ...]) -> Tensor:
    """Parameters (n, d) among the unknowns: by their names, or as theta, or the only unknown.

    Raises:
        ValueError: If they are not among several unknowns.
    """
    rows = as_rows(unknowns)
    if rows.knows(names) or (len(rows) > 1 and "theta" not in rows):
        return rows.columns(names)
    only = "theta" if "theta" in rows else next(iter(rows))
    rows.check(only, names)
    return rows[only].flatten(1)
