r"""calibrate(): is q(target | given) the conditional that the simulator implies?

.. math::
    \vartheta^* \sim p(\vartheta), \quad x \sim p(x \mid \vartheta^*), \quad
    \vartheta_s \sim q(\vartheta \mid x): \qquad
    g(\vartheta^*, x) \text{ and } g(\vartheta_s, x) \text{ are exchangeable for every } g

Each check is one g: a parameter, a product of two, the density of q, the distance to a point that
depends on x, what a classifier has learned.
"""

from __future__ import annotations

__all__ = ["calibrate"]

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..expression import Expression, parse
from ..models.categorical import Categorical
from .contraction import UNINFORMATIVE, information
from .correlation import count_products
from .coverage import count_denser
from .drawing import draw
from .hiding import select_hidden
from .joint import DRAWS as JOINT_DRAWS
from .judging import Evidence, Table, judge
from .near import Neighbours, nearest, one_row
from .pairs import Pairs
from .places import describe
from .pool import pooled, whitened
from .ranks import count_below
from .regression import Prediction, predict
from .statistics import Statistics
from .tarp import count_closer, reference_points
from .uniformity import randomised_ranks
from .verdict import Verdict, holm

FEWEST = 20
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
    near: Any = None,
    mask: Any = None,
    progress: bool = True,
) -> Verdict:
    r"""Judges a conditional distribution by pairs that it was not trained on.

    Rank statistics of each parameter and of their products, expected coverage, TARP, a classifier
    two-sample test on the joint, and whether ranks depend on x: on where it points, and on the
    region of it. Every check gives one value a pair, exactly uniform if the conditional is right,
    and tests these values with tests that hold for any number of pairs; Holm's correction over all
    of them holds the chance that an exact posterior fails at alpha. What the posterior says at all
    is reported beside it (contraction, information).

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
        near: An observation, the given field or a dict of them: the fifth of the pairs that are
            most like it is judged by itself as well.
        mask: Judges what a model makes of gaps: which entries of the given side are observed, as
            for `fit`; NaN stands for the others.
        progress: Whether to show progress.

    Raises:
        ValueError: If there are fewer than 20 pairs, a field is missing, the shapes do not match,
            those of near among them, or it gives probabilities of classes, which have no ranks.
        DatasetError: If no row is left that the model was not trained on.

    References:
        | Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al.,
        | 2018)
        | https://arxiv.org/abs/1804.06788
        | Sampling-Based Accuracy Testing of Posterior Estimators for General Inference (Lemos et
        | al., 2023)
        | https://arxiv.org/abs/2302.03026
    """
    if near is not None and mask is not None:
        raise ValueError("near= and mask= cannot go together: pairs with gaps have no distances")
    if draws < 20 or not 0 < alpha < 1:
        raise ValueError(f"calibrate needs draws >= 20 and 0 < alpha < 1; got {draws} and {alpha}")
    parsed = parse(getattr(conditional, "expression", expression))
    _refuse_classes(conditional, parsed)
    provenance = (getattr(conditional, "provenance", None) or {}).get("dataset")
    pairs = select_hidden(dataset, parsed, provenance, n, seed, mask)
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
    notes = [*pairs.notes, *quantities.notes]
    neighbours = None
    if near is not None:
        neighbours = _neighbours(conditional, near, pairs, quantities, found, draws, seed)
        notes.append(
            f"near: the {len(neighbours.rows)} pairs whose posteriors are most like that of the "
            "observation"
        )
        if neighbours.far:
            notes.append(
                "the observation lies apart from all pairs: nothing here vouches for it; see "
                "check_observation"
            )
    places = describe(pairs.given, pairs.columns, found.pool[0], quantities.names)
    table = judge(
        found,
        quantities.names,
        prediction,
        pairs.given,
        places,
        neighbours,
        draws,
        seed,
        rng,
    )
    _information(conditional, dataset, pairs, found.log_q, parsed.target, table)
    flags = tuple(
        row["parameter"]
        for row in table.rows
        if row["check"] == "contraction" and row["statistic"] < UNINFORMATIVE
    )
    if found.coverage is None:
        notes.append("the distribution has no density: expected coverage was left out")
    if len(pairs) < 200:
        notes.append(f"{len(pairs)} pairs find gross errors only")
    tested = [row for row in table.rows if row["p_value"] is not None]
    for row, p in zip(tested, holm([row["p_value"] for row in tested])):
        row["p_corrected"], row["passed"] = p, bool(p >= alpha)
        row["finding"] = "" if row["passed"] else row["finding"]
    return Verdict(
        passed=all(row["passed"] for row in tested),
        table=table.rows,
        n=len(pairs),
        draws=draws,
        source=pairs.source,
        notes=tuple(notes),
        uninformative=flags,
        alpha=alpha,
        expression=str(parsed),
        ranks=table.ranks,
    )


