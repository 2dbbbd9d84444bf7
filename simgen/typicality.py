r"""Typicality: could this observation have come from the simulator that the model was trained on?

.. math::
    p(x) = \frac{1 + \#\{i : T(x_i) \ge T(x)\}}{n + 1}, \qquad
    T(x) = \max_j -\log \hat P\bigl(s_j \ge s_j(x)\bigr)

A conformal p-value: the x_i are held-out simulations that T does not depend on, so that P(p <= a)
<= a for a new simulation, at any n; but that the weights of the epoch that did best on them were
kept. The scores s_j ask of what the networks make of x, of summaries of x itself, and of what in
these the former does not explain: how far from the mean, in units of the covariance, all in all,
in a single column given all others, and in the directions that vary least, where noise is; too
near as well as too far; how far from the nearest simulations; and whether numbers are exactly
zero or equal. Each score's null is that of other simulations: ranks, and an exponential tail.

References:
    | Testing for Outliers with Conformal p-values (Bates, Candès, Lei, Romano & Sesia, 2023),
      eq. 2
    | https://arxiv.org/abs/2104.08279
    | Investigating the Impact of Model Misspecification in Neural Simulation-based Inference
      (Cannon, Ward & Schmon, 2022), section 5
    | https://arxiv.org/abs/2209.01845
"""

from __future__ import annotations

__all__ = [
    "SUSPECT",
    "PValue",
    "Typicality",
    "admit",
    "check_observation",
    "doubt",
    "fit_null",
    "p_values",
    "record",
]

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import torch
from torch import Tensor

from .fitting.source import HELD_OUT
from .row_summaries import RowSummary, atoms

if TYPE_CHECKING:
    from .conditional import Conditional
    from .fitting.pipeline import Pipeline
    from .fitting.source import Batch, Source

SUSPECT = 0.01
"""The p-value up to which an observation is called unlike the simulations."""
_ROWS, _NULL = 8_192, 4_096  # simulations that scores are fitted to, and of the null
_NUMBERS = 1 << 26  # numbers to read for either, at most
_BASIS = 100_000  # numbers of a basis, at most
_NEIGHBOURS, _NEAREST, _LEADING = 1_024, 5, 16
_FLOOR = 1e-9  # of the largest variance: below it a combination of columns is constant
_KNOTS, _TAIL = 33, 0.9
_EXPLAINING = 6  # leading directions of the learned summary that explain
_FEWEST = 16  # simulations to say anything of

Measures = dict[str, Tensor]
"""What scores look at, by name, (n, p) each."""


class PValue(float):
    """A p-value.

    Attributes:
        parts: Of each score alone, approximately: the smallest says what is odd.
        rows: How many simulations the null holds; no p-value is below 1 / (rows + 1).
    """

    parts: dict[str, float]
    rows: int

    def __new__(cls, value: float, parts: Mapping[str, float], rows: int) -> PValue:
        """A float that knows where it comes from."""
        self = super().__new__(cls, value)
        self.parts, self.rows = dict(parts), rows
        return self

    @property
    def suspect(self) -> bool:
        """Whether it calls for a refusal."""
        return self <= SUSPECT

    @property
    def because(self) -> str:
        """The score that is farthest out."""
        return min(self.parts, key=lambda k: self.parts[k])

    @property
    def warning(self) -> str:
        """What to say of an observation that is suspect."""
        return (
            f"an observation unlike the simulations: p = {float(self):.2g} by {self.rows} that "
            f"were held out; farthest out is its {self.because}"
        )


