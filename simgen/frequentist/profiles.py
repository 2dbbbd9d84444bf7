r"""Profile likelihoods of one or two parameters, and likelihood-ratio intervals.

.. math::
    t(\psi) = 2 \Bigl[ \sup_{\psi', \nu} \log p(x \mid \psi', \nu)
        - \sup_\nu \log p(x \mid \psi, \nu) \Bigr], \qquad
    \{\psi : t(\psi) \le \chi^2_k(\text{level})\}

with the nuisance parameters nu profiled, as here, or marginalised over their prior (see
`marginals`). The threshold is Wilks's: exact where the log-likelihood is a parabola, and an
approximation that fails at a bound, for few counts, and where theta is not identified;
`confidence_set` asks simulations instead. Intervals may be several: a likelihood with two
separate peaks has two.

References:
    | The Large-Sample Distribution of the Likelihood Ratio for Testing Composite Hypotheses
    | (Wilks, 1938), https://doi.org/10.1214/aoms/1177732360
"""

from __future__ import annotations

__all__ = ["LEVELS", "Profile", "profile"]

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy import ndarray as Array
from scipy.stats import chi2
from torch import Tensor

from ..inference import infer
from ..prior import Prior
from .ascent import ascend
from .intervals import intervals, peak, refined, written
from .marginals import marginal
from .maxima import search
from .surface import Surface, of_observation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVELS = (0.68, 0.95)
_COARSE, _PAIR, _DRAWS, _KEEP, _ROUNDS = 33, 41, 64, 3, 8
_AVERAGED = 1_000  # draws of nuisance parameters
_FAR = 16.0  # the statistic at which a grid has gone far enough
_CUTS = [float(chi2.ppf(level, k)) for level in (0.68, 0.95) for k in (1, 2)]
Statistic = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Of values (g, k) of the parameters: log-likelihoods (g,) and the points (g, d) they are at."""


@dataclass(frozen=True)
class Profile:
    """Minus twice the log of a likelihood ratio, over one or two parameters.

    Attributes:
        parameters: Their names.
        axes: The values of each: (g,), or two of them.
        statistic: t (g,), or (g, h); zero at the best.
        best: Values of the parameters where it is zero, (k,).
        nuisance: Those of all parameters (g, d), or (g, h, d), at which t is attained; None where
            they are averaged over.
        names: Of all parameters.
        treatment: "profiled", "marginalised", or "" where there is none.
        bounds: The prior's support, (k, 2).
        labels, units: As the prior has them, by parameter.
    """

    parameters: tuple[str, ...]
    axes: tuple[Array, ...]
    statistic: Array
    best: Array
    nuisance: Array | None
    names: tuple[str, ...]
    treatment: str
    bounds: Array
    labels: tuple[str, ...] = ()
    units: tuple[str, ...] = ()

    def threshold(self, level: float) -> float:
        """Wilks's: the quantile of chi-square with as many degrees as parameters."""
        return float(chi2.ppf(level, len(self.parameters)))

    def interval(self, level: float = 0.68) -> tuple[tuple[float, float], ...]:
        """The intervals of one parameter whose t is at most the threshold, in rising order.

        Raises:
            ValueError: If there are two parameters: see `region`.
        """
        if len(self.axes) > 1:
            raise ValueError("two parameters have no interval: see region(level)")
        return intervals(self.axes[0], self.statistic, self.threshold(level), self.bounds[0])

    def region(self, level: float = 0.68) -> Array:
        """Which points of the grid are in the region, of the shape of `statistic`."""
        return self.statistic <= self.threshold(level)

    @property
    def headline(self) -> str:
        """One sentence."""
        rest = [k for k in self.names if k not in self.parameters]
        about = f", {', '.join(rest)} {self.treatment}" if rest else ""
        at = ", ".join(f"{k} = {v:.4g}" for k, v in zip(self.parameters, self.best))
        text = f"Likelihood highest at {at}{about}"
        if len(self.axes) == 1:
            text += f"; 68 %: {written(self.interval(0.68))}"
        return f"{text} (thresholds by Wilks's theorem, an approximation)."

    def __str__(self) -> str:
        lines = [self.headline]
        if len(self.axes) == 1:
            rows = [f"{v:.0%}: {written(self.interval(v))}" for v in LEVELS]
            return "\n".join([*lines, *rows])
        for level in LEVELS:
            cell = self.region(level)
            spans = [
                f"{k} in {_span(a, cell.any(1 - i))}"
                for i, (k, a) in enumerate(zip(self.parameters, self.axes))
            ]
            lines.append(f"{level:.0%}: {', '.join(spans)}")
        return "\n".join(lines)

    def plot(self, posterior: Any = None, truth: Any = None) -> Figure:
        """The curve with its intervals, or the contours of two parameters; see
        `simgen.plots.profile_figure`.
        """
        from ..plots import profile_figure

        return profile_figure(self, posterior=posterior, truth=truth)


def _span(axis: Array, inside: Any) -> str:
    found = axis[inside]
    return f"[{found.min():.4g}, {found.max():.4g}]" if len(found) else "nowhere"


