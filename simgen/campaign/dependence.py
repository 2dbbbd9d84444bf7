r"""Dependence: whether failures and run times of simulations depend on their parameters.

.. math::
    D = \sup_t \bigl| \hat F(t \mid \text{failed}) - \hat F(t \mid \text{good}) \bigr|, \qquad
    H = \frac{12}{n (n + 1)} \sum_{k=1}^{10} n_k \Bigl( \bar R_k - \frac{n + 1}{2} \Bigr)^2

Of each parameter, D compares its values in failed and in good rows (Kolmogorov and Smirnov), H the
ranks of the run times between its ten quantile bins (Kruskal and Wallis). Where failures depend on
theta, what was learned has seen a truncated prior: the interval that separates failures best, by
the likelihood ratio of two shares against one, says where.

References:
    | Use of ranks in one-criterion variance analysis (Kruskal and Wallis, 1952), eq. 1.2
    | A spatial scan statistic (Kulldorff, 1997)
    | https://doi.org/10.1080/03610929708831995
"""

from __future__ import annotations

__all__ = ["Dependence", "Failures", "dependence", "shares_by_interval"]

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..storage.shard import Failure

if TYPE_CHECKING:
    from ..dataset import Dataset

_BINS, _EDGES = 10, 40
_CALLS = 50  # of which run times are compared at least
SIGNIFICANT = 1e-3
"""The p-value, over all parameters, below which failures are said to depend on theta."""


@dataclass(frozen=True)
class Dependence:
    """What failures and run times have to do with one parameter.

    Arguments:
        name: The parameter.
        p_failure: The p-value of failures that do not depend on it; None without failures.
        interval: Where they are most frequent.
        inside: The share of rows that failed there.
        outside: And elsewhere.
        p_time: The p-value of run times that do not depend on it; None where calls took several
            rows, or few were timed.
        seconds: The median run time of each tenth of its values, increasing; empty likewise.
    """

    name: str
    p_failure: float | None = None
    interval: tuple[float, float] = (-np.inf, np.inf)
    inside: float = 0.0
    outside: float = 0.0
    p_time: float | None = None
    seconds: tuple[float, ...] = ()

    @property
    def where(self) -> str:
        """The interval in words."""
        low, high = self.interval
        if np.isinf(low):
            return f"{self.name} below {high:.4g}"
        if np.isinf(high):
            return f"{self.name} above {low:.4g}"
        return f"{self.name} from {low:.4g} to {high:.4g}"

    def __str__(self) -> str:
        shares = (
            f"{self.inside:.1%} of rows with {self.where} failed, {self.outside:.1%} of others"
        )
        p = self.p_failure
        return f"{shares} (p {'< 1e-300' if p is not None and p < 1e-300 else f'= {p:.1g}'})"


class Failures(list[Failure]):
    """The failed rows of a dataset.

    Arguments:
        found: The rows.
        dataset: Where they are from.
    """

    def __init__(self, found: Iterable[Failure], dataset: Dataset) -> None:
        super().__init__(found)
        self._dataset = dataset

    def dependence(self) -> list[Dependence]:
        """Whether failures and run times depend on theta: one answer a parameter."""
        return self._dataset.dependence()


def dependence(
    theta: np.ndarray, names: Sequence[str], failed: np.ndarray, times: np.ndarray
) -> list[Dependence]:
    """Tests every parameter by itself.

    Arguments:
        theta: Parameters, shape (n, d).
        names: Theirs.
        failed: Which rows failed, shape (n,).
        times: Records of `timing.RECORD`, of rows below n.
    """
    single = times[times["rows"] == 1]
    out = []
    for name, column in zip(names, theta.T.astype(np.float64)):
        values: dict = {}
        if 0 < failed.sum() < len(failed) and np.ptp(column):
            values |= _failures(column, failed)
        if len(single) >= _CALLS and np.ptp(column):
            values |= _run_times(column[single["row"]], single["seconds"])
        out.append(Dependence(name, **values))
    return out


def _failures(column: np.ndarray, failed: np.ndarray) -> dict:
    from scipy.stats import ks_2samp

    interval, inside, outside = shares_by_interval(column, failed)
    p = float(ks_2samp(column[failed], column[~failed], method="asymp").pvalue)
    return {"p_failure": p, "interval": interval, "inside": inside, "outside": outside}


def _run_times(column: np.ndarray, seconds: np.ndarray) -> dict:
    from scipy.stats import kruskal

    if not np.ptp(seconds):
        return {}
    order = np.argsort(column, kind="stable")
    groups = np.array_split(seconds[order].astype(np.float64), _BINS)
    medians = tuple(float(np.median(group)) for group in groups)
    return {"p_time": float(kruskal(*groups).pvalue), "seconds": medians}


def shares_by_interval(
    column: np.ndarray, failed: np.ndarray
) -> tuple[tuple[float, float], float, float]:
    r"""The interval whose share of failures differs most from that elsewhere, and is larger.

    .. math::
        \max_{a < b} \; \ell(f_{ab}, n_{ab}) + \ell(f - f_{ab}, n - n_{ab}), \qquad
        \ell(f, n) = f \log \tfrac{f}{n} + (n - f) \log \tfrac{n - f}{n}

    Arguments:
        column: A parameter, shape (n,).
        failed: Which rows failed, shape (n,).

    Returns:
        The interval between two of its quantiles (infinite where it has no end), the share of
        failed rows inside, and outside.
    """
    edges = np.unique(np.quantile(column, np.linspace(0, 1, _EDGES + 1)))[1:-1]
    bins = np.searchsorted(edges, column, side="right")
    rows = np.concatenate([[0], np.cumsum(np.bincount(bins, minlength=len(edges) + 1))])
    bad = np.concatenate([[0], np.cumsum(np.bincount(bins[failed], minlength=len(edges) + 1))])
    a, b = np.triu_indices(len(rows), 1)
    n, f = rows[b] - rows[a], bad[b] - bad[a]
    n_out, f_out = rows[-1] - n, bad[-1] - f
    with np.errstate(divide="ignore", invalid="ignore"):
        larger = (n_out > 0) & (f / n > f_out / n_out)
    if not larger.any():
        return (-np.inf, np.inf), float(failed.mean()), 0.0
    gain = np.where(larger, _likelihood(f, n) + _likelihood(f_out, n_out), -np.inf)
    i = int(np.argmax(gain))
    ends = np.concatenate([[-np.inf], edges, [np.inf]])
    interval = (float(ends[a[i]]), float(ends[b[i]]))
    return interval, float(f[i] / n[i]), float(f_out[i] / n_out[i])


def _likelihood(f: np.ndarray, n: np.ndarray) -> np.ndarray:
    """The largest log-likelihood of f failures in n rows."""
    share = f / np.maximum(n, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        bad = np.where(f > 0, f * np.log(share), 0.0)
        good = np.where(f < n, (n - f) * np.log1p(-share), 0.0)
    return bad + good
