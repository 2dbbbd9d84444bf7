r"""Coverage by theta: how often sets hold the truth, against binomial bands.

.. math::
    X_g \sim \mathrm{Bin}(n_g, \alpha), \qquad
    P(\ell_g \le X_g \le u_g \; \forall g) \ge 1 - 0.05

At G points of the parameter space, or in bins of each parameter; limits at 0.05 / G hold at all
of them at once (Bonferroni).
"""

from __future__ import annotations

__all__ = ["Coverage", "check_coverage", "coverage_of"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray as Array
from scipy.stats import binom

from ..calibration.pairs import select
from ..expression import parse
from .neyman import CalibratedTest, coordinates
from .profiles import LEVELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = 0.05


@dataclass(frozen=True)
class Coverage:
    """How often confidence sets hold the truth.

    Attributes:
        levels: That they say (L,).
        names: Of all parameters.
        theta: Where (G, d); of a bin, its middle in the parameter that is binned, else NaN.
        covered: Counts (G, L).
        trials: Of how many (G,).
        low, high: Limits of the counts (G, L) that hold at all groups at once.
    """

    levels: tuple[float, ...]
    names: tuple[str, ...]
    theta: Array
    covered: Array
    trials: Array
    low: Array
    high: Array

    @property
    def share(self) -> Array:
        """Measured coverage (G, L)."""
        return self.covered / self.trials[:, None]

    @property
    def inside(self) -> Array:
        """Where it is within the band (G, L)."""
        return (self.covered >= self.low) & (self.covered <= self.high)

    @property
    def passed(self) -> bool:
        """Whether it is everywhere."""
        return bool(self.inside.all())

    @property
    def valid(self) -> bool:
        """Whether it is nowhere below: sets may be too large, but not too small."""
        return bool((self.covered >= self.low).all())

    @property
    def headline(self) -> str:
        """One sentence."""
        levels = " and ".join(f"{v:.0%}" for v in self.levels)
        if self.passed:
            found = "within the binomial band everywhere"
        elif self.valid:
            found = "nowhere too low, but higher than the band in places"
        else:
            found = f"too low at {int((self.covered < self.low).any(1).sum())}"
        return f"Coverage of {levels} sets in {len(self.trials)} places: {found}."

    def rows(self) -> list[dict[str, float]]:
        """The table: a row a level."""
        share, trials = self.share, self.trials[:, None]
        return [
            {
                "level": level,
                "mean": float(self.covered[:, i].sum() / self.trials.sum()),
                "lowest": float(share[:, i].min()),
                "highest": float(share[:, i].max()),
                "band_low": float((self.low / trials)[:, i].min()),
                "band_high": float((self.high / trials)[:, i].max()),
                "below": int((self.covered < self.low)[:, i].sum()),
                "above": int((self.covered > self.high)[:, i].sum()),
            }
            for i, level in enumerate(self.levels)
        ]

    def __str__(self) -> str:
        lines = [self.headline, f"{'level':<8}{'mean':>8}{'lowest':>9}{'highest':>9}  band"]
        for r in self.rows():
            lines.append(
                f"{r['level']:<8.0%}{r['mean']:>8.3f}{r['lowest']:>9.3f}{r['highest']:>9.3f}  "
                f"{r['band_low']:.3f} to {r['band_high']:.3f}; {r['below']} below, "
                f"{r['above']} above"
            )
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Coverage by parameter with the band; see `simgen.plots.coverage_figure`."""
        from ..plots import coverage_figure

        return coverage_figure(self)


def check_coverage(
    test: CalibratedTest,
    dataset: Any,
    levels: Sequence[float] = LEVELS,
    *,
    bins: int = 10,
    n: int = 10_000,
    seed: int = 0,
) -> Coverage:
    """Measures the coverage of a test's sets on fresh simulations. No set is inverted: it holds
    the truth where the truth's p-value is large enough.

    Arguments:
        test: The test.
        dataset: Pairs (a Dataset, or a dict of theta (n, d) and x (n, ...)), which are binned by
            each parameter; or a dict of points theta (G, d) with x (G, r, ...), r simulations at
            each.
        levels: Of the sets.
        bins: Of each parameter.
        n: The most pairs.
        seed: Of their choice.

    Raises:
        ValueError: If the test was calibrated on these pairs.
    """
    event = len(test.statistic.event)
    names = test.prior.names
    if isinstance(dataset, Mapping) and np.ndim(dataset["x"]) == event + 2:
        theta, x = (np.asarray(dataset[k]) for k in ("theta", "x"))
        points = np.repeat(theta, x.shape[1], 0)
        p = test.p_value(x.reshape(-1, *x.shape[2:]), points).numpy()
        return coverage_of(p.reshape(x.shape[:2]), theta, names, levels)
    observed = _observed(dataset)
    pairs = select(dataset, parse(f"theta | {observed}"), None, n, seed)
    theta, x = pairs.truth.astype(float), pairs.given[observed]
    _unseen(test, theta)
    p = test.p_value(x, theta).numpy()
    groups, middles = [], []
    for i in range(len(names)):
        edges = np.quantile(theta[:, i], np.linspace(0, 1, bins + 1))[1:-1]
        place = np.searchsorted(edges, theta[:, i])
        for b in range(bins):
            if (place == b).any():
                groups.append(p[place == b])
                middle = np.full(len(names), np.nan)
                middle[i] = np.median(theta[place == b, i])
                middles.append(middle)
    return coverage_of(groups, np.array(middles), names, levels)


def coverage_of(
    p: Sequence[Array] | Array, theta: Array, names: Sequence[str], levels: Sequence[float]
) -> Coverage:
    """The coverage that p-values of the truth show.

    Arguments:
        p: Of each of G groups, p-values (r,).
        theta: Where the groups are (G, d).
        names: Of the parameters.
        levels: Of the sets.
    """
    trials = np.array([len(v) for v in p])
    level = np.asarray(levels, float)
    covered = np.array([[int((v >= 1 - a).sum()) for a in levels] for v in p])
    size = SIZE / len(trials) / 2
    low = binom.ppf(size, trials[:, None], level)
    high = trials[:, None] - binom.ppf(size, trials[:, None], 1 - level)
    return Coverage(
        tuple(level.tolist()), tuple(names), np.asarray(theta, float), covered, trials, low, high
    )


def _observed(dataset: Any) -> str:
    fields = dataset if isinstance(dataset, Mapping) else dataset.fields
    if "x" not in fields:
        raise ValueError(f"coverage needs the field 'x'; there are: {', '.join(fields)}")
    return "x"


def _unseen(test: CalibratedTest, theta: Array) -> None:
    import torch

    v = coordinates(test.prior, torch.as_tensor(theta))
    distance, _ = test.quantiles.tree.query(v.numpy())
    if (distance == 0).mean() > 0.01:
        raise ValueError("the test was calibrated on these pairs: simulate with another seed")
