r"""calibrate(): is q(target | given) the conditional that the simulator implies?

.. math::
    \vartheta^* \sim p(\vartheta), \quad x \sim p(x \mid \vartheta^*), \quad
    \vartheta_s \sim q(\vartheta \mid x): \qquad
    g(\vartheta^*, x) \text{ and } g(\vartheta_s, x) \text{ are exchangeable for every } g

Each check is one g: a parameter, the density of q, the distance to a point that depends on x.
"""

from __future__ import annotations

__all__ = ["calibrate"]

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..expression import parse
from .contraction import UNINFORMATIVE, contraction, information
from .coverage import count_denser
from .dependence import rank_dependence
from .drawing import draw
from .pairs import Pairs, select
from .ranks import count_below
from .regression import Prediction, predict
from .statistics import Statistics
from .tarp import count_closer, reference_points
from .uniformity import Uniformity, assess, randomised_ranks
from .verdict import Verdict, holm

FEWEST = 20
NOTABLE = 0.01  # a test below this is named as the reason of a failure
CHECKS = 22  # purpose of a random stream: ties, cells, reference points


def calibrate(
    conditional: Callable[..., Any],
    dataset: Any,
    *,
    expression: str = "theta | x",
    statistics: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    n: int = 1000,
    draws: int = 255,
    alpha: float = 0.01,
    seed: int = 0,
    progress: bool = True,
) -> Verdict:
    r"""Judges a conditional distribution by pairs that it was not trained on.

    Rank statistics of each parameter, expected coverage, TARP, and whether ranks depend on x.
    Every check gives one value a pair, exactly uniform if the conditional is right, and tests
    these values with tests that hold for any number of pairs. What the posterior says at all is
    reported beside it (contraction, information).

    Arguments:
        conditional: A Conditional, or any callable from the given fields to a torch Distribution
            over the target, with or without a batch.
        dataset: A Dataset, of which unseen rows are used: rows of another dataset; of the training
            dataset the test rows and rows simulated later, else its validation rows. Or a dict of
            arrays (n, ...).
        expression: What the callable is; a Conditional says it itself.
        statistics: Functions by name, from targets (..., *event) to numbers (...), to be ranked in
            place of the columns. A target of more than 50 numbers is ranked by random projections
            unless they are given.
        n: The most pairs to use.
        draws: The number S of draws a pair.
        alpha: The chance that an exact posterior fails.
        seed: Of the choice of rows, of draws and of ties.
        progress: Whether to show progress.

    Raises:
        ValueError: If there are fewer than 20 pairs, a field is missing, or the shapes do not
            match.
        DatasetError: If no row is left that the model was not trained on.

    References:
        | Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al.,
        | 2018)
        | https://arxiv.org/abs/1804.06788
        | Sampling-Based Accuracy Testing of Posterior Estimators for General Inference (Lemos et
        | al., 2023)
        | https://arxiv.org/abs/2302.03026
    """
    if draws < 20 or not 0 < alpha < 1:
        raise ValueError(f"calibrate needs draws >= 20 and 0 < alpha < 1; got {draws} and {alpha}")
    parsed = parse(getattr(conditional, "expression", expression))
    provenance = (getattr(conditional, "provenance", None) or {}).get("dataset")
    pairs = select(dataset, parsed, provenance, n, seed)
    if len(pairs) < FEWEST:
        raise ValueError(
            f"calibrate needs at least {FEWEST} pairs that the model was not trained on; found "
            f"{len(pairs)} ({pairs.source}): simulate more"
        )
    names = getattr(conditional, "names", None) or pairs.names
    quantities = Statistics(pairs.truth, tuple(names), statistics, seed)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(CHECKS,)))
    prediction = predict(pairs.given, quantities.truth, seed)
    found = _draw(conditional, pairs, quantities, prediction, draws, seed, rng, progress)
    rows = _judge(found, quantities, prediction, bool(pairs.given), draws, rng)
    gain = _information(conditional, dataset, pairs, found, parsed.target)
    flags = tuple(
        row["parameter"]
        for row in rows
        if row["check"] == "contraction" and row["statistic"] < UNINFORMATIVE
    )
    notes = [*pairs.notes, *quantities.notes]
    if found.get("log_q") is None:
        notes.append("the distribution has no density: expected coverage was left out")
    if len(pairs) < 200:
        notes.append(f"{len(pairs)} pairs find gross errors only")
    tested = [row for row in rows if row["p_value"] is not None]
    for row, p in zip(tested, holm([row["p_value"] for row in tested])):
        row["p_corrected"], row["passed"] = p, bool(p >= alpha)
        row["finding"] = "" if row["passed"] else row["finding"]
    return Verdict(
        passed=all(row["passed"] for row in tested),
        table=rows + gain,
        n=len(pairs),
        draws=draws,
        source=pairs.source,
        notes=tuple(notes),
        uninformative=flags,
        alpha=alpha,
        expression=str(parsed),
        ranks=_kept(found, quantities.names),
    )


