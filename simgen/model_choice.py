r"""p(M | x), amortised: a classifier over datasets of different simulators.

.. math::
    p(M_k \mid x) \propto \frac{p_\phi(k \mid x)}{\rho_k}\, \pi_k, \qquad
    \log B_{ab}(x) = \log \frac{p_\phi(a \mid x)}{\rho_a} - \log \frac{p_\phi(b \mid x)}{\rho_b}

p_phi is what the network learned under the shares rho of the datasets' rows; prior odds pi are
said when it is called. Each dataset's parameters are drawn from its prior, so that the factors are
ratios of evidences, and nothing is integrated. Target is a field "model", one column a model, so
that training, embeddings, saving and the check of observations are those of any conditional.

References:
    | Amortized Bayesian model comparison with evidential deep learning (Radev et al., 2021)
    | https://arxiv.org/abs/2004.10629
    | Evidence Networks: simple losses for fast, amortized, neural Bayesian model comparison
    | (Jeffrey & Wandelt, 2024), https://arxiv.org/abs/2305.11241
"""

from __future__ import annotations

__all__ = ["Models", "fit_models", "load_models"]

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array

from .calibration.reliability import Reliability, reliability
from .conditional import Conditional, load
from .dataset import Dataset
from .field import Field
from .model_comparison import Comparison, shares
from .models.categorical import Categorical
from .training import fit

TARGET = "model"


