"""Reference: simulated rows that stay with a model, and the nulls that are made of them.

`fit` makes the null of complete observations once. Of an observation with gaps it is made when
asked for, of rows hidden in the same places: training rows and held-out rows, scored as the
network sees them. What hides them must not depend on x, or the rows of that pattern are others
than those that were hidden. Of a joint model all fields are kept, as each may come to be given.
"""

from __future__ import annotations

__all__ = ["Reference", "fit_null"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .fitting.source import HELD_OUT
from .null import Measures, Typicality, measures, rounded
from .row_summaries import RowSummary

if TYPE_CHECKING:
    from .field import Field
    from .fitting.pipeline import Pipeline
    from .fitting.source import Batch, Source

_ROWS, _NULL = 8_192, 4_096  # simulations that scores are fitted to, and of the null
_NUMBERS = 1 << 26  # numbers to read for either, at most
_KEPT, _KEPT_NUMBERS = 2_048, 1 << 20  # simulations kept of either, and numbers of them, at most
_FEWEST = 16  # simulations to say anything of
_STEP, _NULLS = 1_024, 16  # rows at once; nulls that are remembered


@dataclass(frozen=True)
class Reference:
    """Simulated rows of the given fields, complete.

    Arguments:
        rows: Of each field (n, *shape), those of training first.
        masks: Which elements of variable-length fields are there, (n, K).
        training: How many are of training.
        hidden: Fields in which a gap says nothing of what is there.
    """

    rows: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    training: int
    hidden: tuple[str, ...]
    nulls: dict[Any, Typicality] = field(default_factory=dict, repr=False, compare=False)

    def null(self, pipeline: Pipeline, observed: Mapping[str, Tensor]) -> Typicality:
        """The null of rows of which only some entries of some fields (*shape) are observed."""
        key = tuple((k, v.numpy().tobytes()) for k, v in observed.items())
        if key not in self.nulls:
            while len(self.nulls) >= _NULLS:
                self.nulls.pop(next(iter(self.nulls)))
            self.nulls[key] = self._null(pipeline, observed)
        return self.nulls[key]

    def _null(self, pipeline: Pipeline, observed: Mapping[str, Tensor]) -> Typicality:
        rows = {k: v.to(torch.get_default_dtype()) for k, v in self.rows.items()}
        rows |= {k: rows[k].masked_fill(~v, torch.nan) for k, v in observed.items()}
        summaries: dict[str, RowSummary] = {}
        cuts = slice(self.training), slice(self.training, None)
        training, held_out = (
            _measured(pipeline, _parts(rows, self.masks, cut), summaries) for cut in cuts
        )
        assert training is not None and held_out is not None
        seen = [observed[k].any() if k in observed else True for k in rows]
        if not any(seen):  # rounding would be all there is
            training, held_out = (
                {k: v for k, v in part.items() if k.startswith("zeros")}
                for part in (training, held_out)
            )
        return Typicality.fitted(summaries, training, held_out)

    def of(self, names: Sequence[str], fields: Mapping[str, Field]) -> Reference:
        """The rows of some fields, or single parameters, of a joint model."""
        rows = {}
        for name in names:
            known = self.rows.get(name)
            if known is None:
                known = self.rows["theta"][:, (fields["theta"].names or ()).index(name)]
            rows[name] = known
        return Reference(rows, {}, self.training, tuple(names))

    def save(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """As JSON values, and tensors by name."""
        tensors = {f"reference:{k}": v.contiguous() for k, v in self.rows.items()}
        tensors |= {f"reference:mask:{k}": v.contiguous() for k, v in self.masks.items()}
        header = {"rows": list(self.rows), "masks": list(self.masks), "hidden": list(self.hidden)}
        return {**header, "training": self.training}, tensors

    @classmethod
    def load(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Reference:
        """The inverse of `save`."""
        return cls(
            {k: tensors[f"reference:{k}"] for k in header["rows"]},
            {k: tensors[f"reference:mask:{k}"] for k in header["masks"]},
            header["training"],
            tuple(header["hidden"]),
        )


def fit_null(source: Source, pipeline: Pipeline) -> tuple[Typicality | None, Reference | None]:
    """The null of a fit: scores from training rows, their conformal null from validation rows;
    and, where a part may be missing, rows for the nulls of what is left.

    Neither where nothing is given, where rows are too few or incomplete, or have negative
    weights: they follow no law to draw from.

    Arguments:
        source: The dataset's side.
        pipeline: The trained side.
    """
    if source.weighted and any(
        bool((side["weight"][:] < 0).any()) for side in (source.train, source.validation)
    ):
        return None, None
    expression, masks = pipeline.expression, source.mask
    given = expression.given
    hidden = () if masks is None else tuple(k for k in masks.names if k not in masks.recorded)
    if not given and all(hasattr(head.model, "condition") for head in pipeline.heads):
        return None, _kept(source, expression.target, expression.target)
    if not given:
        return None, None
    summaries: dict[str, RowSummary] = {}
    training, held_out = (
        _measured(pipeline, _read(source, given, side, most), summaries)
        for side, most in ((False, 2 * _ROWS), (True, _NULL))
    )
    if training is None or held_out is None:
        return None, None
    null = Typicality.fitted(summaries, training, held_out)
    return null, _kept(source, given, hidden) if hidden else None


def _kept(source: Source, names: Sequence[str], hidden: Sequence[str]) -> Reference | None:
    """Rows of training and of validation to keep; None if there are too few."""
    size = sum(source.fields[k].size for k in names)
    most = min(_KEPT, max(_KEPT_NUMBERS // size, 128))
    sides = []
    for held_out in (False, True):
        found = list(_read(source, names, held_out, most))
        if sum(len(rows[names[0]]) for rows, _ in found) < _FEWEST:
            return None
        sides.append(
            [{k: torch.cat([p[i][k] for p in found]) for k in found[0][i]} for i in (0, 1)]
        )
    rows, masks = ({k: torch.cat([s[i][k] for s in sides]) for k in sides[0][i]} for i in (0, 1))
    return Reference(rows, masks, len(sides[0][0][names[0]]), tuple(hidden))


def _read(
    source: Source, names: Sequence[str], held_out: bool, most: int
) -> Iterator[tuple[Batch, Batch]]:
    """Up to so many complete rows of some fields, and which of their elements are there; weighted
    ones as many as their weights say.
    """
    size = sum(source.fields[k].size for k in names)
    most = min(most, max(_NUMBERS // size, 512))
    step = max(64, min(1024, (1 << 23) // size))
    generator = torch.Generator().manual_seed(source.seed)
    largest = 0.0
    if source.weighted:
        side = source.validation if held_out else source.train
        largest = float(side["weight"][:].max())
    for i, batch in enumerate(source.raw(held_out, step).epoch(0)):
        batch = source.fresh(batch, HELD_OUT, i)
        if source.weighted:
            weight = batch["weight"].reshape(-1).double()
            keep = torch.rand(len(weight), generator=generator) * largest < weight
            batch = {k: v[keep] for k, v in batch.items()}
        batch = {k: v[:most] for k, v in source.complete(batch).items()}
        n = len(batch[names[0]])
        if n:
            yield {k: batch[k] for k in names}, source.masks(batch)
        most -= n
        if most <= 0:
            return


def _parts(
    rows: Mapping[str, Tensor], masks: Mapping[str, Tensor], cut: slice
) -> Iterator[tuple[Batch, Batch]]:
    """Rows of a cut, some at once."""
    n = len(range(*cut.indices(len(next(iter(rows.values()))))))
    for at in torch.arange(n).split(_STEP):
        yield tuple({k: v[cut][at] for k, v in side.items()} for side in (rows, masks))  # type: ignore[misc]


def _measured(
    pipeline: Pipeline,
    parts: Iterator[tuple[Batch, Batch]],
    summaries: dict[str, RowSummary],
) -> Measures | None:
    """Measures of rows; None if there are too few. The first ones fit the summaries, where they
    are not.
    """
    found: list[Measures] = []
    for rows, masks in parts:
        rows, masks = (
            {k: v.to(pipeline.device) for k, v in side.items()} for side in (rows, masks)
        )
        with torch.no_grad():
            standardised = pipeline.standardise(rows, masks)
            context, _ = pipeline.heads[0].given(standardised, masks)
            z = pipeline.values(standardised)
        for name in rows:
            if name not in summaries:
                layout = pipeline.fields[name].layout if z[name].dim() > 2 else "vector"
                mask = masks[name].cpu() if name in masks else None
                seen = z[name].cpu().nan_to_num()
                summaries[name] = rounded(RowSummary.fitted(layout, seen, mask))
        found.append(measures(summaries, pipeline, rows, masks, context))
    if not found:
        return None
    whole = {k: torch.cat([part[k] for part in found]) for k in found[0]}
    finite = torch.stack([v.isfinite().all(1) for v in whole.values()]).all(0)
    return {k: v[finite] for k, v in whole.items()} if int(finite.sum()) >= _FEWEST else None