def _draw(
    conditional: Callable[..., Any],
    pairs: Pairs,
    quantities: Statistics,
    prediction: Prediction,
    draws: int,
    seed: int,
    rng: np.random.Generator,
    progress: bool,
) -> dict[str, Any]:
    """Ranks of every check, (n, k) or (n,), means and variances of draws (n, k), log q (n,)."""
    reference = torch.as_tensor(reference_points(prediction, rng))
    scale = torch.as_tensor(prediction.scale)
    parts: dict[str, list[Any]] = {
        k: [] for k in ("ranks", "coverage", "tarp", "mean", "variance", "log_q")
    }
    with _advancing(len(pairs), progress) as advance:
        for batch in draw(conditional, pairs.truth, pairs.given, draws, seed):
            values = quantities(batch.draws).double()
            truth = quantities(batch.truth).double()
            parts["ranks"].append(_ranked(count_below(values, truth), rng))
            parts["mean"].append(values.mean(0).numpy())
            parts["variance"].append(values.var(0).numpy())
            closer = count_closer(values, truth, reference[batch.rows], scale[batch.rows])
            parts["tarp"].append(_ranked(closer, rng))
            if batch.log_q is not None and batch.log_q_truth is not None:
                parts["coverage"].append(
                    _ranked(count_denser(batch.log_q, batch.log_q_truth), rng)
                )
                parts["log_q"].append(batch.log_q_truth.numpy())
            advance(len(truth))
    found: dict[str, Any] = {k: np.concatenate(v) if v else None for k, v in parts.items()}
    found["tarp"] = found["tarp"][prediction.rows]
    return found


def _ranked(counts: tuple[Tensor, Tensor], rng: np.random.Generator) -> np.ndarray:
    return randomised_ranks(counts[0].numpy(), counts[1].numpy(), rng)


def _judge(
    found: Mapping[str, Any],
    quantities: Statistics,
    prediction: Prediction,
    conditioned: bool,
    draws: int,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """The rows of the table."""
    rows = []
    for i, name in enumerate(quantities.names):
        result = assess(found["ranks"][:, i], draws, rng)
        rows.append(_row("ranks", name, result.statistic, result, _about_ranks(result)))
    for check, say in (("coverage", _about_coverage), ("tarp", _about_tarp)):
        if found[check] is not None:
            result = assess(found[check], draws, rng)
            rows.append(_row(check, "", result.statistic, result, say(result)))
    if not conditioned:
        return rows
    known = prediction.rows
    side = (prediction.mean - prediction.median)[known]
    for i, name in enumerate(quantities.names):
        mean, p = rank_dependence(found["ranks"][known, i], draws, side[:, i], rng)
        finding = (
            "says less of the parameter than x does" if mean > 0 else "overstates what x says"
        )
        row = _row("dependence", name, mean, None, finding)
        rows.append(row | {"p_value": p})
    shrink = contraction(found["mean"], found["variance"], draws)
    for name, c in zip(quantities.names, shrink):
        finding = "uninformative: no narrower than the prior" if c < UNINFORMATIVE else ""
        rows.append(_row("contraction", name, float(c), None, finding))
    return rows


def _row(
    check: str, parameter: str, statistic: float, result: Uniformity | None, finding: str
) -> dict[str, Any]:
    row = {
        "check": check,
        "parameter": parameter,
        "statistic": float(statistic),
        "p_value": None if result is None else result.p_value,
        "p_corrected": None,
        "passed": None,
        "finding": finding,
    }
    return row if result is None else row | {"tests": result.tests}


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


def _information(
    conditional: Any, dataset: Any, pairs: Pairs, found: Mapping[str, Any], target: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The row of the information gain, where the prior's density is known."""
    if found["log_q"] is None or target != ("theta",) or not pairs.given:
        return []
    prior = getattr(conditional, "prior", None)
    if prior is None and not isinstance(dataset, Mapping):
        try:
            prior = getattr(dataset, "prior", None)
        except ValueError:  # a prior of which only names and support are stored
            prior = None
    if prior is None:
        return []
    log_prior = prior.log_prob(torch.as_tensor(pairs.truth, dtype=torch.float64)).numpy()
    gain, error = information(found["log_q"], log_prior)
    if not np.isfinite(gain):
        return []
    row = _row("information", "", gain, None, f"± {error:.2g} nats gained over the prior, a pair")
    return [row]


def _kept(found: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, dict[str, list[int]]]:
    """The ranks that plots need, as plain lists."""
    ranks = {"ranks": {k: found["ranks"][:, i].tolist() for i, k in enumerate(names)}}
    for check in ("coverage", "tarp"):
        if found[check] is not None:
            ranks[check] = {"": found[check].tolist()}
    return ranks


@contextmanager
def _advancing(total: int, show: bool) -> Iterator[Callable[[int], None]]:
    """Progress over pairs, on a terminal only."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(
        console=console, transient=True, disable=not (show and console.is_terminal)
    ) as bar:
        task = bar.add_task("calibrating", total=total)
        yield lambda count: bar.advance(task, count)
