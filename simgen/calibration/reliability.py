r"""Reliability: of the cases that are said to be 70 % probable, do 70 % happen?

.. math::
    T = \sum_k \sum_b \frac{\bigl(\sum_{i \in b} [y_i = k] - p_{ik}\bigr)^2}
        {\sum_{i \in b} p_{ik} (1 - p_{ik})}

over classes k and bins b of equal numbers of cases, sorted by p_ik. Its distribution where the
probabilities are right is found by drawing the classes from them, so that the p-value holds for
any number of cases.

References:
    | Predicting Good Probabilities With Supervised Learning (Niculescu-Mizil & Caruana, 2005)
    | https://doi.org/10.1145/1102351.1102430
    | Increasing the Reliability of Reliability Diagrams (Bröcker & Smith, 2007): resampling
    | https://doi.org/10.1175/WAF993.1
"""

from __future__ import annotations

__all__ = ["Reliability", "reliability"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import ndarray as Array
from scipy.stats import norm

_DRAWS = 999


@dataclass(frozen=True)
class Reliability:
    """Probabilities against what happened.

    Arguments:
        table: One row a class and bin: class, n, predicted, happened, low and high, between which
            what happens lies with 95 % if the prediction is right.
        p_value: That right probabilities look this wrong.
        accuracy: How often the most probable class was the true one.
        confidence: How often it should have been.
        log_score: The mean of log p of the true class, in nats.
        n: Cases.
        alpha: The chance that right probabilities fail.
    """

    table: tuple[dict[str, Any], ...]
    p_value: float
    accuracy: float
    confidence: float
    log_score: float
    n: int
    alpha: float = 0.01

    @property
    def passed(self) -> bool:
        """Whether nothing is seen to be wrong."""
        return self.p_value >= self.alpha

    @property
    def headline(self) -> str:
        """The result in a sentence."""
        if self.passed:
            return (
                f"the probabilities are reliable as far as {self.n} cases tell "
                f"(p = {self.p_value:.2g})"
            )
        gap = self.confidence - self.accuracy
        word = "overconfident" if gap > 0 else "too cautious"
        return (
            f"the probabilities are not reliable (p = {self.p_value:.2g}): {word}, right in "
            f"{self.accuracy:.1%} of cases where they say {self.confidence:.1%}"
        )

    def plot(self) -> Any:
        """The reliability diagram, a matplotlib Figure."""
        from ..plots.reliability import reliability_figure

        return reliability_figure(self)

    def __str__(self) -> str:
        return self.headline


def reliability(
    probabilities: Any,
    truth: Any,
    names: Sequence[str] | None = None,
    *,
    bins: int = 10,
    alpha: float = 0.01,
    seed: int = 0,
) -> Reliability:
    """Judges probabilities of classes by what happened.

    Arguments:
        probabilities: Of each class, (n, K), rows summing to one.
        truth: The true classes (n,), whole numbers below K.
        names: Of the classes.
        bins: Bins of each class.
        alpha: The chance that right probabilities fail.
        seed: Of the draws that the p-value is found by.

    Raises:
        ValueError: If the shapes do not match, or there are fewer than 10 cases a bin.
    """
    p, y = np.asarray(probabilities, float), np.asarray(truth)
    if p.ndim != 2 or y.shape != p.shape[:1] or not np.allclose(p.sum(1), 1, atol=1e-4):
        raise ValueError(
            f"probabilities must be (n, K) with rows that sum to one, truth (n,); got {p.shape} "
            f"and {y.shape}"
        )
    n, count = p.shape
    if n < 10 * bins:
        raise ValueError(f"{bins} bins need {10 * bins} cases or more; got {n}")
    order = np.argsort(p, 0, kind="stable")
    cells = [[part for part in np.array_split(order[:, k], bins)] for k in range(count)]
    rng = np.random.default_rng(seed)
    edges = p.cumsum(1)
    uniform = rng.random((_DRAWS, n, 1))
    drawn = np.minimum((uniform > edges).sum(-1), count - 1)
    null = _statistic(p, drawn, cells)
    found = _statistic(p, y[None], cells)[0]
    label = list(names) if names is not None else [str(k) for k in range(count)]
    return Reliability(
        tuple(_row(label[k], p[part, k], y[part] == k) for k in range(count) for part in cells[k]),
        float((1 + (null >= found).sum()) / (1 + _DRAWS)),
        float((p.argmax(1) == y).mean()),
        float(p.max(1).mean()),
        float(np.log(p[np.arange(n), y].clip(1e-300)).mean()),
        n,
        alpha,
    )


def _statistic(p: Array, classes: Array, cells: list[list[Array]]) -> Array:
    """T of each row of classes (m, n), (m,)."""
    total = np.zeros(len(classes))
    for k, parts in enumerate(cells):
        for part in parts:
            q = p[part, k]
            gap = (classes[:, part] == k).sum(1) - q.sum()
            total += gap**2 / max((q * (1 - q)).sum(), 1e-3)
    return total


def _row(name: str, p: Array, happened: Array) -> dict[str, Any]:
    spread = norm.ppf(0.975) * np.sqrt((p * (1 - p)).sum()) / len(p)
    mean = float(p.mean())
    return {
        "class": name,
        "n": len(p),
        "predicted": mean,
        "happened": float(happened.mean()),
        "low": max(0.0, mean - spread),
        "high": min(1.0, mean + spread),
    }
