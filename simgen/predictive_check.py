r"""Predictive check: does the posterior predict what was observed, and is it at an edge?

.. math::
    p_j = 2 \min\bigl(P_j, \; 1 - P_j\bigr), \qquad
    P_j = P\bigl(h_j(x^\mathrm{rep}) \le h_j(x)\bigr), \qquad
    x^\mathrm{rep} \sim p(\,\cdot \mid \vartheta), \; \vartheta \sim q(\vartheta \mid x)

of each summary h_j, and the share of the posterior within 1 % of a bound of the prior. The data
are used twice, to infer and to compare: such p-values keep their promise, but crowd about 1/2.

References:
    | Bayesianly Justifiable and Relevant Frequency Calculations (Rubin, 1984), section 5
    | https://doi.org/10.1214/aos/1176346785
    | Posterior Predictive Assessment of Model Fitness (Gelman, Meng & Stern, 1996)
    | https://www3.stat.sinica.edu.tw/statistica/j6n4/j6n41/j6n41.htm
"""

from __future__ import annotations

__all__ = ["Predictive", "posterior_predictive"]

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy import ndarray as Array

if TYPE_CHECKING:
    from .conditional import Conditional
    from .field import Field
    from .prior import Prior

EDGE = 0.01


@dataclass(frozen=True)
class Predictive:
    """What the posterior says of the observation.

    Attributes:
        p_values: Two-sided, by summary.
        edge: Of each bounded parameter, the share of draws close to its lower and upper bound; a
            flat posterior has 0.01 at each.
        draws: How many simulations these are.
    """

    p_values: dict[str, float]
    edge: dict[str, tuple[float, float]]
    draws: int

    @property
    def smallest(self) -> float:
        """The smallest p-value, corrected for their number (Bonferroni)."""
        return min(1.0, len(self.p_values) * min(self.p_values.values(), default=1.0))


def posterior_predictive(
    conditional: Conditional,
    x: Any,
    simulator: Any,
    statistics: Callable[[Array], Array | Mapping[str, Array]] | None = None,
    n: int = 200,
    seed: int = 0,
) -> Predictive:
    """Simulates from draws of the posterior, and compares summaries with the observation's.

    Arguments:
        conditional: The posterior of all parameters of the simulator given one field.
        x: The observation, of the field's shape.
        simulator: Makes the field.
        statistics: Maps rows of the field (n, ...) to summaries (n, k), or to (n,) by name. Unless
            said: columns of a vector; of each feature or channel of anything else, mean, deviation
            and extremes.
        n: How many draws and simulations.
        seed: Of both.

    Raises:
        ValueError: If the posterior lacks a parameter, the simulator makes no such field, or no
            simulation is finite.
    """
    if len(conditional.given) != 1:
        raise ValueError(f"one given field is compared; {conditional.expression!r} has others")
    (name,) = conditional.given
    columns = list(conditional.names)
    if missing := [k for k in simulator.names if k not in columns]:
        raise ValueError(f"{conditional.expression!r} lacks the simulator's {missing[0]!r}")
    observed = np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x, float)
    draws = conditional(x).sample((n,), seed=seed).reshape(n, -1).cpu().numpy()
    made = simulator(draws[:, [columns.index(k) for k in simulator.names]], seed=seed)
    if name not in made:
        raise ValueError(f"the simulator makes {', '.join(made)}, but no {name!r}")
    if f"{name}_length" in made:
        raise ValueError(f"{name!r} has a variable length: compare summaries of fixed size")
    rows = np.asarray(made[name], float)
    rows = rows[np.isfinite(rows).reshape(n, -1).all(1)]
    if not len(rows):
        raise ValueError("no simulation from the posterior is finite")
    field = conditional.fields[name]
    summaries = _named(statistics(rows)) if statistics else moments(rows, field)
    seen = observed.reshape(1, *rows.shape[1:])
    mine = _named(statistics(seen)) if statistics else moments(seen, field)
    p = {k: _two_sided(v, float(mine[k][0])) for k, v in summaries.items()}
    return Predictive(p, edge_mass(draws, columns, conditional.prior), len(rows))


def edge_mass(
    draws: Array, names: list[str], prior: Prior | None
) -> dict[str, tuple[float, float]]:
    """The share of draws (n, d) within 1 % of the lower and of the upper bound of each bounded
    parameter, in units of the prior's width; of its central 98 % where it is bounded on one side.
    """
    if prior is None:
        return {}
    low, high = (np.asarray(v, float) for v in (prior.low, prior.high))
    typical = np.quantile(np.asarray(prior.sample((10_000,), seed=0)), [0.01, 0.99], axis=0)
    out = {}
    for i, name in enumerate(prior.names):
        if name not in names or not (math.isfinite(low[i]) or math.isfinite(high[i])):
            continue
        ends = [
            b if math.isfinite(b) else float(t) for b, t in zip((low[i], high[i]), typical[:, i])
        ]
        margin = EDGE * (ends[1] - ends[0])
        column = draws[:, names.index(name)]
        shares = [column < low[i] + margin, column > high[i] - margin]
        out[name] = (float(shares[0].mean()), float(shares[1].mean()))
    return out


def moments(x: Array, field: Field) -> dict[str, Array]:
    """Summaries (n,) by name of rows x (n, ...): columns of a vector; of each feature or channel
    of anything else mean, deviation and extremes.
    """
    names = list(field.names or ())
    if field.layout == "vector":
        flat = x.reshape(len(x), -1)
        names = names or [f"x_{i}" for i in range(flat.shape[1])]
        return {k: flat[:, i] for i, k in enumerate(names)}
    columns = x.reshape(*x.shape[:2], -1) if field.layout == "image" else np.swapaxes(x, 1, 2)
    names = names or [f"{field.layout} {i}" for i in range(columns.shape[1])]
    kinds: dict[str, Callable[..., Array]] = {
        "mean": np.mean,
        "sd": np.std,
        "lowest": np.min,
        "highest": np.max,
    }
    return {
        f"{kind} of {k}": function(columns[:, i], axis=1)
        for i, k in enumerate(names)
        for kind, function in kinds.items()
    }


def _named(found: Any) -> dict[str, Array]:
    if isinstance(found, Mapping):
        return {k: np.asarray(v, float).reshape(-1) for k, v in found.items()}
    values = np.asarray(found, float)
    return {f"summary {i}": v for i, v in enumerate(values.reshape(len(values), -1).T)}


def _two_sided(rows: Array, value: float) -> float:
    """Twice the smaller share of rows on one side, at least 2 / (n + 1): the observation is one
    of them.
    """
    above, below = (rows >= value).sum(), (rows <= value).sum()
    return float(min(1.0, 2 * (1 + min(above, below)) / (len(rows) + 1)))
