"""Source: the dataset's side of a fit, from rows of fields to what a network sees.

Statistics and closed-form starts come from training rows alone. A row that is the same network
input each epoch is preprocessed once.
"""

from __future__ import annotations

__all__ = ["Batch", "Prepared", "Source", "embeddings", "fitted_target", "members", "prepare"]

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..bijection import interval_rule, soft_rule
from ..dataset import Dataset, DatasetError
from ..expression import Expression
from ..field import Field
from ..forward import stream
from ..models import Ensemble, Flow
from ..preprocessing import Standardise, Target, field_rules, flagged
from ..storage.view import View
from ..stream import Batches
from .head import Head, default_embedding
from .masks import Masks
from .pipeline import Pipeline, grids, target_columns

Batch = dict[str, Tensor]
AUGMENT, HELD_OUT, STATISTICS = 5, 6, 7  # purposes of random streams
_MASK = 30  # added to these: purposes of those that draw masks
_STATISTICS_ROWS = 100_000
_STATISTICS_BYTES = 256 << 20
_SUMMARY = 64
_PAIRS = 20_000  # of what is given and one event
_ROUNDING = 1e-5  # of a support's width, by which values may lie outside


@dataclass(frozen=True)
class Prepared:
    """Network inputs of a batch: z, the given fields standardised, masks of elements, weights of
    mean one over all rows, the log-determinant that turns the loss into nats in physical units,
    and joint scores by standardised theta.
    """

    z: Tensor
    given: Batch
    masks: Batch
    weight: Tensor | None
    ladj: Tensor
    gold: Tensor | None = None

    def mean(self, loss: Tensor) -> Tensor:
        """The mean over rows of weighted losses (heads, n), (heads,).

        Over batches, its mean is the loss of the weighted law, whatever the signs: a batch is not
        divided by the sum of its own weights, which would bias it.
        """
        return (loss if self.weight is None else self.weight * loss).mean(-1)