def _refuse_classes(conditional: Any, expression: Expression) -> None:
    """Says who judges probabilities of classes."""
    family = getattr(conditional, "family", None)
    if isinstance(getattr(family, "family", family), Categorical):  # an ensemble's too
        raise ValueError(
            f"{str(expression)!r} gives probabilities of classes, which have no ranks: whether "
            "classes are true as often as they say is what Models.calibrate asks of a "
            "`fit_models`, or simgen.calibration.reliability of any probabilities"
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
) -> Evidence:
    """Draws for every pair, ranked in every check."""
    reference = torch.as_tensor(reference_points(prediction, rng))
    scale = torch.as_tensor(prediction.scale)
    parts: dict[str, list[Any]] = defaultdict(list)
    k = len(quantities.names)
    moments = np.zeros((2, k, k))
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
            pool = pooled(values, truth)
            if k > 1:
                parts["products"].append(_ranked(count_products(pool), rng))
            for moment, e in zip(moments, (pool.truth, pool.draws.flatten(0, 1))):
                moment += (e.T @ e).numpy() / (len(e) / len(truth) * len(pairs))
            for name, part in whitened(pool, JOINT_DRAWS).items():
                parts[name].append(part.float().numpy())
            parts["pool_mean"].append(pool.mean.numpy())
            parts["pool_sd"].append(pool.sd.numpy())
            advance(len(truth))
    drawn = np.concatenate(parts.pop("drawn"), 1)
    found: dict[str, Any] = {name: np.concatenate(part) for name, part in parts.items()}
    pool_moments = found.pop("pool_mean"), found.pop("pool_sd")
    for name in ("coverage", "log_q", "products"):
        found.setdefault(name, None)
    found["tarp"] = found["tarp"][prediction.rows]
    return Evidence(drawn=drawn, pool=pool_moments, moments=(moments[0], moments[1]), **found)


def _neighbours(
    conditional: Callable[..., Any],
    near: Any,
    pairs: Pairs,
    quantities: Statistics,
    found: Evidence,
    draws: int,
    seed: int,
) -> Neighbours:
    """The pairs that are nearest to an observation."""
    row = one_row(near, pairs)
    batch = next(iter(draw(conditional, pairs.truth[:1], row, draws, seed + 1)))
    values = quantities(batch.draws).double()
    observed = values.mean(0).numpy(), values.std(0, correction=0).numpy()
    return nearest(found.pool, pairs.given, observed, row)


def _ranked(counts: tuple[Tensor, Tensor], rng: np.random.Generator) -> np.ndarray:
    return randomised_ranks(counts[0].numpy(), counts[1].numpy(), rng)


def _information(
    conditional: Any,
    dataset: Any,
    pairs: Pairs,
    log_q: np.ndarray | None,
    target: tuple[str, ...],
    table: Table,
) -> None:
    """The row of the information gain, where the prior's density is known."""
    if log_q is None or target != ("theta",) or not pairs.given:
        return
    prior = getattr(conditional, "prior", None)
    if prior is None and not isinstance(dataset, Mapping):
        try:
            prior = getattr(dataset, "prior", None)
        except ValueError:  # a prior of which only names and support are stored
            prior = None
    if prior is None:
        return
    log_prior = prior.log_prob(torch.as_tensor(pairs.truth, dtype=torch.float64)).numpy()
    gain, error = information(log_q, log_prior)
    if np.isfinite(gain):
        text = f"± {error:.2g} nats gained over the prior, a pair"
        table.add("information", "", gain, text)


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
