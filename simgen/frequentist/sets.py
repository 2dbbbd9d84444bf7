r"""Confidence sets: every theta that a calibrated test does not reject.

.. math::
    C_\alpha(x) = \{ \psi : p(x, \psi) \ge 1 - \alpha \}, \qquad
    P\bigl(\psi \in C_\alpha(x) \mid \psi\bigr) = \alpha \quad \text{at every } \psi

by inversion on a grid of one or two parameters, or of given points of more. Sets may be in
several parts, and end at a bound of the prior's support.

References:
    | Outline of a Theory of Statistical Estimation Based on the Classical Theory of Probability
    | (Neyman, 1937), https://doi.org/10.1098/rsta.1937.0005
    | A Unified Approach to the Classical Statistical Analysis of Small Signals (Feldman & Cousins,
    | 1998), https://arxiv.org/abs/physics/9711021
"""

from __future__ import annotations

__all__ = ["ConfidenceSet", "confidence_set"]

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy import ndarray as Array
from scipy.ndimage import label

from .intervals import intervals, written
from .neyman import CalibratedTest
from .profiles import LEVELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = {(1, False): 401, (2, False): 81, (1, True): 81, (2, True): 31}
_FAR = 3.5  # of an unbounded parameter, in the prior's unconstrained coordinate
_ZOOMS, _SMALL = 2, 0.01


@dataclass(frozen=True)
class ConfidenceSet:
    """p-values of values of some parameters, given one observation.

    Attributes:
        parameters: Their names.
        axes: Of a grid, the values of each; empty if points were given.
        points: The values (m, k).
        p_values: Theirs (m,).
        bounds: The prior's support (k, 2).
        how: The test, in a sentence.
        labels, units: As the prior has them, by parameter.
    """

    parameters: tuple[str, ...]
    axes: tuple[Array, ...]
    points: Array
    p_values: Array
    bounds: Array
    how: str
    labels: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    def inside(self, level: float = 0.68) -> Array:
        """Which points (m,) are in the set."""
        return self.p_values >= 1 - level

    def interval(self, level: float = 0.68) -> tuple[tuple[float, float], ...]:
        """The set of one parameter, as intervals in rising order; none if all is rejected.

        Raises:
            ValueError: If there are more parameters, or points were given.
        """
        if len(self.axes) != 1:
            raise ValueError("only of one parameter on a grid: see region(level) or inside(level)")
        return intervals(self.axes[0], 1 - self.p_values, level, self.bounds[0], root=False)

    def region(self, level: float = 0.68) -> Array:
        """Which points of the grid are in the set, with an axis a parameter.

        Raises:
            ValueError: If points were given in place of a grid.
        """
        if not self.axes:
            raise ValueError("there is no grid: see inside(level)")
        return self.inside(level).reshape([len(a) for a in self.axes])

    def parts(self, level: float = 0.68) -> int:
        """In how many separate parts the set is, on the grid."""
        region = self.region(level)
        return int(label(region, np.ones([3] * region.ndim))[1])

    def span(self, level: float = 0.68) -> Array:
        """The lowest and highest value (k, 2) of each parameter in the set; NaN if it is empty."""
        found = self.points[self.inside(level)]
        if not len(found):
            return np.full((len(self.parameters), 2), np.nan)
        return np.stack([found.min(0), found.max(0)], 1)

    def _row(self, level: float) -> str:
        if len(self.axes) == 1:
            return f"{self.parameters[0]} in {written(self.interval(level))}"
        if not self.inside(level).any():
            return "empty: every point is rejected"
        spans = [
            f"{k} in [{a:.4g}, {b:.4g}]" for k, (a, b) in zip(self.parameters, self.span(level))
        ]
        parts = f"; {self.parts(level)} parts" if self.axes and self.parts(level) > 1 else ""
        return ", ".join(spans) + parts

    @property
    def headline(self) -> str:
        """One sentence."""
        return f"68 % confidence set: {self._row(0.68)}."

    def __str__(self) -> str:
        return "\n".join([self.how, *(f"{v:.0%}: {self._row(v)}" for v in LEVELS)])

    def plot(self, posterior: Any = None, truth: Any = None) -> Figure:
        """The p-value of one parameter, or the sets of two; see
        `simgen.plots.confidence_figure`.
        """
        from ..plots import confidence_figure

        return confidence_figure(self, posterior=posterior, truth=truth)


def confidence_set(
    test: CalibratedTest, x: Any, *, points: int | None = None, at: Any = None
) -> ConfidenceSet:
    """Inverts a calibrated test, given one observation.

    Arguments:
        test: What `calibrate_test` made.
        x: The observation.
        points: Of the grid, a parameter; it is drawn twice closer about what is not rejected.
        at: Points (m, k) to test in place of a grid, such as draws of a posterior; has to be said
            of more than two parameters.

    Raises:
        ValueError: If there are more than two parameters and no points, or x has another shape
            than in the calibration.
    """
    k = len(test.parameters)
    if test.statistic.rows(x).shape[0] != 1:
        raise ValueError("a confidence set is of one observation")
    columns = test.columns
    prior = test.prior
    bounds = np.stack([prior.low.numpy(), prior.high.numpy()], 1)[columns]
    said = [tuple(v[i] for i in columns) for v in (prior.labels, prior.units)]
    if at is not None:
        values = np.asarray(at, float).reshape(-1, k)
        p = test.p_value(x, values).numpy()
        return ConfidenceSet(test.parameters, (), values, p, bounds, test.headline, *said)
    if k > 2:
        raise ValueError(f"a grid of {k} parameters is too large: give at=, draws of a posterior")
    count = points or _POINTS[k, len(prior.names) > k]
    ends = prior.bijection(torch.tensor([[-_FAR], [_FAR]]).double().expand(2, len(prior.names)))
    wide = ends[:, columns].mT.numpy()
    span = np.where(np.isfinite(bounds), bounds, wide)
    for zoom in range(_ZOOMS + 1):
        axes = tuple(np.linspace(a, b, count) for a, b in span)
        values = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, k)
        p = test.p_value(x, values).numpy()
        near = np.stack(np.unravel_index(np.flatnonzero(p >= _SMALL), [count] * k))
        if zoom == _ZOOMS or not near.shape[1]:
            break
        closer = np.array(
            [(a[max(i.min() - 1, 0)], a[min(i.max() + 1, count - 1)]) for a, i in zip(axes, near)]
        )
        if (np.diff(closer) > 0.8 * np.diff(span)).all():
            break
        span = closer
    return ConfidenceSet(test.parameters, axes, values, p, bounds, test.headline, *said)