class Source:
    """Batches of the fields of an expression: training rows by epoch, validation rows in order."""

    def __init__(
        self,
        expression: Expression,
        fields: Mapping[str, Field],
        dataset: Dataset,
        augment: Callable[[Batch, np.random.Generator], Batch] | None,
        seed: int,
        memory: int,
        gold: str | None = None,
        mask: Masks | None = None,
    ) -> None:
        self.expression, self.fields, self.dataset = expression, fields, dataset
        self.gold, self.mask = gold, mask
        self.augment, self.seed, self.memory = augment, seed, memory
        self.lengths = {
            k: f"{k}_length" for k in expression.given if f"{k}_length" in dataset.fields
        }
        for name in expression.target:
            if f"{name}_length" in dataset.fields:
                raise ValueError(f"{name!r} has a variable length: it can only be given")
        self.weighted = "weight" in dataset.fields
        records = () if mask is None else mask.recorded.values()
        extra = ("weight" if self.weighted else None, gold, *records)
        names = (*expression.names, *self.lengths.values(), *filter(None, extra))
        self.names = tuple(dict.fromkeys(names))
        self.train, self.validation = dataset.train, dataset.validation
        if self.weighted:
            self.train, self.validation = _counting(self.train), _counting(self.validation)
        if self.validation.rows.size == 0:
            raise DatasetError(
                f"{dataset.path} has no validation rows: open it with another split="
            )
        self.columns = sum(fields[k].size for k in expression.target)
        self.level = (1.0, 1.0)
        if self.weighted:
            self.level = _mean_weight(self.train), _mean_weight(self.validation)

    def __len__(self) -> int:
        return int(self.train.rows.size)

    @property
    def seen(self) -> dict[str, Field]:
        """The fields as networks see them: wider where a part may be missing."""
        names = () if self.mask is None else self.mask.names
        return {k: flagged(v) if k in names else v for k, v in self.fields.items()}

    def raw(self, held_out: bool, batch_size: int, device: str | torch.device = "cpu") -> Batches:
        """Batches of fields: shuffled training rows, or validation rows in order. Those for a GPU
        leave from pinned memory.
        """
        return Batches(
            self.validation if held_out else self.train,
            self.names,
            batch_size,
            seed=self.seed,
            memory=self.memory,
            device=device,
            shuffle=not held_out,
        )

    def feed(self, pipeline: Pipeline, held_out: bool, batch_size: int) -> Feed:
        """Batches as the pipeline's network takes them."""
        raw = self.raw(held_out, batch_size, pipeline.device)
        static = held_out or (self.augment is None and not pipeline.target.cells)
        if raw.in_memory and static:
            # the same numbers every epoch: preprocess them once
            view = self.validation if held_out else self.train
            rows = Batches(view, self.names, 4096, memory=self.memory, shuffle=False)
            parts = [
                self.inputs(self.fresh(batch, HELD_OUT, i), pipeline, held_out)
                for i, batch in enumerate(rows.epoch(0))
            ]
            if held_out:
                parts = [self.hidden(p, pipeline, HELD_OUT, i) for i, p in enumerate(parts)]
            tensors = {k: torch.cat([p[k] for p in parts]).to(pipeline.device) for k in parts[0]}
            raw = Batches(
                tensors,
                tuple(tensors),
                batch_size,
                seed=self.seed,
                device=pipeline.device,
                shuffle=not held_out,
            )
            if held_out or self.mask is None:
                return Feed(raw, lambda batch, _: batch)
            return Feed(raw, lambda batch, i: self.hidden(batch, pipeline, AUGMENT, i))

        def transform(batch: Batch, step: int) -> Batch:
            batch = {k: v.to(pipeline.device, non_blocking=True) for k, v in batch.items()}
            purpose = HELD_OUT if held_out else AUGMENT
            inputs = self.inputs(self.fresh(batch, purpose, step), pipeline, held_out)
            return self.hidden(inputs, pipeline, purpose, step)

        return Feed(raw, transform)

    def fresh(self, batch: Batch, purpose: int, step: int) -> Batch:
        """The batch after the user's augmentation, drawn from the stream (seed, purpose, step).

        One that adds `<name>_length` makes a given field of variable length.
        """
        if self.augment is not None:
            batch = self.augment(batch, stream(self.seed, purpose, step))
            every = {k: f"{k}_length" for k in self.expression.given}
            self.lengths |= {k: length for k, length in every.items() if length in batch}
        return batch if self.mask is None else self.mask.record(batch)

    def hidden(self, inputs: Batch, pipeline: Pipeline, purpose: int, step: int) -> Batch:
        """Network inputs behind the masks of the stream (seed, purpose, step)."""
        if self.mask is None or not self.mask.random:
            return inputs
        rng = stream(self.seed, _MASK + purpose, step)
        observed = self.mask(rng, len(next(iter(inputs.values()))))
        given = {k: inputs[f"given:{k}"] for k in observed}
        given = pipeline.hide(given, {k: v.to(given[k].device) for k, v in observed.items()})
        return inputs | {f"given:{k}": v for k, v in given.items()}

    def complete(self, batch: Batch) -> Batch:
        """The rows of a batch of which everything given was observed."""
        if self.mask is None or not self.mask.recorded:
            return batch
        gaps = [batch[k].flatten(1).isnan().any(1) for k in self.mask.recorded]
        return {k: v[~torch.stack(gaps).any(0)] for k, v in batch.items()}

    def inputs(self, batch: Batch, pipeline: Pipeline, held_out: bool = False) -> Batch:
        """Fields → network inputs, under the names z, ladj, weight, given:<name>, mask:<name>."""
        masks = self.masks(batch)
        columns = target_columns(self.expression, self.fields, batch)
        z, ladj = pipeline.target(pipeline.target.dequantise(columns))
        out = {"z": z, "ladj": ladj}
        if self.weighted:
            weight = batch["weight"].reshape(len(z)).double()
            out["weight"] = (weight / self.level[held_out]).float()
        if self.gold:
            out["gold"] = pipeline.given_score("theta", batch["theta"], batch[self.gold])
        out |= {f"given:{k}": v for k, v in pipeline.standardise(batch, masks).items()}
        return out | {f"mask:{k}": v for k, v in masks.items()}

    def masks(self, batch: Batch) -> Batch:
        """Which elements of variable-length fields are there."""
        return {
            k: torch.arange(batch[k].shape[1], device=batch[k].device) < batch[length][:, None]
            for k, length in self.lengths.items()
        }

    def sample(self) -> Batch:
        """Training rows for statistics: all, or as many random ones as are enough; weighted ones
        as often as the size of their weights says.
        """
        rows: list[Batch] = []
        count = size = 0
        for i, batch in enumerate(self.raw(False, 4096).epoch(0)):
            rows.append(self.fresh(batch, STATISTICS, i))
            count += len(next(iter(batch.values())))
            size += sum(v.numel() * v.element_size() for v in batch.values())
            if count >= _STATISTICS_ROWS or size >= _STATISTICS_BYTES:
                break
        whole = {k: torch.cat([b[k] for b in rows]) for k in rows[0]}
        if not self.weighted:
            return whole
        share = whole["weight"].reshape(-1).double().abs().cumsum(0)
        n = len(share)
        places = (torch.arange(n, dtype=share.dtype) + 0.5) / n * share[-1]
        index = torch.searchsorted(share, places).clamp(max=n - 1)
        return {k: v[index] for k, v in whole.items()}


