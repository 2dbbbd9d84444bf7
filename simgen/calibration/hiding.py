"""Hiding: pairs of which a part is not observed, to judge a conditional by that takes gaps.

Every check asks only what is observed: ranks are uniform given x behind its mask.
"""

from __future__ import annotations

__all__ = ["select_hidden"]

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..expression import Expression
from ..field import infer_field
from ..fitting.masks import Masks
from ..forward import stream
from .pairs import Pairs, select

HIDDEN = 23  # purpose of a random stream


def select_hidden(
    dataset: Any,
    expression: Expression,
    provenance: Mapping[str, Any] | None,
    n: int,
    seed: int,
    mask: Any = None,
) -> Pairs:
    """The pairs of `select`; NaN in the place of what a mask says is not observed.

    Arguments:
        dataset: As for `select`.
        expression: Likewise.
        provenance: Likewise.
        n: Likewise.
        seed: Likewise; of the patterns too.
        mask: As for `fit`; None hides nothing.

    Raises:
        ValueError: As `select` does, or if the mask does not fit what is given.
    """
    if mask is None:
        return select(dataset, expression, provenance, n, seed)
    if isinstance(dataset, Mapping):
        fields = {k: infer_field(np.asarray(v)) for k, v in dataset.items()}
    else:
        fields = dataset.fields
    resolved = expression.resolve(fields)
    masks = Masks(mask, {k: resolved[k] for k in expression.given}, fields)
    records = [r for r in masks.recorded.values() if r not in expression.given]
    wider = Expression(expression.target, (*expression.given, *dict.fromkeys(records)))
    pairs = select(dataset, wider, provenance, n, seed)
    rows = masks.apply(pairs.given, stream(seed, HIDDEN, 0))
    given = {k: np.asarray(v) for k, v in rows.items() if k not in records}
    note = f"of what is given a part was hidden, by {masks.describe()}"
    return replace(pairs, given=given, notes=(*pairs.notes, note))
