"""Learned likelihoods: a fitted surrogate p(x | theta) as what `infer` asks for.

Its parameters are those that it was trained with, by name: among several unknowns, or in a prior
of more.
"""

from __future__ import annotations

__all__ = ["ConditionalLikelihood", "trained_with"]

from typing import Any

from torch import Tensor

from .answers.unknowns import Rows, Unknowns, as_rows
from .likelihood import Likelihood, events_of, rows_of


class ConditionalLikelihood(Likelihood):
    """A fitted surrogate p(x | theta), or any callable of theta to a distribution over x.

    Its parameters are found by name among several unknowns, or in a prior of more parameters
    than it was trained with.

    Arguments:
        surrogate: The conditional.
    """

    def __init__(self, surrogate: Any) -> None:
        self.surrogate = surrogate
        self.names = tuple(surrogate.given)
        self._fields = dict(getattr(surrogate, "fields", {}))
        targets = [self._fields.get(k) for k in getattr(surrogate, "target", ())]
        self._of_sets = any(field is not None and field.iid for field in targets)

    def trained(self, rows: Rows) -> tuple[Any, Tensor] | None:
        """The prior that it was trained with, and its parameters (n, d); None if not known."""
        return trained_with(getattr(self.surrogate, "prior", None), rows)

    def log_prob(self, y: Tensor, unknowns: Unknowns) -> Tensor:
        """log p(y | theta) (n,) of n rows of theta."""
        return rows_of(self._at(unknowns), y)

    def of_events(self, y: Tensor, unknowns: Unknowns) -> Tensor:
        """The sum (n,) over independent events y (events, *event)."""
        return events_of(self._at(unknowns), y)

    def dear(self, iid: bool) -> bool:
        """Whether it is asked for a set of events, or models one."""
        return iid or self._of_sets

    def _at(self, unknowns: Unknowns) -> Any:
        """The distribution of what is observed, a batch of n."""
        rows = as_rows(unknowns)
        if len(self.names) == 1:
            return self.surrogate(self._given(self.names[0], rows))
        return self.surrogate(**{k: self._given(k, rows) for k in self.names})

    def _given(self, name: str, rows: Rows) -> Tensor:
        """Rows of a given field: the unknown of that name, or made of columns by theirs."""
        field = self._fields.get(name)
        own = (field.names if field is not None else None) or (name,)
        unknown = name if name in rows else next(iter(rows)) if len(rows) == 1 else ""
        columns = rows.parameters.get(unknown, ())
        whole = unknown in rows and (own == columns or not set(own) <= set(columns))
        if whole:
            rows.check(unknown, own)
        found = rows[unknown] if whole else rows.columns(own)
        if field is not None and found[0].numel() == field.size:
            return found.reshape(len(found), *field.shape)
        return found


def trained_with(prior: Any, rows: Rows) -> tuple[Any, Tensor] | None:
    """A prior, and its parameters (n, d) among the unknowns; None where they are not all there."""
    if prior is None:
        return None
    if rows.knows(getattr(prior, "names", ("theta",))):
        return prior, rows.columns(getattr(prior, "names", ("theta",)))
    if "theta" in rows and rows["theta"].shape[1:] == prior.event_shape:
        return prior, rows["theta"]
    return None
