r"""Conditioning: any conditional of a joint model, as a Conditional of its own.

A joint model p(theta, x) knows every p(a | b) of its columns. Here names become columns, and the
joint preprocessing becomes that of a target and of what is given.
"""

from __future__ import annotations

__all__ = ["GivenColumns", "condition"]

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .expression import parse
from .field import Field
from .fitting.head import Head
from .fitting.pipeline import Pipeline
from .preprocessing import Target


class GivenColumns(nn.Module):
    """A given field as the joint model standardised it: (n, *shape) → (n, columns); NaN stays.

    Arguments:
        target: The joint preprocessing of the field's columns.
    """

    partial = True

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = target

    def values(self, z: Tensor) -> Tensor:
        """The values alone: all there is."""
        return z

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Standardised columns that vary (n, k)."""
        y = values.reshape(len(values), -1).double()
        missing = y.isnan()
        centre = self.target.inverse(torch.zeros(self.target.features, dtype=y.dtype))
        y = torch.where(missing, centre.to(y), y)
        z, _ = self.target(self.target.centred(y))
        return torch.where(missing[:, self.target.keep], torch.nan, z)


def condition(pipeline: Pipeline, expression: str) -> Pipeline:
    """The pipeline of one conditional of a joint model; it shares the weights.

    Arguments:
        pipeline: Of a joint model.
        expression: "theta | x", "x | theta", "Omega_m | x, sigma_8".

    Raises:
        ValueError: If the model is no joint one, or a name is no field of it.
    """
    if not all(callable(getattr(type(head.model), "condition", None)) for head in pipeline.heads):
        raise ValueError(
            f"{str(pipeline.expression)!r} is no joint model: condition needs one that was fitted "
            'without "|", such as fit("theta, x", dataset, Diffusion(network="tokens"))'
        )
    parsed = parse(expression)
    fields = parsed.resolve(pipeline.fields)
    columns = {name: _columns(name, pipeline.fields) for name in parsed.names}
    taken = [c for name in parsed.names for c in columns[name]]
    if len(taken) > len(set(taken)):
        raise ValueError(f"{expression!r} names a column twice")
    target = pipeline.target.subset([c for k in parsed.target for c in columns[k]])
    if target.features == 0:
        raise ValueError(f"every column of {', '.join(parsed.target)} is constant")
    given: Any = {k: GivenColumns(pipeline.target.subset(columns[k])) for k in parsed.given}
    place = {c: i for i, c in enumerate(pipeline.target.keep.tolist())}
    sides = [
        [place[c] for k in side for c in columns[k] if c in place]
        for side in (parsed.target, parsed.given)
    ]
    heads = []
    for head in pipeline.heads:
        heads.append(Head(parsed, {}))
        heads[-1].model = head.model.condition(*sides)
    return Pipeline(parsed, fields, target, given, heads).to(pipeline.device)


def _columns(name: str, fields: Mapping[str, Field]) -> list[int]:
    """Columns of a field, or of a single parameter, among those of all fields in their order."""
    start = 0
    for key, field in fields.items():
        if key == name:
            return list(range(start, start + field.size))
        if key == "theta" and field.names and name in field.names:
            return [start + field.names.index(name)]
        start += field.size
    raise ValueError(f"no field {name!r} in the joint model; there are {', '.join(fields)}")