@dataclass(frozen=True)
class Chart:
    """Where training rows of summaries lie, (rows, p): centre, covariance, and some of them.

    Arguments:
        loc: Means (p,).
        scale: Deviations (p,).
        basis: Principal directions (p, k).
        variance: Along them (k,).
        rest: Variance of a direction outside of them, ().
        known: Some rows, whitened, along the leading directions (m, l).
    """

    loc: Tensor
    scale: Tensor
    basis: Tensor
    variance: Tensor
    rest: Tensor
    known: Tensor

    @classmethod
    def fitted(cls, h: Tensor, neighbours: int = _NEIGHBOURS) -> Chart:
        """The chart of rows h (n, p), some of which it keeps."""
        p = h.shape[1]
        loc, sd = h.mean(0), h.std(0)
        scale = torch.maximum(sd, 1e-4 * (1 + loc.abs()))  # a constant that moves is far out
        z = (h - loc) / scale
        some = z if p <= 512 else z[:1024]
        _, root, rows = torch.linalg.svd(some, full_matrices=False)
        variance = root.square() / len(some)
        k = max(1, min(p, len(some) // 8, _BASIS // p))
        k = min(k, int((variance > _FLOOR * variance[0]).sum()) or 1)
        left = float(z.square().mean(0).sum() - variance[:k].sum()) / max(p - k, 1)
        rest = torch.tensor(max(left, _FLOOR * float(variance[0]), 1e-12), dtype=h.dtype)
        basis = rows[:k].T.contiguous()
        known = (z @ basis / variance[:k].clamp(min=1e-300).sqrt())[:neighbours, :_LEADING]
        return cls(loc, scale, basis, variance[:k].clamp(min=1e-300), rest, known.contiguous())

    def scores(self, h: Tensor) -> dict[str, Tensor]:
        """Scores of rows h (n, p), each (n,), in logarithms."""
        z = (h - self.loc) / self.scale
        along = z @ self.basis
        w = along / self.variance.sqrt()
        outside = z - along @ self.basis.T
        beyond = outside.square().sum(1) / self.rest if self.dimension < z.shape[1] else 0.0
        squares = w.square()
        total = squares.sum(1) + beyond
        out = {"distance": _log(total), "closeness": -_log(total)}
        if self.dimension >= 4:
            small = squares[:, self.dimension // 2 :].sum(1) + beyond
            out["small directions"] = _log(small)
        if z.shape[1] > 1:
            out["single column"] = _log(self._given_others(along, outside).square().amax(1))
        if len(self.known):
            gap = torch.cdist(w[:, :_LEADING], self.known)
            nearest = gap.topk(min(_NEAREST, len(self.known)), largest=False).values.mean(1)
            out["nearest simulations"] = _log(nearest)
        return out

    @property
    def dimension(self) -> int:
        """How many principal directions there are."""
        return len(self.variance)

    def leading(self, h: Tensor) -> Tensor:
        """Rows h (n, p) along the leading directions, whitened, without outliers."""
        along = (h - self.loc) / self.scale @ self.basis[:, :_EXPLAINING]
        return (along / self.variance[:_EXPLAINING].sqrt()).clamp(-4, 4)

    def _given_others(self, along: Tensor, outside: Tensor) -> Tensor:
        """Each column less its mean given all others, in deviations: (P z)_j / sqrt(P_jj) with
        the precision P.
        """
        weighted = (along / self.variance) @ self.basis.T
        diagonal = (self.basis.square() / self.variance).sum(1)
        if self.dimension < len(self.loc):
            weighted = weighted + outside / self.rest
            diagonal = diagonal + (1 - self.basis.square().sum(1)).clamp(min=0) / self.rest
        return weighted / diagonal.clamp(min=1e-300).sqrt()


@dataclass(frozen=True)
class Tails:
    """The null of each score: quantiles up to a level (m, knots), mean excess beyond (m,)."""

    knots: Tensor
    excess: Tensor

    @classmethod
    def fitted(cls, s: Tensor) -> Tails:
        """Of scores s (n, m) of simulations."""
        levels = torch.linspace(0, _TAIL, _KNOTS, dtype=s.dtype)
        knots = torch.quantile(s, levels, 0).T.contiguous()
        beyond = (s - knots[:, -1]).clamp(min=0)
        excess = beyond.sum(0) / (beyond > 0).sum(0).clamp(min=1)
        return cls(knots, excess.clamp(min=1e-9))

    def __call__(self, s: Tensor) -> Tensor:
        """-log P(score >= s) of scores (n, m)."""
        columns = s.T.contiguous()
        after = torch.searchsorted(self.knots, columns).clamp(max=_KNOTS - 1)
        low = self.knots.gather(1, (after - 1).clamp(min=0))
        high = self.knots.gather(1, after)
        share = ((columns - low) / (high - low).clamp(min=1e-300)).clamp(0, 1)
        level = torch.where(after == 0, 0.0, (after - 1 + share) * _TAIL / (_KNOTS - 1))
        last = self.knots[:, -1:]
        tail = -math.log(1 - _TAIL) + (columns - last) / self.excess[:, None]
        return torch.where(columns > last, tail, -torch.log1p(-level)).T


@dataclass(frozen=True)
class Typicality:
    """The null of the given side of a model; `fit` makes it.

    Arguments:
        summaries: Of each given field.
        charts: Of the summaries by field, and of the context that the networks make, "context".
        slopes: Of the regression of summaries on polynomials of the context, (q, p).
        tails: Of the scores.
        null: Combined scores of held-out simulations, sorted (n,).
    """

    summaries: Mapping[str, RowSummary]
    charts: Mapping[str, Chart]
    slopes: Mapping[str, Tensor]
    tails: Tails
    null: Tensor

    def surprise(self, measures: Measures) -> dict[str, Tensor]:
        """-log of the approximate p-value of each score, (n,), of rows' measures."""
        named = _scores(self.charts, explained(self.charts, self.slopes, measures))
        values = self.tails(torch.stack(list(named.values()), 1))
        return dict(zip(named, values.nan_to_num(math.inf).T))

    def p(self, surprise: Mapping[str, Tensor]) -> Tensor:
        """The conformal p-values (n,) of combined scores."""
        combined = torch.stack(list(surprise.values())).amax(0).to(self.null)
        above = len(self.null) - torch.searchsorted(self.null, combined)
        return (1 + above.double()) / (len(self.null) + 1)

    def save(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """As JSON values, and tensors by name."""
        parts: dict[str, Any] = {"tails": self.tails}
        parts |= {f"chart:{k}": v for k, v in self.charts.items()}
        parts |= {f"summary:{k}": v for k, v in self.summaries.items()}
        tensors = {
            f"typicality:{name}:{f.name}": getattr(part, f.name).float()
            for name, part in parts.items()
            for f in fields(part)
            if f.name != "layout"
        }
        tensors |= {f"typicality:slopes:{k}": v.float() for k, v in self.slopes.items()}
        tensors["typicality:null"] = self.null
        layouts = {k: v.layout for k, v in self.summaries.items()}
        header = {"layouts": layouts, "charts": list(self.charts), "slopes": list(self.slopes)}
        return header, tensors

    @classmethod
    def load(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Typicality:
        """The inverse of `save`."""

        def part(kind: Any, name: str, **said: Any) -> Any:
            wanted = [f.name for f in fields(kind) if f.name != "layout"]
            return kind(**said, **{k: tensors[f"typicality:{name}:{k}"].double() for k in wanted})

        return cls(
            {k: part(RowSummary, f"summary:{k}", layout=v) for k, v in header["layouts"].items()},
            {k: part(Chart, f"chart:{k}") for k in header["charts"]},
            {k: tensors[f"typicality:slopes:{k}"].double() for k in header["slopes"]},
            part(Tails, "tails"),
            tensors["typicality:null"],
        )


def fit_null(source: Source, pipeline: Pipeline) -> Typicality | None:
    """The null of a fit: scores from training rows, their conformal null from validation rows.

    None where nothing is given, where rows are too few or incomplete, or have negative weights:
    they follow no law to draw from.

    Arguments:
        source: The dataset's side.
        pipeline: The trained side.
    """
    if not pipeline.expression.given:
        return None
    summaries: dict[str, RowSummary] = {}
    training = _read(source, pipeline, False, 2 * _ROWS, summaries)
    held_out = _read(source, pipeline, True, _NULL, summaries)
    if training is None or held_out is None:
        return None
    half = len(next(iter(training.values()))) // 2
    first, second = (
        {k: v[cut] for k, v in training.items()} for cut in (slice(half), slice(half, None))
    )
    charts, slopes = {}, {}
    if "context" in first:
        charts["context"] = _rounded(Chart.fitted(first["context"]))
        for name in [k for k in first if k != "context" and not k.startswith("zeros")]:
            q = _polynomials(charts["context"].leading(first["context"]), first[name].shape[1])
            if len(q) > 8 * q.shape[1]:
                ridge = 1e-6 * len(q) * torch.eye(q.shape[1], dtype=q.dtype)
                found = torch.linalg.solve(q.T @ q + ridge, q.T @ first[name])
                slopes[name] = found.float().double()
    for name, h in explained(charts, slopes, first).items():
        if name != "context" and not name.startswith("zeros"):
            # means are nearly Gaussian: there a distance says it all
            charts[name] = _rounded(Chart.fitted(h, 0 if " of " in name else _NEIGHBOURS))
    scores = _scores(charts, explained(charts, slopes, second))
    tails = _rounded(Tails.fitted(torch.stack(list(scores.values()), 1)))
    typicality = Typicality(summaries, charts, slopes, tails, torch.zeros(0))
    combined = torch.stack(list(typicality.surprise(held_out).values())).amax(0)
    return replace(typicality, null=combined.sort().values)


def p_values(conditional: Conditional, *values: Any, **named: Any) -> Tensor:
    """The p-value of each of a batch of observations, (*batch,).

    Arguments:
        conditional: A model that `fit` made.
        *values: The given field's value, as for a call of the model.
        **named: The given fields by name.

    Raises:
        ValueError: If the model has no null, or a value does not fit.
    """
    typicality, surprise, batch = _surprise(conditional, values, named)
    return typicality.p(surprise).reshape(batch)


def check_observation(conditional: Conditional, *values: Any, **named: Any) -> PValue:
    """The p-value that an observation is one more simulation, from the null that `fit` stored.

    A simulation has a p-value below a in a share a of all cases, exactly; that of an observation
    from another world is small where scores see the difference. It sees none where the
    difference looks like another theta.

    Arguments:
        conditional: A model that `fit` made.
        *values: The given field's value, as for a call of the model.
        **named: The given fields by name.

    Returns:
        A float, with the parts it is made of.

    Raises:
        ValueError: If the model has no null, a value does not fit, or there are several
            observations: `p_values` takes a batch.
    """
    typicality, surprise, batch = _surprise(conditional, values, named)
    if batch.numel() != 1:
        raise ValueError(f"one observation at a time; got a batch of shape {tuple(batch)}")
    return _p_value(typicality, surprise)


def doubt(
    conditional: Conditional, rows: Batch, masks: Batch, context: Tensor | None
) -> PValue | None:
    """The p-value of one row of given fields; None where a model has no null, where parameters
    are given, whose support is the prior's, or where something is missing.
    """
    prior, typicality = conditional.prior, conditional.typicality
    parameters = {"theta", *(() if prior is None else prior.names)}
    if typicality is None or parameters & set(rows) or any(v.isnan().any() for v in rows.values()):
        return None
    measures = _measures(typicality.summaries, conditional.pipeline, rows, masks, context)
    return _p_value(typicality, typicality.surprise(measures))


def admit(conditional: Conditional, given: Mapping[str, Any], force: bool) -> PValue | None:
    """The p-value of an observation, None where a model knows no null or something is missing.

    Raises:
        ValueError: If it is suspect, and `force` does not say to go on.
    """
    rows, masks, batch, _ = conditional._inputs((), given)
    if batch.numel() != 1:
        return None
    with torch.no_grad():
        found = doubt(conditional, rows, masks, conditional._context(rows, masks)[0][0])
    if found is not None and found.suspect and not force:
        raise ValueError(f"{found.warning}; --force draws all the same, and records it")
    return found


def record(path: Path, found: PValue) -> None:
    """Keeps a p-value with the draws that it belongs to: in the attributes of HDF5, else, of a
    suspect one, in a JSON file beside.
    """
    about = {"p_value": float(found), "rows": found.rows, "forced": found.suspect}
    said = {**about, "parts": found.parts}
    if path.suffix.lower() not in (".csv", ".npy", ".npz"):
        with h5py.File(path, "a") as file:
            file.attrs["check_observation"] = json.dumps(said)
    elif found.suspect:
        path.with_name(f"{path.name}.check.json").write_text(json.dumps(said, indent=1) + "\n")


def _p_value(typicality: Typicality, surprise: Mapping[str, Tensor]) -> PValue:
    parts = {k: math.exp(-float(v)) for k, v in surprise.items()}
    return PValue(float(typicality.p(surprise)), parts, len(typicality.null))


def _surprise(
    conditional: Conditional, values: tuple[Any, ...], named: Mapping[str, Any]
) -> tuple[Typicality, dict[str, Tensor], torch.Size]:
    if conditional.typicality is None:
        raise ValueError(
            f"{conditional.expression!r} knows no null: it was fitted before there was one, is "
            "given nothing, or was trained on negative weights or on no complete rows"
        )
    rows, masks, batch, _ = conditional._inputs(values, named)
    if any(v.isnan().any() for v in rows.values()):
        raise ValueError("an observation with missing values cannot be checked")
    typicality, pipeline = conditional.typicality, conditional.pipeline
    parts = []
    for at in torch.arange(len(next(iter(rows.values())))).split(256):
        some, there = ({k: v[at] for k, v in part.items()} for part in (rows, masks))
        with torch.no_grad():
            context = conditional._context(some, there)[0][0]
        measures = _measures(typicality.summaries, pipeline, some, there, context)
        parts.append(typicality.surprise(measures))
    return typicality, {k: torch.cat([p[k] for p in parts]) for k in parts[0]}, batch


def _read(
    source: Source,
    pipeline: Pipeline,
    held_out: bool,
    most: int,
    summaries: dict[str, RowSummary],
) -> Measures | None:
    """Measures of some rows, of weighted ones as many as their weights say; None if there are too
    few of them, or weights are negative. The first batch fits the summaries, where they are not.
    """
    fields = [pipeline.fields[k] for k in pipeline.expression.given]
    size = sum(f.size for f in fields)
    most = min(most, max(_NUMBERS // size, 512))
    step = max(64, min(1024, (1 << 23) // size))
    generator = torch.Generator().manual_seed(source.seed)
    largest = 0.0
    if source.weighted:
        side = source.validation if held_out else source.train
        weights = side["weight"][:]
        if bool((weights < 0).any()):
            return None
        largest = float(weights.max())
    parts: list[Measures] = []
    for i, batch in enumerate(source.raw(held_out, step).epoch(0)):
        batch = source.fresh(batch, HELD_OUT, i)
        if source.weighted:
            weight = batch["weight"].reshape(-1).double()
            keep = torch.rand(len(weight), generator=generator) * largest < weight
            batch = {k: v[keep] for k, v in batch.items()}
        batch = {k: v[:most].to(pipeline.device) for k, v in source.complete(batch).items()}
        rows, masks = {k: batch[k] for k in pipeline.expression.given}, source.masks(batch)
        n = len(next(iter(rows.values())))
        if n == 0:
            continue
        with torch.no_grad():
            z = pipeline.standardise(rows, masks)
            context, _ = pipeline.heads[0].given(z, masks)
            z = pipeline.values(z)
        for name, field in zip(rows, fields):
            if name not in summaries:
                mask = masks[name].cpu() if name in masks else None
                summaries[name] = _rounded(RowSummary.fitted(field.layout, z[name].cpu(), mask))
        parts.append(_measures(summaries, pipeline, rows, masks, context))
        most -= n
        if most <= 0:
            break
    if not parts:
        return None
    whole = {k: torch.cat([part[k] for part in parts]) for k in parts[0]}
    finite = torch.stack([v.isfinite().all(1) for v in whole.values()]).all(0)
    return {k: v[finite] for k, v in whole.items()} if int(finite.sum()) >= _FEWEST else None


def _measures(
    summaries: Mapping[str, RowSummary],
    pipeline: Pipeline,
    rows: Batch,
    masks: Batch,
    context: Tensor | None,
) -> Measures:
    """What scores look at: summaries and atoms of each given field, and the learned summary."""
    out: Measures = {}
    with torch.no_grad():
        z = pipeline.values(pipeline.standardise(rows, masks))
        for name, summary in summaries.items():
            mask = masks[name].cpu() if name in masks else None
            groups = summary(z[name].cpu(), mask)
            out |= {f"{k} of {name}" if k else name: v for k, v in groups.items()}
            out[f"zeros and equal numbers of {name}"] = atoms(rows[name].cpu(), mask)
        if context is not None:
            out["context"] = context.cpu().double()
    return out


def explained(
    charts: Mapping[str, Chart], slopes: Mapping[str, Tensor], measures: Measures
) -> Measures:
    """Measures, and their rests beside what the learned summary explains: of a vector both, of
    groups of summaries the rest alone.
    """
    out = dict(measures)
    for name, slope in slopes.items():
        w = charts["context"].leading(measures["context"])
        rest = measures[name] - _polynomials(w, slope.shape[1]) @ slope
        out[name if " of " in name else f"rest of {name}"] = rest
    return out


def _polynomials(w: Tensor, columns: int) -> Tensor:
    """Monomials of w (n, d) up to degree three, (n, q); to explain many columns, unmixed ones."""
    one = torch.ones_like(w[:, :1])
    if columns > 512:
        return torch.cat([one, w, w**2, w**3], 1)
    i, j = torch.triu_indices(w.shape[1], w.shape[1])
    squares = w[:, i] * w[:, j]
    cubes = [w[:, k : k + 1] * squares[:, i >= k] for k in range(w.shape[1])]
    return torch.cat([one, w, squares, *cubes], 1)


def _scores(charts: Mapping[str, Chart], measures: Measures) -> dict[str, Tensor]:
    """All scores (n,) of rows, by name."""
    out: dict[str, Tensor] = {}
    for name, chart in charts.items():
        found = chart.scores(measures[name])
        if name == "context":
            found = {k: found[k] for k in ("distance", "nearest simulations")}
            out |= {f"{k} of the learned summary": v for k, v in found.items()}
            continue
        out |= {f"{k} of {name}": v for k, v in found.items()}
    for name in [k for k in measures if k.startswith("zeros")]:
        field = name.rpartition(" ")[-1]
        zeros, repeats = measures[name].T
        out |= {f"zeros in {field}": zeros, f"equal numbers in {field}": repeats}
    return out


def _rounded(part: Any) -> Any:
    """A part as a file gives it back: in single precision."""
    said = {f.name: getattr(part, f.name) for f in fields(part)}
    return type(part)(
        **{k: v.float().double() if isinstance(v, Tensor) else v for k, v in said.items()}
    )


def _log(x: Tensor) -> Tensor:
    return x.clamp(min=1e-300).log()