def _counting(view: View) -> View:
    """The rows whose weight is not zero: those of weight zero count for nothing."""
    weight = view["weight"][:].reshape(-1)
    return view if weight.all() else View(view.dataset, view.name, view.rows[weight != 0])


def _mean_weight(view: View) -> float:
    """The mean weight of rows.

    Raises:
        DatasetError: If it is not positive.
    """
    mean = float(view["weight"][:].astype(np.float64).mean())
    if not mean > 0:
        raise DatasetError(
            f"the weights of the {len(view)} {view.name} rows of {view.dataset.path} have the "
            f"mean {mean:.3g}: it must be positive, or there is no law that they describe"
        )
    return mean


@dataclass(frozen=True)
class Feed:
    """Prepared batches, epoch by epoch."""

    raw: Batches
    transform: Callable[[Batch, int], Batch]

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return self.raw.steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Prepared]:
        """Batches of one epoch, from one of its steps on."""
        for i, batch in enumerate(self.raw.epoch(epoch, start), start=epoch * self.steps + start):
            batch = self.transform(batch, i)
            yield Prepared(
                batch["z"],
                {k[6:]: v for k, v in batch.items() if k.startswith("given:")},
                {k[5:]: v for k, v in batch.items() if k.startswith("mask:")},
                batch.get("weight"),
                batch["ladj"],
                batch.get("gold"),
            )


def embeddings(
    expression: Expression,
    fields: Mapping[str, Field],
    embedding: nn.Module | Mapping[str, nn.Module | None] | None,
    targets: int,
) -> dict[str, nn.Module]:
    """The embedding of each given field that has one; modules of the user are copied."""
    given = expression.given
    if isinstance(embedding, nn.Module):
        if len(given) != 1:
            raise ValueError(
                f"{str(expression)!r} has {len(given)} given fields: embedding={{name: module}}"
            )
        embedding = {given[0]: embedding}
    networks = list(embedding.values()) if isinstance(embedding, Mapping) else [embedding]
    if strange := [v for v in networks if not (v is None or isinstance(v, nn.Module))]:
        raise TypeError(
            f"embedding must be a network, or one a given field by name; got {strange[0]!r}"
        )
    said = dict(embedding or {})
    if unknown := [k for k in said if k not in given]:
        raise ValueError(
            f"embedding of {unknown[0]!r}: given are {', '.join(given) or 'no fields'}"
        )
    out = {}
    for name in given:
        module = (
            copy.deepcopy(said[name])
            if name in said
            else default_embedding(fields[name], targets, exact=name == "theta")
        )
        if module is not None:
            out[name] = module
    return out