def profile(
    surrogate: Any,
    x: Any,
    parameters: str | Sequence[str],
    prior: Any = None,
    *,
    nuisance: str = "profile",
    iid: bool = False,
    points: int | None = None,
    seed: int = 0,
) -> Profile:
    """The profile likelihood of one or two parameters, the others being nuisance.

    Arguments:
        surrogate: A fitted "x | theta", any likelihood that `infer` takes, or a list of them.
        x: The observation; of a list of likelihoods a list.
        parameters: A name, or two.
        prior: Its support bounds theta; the surrogate's own unless said.
        nuisance: "profile": the most favourable value; "marginalise": averaged over the prior,
            which needs independent factors, with draws of `infer`.
        iid: Whether x is a set of independent events (events, *event).
        points: Of the grid, a parameter; refined about maxima and ends of intervals where there
            is one parameter.
        seed: Of starting points and draws.

    Raises:
        ValueError: If a name is no parameter, or as of `infer`.
    """
    surface = of_observation(surrogate, x, prior, iid)
    where = surface.prior
    chosen = (parameters,) if isinstance(parameters, str) else tuple(parameters)
    columns = indices(chosen, where)
    if not 1 <= len(chosen) <= 2:
        raise ValueError(f"a profile has one or two parameters; got {len(chosen)}")
    if nuisance not in ("profile", "marginalise"):
        raise ValueError(f"nuisance is 'profile' or 'marginalise'; got {nuisance!r}")
    u, _ = search(surface, seed)
    axes: list[Array] = []
    for column in columns:
        axis = _axis(surface, column, u, points or _COARSE, seed)
        if len(columns) == 2:
            height, _ = profiled(surface, [column], u, seed)(torch.as_tensor(axis)[:, None])
            t = 2 * (height.max() - height).numpy()
            axis = np.linspace(*_range(axis, t), points or _PAIR)
        axes.append(axis)
    mesh = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
    treatment = "" if len(chosen) == len(where.names) else "profiled"
    nuisances: Array | None = None
    if nuisance == "marginalise" and treatment:
        posterior = infer(where, surrogate, x, iid=iid, seed=seed)
        value = marginal(surface, columns, axes, posterior.sample(_AVERAGED))
        treatment = "marginalised"
    else:
        found, at = profiled(surface, columns, u, seed)(torch.as_tensor(mesh))
        value = found.numpy()
        nuisances = at.numpy().reshape(*[len(a) for a in axes], -1)
    value = value.reshape([len(a) for a in axes])
    best, top = peak(axes, value)
    statistic = np.maximum(2 * (top - value), 0.0)
    bounds = np.stack([where.low.numpy(), where.high.numpy()], 1)[columns]
    said = [tuple(v[i] for i in columns) for v in (where.labels, where.units)]
    return Profile(
        chosen, tuple(axes), statistic, best, nuisances, where.names, treatment, bounds, *said
    )


def indices(names: Sequence[str], prior: Prior) -> list[int]:
    """The columns of some parameters.

    Raises:
        ValueError: If one is none, or stands twice.
    """
    for name in names:
        if name not in prior.names:
            raise ValueError(f"no parameter {name!r}; there are: {', '.join(prior.names)}")
    if len(set(names)) != len(names):
        raise ValueError(f"a parameter stands twice in {', '.join(names)}")
    return [prior.names.index(k) for k in names]


def profiled(surface: Surface, columns: list[int], u: Tensor, seed: int) -> Statistic:
    """The highest log-likelihood, and where, as a function of the parameters in some columns."""
    where = surface.prior
    d = len(where.names)
    free = torch.ones(d, dtype=torch.bool)
    free[columns] = False
    draws = where.bijection.inv(where.sample((_DRAWS,), seed=seed + 1).double())
    start = torch.cat([u, draws]) if bool(free.any()) else u[:1]
    reference = where.bijection(start[0])

    def function(values: Tensor) -> tuple[Tensor, Tensor]:
        theta = reference.repeat(len(values), 1)
        theta[:, columns] = values.double()
        fixed = where.bijection.inv(theta)[:, columns]
        candidates = start.repeat(len(values), 1, 1)
        candidates[:, :, columns] = fixed[:, None]
        row = torch.zeros(len(values), dtype=torch.long)
        at, value = ascend(surface, candidates, row, free, _KEEP)
        return value, where.bijection(at)

    return function


def _axis(surface: Surface, column: int, u: Tensor, points: int, seed: int) -> Array:
    """Values of a parameter, the others profiled: quantiles of the prior, the maxima, what lies
    about them, and the ends of intervals.
    """
    where = surface.prior
    function = profiled(surface, [column], u, seed)
    v = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    level = torch.cat([v.new_tensor([-3.5]), torch.special.ndtri(v), v.new_tensor([3.5])])
    coarse = where.bijection(level[:, None].expand(-1, len(where.names)))[:, column]
    ends = [float(where.low[column]), float(where.high[column])]
    finite = coarse.new_tensor([b for b in ends if math.isfinite(b)])
    grid = torch.cat([coarse, finite, where.bijection(u)[:, column]]).unique()
    value, _ = function(grid[:, None])
    for _ in range(_ROUNDS):
        t = 2 * (value.max() - value)
        new = torch.as_tensor(refined(grid.numpy(), t.numpy(), _CUTS, _FAR, ends))
        if not len(new):
            break
        grid, value = torch.cat([grid, new]), torch.cat([value, function(new[:, None])[0]])
        order = grid.argsort()
        grid, value = grid[order], value[order]
    return grid.numpy()


def _range(axis: Array, t: Array) -> tuple[float, float]:
    """The cells of an axis where t is small enough to be looked at."""
    near = np.flatnonzero(t <= _FAR)
    return float(axis[max(near[0] - 1, 0)]), float(axis[min(near[-1] + 1, len(axis) - 1)])
