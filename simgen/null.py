r"""Null: what scores of simulations say of how unusual another observation is.

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

__all__ = ["Measures", "Typicality", "measures", "rounded"]

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .charts import Chart, Tails
from .row_summaries import RowSummary, atoms

if TYPE_CHECKING:
    from .fitting.pipeline import Pipeline
    from .fitting.source import Batch

Measures = dict[str, Tensor]
"""What scores look at, by name, (n, p) each."""


@dataclass(frozen=True)
class Typicality:
    """The null of the given side of a model.

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

    @classmethod
    def fitted(
        cls, summaries: Mapping[str, RowSummary], training: Measures, held_out: Measures
    ) -> Typicality:
        """Scores by measures of training rows, their conformal null by those of held-out rows."""
        half = len(next(iter(training.values()))) // 2
        first, second = (
            {k: v[cut] for k, v in training.items()} for cut in (slice(half), slice(half, None))
        )
        charts, slopes = {}, {}
        if "context" in first:
            charts["context"] = rounded(Chart.fitted(first["context"]))
            for name in [k for k in first if k != "context" and not k.startswith("zeros")]:
                w = charts["context"].leading(first["context"])
                q = _polynomials(w, first[name].shape[1])
                if len(q) > 8 * q.shape[1]:
                    ridge = 1e-6 * len(q) * torch.eye(q.shape[1], dtype=q.dtype)
                    found = torch.linalg.solve(q.T @ q + ridge, q.T @ first[name])
                    slopes[name] = found.float().double()
        for name, h in _explained(charts, slopes, first).items():
            if name != "context" and not name.startswith("zeros"):
                # means are nearly Gaussian: there a distance says it all
                known = {"neighbours": 0} if " of " in name else {}
                charts[name] = rounded(Chart.fitted(h, **known))
        scores = _scores(charts, _explained(charts, slopes, second))
        tails = rounded(Tails.fitted(torch.stack(list(scores.values()), 1)))
        bare = cls(summaries, charts, slopes, tails, torch.zeros(0))
        combined = torch.stack(list(bare.surprise(held_out).values())).amax(0)
        return replace(bare, null=combined.sort().values)

    def surprise(self, measures: Measures) -> dict[str, Tensor]:
        """-log of the approximate p-value of each score, (n,), of rows' measures."""
        named = _scores(self.charts, _explained(self.charts, self.slopes, measures))
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


def measures(
    summaries: Mapping[str, RowSummary],
    pipeline: Pipeline,
    rows: Batch,
    masks: Batch,
    context: Tensor | None,
) -> Measures:
    """What scores look at: summaries and atoms of each given field, and the learned summary; what
    is not observed is as the network sees it, zero.
    """
    out: Measures = {}
    with torch.no_grad():
        standardised = pipeline.standardise(rows, masks)
        z = {k: _filled(v) for k, v in pipeline.values(standardised).items()}
        for name, summary in summaries.items():
            mask = masks[name].cpu() if name in masks else None
            groups = summary(z[name].cpu(), mask)
            out |= {f"{k} of {name}" if k else name: v for k, v in groups.items()}
            out[f"zeros and equal numbers of {name}"] = atoms(rows[name].cpu(), mask)
        if context is not None:
            if any(bool(v.isnan().any()) for v in standardised.values()):
                context = _filled(context)  # of a joint model: values themselves
            out["context"] = context.cpu().double()
    return out


def _filled(z: Tensor) -> Tensor:
    """Zero for NaN, which a joint model's preprocessing leaves."""
    return torch.where(z.isnan(), 0.0, z)


def _explained(
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


def rounded(part: Any) -> Any:
    """A part as a file gives it back: in single precision."""
    said = {f.name: getattr(part, f.name) for f in fields(part)}
    return type(part)(
        **{k: v.float().double() if isinstance(v, Tensor) else v for k, v in said.items()}
    )
