"""Expressions: "theta | x" says which fields are modelled and which are given."""

from __future__ import annotations

__all__ = ["Expression", "parse"]

from collections.abc import Mapping
from dataclasses import dataclass

from .field import Field


@dataclass(frozen=True)
class Expression:
    """p(target | given): names of fields, or of single parameters, in the order written."""

    target: tuple[str, ...]
    given: tuple[str, ...] = ()

    def __str__(self) -> str:
        left = ", ".join(self.target)
        return f"{left} | {', '.join(self.given)}" if self.given else left

    @property
    def names(self) -> tuple[str, ...]:
        """All names, target first."""
        return self.target + self.given

    def resolve(self, fields: Mapping[str, Field]) -> dict[str, Field]:
        """The fields named, a single parameter taken out of theta.

        Raises:
            ValueError: If a name is no field of the dataset; the names there are are listed.
        """
        out = {}
        theta = fields.get("theta")
        parameters = theta.names if theta is not None and theta.names else ()
        for name in self.names:
            if name in fields:
                out[name] = fields[name]
            elif theta is not None and name in parameters:
                i = parameters.index(name)
                label, unit = (v and (v[i],) for v in (theta.labels, theta.units))
                out[name] = Field((), names=(name,), labels=label, units=unit, dtype=theta.dtype)
            else:
                there = [k for k in (*fields, *parameters) if not k.endswith("_length")]
                raise ValueError(
                    f"no field {name!r} in the dataset (expression {str(self)!r}); "
                    f"there are: {', '.join(dict.fromkeys(there))}"
                )
        if "theta" in out and (double := [k for k in self.names if k in parameters]):
            raise ValueError(f"{double[0]!r} is a column of theta: name one or the other")
        return out


def parse(expression: str | Expression) -> Expression:
    """Reads "theta | x", "x | theta, z_d", or "x".

    Raises:
        ValueError: If a name is missing, malformed or stands twice.

    Examples:
        >>> parse("Omega_m, sigma_8 | x")
        Expression(target=('Omega_m', 'sigma_8'), given=('x',))
    """
    if isinstance(expression, Expression):
        return expression
    if not isinstance(expression, str):
        raise TypeError(f"an expression is a string such as 'theta | x'; got {expression!r}")
    sides = expression.split("|")
    if len(sides) > 2:
        raise ValueError(f"an expression has at most one '|'; got {expression!r}")
    groups = [tuple(n.strip() for n in side.split(",")) for side in sides]
    for name in (n for group in groups for n in group):
        if not name.isidentifier():
            raise ValueError(
                f"{name!r} is no field name in {expression!r}; write for example 'theta | x'"
            )
    parsed = Expression(*groups)
    double = [n for n in parsed.names if parsed.names.count(n) > 1]
    if double:
        raise ValueError(f"{double[0]!r} stands twice in {expression!r}")
    return parsed
