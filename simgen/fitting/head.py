"""Head: the trained part of a pipeline, embeddings and model, from standardised fields to what the
family minimises.

A pipeline has one head, an ensemble several: they share the preprocessing, and nothing else.
"""

from __future__ import annotations

__all__ = ["Head", "default_embedding"]

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..expression import Expression
from ..field import Field
from ..models.base import Given
from ..networks import Configured, ConvEncoder, SeriesEncoder, SetEncoder, VectorEncoder


def default_embedding(field: Field, targets: int, exact: bool = False) -> Configured | None:
    """The embedding that a given field has unless one is said: by its layout.

    Every embedding gives max(32, 4 targets) numbers, at most 256; a vector's linear summaries go
    along, and its own columns where they say more, or have no noise, `exact`.
    """
    out = min(max(32, 4 * targets), 256)
    if field.layout == "vector":
        return VectorEncoder(field.size, out, whole=exact)
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


class Head(nn.Module):
    """Embeddings of given fields, and the model of the target given what they make.

    Arguments:
        expression: Which fields are modelled and which given.
        embedding: The embedding of each given field that has one.
        maps: Given images that go to the model as channels of a map.
    """

    def __init__(
        self,
        expression: Expression,
        embedding: Mapping[str, nn.Module],
        maps: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.expression, self.maps = expression, maps
        self.embedding = nn.ModuleDict({_key(k): v for k, v in embedding.items()})
        self.model: Any = None

    def embeds(self, name: str) -> nn.Module | None:
        """The embedding of a given field, None where it has none."""
        return self.embedding[_key(name)] if _key(name) in self.embedding else None

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds each embedding, or the name of a user's own module."""
        given = self.expression.given
        return {k: _describe(e) for k in given if (e := self.embeds(k)) is not None}

    def given(
        self, standardised: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None
    ) -> Given:
        """The context vector (n, c) and the map (n, C, *grid) of standardised given fields."""
        parts, grids = [], []
        for name in self.expression.given:
            x = standardised[name]
            if name in self.maps:
                grids.append(x)
                continue
            embedding = self.embeds(name)
            if embedding is not None:
                mask = (masks or {}).get(name)
                if mask is None and x.dim() == 3 and _asks_for_mask(embedding):
                    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
                x = embedding(x) if mask is None else embedding(x, mask)
            if x.dim() != 2:
                raise ValueError(
                    f"the embedding of {name!r} must return (n, features); got {tuple(x.shape)}"
                )
            parts.append(x)
        return (
            torch.cat(parts, -1) if parts else None,
            torch.cat(grids, 1) if grids else None,
        )

    def attach(self, family: Any, target: Field, rows: Mapping[str, Tensor]) -> Head:
        """Builds the model for a target field, with fresh weights.

        Arguments:
            family: The family.
            target: The field of z.
            rows: One row of each given field: its context says the sizes.

        Raises:
            ValueError: If an embedding does not take them.
        """
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                context, grid = self.given(rows)
        except (TypeError, RuntimeError) as error:
            seen = ", ".join(
                f"{k} of shape (n, {', '.join(map(str, v.shape[1:]))})" for k, v in rows.items()
            )
            raise ValueError(
                f"an embedding does not take its field as networks see it, {seen}: {error}"
            ) from error
        self.train(training)
        given = {} if context is None else {"context": Field((context.shape[-1],))}
        if grid is not None:
            given["map"] = Field(tuple(grid.shape[1:]), layout="image")
        self.model = family.build(target, given)
        return self

    def loss(
        self,
        z: Tensor,
        standardised: Mapping[str, Tensor],
        masks: Mapping[str, Tensor] | None = None,
        events: bool = False,
    ) -> Tensor:
        """What the family minimises, of each row, (n,): -log p(z | given) where it has one.

        Arguments:
            z: Target rows (n, *event); of sets of independent events (n, K, k) with `events`.
            standardised: The given fields.
            masks: Which elements of variable-length fields are there.
            events: Whether the first axis of an event is over independent events.
        """
        given = self.given(standardised, masks)
        if not events:
            return self.model.loss(z, given)
        n, count, k = z.shape
        context = given[0]
        if context is not None and not getattr(self.model, "shares", False):
            context = context.repeat(count, 1)
        flat = z.transpose(0, 1).reshape(count * n, k)
        return self.model.loss(flat, (context, None)).view(count, n).mean(0)

    def forward(self, *arguments: Any, **named: Any) -> Tensor:
        """`loss`, for functional calls."""
        return self.loss(*arguments, **named)


def _asks_for_mask(embedding: nn.Module) -> bool:
    """Whether a user's network cannot be called without a mask: then all elements are there."""
    _, *others = inspect.signature(embedding.forward).parameters.values()
    return [p.kind for p in others if p.default is p.empty] == [
        inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]


def _describe(module: nn.Module) -> dict[str, Any]:
    if isinstance(module, Configured):
        return module.config
    return {"module": f"{type(module).__module__}.{type(module).__qualname__}"}


def _key(name: str) -> str:
    """A module's name: some field names are taken by nn.ModuleDict."""
    return f"field_{name}"
