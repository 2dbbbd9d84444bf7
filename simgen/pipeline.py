"""Pipeline: the network side of a conditional, from fields in physical units to a model and back.

target field(s) → Target → z;  given field → Standardise → embedding → context vector;  model:
p(z | context). One module, so that one state dict holds everything a trained object needs.
"""

from __future__ import annotations

__all__ = ["Pipeline", "default_embedding", "target_columns"]

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .expression import Expression, parse
from .field import Field
from .networks import Configured, ConvEncoder, SeriesEncoder, SetEncoder, VectorEncoder
from .preprocessing import Standardise, Target


def target_columns(
    expression: Expression, fields: Mapping[str, Field], rows: Mapping[str, Tensor]
) -> Tensor:
    """Target columns (n, d) of rows of fields; of a set of independent events (n, K, d)."""
    first = expression.target[0]
    if fields[first].iid:
        return rows[first].double()
    parts = [rows[k].reshape(len(rows[k]), -1) for k in expression.target]
    return torch.cat([p.double() for p in parts], -1)


def default_embedding(field: Field, targets: int) -> Configured | None:
    """The embedding that a given field has unless one is said: by its layout.

    Every embedding gives max(32, 4 targets) numbers; a vector's linear summaries go along, and
    its own columns where they say more.
    """
    out = max(32, 4 * targets)
    if field.layout == "vector":
        return VectorEncoder(field.size, out)
    if field.layout == "set":
        return SetEncoder(field.shape[-1], out)
    if field.layout == "series":
        return SeriesEncoder(field.shape[-1], out)
    if len(field.shape) != 3:
        raise ValueError(
            f"no default embedding for an image of shape {field.shape}: give embedding="
        )
    depth = max(1, min(4, min(field.shape[1:]).bit_length() - 3))
    return ConvEncoder(field.shape[0], out, depth=depth)


class Pipeline(nn.Module):
    """Fields to network and back, for one expression.

    Arguments:
        expression: Which fields are modelled and which given.
        fields: The fields named in it.
        target: Preprocessing of the target columns.
        given: Preprocessing of each given field.
        embedding: The embedding of each given field that has one.
        model: Built lazily by `attach`.
    """

    def __init__(
        self,
        expression: Expression,
        fields: Mapping[str, Field],
        target: Target,
        given: Mapping[str, Standardise],
        embedding: Mapping[str, nn.Module],
    ) -> None:
        super().__init__()
        self.expression = expression
        self.fields = dict(fields)
        self.target = target
        self.given = nn.ModuleDict({_key(k): v for k, v in given.items()})
        self.embedding = nn.ModuleDict({_key(k): v for k, v in embedding.items()})
        self.model: Any = None

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds the pipeline, weights and user's modules aside, as JSON values."""
        return {
            "expression": str(self.expression),
            "fields": {k: v.to_dict() for k, v in self.fields.items()},
            "target": self.target.config,
            "given": {k: self.given[_key(k)].config for k in self.expression.given},
            "embedding": {
                k: _describe(self.embedding[_key(k)])
                for k in self.expression.given
                if _key(k) in self.embedding
            },
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], embedding: Mapping[str, nn.Module], constant: Tensor
    ) -> Pipeline:
        """The pipeline of a configuration, before weights are filled in.

        Arguments:
            config: What `config` gave.
            embedding: The embedding of each given field that has one.
            constant: Values of the target's constant columns, NaN where they vary: they decide
                the model's size.
        """
        target = Target(**config["target"])
        target.constant = constant
        given = {
            k: Standardise(Field.from_dict(v["field"]), v["rules"])
            for k, v in config["given"].items()
        }
        fields = {k: Field.from_dict(v) for k, v in config["fields"].items()}
        return cls(parse(config["expression"]), fields, target, given, embedding)

    @property
    def iid(self) -> bool:
        """Whether the target is a set of independent events, of which one is modelled."""
        return self.fields[self.expression.target[0]].iid

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one draw in physical units."""
        targets = [self.fields[k] for k in self.expression.target]
        if self.iid:
            return torch.Size(targets[0].shape)
        return torch.Size([sum(f.size for f in targets)])

    @property
    def columns(self) -> int:
        """Numbers that one modelled event holds."""
        return int(self.event_shape[-1])

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def attach(self, family: Any) -> Pipeline:
        """Builds the model for the size of target and context, with fresh weights."""
        context = {} if self.context_size == 0 else {"context": Field((self.context_size,))}
        self.model = family.build(Field((self.target.features,)), context)
        return self

    @property
    def context_size(self) -> int:
        """Length of the context vector, found by sending one row of zeros through."""
        if not self.expression.given:
            return 0
        rows = {}
        for name in self.expression.given:
            field = self.fields[name]
            rows[name] = torch.zeros(1, *field.shape) if field.shape else torch.zeros(1, 1)
        training = self.training
        self.eval()
        with torch.no_grad():
            vector = self.context(rows)
        self.train(training)
        assert vector is not None
        return int(vector.shape[-1])

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

    def context(
        self, standardised: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None
    ) -> Tensor | None:
        """The context vector (n, c) of standardised given fields; None where nothing is given."""
        parts = []
        for name in self.expression.given:
            x = standardised[name]
            embedding = self.embedding[_key(name)] if _key(name) in self.embedding else None
            if embedding is not None:
                x = embedding(x, masks[name]) if masks and name in masks else embedding(x)
            if x.dim() != 2:
                raise ValueError(
                    f"the embedding of {name!r} must return (n, features); got {tuple(x.shape)}"
                )
            parts.append(x)
        return torch.cat(parts, -1) if parts else None

    def loss(
        self,
        z: Tensor,
        standardised: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """-log p(z | given) of each row, (n,), or what the model's family minimises in its
        place.
        """
        context = self.context(standardised, masks)
        assert self.model is not None
        if z.dim() == 2:
            return self.model.loss(z, (context, None))
        n, events, k = z.shape
        if context is not None:
            context = context.repeat_interleave(events, 0)
        return self.model.loss(z.reshape(n * events, k), (context, None)).view(n, events).mean(1)


def _describe(module: nn.Module) -> dict[str, Any]:
    if isinstance(module, Configured):
        return module.config
    return {"module": f"{type(module).__module__}.{type(module).__qualname__}"}


def _key(name: str) -> str:
    """A module's name: some field names are taken by nn.ModuleDict."""
    return f"field_{name}"
