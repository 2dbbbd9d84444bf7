"""Pipeline: the network side of a conditional, from fields in physical units to a model and back.

target field(s) → Target → z;  given field → Standardise → Head: embedding → context → p(z |
context). One module, so that one state dict holds everything a trained object needs.
"""

from __future__ import annotations

__all__ = ["Pipeline", "grids", "target_columns"]

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..expression import Expression, parse
from ..field import Field
from ..models.base import Given
from ..preprocessing import Standardise, Target
from .head import Head


def target_columns(
    expression: Expression, fields: Mapping[str, Field], rows: Mapping[str, Tensor]
) -> Tensor:
    """Target columns (n, d) of rows of fields; of an image (n, C, *grid), of a set of independent
    events (n, K, d).
    """
    first = fields[expression.target[0]]
    if first.iid or first.layout == "image":
        return rows[expression.target[0]].double()
    parts = [rows[k].reshape(len(rows[k]), -1) for k in expression.target]
    return torch.cat([p.double() for p in parts], -1)


def grids(
    expression: Expression, fields: Mapping[str, Field], embedding: Mapping[str, Any]
) -> tuple[str, ...]:
    """Given images on the target's grid, which the model takes as channels of a map.

    Arguments:
        expression: Which fields are modelled and which given.
        fields: The fields.
        embedding: What was said of embeddings: an image that has one is no map.
    """
    target = fields[expression.target[0]]
    if target.layout != "image":
        return ()
    return tuple(
        k
        for k in expression.given
        if fields[k].layout == "image"
        and fields[k].shape[1:] == target.shape[1:]
        and embedding.get(k) is None
    )


class Pipeline(nn.Module):
    """Fields to networks and back, for one expression.

    Arguments:
        expression: Which fields are modelled and which given.
        fields: The fields named in it.
        target: Preprocessing of the target columns.
        given: Preprocessing of each given field.
        heads: The trained part; several for an ensemble. Their models are built by `attach`.
    """

    def __init__(
        self,
        expression: Expression,
        fields: Mapping[str, Field],
        target: Target,
        given: Mapping[str, Standardise],
        heads: Sequence[Head],
    ) -> None:
        super().__init__()
        self.expression = expression
        self.fields = dict(fields)
        self.target = target
        self.given = nn.ModuleDict({_key(k): v for k, v in given.items()})
        self.heads: Any = nn.ModuleList(heads)

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds the pipeline, weights and user's modules aside, as JSON values."""
        return {
            "expression": str(self.expression),
            "fields": {k: v.to_dict() for k, v in self.fields.items()},
            "target": self.target.config,
            "given": {k: self.given[_key(k)].config for k in self.expression.given},
            "embedding": [head.config for head in self.heads],
            "maps": list(self.heads[0].maps),
        }

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        embedding: Sequence[Mapping[str, nn.Module]],
        constant: Tensor,
    ) -> Pipeline:
        """The pipeline of a configuration, before weights are filled in.

        Arguments:
            config: What `config` gave.
            embedding: The embedding of each given field that has one, for each head.
            constant: Values of the target's constant columns, NaN where they vary: they decide
                the model's size.
        """
        target = Target(**config["target"])
        target.constant = constant
        given = {
            k: Standardise(Field.from_dict(v["field"]), v["rules"], v.get("partial", False))
            for k, v in config["given"].items()
        }
        fields = {k: Field.from_dict(v) for k, v in config["fields"].items()}
        expression = parse(config["expression"])
        heads = [Head(expression, e, tuple(config["maps"])) for e in embedding]
        return cls(expression, fields, target, given, heads)

    @property
    def iid(self) -> bool:
        """Whether the target is a set of independent events, of which one is modelled."""
        return self.fields[self.expression.target[0]].iid

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one draw in physical units."""
        targets = [self.fields[k] for k in self.expression.target]
        if self.iid or targets[0].layout == "image":
            return torch.Size(targets[0].shape)
        return torch.Size([sum(f.size for f in targets)])

    @property
    def modelled_shape(self) -> torch.Size:
        """Shape of what the model draws: of one event of a set, without constant columns."""
        kept, grid = self.target.features, self.target.axes
        return torch.Size((kept, *(self.event_shape[1:] if grid else ())))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def attach(self, family: Any) -> Pipeline:
        """Builds the model of every head, with fresh weights."""
        for head in self.heads:
            self.attach_head(head, family)
        return self

    def attach_head(self, head: Head, family: Any) -> None:
        """Builds the model of one head."""
        layout = "image" if self.target.axes else "vector"
        names = None
        if layout == "vector" and not self.iid:  # the field that each column belongs to
            every = [k for k in self.expression.target for _ in range(self.fields[k].size)]
            names = tuple(every[i] for i in self.target.keep.tolist())
        rows = {k: torch.zeros(1, *self.given_field(k).shape) for k in self.expression.given}
        head.attach(family, Field(tuple(self.modelled_shape), layout, names=names), rows)

    def standardise(
        self, rows: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The given fields, standardised."""
        return {
            k: self.given[_key(k)](rows[k], masks.get(k))
            if k in masks
            else self.given[_key(k)](rows[k])
            for k in self.expression.given
        }

    def values(self, standardised: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The given fields standardised, without the columns that say what was observed."""
        return {k: self.given_field(k).values(v) for k, v in standardised.items()}

    def hide(
        self, standardised: Mapping[str, Tensor], observed: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The given fields standardised, as if only some entries of some fields were observed."""
        hidden = {k: self.given_field(k).hide(standardised[k], v) for k, v in observed.items()}
        return {**standardised, **hidden}

    def given_field(self, name: str) -> Standardise:
        """The preprocessing of a given field."""
        return self.given[_key(name)]  # type: ignore[return-value]

    def given_score(self, name: str, values: Tensor, score: Tensor) -> Tensor:
        """A gradient by a given vector (n, d), as one by the vector standardised; zero where a
        column is constant.
        """
        with torch.enable_grad():
            point = values.double().requires_grad_()
            (slope,) = torch.autograd.grad(self.given_field(name)(point).sum(), point)
        return torch.where(slope == 0, 0.0, score / slope).float()

    def context(
        self, standardised: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None
    ) -> list[Given]:
        """What each head's model is given: context vectors (n, c) and maps (n, C, *grid)."""
        return [head.given(standardised, masks) for head in self.heads]

    def loss(
        self,
        z: Tensor,
        standardised: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The loss of each head and row, (heads, n)."""
        return torch.stack([head.loss(z, standardised, masks, self.iid) for head in self.heads])


def _key(name: str) -> str:
    """A module's name: some field names are taken by nn.ModuleDict."""
    return f"field_{name}"
