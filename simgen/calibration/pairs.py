"""Pairs to judge by: (target, given) rows that the model was not trained on."""

from __future__ import annotations

__all__ = ["Pairs", "select"]

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..expression import Expression
from ..rounds.proposals import rows_following

ROWS = 21  # purpose of a random stream: which rows, and which of them by weight


@dataclass(frozen=True)
class Pairs:
    """True targets ``truth`` (n, *event), ``given`` fields (n, ...), and where they come from.

    Attributes:
        names: Names of the target's columns.
        columns: Names of the numbers of a given field, where it has them.
        source: In words, which rows these are.
        notes: What else should be known.
    """

    truth: np.ndarray
    given: dict[str, np.ndarray]
    names: tuple[str, ...]
    source: str
    notes: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.truth)


def select(
    dataset: Any, expression: Expression, provenance: Mapping[str, Any] | None, n: int, seed: int
) -> Pairs:
    """Takes at most n pairs, at random, from the rows of a dataset that a model has not seen.

    Arguments:
        dataset: A Dataset, or a dict of arrays with one row a pair, all of which are taken as
            unseen.
        expression: What is the target, and what is given.
        provenance: Of the model: {"identity", "rows", "split"} of the dataset that it was trained
            on; None if it was trained on none.
        n: The most pairs to take.
        seed: Of the choice.

    Raises:
        ValueError: If a field is missing, or rows do not match.
        DatasetError: If there are no rows that the model was not trained on.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(ROWS,)))
    notes: tuple[str, ...] = ()
    if isinstance(dataset, Mapping):
        dataset = {k: np.asarray(v) for k, v in dataset.items()}
        counts = {k: len(v) for k, v in dataset.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"the fields differ in their number of rows: {counts}")
        rows, source = np.arange(max(counts.values())), "all rows given"
        names, columns = tuple(dataset), {}
    else:
        truncation = (provenance or {}).get("truncation")
        same = (provenance or {}).get("identity") == dataset.identity
        dataset, rows, source, notes = _unseen(
            rows_following(dataset, truncation, same), provenance
        )
        if truncation is not None:
            notes = (*notes, "pairs lie inside the region that the model was trained in")
        names = tuple(dataset.fields)
        field = dataset.fields.get("theta")
        columns = {k: i for i, k in enumerate(field.names or ())} if field is not None else {}
    wanted = _stored(expression, names, columns)
    weighted = "weight" in names
    if weighted:
        rows = rows[_accept(np.asarray(dataset["weight"][rows]), rng)]
        notes = (*notes, "rows were accepted with probability proportional to their weight")
    if len(rows) > n:
        rows = np.sort(rng.choice(rows, n, replace=False))
    values = {k: np.asarray(dataset[k][rows]) for k in wanted}
    fields = {} if isinstance(dataset, dict) else dataset.fields
    return _pairs(expression, values, columns, fields, source, notes)


def _stored(expression: Expression, names: Sequence[str], columns: Mapping[str, int]) -> list[str]:
    """The stored fields that an expression needs, lengths of variable-length ones among them."""
    wanted = []
    for name in expression.names:
        if name not in names and name not in columns:
            there = ", ".join(dict.fromkeys((*names, *columns)))
            raise ValueError(
                f"no field {name!r} in the dataset (expression {str(expression)!r}); "
                f"there are: {there}"
            )
        wanted.append(name if name in names else "theta")
    wanted += [f"{k}_length" for k in expression.given if f"{k}_length" in names]
    return list(dict.fromkeys(wanted))


def _pairs(
    expression: Expression,
    values: Mapping[str, np.ndarray],
    columns: Mapping[str, int],
    fields: Mapping[str, Any],
    source: str,
    notes: tuple[str, ...],
) -> Pairs:
    def column(name: str) -> np.ndarray:
        return values[name] if name in values else values["theta"][:, columns[name]]

    parts, names = [], []
    for name in expression.target:
        part = column(name)
        part = part[:, None] if part.ndim == 1 else part
        size = int(np.prod(part.shape[1:]))
        own = _names(fields.get(name), part)
        names += list(own or ([name] if size == 1 else [f"{name}_{i}" for i in range(size)]))
        parts.append(part)
    if len(parts) > 1:
        parts = [p.reshape(len(p), -1) for p in parts]
    given = {k: column(k) for k in expression.given}
    given |= {
        k: v for k, v in values.items() if k.removesuffix("_length") in given and k not in given
    }
    truth = np.concatenate(parts, 1) if len(parts) > 1 else parts[0]
    good = np.isfinite(truth.reshape(len(truth), -1).astype(float)).all(1)
    for value in given.values():
        good &= np.isfinite(value.reshape(len(value), -1).astype(float)).all(1)
    if not good.all():
        notes = (*notes, f"{int((~good).sum())} rows with NaN or infinite values were left out")
        truth, given = truth[good], {k: v[good] for k, v in given.items()}
    own_names = {k: _names(fields.get(k), v) for k, v in given.items()}
    labels = {k: v for k, v in own_names.items() if v}
    return Pairs(truth, given, tuple(names), source, notes, labels)


def _names(described: Any, values: np.ndarray) -> tuple[str, ...]:
    """Names of the columns of a vector, none where there are none."""
    return tuple(getattr(described, "names", None) or ()) if values.ndim == 2 else ()


def _unseen(
    dataset: Any, provenance: Mapping[str, Any] | None
) -> tuple[Any, np.ndarray, str, tuple[str, ...]]:
    """The dataset (split as in training), unseen rows, and what they are."""
    if not provenance or provenance.get("identity") != dataset.identity:
        return dataset, np.asarray(dataset.good.rows), "all rows of a fresh dataset", ()
    split = provenance.get("split")
    if split is not None and tuple(split) != tuple(dataset.split):
        dataset = _resplit(dataset, tuple(split))
    test, known = np.asarray(dataset.test.rows), int(provenance.get("rows", len(dataset)))
    later = np.asarray(dataset.good.rows)
    later = later[later >= known]
    rows = np.union1d(test, later)
    if len(rows):
        what = [f"{len(test)} test rows"] * bool(len(test)) + [
            f"{len(later)} rows simulated after training"
        ] * bool(len(later))
        return dataset, rows, " and ".join(what) + " of the training dataset", ()
    rows = np.asarray(dataset.validation.rows)
    if not len(rows):
        from ..dataset import DatasetError

        raise DatasetError(
            f"the model was trained on every row of {dataset.path}: simulate fresh ones with "
            "another seed, extend the dataset, or fit with split=(0.8, 0.1, 0.1)"
        )
    note = "validation rows chose when training stopped, so they flatter the model a little"
    return dataset, rows, "validation rows of the training dataset (it has no test rows)", (note,)


def _resplit(dataset: Any, split: tuple[float, ...]) -> Any:
    """The same dataset, its rows on the sides that they had in training."""
    other = copy.copy(dataset)
    for side in ("train", "validation", "test"):
        vars(other).pop(side, None)
    other.split = split
    return other


def _accept(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which rows a rejection by weight (n,) keeps: what is left is distributed as weighted."""
    weight = weight.reshape(len(weight)).astype(float)
    if (weight < 0).any() or not weight.max() > 0:
        raise ValueError(
            "calibrate needs weights that are not negative, and one that is positive: the rank "
            "of a row of negative weight has no meaning"
        )
    return rng.random(len(weight)) * weight.max() < weight