class Models:
    """Which of several simulators x came from; made by `fit_models` or `load_models`.

    Attributes:
        conditional: The trained "model | x" under the shares of training.
        names: Of the models.
        shares: Their shares of the training rows.
    """

    def __init__(self, conditional: Conditional) -> None:
        if conditional.target != (TARGET,):
            raise ValueError(
                f"{conditional.expression!r} is no classifier of models: fit_models makes one"
            )
        self.conditional = conditional
        self.names = conditional.names
        loc = conditional.pipeline.target.loc  # the mean of a column of ones and zeros
        self.shares = tuple((loc / loc.sum()).tolist())

    def __call__(
        self, *values: Any, prior: Mapping[str, float] | None = None, **given: Any
    ) -> Comparison:
        """Probabilities of the models.

        Arguments:
            *values: The given field's value, (*batch, *event).
            prior: Odds before x, by name; the same for all unless said.
            **given: Given fields by name.
        """
        q = self.conditional(*values, **given)
        count = len(self.names)
        classes = torch.eye(count, dtype=torch.float64)
        with torch.no_grad():
            log_p = q.log_prob(classes.view(count, *[1] * len(q.batch_shape), count))
        log_evidence = (
            log_p.double().movedim(0, -1) - torch.tensor(self.shares, dtype=torch.float64).log()
        )
        exact = torch.zeros(count, dtype=torch.float64)
        return Comparison(self.names, log_evidence, exact, shares(self.names, prior))

    def calibrate(
        self,
        datasets: Mapping[str, Any],
        prior: Mapping[str, float] | None = None,
        *,
        n: int = 5_000,
        bins: int = 10,
        alpha: float = 0.01,
        seed: int = 0,
    ) -> Reliability:
        """Whether the probabilities are those with which models are true, on new simulations.

        Arguments:
            datasets: Of each model, by name, rows that it was not trained on: a Dataset, or
                arrays by field.
            prior: Odds before x, by which the models' rows are drawn.
            n: The most rows to judge.
            bins: Of the diagram, of each model.
            alpha: The chance that right probabilities fail.
            seed: Of the choice of rows.

        Raises:
            ValueError: If the models are others, or there are too few rows.
        """
        if set(datasets) != set(self.names):
            raise ValueError(
                f"give rows of each of {', '.join(self.names)}; got {', '.join(datasets)}"
            )
        odds, rng = np.array(shares(self.names, prior)), np.random.default_rng(seed)
        rows = [_good(datasets[k], self._inputs(datasets[k])) for k in self.names]
        lengths = np.array([len(r[self.conditional.given[0]]) for r in rows])
        total = int(min(n, (lengths / odds).min()))
        truth = rng.choice(len(rows), total, p=odds)
        truth = np.concatenate([truth[truth == k][: lengths[k]] for k in range(len(rows))])
        parts = []
        for k, found in enumerate(rows):
            chosen = np.sort(rng.permutation(lengths[k])[: int((truth == k).sum())])
            parts.append({name: np.asarray(column[chosen]) for name, column in found.items()})
        given = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        probabilities = self(**given, prior=prior).probabilities.numpy()
        return reliability(probabilities, truth, self.names, bins=bins, alpha=alpha, seed=seed)

    def _inputs(self, source: Any) -> list[str]:
        fields = source if isinstance(source, Mapping) else source.fields
        lengths = [f"{k}_length" for k in self.conditional.given]
        return [*self.conditional.given, *(k for k in lengths if k in fields)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one safetensors file, that `load_models` reads."""
        self.conditional.save(path)

    def __repr__(self) -> str:
        return f"Models({', '.join(self.names)}; given {', '.join(self.conditional.given)})"


def fit_models(
    datasets: Mapping[str, Dataset],
    given: str | Sequence[str] = "x",
    model: Any = None,
    *,
    path: str | os.PathLike[str] | None = None,
    seed: int = 0,
    **options: Any,
) -> Models:
    """Learns which simulator an observation came from.

    Arguments:
        datasets: Simulations of each model by name, of the same observable.
        given: The field that tells them apart, or several; of the same shape in each.
        model: `Categorical()` unless said, or an `Ensemble` of them.
        path: Where to keep the rows of all, mixed; in a temporary folder unless said.
        seed: Of the mixture and of training.
        **options: As of `fit`: embedding, max_epochs, budget, ...

    Raises:
        ValueError: If there are fewer than two models, their fields do not agree, or rows have
            weights.
    """
    names = tuple(datasets)
    if len(names) < 2:
        raise ValueError(f"name two models or more; got {', '.join(names) or 'none'}")
    fields = _common(datasets, (given,) if isinstance(given, str) else tuple(given))
    expression = f"{TARGET} | {', '.join(k for k in fields if not k.endswith('_length'))}"
    with tempfile.TemporaryDirectory() as scratch:
        where = Path(scratch) / "models" if path is None else Path(path)
        mixed = _mixed(datasets, fields, where, seed)
        family = Categorical() if model is None else model
        found = fit(expression, mixed, family, seed=seed, **options)
        mixed.close()
    found.provenance["models"] = {
        k: {"identity": d.identity, "rows": len(d), "simulator": d.provenance.get("simulator")}
        for k, d in datasets.items()
    }
    return Models(found)


def load_models(path: str | os.PathLike[str], modules: Mapping[str, Any] | None = None) -> Models:
    """Reads what `Models.save` wrote.

    Arguments:
        path: The file.
        modules: A user's own networks, as of `load`.

    Raises:
        ValueError: If it is another model.
    """
    return Models(load(path, modules, families=[Categorical]))


def _common(datasets: Mapping[str, Dataset], given: tuple[str, ...]) -> dict[str, Field]:
    """The given fields, and their lengths, which must agree."""
    first = next(iter(datasets))
    out: dict[str, Field] = {}
    for name in given:
        length = f"{name}_length"
        some = any(length in d.fields for d in datasets.values())
        for key in (name, *((length,) if some else ())):
            for model, dataset in datasets.items():
                if key not in dataset.fields:
                    raise ValueError(
                        f"the dataset of {model!r} has no field {key!r}; it has "
                        f"{', '.join(dataset.fields)}"
                    )
                field = dataset.fields[key]
                known = out.setdefault(key, field)
                if (field.shape, field.layout) != (known.shape, known.layout):
                    raise ValueError(
                        f"field {key!r} is a {known.layout} {known.shape} in {first!r} and a "
                        f"{field.layout} {field.shape} in {model!r}: models are told apart by the "
                        "same observable"
                    )
    for model, dataset in datasets.items():
        if "weight" in dataset.fields:
            raise ValueError(f"the rows of {model!r} have weights, which models do not take")
    return out


def _mixed(
    datasets: Mapping[str, Dataset], fields: Mapping[str, Field], path: Path, seed: int
) -> Dataset:
    """The good rows of all datasets in random order, and which model each is of."""
    rows = [_good(d, list(fields)) for d in datasets.values()]
    lengths = [len(r[next(iter(fields))]) for r in rows]
    if empty := [k for k, n in zip(datasets, lengths) if not n]:
        raise ValueError(f"the dataset of {empty[0]!r} has no good rows")
    order = np.random.default_rng(seed).permutation(sum(lengths))
    which = np.repeat(np.arange(len(rows)), lengths)[order]
    place = np.concatenate([np.arange(n) for n in lengths])[order]
    columns: dict[str, Any] = {k: _Mixed([r[k] for r in rows], which, place) for k in fields}
    columns[TARGET] = np.eye(len(rows), dtype=np.float32)[which]
    declared = {**fields, TARGET: Field((len(rows),), names=tuple(datasets))}
    return Dataset.create(path, declared=declared, **columns)


class _Mixed:
    """Rows of several columns in another order, read when sliced.

    Arguments:
        columns: The columns.
        which: Of each row, the column that it is of (n,).
        place: And its place there (n,).
    """

    def __init__(self, columns: Sequence[Any], which: Array, place: Array) -> None:
        self.columns, self.which, self.place = columns, which, place
        self.dtype = np.result_type(*(c.dtype for c in columns))
        self.shape = (len(which), *columns[0].shape[1:])

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, rows: slice) -> Array:
        which, place = self.which[rows], self.place[rows]
        out = np.empty((len(which), *self.shape[1:]), self.dtype)
        for k, column in enumerate(self.columns):
            mine = which == k
            if mine.any():
                out[mine] = column[place[mine]]
        return out


def _good(source: Any, names: Sequence[str]) -> dict[str, Any]:
    """Columns of the rows that did not fail, or arrays as they are."""
    if isinstance(source, Mapping):
        return {k: np.asarray(source[k]) for k in names}
    return {k: source.good[k] for k in names}