def prepare(
    expression: Expression,
    fields: Mapping[str, Field],
    source: Source,
    embedding: nn.Module | Mapping[str, nn.Module | None] | None,
    family: Any,
) -> Pipeline:
    """Preprocessing estimated on training rows, embeddings and models started from them.

    An ensemble has a head for each member, with a seed of its own.
    """
    rows = source.sample()
    masks = source.masks(rows)
    partial = () if source.mask is None else source.mask.names
    given = {
        k: _carried(fields[k], k, embedding, k in partial)
        or Standardise(fields[k], partial=k in partial).fit_(rows[k], masks.get(k))
        for k in expression.given
    }
    member, count = members(family)
    angles = member.periodic or () if isinstance(member, Flow) else ()
    affine = getattr(member, "affine", False)
    target = fitted_target(expression, fields, source.dataset, rows, angles, affine)
    seen = source.seen
    heads = [_head(expression, seen, embedding, source.columns) for _ in range(count)]
    pipeline = Pipeline(expression, fields, target, given, heads)
    standardised = pipeline.standardise(rows, masks)
    inputs = {f"given:{k}": v for k, v in standardised.items()}
    standardised = {k[6:]: v for k, v in source.hidden(inputs, pipeline, STATISTICS, 0).items()}
    columns = target_columns(expression, fields, rows)
    generator = torch.Generator(columns.device).manual_seed(source.seed)
    z, _ = target(target.dequantise(columns, generator))
    events = max(1, min(z.shape[1], _PAIRS // len(z))) if pipeline.iid else 1
    summary = z[:, :events].flatten(0, 1) if pipeline.iid else _summary(z)
    for i, head in enumerate(pipeline.heads):
        if i:
            torch.manual_seed(source.seed + 7_919 * i)
            head = pipeline.heads[i] = _head(expression, seen, embedding, source.columns)
        for name in expression.given:
            start: Any = getattr(head.embeds(name), "initialise", None)
            if start is not None:
                known, mask = standardised[name], masks.get(name)
                if events > 1:
                    known = known.repeat_interleave(events, 0)
                    mask = None if mask is None else mask.repeat_interleave(events, 0)
                start(known, summary, mask=mask)
        pipeline.attach_head(head, member)
        if hasattr(head.model, "initialise"):
            with torch.no_grad():
                context, grid = head.given(standardised, masks)
            if pipeline.iid and context is not None:
                context = context.repeat_interleave(z.shape[1], 0)
            head.model.initialise(z.reshape(-1, *pipeline.modelled_shape), (context, grid))
    return pipeline


def _carried(
    field: Field,
    name: str,
    embedding: nn.Module | Mapping[str, nn.Module | None] | None,
    partial: bool,
) -> Standardise | None:
    """The preprocessing that an embedding was trained with, where it brings one along."""
    module = embedding.get(name) if isinstance(embedding, Mapping) else embedding
    for known in getattr(module, "preprocessing", ()):
        if partial:
            raise ValueError(
                f"the embedding of {name!r} was trained on complete rows: with mask= it cannot "
                "be used"
            )
        if (known.field.layout, known.field.columns) != (field.layout, field.columns):
            raise ValueError(
                f"the embedding of {name!r} was trained on a {known.field.layout} of "
                f"{known.field.columns} columns; here it is a {field.layout} of {field.columns}"
            )
        standardise = Standardise(field, known.rules)
        standardise.loc, standardise.scale = known.loc.clone(), known.scale.clone()
        return standardise
    return None


def fitted_target(
    expression: Expression,
    fields: Mapping[str, Field],
    dataset: Dataset,
    rows: Batch,
    angles: Sequence[int] = (),
    affine: bool = False,
) -> Target:
    """Preprocessing of the target, found on training rows.

    Arguments:
        expression: Which fields are modelled.
        fields: The fields.
        dataset: Its prior knows the support of parameters.
        rows: Training rows.
        angles: Columns that are periodic; their bounds are one period apart.
        affine: Whether columns may only be shifted and scaled, as a family of means asks.

    Raises:
        ValueError: If the targets cannot be modelled together.
        DatasetError: If every column is constant, or values are outside of the support that is
            known of them.
    """
    targets = [fields[k] for k in expression.target]
    whole = [f for f in targets if f.iid or f.layout == "image"]
    if whole and len(targets) > 1:
        raise ValueError(
            f"{str(expression)!r}: an image, or a set of independent events, is a target alone"
        )
    columns = target_columns(expression, fields, rows)
    rules = _target_rules(expression, fields, dataset)
    if affine:
        rules = [interval_rule(None, None)] * len(rules)
    for i in angles:
        rule = rules[i] if i < len(rules) else None
        if rule is None or rule["kind"] not in ("interval", "soft"):
            raise ValueError(
                f"periodic={tuple(angles)}: column {i} needs bounds one period apart, by a "
                "uniform prior or the field's support"
            )
        rules[i] = {"kind": "circular", "low": rule["low"], "high": rule["high"]}
    axes = len(targets[0].shape) - 1 if targets[0].layout == "image" else 0
    if targets[0].iid:
        columns = columns.reshape(-1, columns.shape[-1])
    width = columns.shape[1]
    discrete = [f.discrete for f in targets for _ in range(f.size)][:width]
    target = Target.fitted(columns, rules[:width], discrete, axes)
    _check_support(target, columns, expression)
    if target.features == 0:
        raise DatasetError(
            f"every column of {', '.join(expression.target)} is constant: nothing to learn"
        )
    return target


def _check_support(target: Target, columns: Tensor, expression: Expression) -> None:
    """Refuses values (n, d, *grid) that the model gives no density, but for rounding."""
    low, high = target.bounds()
    width = torch.where((high - low).isfinite(), high - low, 1.0)
    largest = torch.maximum(*(bound.nan_to_num(posinf=0, neginf=0).abs() for bound in (low, high)))
    slack = _ROUNDING * width + torch.finfo(torch.float32).eps * largest
    outside = (columns < low - slack) | (columns > high + slack)
    if not bool(outside.any()):
        return
    place = outside.nonzero()[0].tolist()
    least, most = (float(bound[place[1]].squeeze()) for bound in (low, high))
    raise DatasetError(
        f"{int(outside.flatten(1).any(1).sum())} of {len(columns)} rows of "
        f"{', '.join(expression.target)} are outside of the bounds that the prior, or the field's "
        f"support, gives: column {place[1]} is {float(columns[tuple(place)]):.6g}, and its bounds "
        f"are {least:.6g} and {most:.6g}"
    )


def members(family: Any) -> tuple[Any, int]:
    """The family of one head, and how many heads there are."""
    if isinstance(family, Ensemble):
        return family.family, family.k
    return family, 1


def _head(
    expression: Expression,
    fields: Mapping[str, Field],
    embedding: nn.Module | Mapping[str, nn.Module | None] | None,
    targets: int,
) -> Head:
    said = embedding if isinstance(embedding, Mapping) else {}
    maps = () if isinstance(embedding, nn.Module) else grids(expression, fields, said)
    modules = embeddings(expression, fields, embedding, targets)
    return Head(expression, {k: v for k, v in modules.items() if k not in maps}, maps)


def _summary(z: Tensor) -> Tensor:
    """Target rows (n, few) that an embedding's closed-form start looks at: of many columns,
    random projections.
    """
    flat = z.flatten(1)
    if flat.shape[1] <= _SUMMARY:
        return flat
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(flat.shape[1], _SUMMARY, generator=generator) / flat.shape[1] ** 0.5
    return flat @ matrix.to(flat.device)


def _target_rules(
    expression: Expression, fields: Mapping[str, Field], dataset: Dataset
) -> list[dict[str, Any] | None]:
    """The bijection of each target column, where a prior or a declared support gives one."""
    prior = dataset.prior_rules
    theta = dataset.fields.get("theta")
    parameters = theta.names or () if theta is not None and prior else ()
    rules: list[dict[str, Any] | None] = []
    for name in expression.target:
        if name == "theta" and prior:
            rules += prior
        elif name in parameters:
            assert prior is not None
            rules.append(prior[parameters.index(name)])
        else:
            rules += field_rules(fields[name])
    return [soft_rule(rule, len(rules)) for rule in rules]
