"""The rows of the table: every check's test, and what it says in words."""

from __future__ import annotations

__all__ = ["SEPARATOR", "Evidence", "Table", "judge"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .contraction import UNINFORMATIVE, contraction
from .correlation import about_correlation, assess_products
from .dependence import rank_dependence
from .joint import assess_joint, directions
from .local import THIRDS, about_local, assess_local, thirds
from .near import Neighbours
from .places import Places
from .regression import Prediction, summaries
from .uniformity import Uniformity, assess, normal_scores

NOTABLE = 0.01  # a test below this is named as the reason of a failure
SEPARATOR = " | "
"""In the names of local ranks: quantity | place | third."""


@dataclass(frozen=True)
class Evidence:
    """What n pairs and S draws each have shown of k quantities.

    Attributes:
        ranks: Of each quantity, shape (n, k).
        tarp: Ranks of distances to the reference points, shape (n,).
        coverage: Ranks of the density, shape (n,); None without one.
        products: Ranks of products of residuals, shape (n, k (k - 1) / 2); None of one quantity.
        moments: Mean e e^T of the truths and of the draws, (k, k) each.
        residuals: Of the truths, shape (n, k), float32.
        drawn: Of the first K draws, shape (K, n, k), float32.
        mean: Of the draws, shape (n, k).
        variance: Of the draws, shape (n, k).
        pool: Mean and deviation of the pool, (n, k) each.
        log_q: log q of the truth, shape (n,); None without a density.
    """

    ranks: np.ndarray
    tarp: np.ndarray
    coverage: np.ndarray | None
    products: np.ndarray | None
    moments: tuple[np.ndarray, np.ndarray]
    residuals: np.ndarray
    drawn: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    pool: tuple[np.ndarray, np.ndarray]
    log_q: np.ndarray | None


@dataclass
class Table:
    """Rows, and the ranks that plots need: by check, then by what is told in the legend."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    ranks: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def add(
        self,
        check: str,
        parameter: str,
        statistic: float,
        finding: str,
        p_value: float | None = None,
        tests: Mapping[str, float] | None = None,
    ) -> None:
        """One row."""
        row = {
            "check": check,
            "parameter": parameter,
            "statistic": float(statistic),
            "p_value": p_value,
            "p_corrected": None,
            "passed": None,
            "finding": finding,
        }
        self.rows.append(row if tests is None else row | {"tests": dict(tests)})

    def uniform(self, check: str, parameter: str, result: Uniformity, finding: str) -> None:
        """One row of a test of ranks."""
        self.add(check, parameter, result.statistic, finding, result.p_value, result.tests)


def judge(
    found: Evidence,
    names: tuple[str, ...],
    prediction: Prediction,
    given: Mapping[str, np.ndarray],
    places: Places,
    near: Neighbours | None,
    draws: int,
    seed: int,
    rng: np.random.Generator,
) -> Table:
    """The table, its p-values not yet corrected."""
    table = Table(ranks=_kept(found, names))
    for i, name in enumerate(names):
        result = assess(found.ranks[:, i], draws, rng)
        table.uniform("ranks", name, result, _about_ranks(result))
    if found.products is not None:
        pairs = assess_products(found.products, draws, found.moments, rng)
        text = about_correlation(pairs, names)
        table.add("correlation", "", pairs.truth - pairs.drawn, text, pairs.p_value)
    if found.coverage is not None:
        result = assess(found.coverage, draws, rng)
        table.uniform("coverage", "", result, _about_coverage(result))
    result = assess(found.tarp, draws, rng)
    table.uniform("tarp", "", result, _about_tarp(result))
    _joint(table, found, names, given, draws, seed, rng)
    if given:
        _dependence(table, found, names, prediction, draws, rng)
        _local(table, found, names, places, draws, rng)
        if near is not None:
            _near(table, found, names, near, draws, rng)
        shrink = contraction(found.mean, found.variance, draws)
        for name, c in zip(names, shrink):
            text = "uninformative: no narrower than the prior" if c < UNINFORMATIVE else ""
            table.add("contraction", name, float(c), text)
    return table


def _kept(found: Evidence, names: tuple[str, ...]) -> dict[str, dict[str, list[int]]]:
    """The ranks of the global checks as plain lists."""
    ranks = {"ranks": {k: found.ranks[:, i].tolist() for i, k in enumerate(names)}}
    if found.coverage is not None:
        ranks["coverage"] = {"": found.coverage.tolist()}
    return ranks | {"tarp": {"": found.tarp.tolist()}}


def _joint(
    table: Table,
    found: Evidence,
    names: tuple[str, ...],
    given: Mapping[str, np.ndarray],
    draws: int,
    seed: int,
    rng: np.random.Generator,
) -> None:
    context = np.zeros((len(found.ranks), 0))
    if given:
        mean, sd = found.pool
        context = directions([mean, np.log(sd + 1e-30), summaries(given, seed)])
    result = assess_joint(found.residuals, found.drawn, context, draws, names, rng)
    text = f"a classifier tells the truth from a draw in {100 * result.auc:.0f} % of pairs"
    text += f", by {' and '.join(result.names)}" if result.names else ""
    table.add("c2st", "", result.auc, text, result.p_value)
    table.ranks["c2st"] = {"": result.ranks.tolist()}


def _dependence(
    table: Table,
    found: Evidence,
    names: tuple[str, ...],
    prediction: Prediction,
    draws: int,
    rng: np.random.Generator,
) -> None:
    known = prediction.rows
    side = (prediction.mean - prediction.median)[known]
    for i, name in enumerate(names):
        mean, p = rank_dependence(found.ranks[known, i], draws, side[:, i], rng)
        text = "says less of the parameter than x does" if mean > 0 else "overstates what x says"
        table.add("dependence", name, mean, text, p)


def _local(
    table: Table,
    found: Evidence,
    names: tuple[str, ...],
    places: Places,
    draws: int,
    rng: np.random.Generator,
) -> None:
    if not places.names:
        return
    columns = [(name, found.ranks[:, i]) for i, name in enumerate(names)]
    if found.coverage is not None:
        columns.append(("", found.coverage))
    results = []
    for name, ranks in columns:
        result = assess_local(normal_scores(ranks, draws, rng), places)
        results.append(result)
        table.add(
            "local",
            name,
            result.correlation,
            about_local(result, places, not name),
            result.p_value,
        )
    worst = int(np.argmin([result.p_value for result in results]))
    name, ranks = columns[worst]
    place = results[worst].place
    side = thirds(places.values[:, place])
    what = (name or "coverage") + SEPARATOR + places.names[place] + SEPARATOR
    table.ranks["local"] = {
        what + word: ranks[side == i].tolist()
        for i, word in enumerate(THIRDS)
        if (side == i).any()
    }


def _near(
    table: Table,
    found: Evidence,
    names: tuple[str, ...],
    near: Neighbours,
    draws: int,
    rng: np.random.Generator,
) -> None:
    for i, name in enumerate(names):
        result = assess(found.ranks[near.rows, i], draws, rng)
        table.uniform("near", name, result, _about_ranks(result))
    table.ranks["near"] = {k: found.ranks[near.rows, i].tolist() for i, k in enumerate(names)}
    if found.coverage is not None:
        result = assess(found.coverage[near.rows], draws, rng)
        table.uniform("near", "", result, _about_coverage(result))


def _about_ranks(result: Uniformity) -> str:
    words = []
    if result.tests["shift"] < NOTABLE:
        words.append(f"{'low' if result.shift > 0 else 'high'} by {abs(result.shift):.2f} sd")
    if result.tests["spread"] < NOTABLE and abs(result.width - 1) > 0.02:
        side = "narrow" if result.width < 1 else "wide"
        words.append(f"too {side}: {result.width:.2f} of its due width")
    return ", ".join(words) or "ranks are not uniform"


def _about_coverage(result: Uniformity) -> str:
    if result.tests["shift"] >= NOTABLE:
        return "coverage is off at some levels"
    return "overconfident" if result.shift > 0 else "underconfident"


def _about_tarp(result: Uniformity) -> str:
    if result.tests["shift"] >= NOTABLE:
        return "coverage around points that x chooses is off"
    if result.shift > 0:
        return "the truth lies too far from where x points"
    return "ignores part of what x says"
