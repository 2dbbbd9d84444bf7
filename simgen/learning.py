r"""Is N enough? Held-out log-probability and coverage as functions of the number of simulations.

.. math::
    \mathcal L(N) = \frac1n \sum_i \log q_N(\vartheta_i \mid x_i)
    = \mathcal L_\infty - a N^{-b}

The same family is fitted to nested subsets of a dataset, all judged by the same held-out rows, so
that what is common to the rows cancels in the differences. A power law through the points tells
what more simulations are worth, and how many a stated gain takes.
"""

from __future__ import annotations

__all__ = ["LearningCurve", "learning_curve", "nested"]

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .calibration import Verdict, calibrate
from .calibration.pairs import Pairs, select
from .dataset import Dataset, DatasetError
from .expression import parse
from .power_law import PowerLaw, fit_power_law
from .training import fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .conditional import Conditional

LEVEL = 0.9  # of the regions whose coverage is told
SPLIT = (0.8, 0.1, 0.1)
MOST_SIZES = 6
SMALLEST = 100
FEWEST = 50
_BATCH = 512


@dataclass(frozen=True)
class LearningCurve:
    """What each number of simulations gave.

    Attributes:
        expression: What was learned.
        sizes: Numbers N of simulations, increasing, held-out ones among them.
        log_prob: Of the held-out rows by each fit, shape (n, m).
        covered: Whether each row lies in the region of highest density of 90 %, (n, m) of 0 and 1.
        verdicts: Of each fit, on the same rows.
        gain: The gain in nats that is asked for.
        law: Of log-probability.
        coverage_law: Of the coverage.
        conditional: The fit to all simulations.
        notes: What else should be known.
    """

    expression: str
    sizes: tuple[int, ...]
    log_prob: np.ndarray
    covered: np.ndarray
    verdicts: tuple[Verdict, ...]
    gain: float
    law: PowerLaw
    coverage_law: PowerLaw
    conditional: Conditional | None = None
    notes: tuple[str, ...] = field(default=())

    def worth(self, more: int) -> tuple[float, float]:
        """Nats a pair that so many more simulations are worth, and their error."""
        gains = self.law.gain(self.sizes[-1] + more)
        return float(gains.mean()), float(gains.std())

    def left(self) -> tuple[float, float]:
        """Nats a pair that any number of simulations can still give, and their error."""
        return float(self.law.left.mean()), float(self.law.left.std())

    def needed(self, gain: float | None = None) -> tuple[float, float, float]:
        """How many more simulations a gain takes: median and 68 % interval.

        Infinite where there may be less than that left to gain.
        """
        more = self.law.needed(self.gain if gain is None else gain) - self.sizes[-1]
        low, middle, high = np.sort(more)[
            np.round(np.array([0.16, 0.5, 0.84]) * (len(more) - 1)).astype(int)
        ]
        return float(middle), float(low), float(high)

    def coverage(self, size: int) -> tuple[float, float]:
        """Expected coverage of regions of 90 % with so many simulations, and its error."""
        values = np.clip(self.coverage_law(size)[:, 0], 0, 1)
        return float(values.mean()), float(values.std())

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row a size: simulations, log_prob, gain over the size before, coverage, verdict."""
        rows = []
        for i, (size, verdict) in enumerate(zip(self.sizes, self.verdicts)):
            values = self.log_prob[:, i]
            step = values - self.log_prob[:, i - 1] if i else None
            rows.append(
                {
                    "simulations": size,
                    "log_prob": float(values.mean()),
                    "gain": None if step is None else float(step.mean()),
                    "error": None if step is None else _error(step),
                    "coverage": float(self.covered[:, i].mean()),
                    "passed": verdict.passed,
                    "headline": verdict.headline,
                }
            )
        return rows

    @property
    def sentence(self) -> str:
        """What more simulations are worth."""
        n = self.sizes[-1]
        middle, low, high = self.needed()
        if math.isinf(middle):
            value, error = self.left()
            return (
                f"More simulations will hardly give {self.gain:g} nats: all that is left to gain "
                f"beyond {n:,} is {_pm(value, error)} nats."
            )
        more = _rounded(middle)
        ends = [f"{_rounded(low):,}", "any number" if math.isinf(high) else f"{_rounded(high):,}"]
        span = ends[0] if ends[0] == ends[1] else " to ".join(ends)
        now, (then, error) = self.covered[:, -1].mean(), self.coverage(n + more)
        return (
            f"{more:,} more simulations are worth {_pm(*self.worth(more))} nats: a gain of "
            f"{self.gain:g} takes {span} more than {n:,}. Regions of {100 * LEVEL:g} % hold the "
            f"truth in {100 * now:.0f} % of pairs now, and in {100 * then:.0f} ± "
            f"{100 * error:.1g} % then."
        )

    def plot(self) -> Figure:
        """Log-probability and coverage by number of simulations, extrapolated."""
        from .plots.learning import learning_figure

        return learning_figure(self)

    def __str__(self) -> str:
        lines = [self.sentence, f"{self.expression}, {len(self.log_prob)} held-out pairs"]
        lines.append(f"{'simulations':>12}{'log prob':>10}{'gain':>18}{'in 90 %':>9}  verdict")
        for row in self.table:
            gain = "—" if row["gain"] is None else f"{_pm(row['gain'], row['error'])}"
            word = "pass" if row["passed"] else "FAIL"
            lines.append(
                f"{row['simulations']:>12,}{row['log_prob']:>10.3f}{gain:>18}"
                f"{100 * row['coverage']:>7.1f} %  {word}"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def learning_curve(
    expression: str,
    dataset: Dataset,
    model: Any = None,
    *,
    sizes: Sequence[int] | None = None,
    gain: float = 0.05,
    n: int = 1000,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> LearningCurve:
    """Fits nested subsets of a dataset and says what more simulations are worth.

    Arguments:
        expression: What to learn, as in `fit`.
        dataset: The simulations. Its test rows judge; of a split without any a tenth is held out.
        model: A family with its settings, as in `fit`.
        sizes: Numbers of simulations, the first so many rows each; all of them, halved up to five
            times, unless said.
        gain: The gain in nats a pair whose price is asked.
        n: The most held-out rows.
        seed: Of fits, rows and draws.
        progress: Whether to show progress.
        **options: Of `fit`, for every size.

    Raises:
        ValueError: If sizes are fewer than three, too small or too large, the gain is not
            positive, or the model has no density.
        DatasetError: If there are too few rows to hold out, or the rows come in rounds.
    """
    if not gain > 0:
        raise ValueError(f"gain must be positive; got {gain}")
    if len(dataset.rounds) > 1:
        raise DatasetError(
            f"{dataset.path} has rounds for one observation: a learning curve needs rows that "
            "all follow the prior"
        )
    chosen = _sizes(sizes, len(dataset))
    parsed = parse(expression)
    whole = _held_out(dataset)
    about = {"identity": whole.identity, "rows": len(whole), "split": list(whole.split)}
    pairs = select(whole, parsed, about, n, seed)
    if len(pairs) < FEWEST:
        raise DatasetError(
            f"{dataset.path} has {len(pairs)} rows to judge by; {FEWEST} are the fewest: simulate "
            "more, or open it with a larger third number of split="
        )
    log_prob, covered, verdicts = [], [], []
    for size in chosen:
        conditional = fit(
            expression, nested(whole, size), model, seed=seed, progress=progress, **options
        )
        log_prob.append(_log_prob(conditional, pairs, size))
        verdict = calibrate(conditional, whole, n=n, seed=seed, progress=progress)
        ranks = np.array(verdict.ranks["coverage"][""])
        covered.append((ranks < LEVEL * (verdict.draws + 1)).astype(float))
        verdicts.append(verdict)
    values, inside = np.stack(log_prob, 1), np.stack(covered, 1)
    return LearningCurve(
        str(parsed),
        chosen,
        values,
        inside,
        tuple(verdicts),
        float(gain),
        fit_power_law(chosen, values.mean(0), _covariance(values), seed=seed),
        fit_power_law(chosen, inside.mean(0), _covariance(inside), increasing=False, seed=seed),
        conditional,
        pairs.notes,
    )


def nested(dataset: Dataset, size: int) -> Dataset:
    """The dataset as it was when it had `size` rows; its test rows remain.

    A row keeps its side of the split, which depends on its number alone.
    """
    out = _copy(dataset)
    first = np.arange(len(dataset)) < size
    out.chosen = first if dataset.chosen is None else first & dataset.chosen
    return out


def _copy(dataset: Dataset) -> Dataset:
    """The same rows, with sides of the split that are worked out anew."""
    out = copy.copy(dataset)
    for side in ("train", "validation", "test", "good"):
        vars(out).pop(side, None)
    return out


def _held_out(dataset: Dataset) -> Dataset:
    """The dataset with a share of test rows."""
    if dataset.split[2] > 0:
        return dataset
    out = _copy(dataset)
    out.split = SPLIT
    return out


def _sizes(sizes: Sequence[int] | None, rows: int) -> tuple[int, ...]:
    if sizes is None:
        halves = [rows // 2**k for k in range(MOST_SIZES)]
        sizes = [size for size in halves if size >= SMALLEST]
    chosen = tuple(sorted({int(size) for size in sizes}))
    if len(chosen) < 3 or chosen[0] < SMALLEST or chosen[-1] > rows:
        raise ValueError(
            f"a learning curve needs three sizes or more between {SMALLEST} and the {rows} rows "
            f"of the dataset; got {', '.join(map(str, chosen)) or 'none'}"
        )
    return chosen


def _log_prob(conditional: Conditional, pairs: Pairs, size: int) -> np.ndarray:
    """log q of the held-out truths, shape (n,)."""
    out = []
    for start in range(0, len(pairs), _BATCH):
        rows = slice(start, start + _BATCH)
        given = {k: torch.as_tensor(v[rows]) for k, v in pairs.given.items()}
        truth = torch.as_tensor(pairs.truth[rows])
        with torch.no_grad():
            q = conditional(**given)
            if getattr(q, "density", "exact") is None:
                raise ValueError("a learning curve needs a model that has a density")
            out.append(q.log_prob(truth).double().cpu().numpy())
    values = np.concatenate(out)
    if bad := int((~np.isfinite(values)).sum()):
        raise ValueError(f"log_prob of {bad} held-out rows is not finite with {size} simulations")
    return values


def _covariance(values: np.ndarray) -> np.ndarray:
    """Of the means of columns (n, m)."""
    return np.cov(values.T) / len(values)


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _pm(value: float, error: float) -> str:
    """With two digits of the error."""
    digits = 3 if not error > 0 else min(max(1 - math.floor(math.log10(error)), 0), 6)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _rounded(value: float) -> int:
    """To two digits."""
    if value < 1:
        return 0
    digits = math.floor(math.log10(value)) - 1
    return round(value / 10**digits) * 10**digits if digits > 0 else round(value)
