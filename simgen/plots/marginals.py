r"""Corner plots: one- and two-dimensional marginals of draws.

.. math:: R_p = \{y : \hat p(y) \ge t_p\}, \qquad \int_{R_p} \hat p(y)\, dy = p

A contour at level p encloses the smallest region that holds the share p of the draws, by a
smoothed histogram that reflects at its edges, so that a density that ends at a bound stays whole.
"""

from __future__ import annotations

__all__ = ["corner"]

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..samples import Samples
from .style import GREY, TRUTH, as_array, cycle, styled, tex

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS = (0.95, 0.68)
BINS = 70


def _as_samples(samples: Any) -> Samples:
    return samples if isinstance(samples, Samples) else Samples(samples)


def _smooth(counts: np.ndarray, width: float | Sequence[float]) -> np.ndarray:
    """Gaussian smoothing that reflects at the edges, so that a prior's bound keeps its density."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(counts, width, mode="reflect")


def _thresholds(density: np.ndarray, levels: Sequence[float]) -> list[float]:
    """Densities whose superlevel sets hold the given shares, increasing."""
    ordered = np.sort(density.ravel())[::-1]
    share = np.cumsum(ordered) / ordered.sum()
    last = len(ordered) - 1
    found = [float(ordered[min(int(np.searchsorted(share, p)), last)]) for p in levels]
    for i in range(1, len(found)):
        found[i] = max(found[i], found[i - 1] * (1 + 1e-9) + 1e-300)
    return found


def _range(sets: Sequence[Samples], column: int, truth: float | None) -> tuple[float, float]:
    ends = [s.quantile([0.001, 0.999])[:, column] for s in sets]
    low, high = min(float(e[0]) for e in ends), max(float(e[1]) for e in ends)
    if truth is not None and np.isfinite(truth):
        low, high = min(low, truth), max(high, truth)
    margin = 0.06 * (high - low) or max(abs(high), 1.0) * 0.05
    # Little past where draws stop: a posterior that ends at a bound is seen to end there.
    return low - margin, high + margin


def _bandwidth(samples: Samples, column: int, dimensions: int) -> float:
    """Scott's rule with a robust width, a little wider for smooth contours."""
    low, high = samples.quantile([0.158655, 0.841345])[:, column]
    width = min(float(samples.sd[column]), (float(high) - float(low)) / 2)
    return (0.8 + 0.2 * dimensions) * width * samples.ess ** (-1 / (4 + dimensions))


def _diagonal(
    ax: Axes,
    samples: Samples,
    column: int,
    span: tuple[float, float],
    colour: str,
    fill: bool = False,
    **line: Any,
) -> None:
    values, w = samples.draws[:, column].astype(float), samples.weights
    low, high = max(span[0], values.min()), min(span[1], values.max())
    if not high > low:
        ax.axvline(low, color=colour, **line)
        return
    edges = np.linspace(low, high, BINS + 1)
    density = np.histogram(values, edges, weights=w)[0]
    density = _smooth(density, _bandwidth(samples, column, 1) / (edges[1] - edges[0]))
    centres = np.concatenate([[low], (edges[1:] + edges[:-1]) / 2, [high]])
    density = np.concatenate([density[:1], density, density[-1:]]) / density.max()
    ax.plot(centres, density, color=colour, **line)
    if fill:
        ax.fill_between(centres, density, color=colour, alpha=0.12, lw=0)


def _pair(
    ax: Axes, samples: Samples, i: int, j: int, spans: Any, colour: str, fill: bool, **line: Any
) -> None:
    x, y = samples.draws[:, j].astype(float), samples.draws[:, i].astype(float)
    ranges = []
    for values, span in ((x, spans[j]), (y, spans[i])):
        low, high = max(span[0], values.min()), min(span[1], values.max())
        ranges.append((low, high if high > low else low + 1e-12))
    counts, xe, ye = np.histogram2d(x, y, bins=BINS, range=ranges, weights=samples.weights)
    widths = [_bandwidth(samples, c, 2) / (e[1] - e[0]) for c, e in ((j, xe), (i, ye))]
    density = _smooth(counts, widths)
    xc, yc = ((e[1:] + e[:-1]) / 2 for e in (xe, ye))
    # Carry the density out to the first and last draw, where a bound cuts contours off.
    density = np.pad(density, 1, mode="edge")
    xc, yc = (np.concatenate([[e[0]], c, [e[-1]]]) for e, c in ((xe, xc), (ye, yc)))
    levels = _thresholds(density[1:-1, 1:-1], LEVELS)
    if fill:
        from matplotlib.colors import to_rgba

        shades = [to_rgba(colour, 0.18), to_rgba(colour, 0.42)]
        ax.contourf(
            xc, yc, density.T, [*levels, max(density.max(), levels[-1]) * 1.01], colors=shades
        )
    ax.contour(xc, yc, density.T, levels, colors=[colour], linewidths=1.1, **line)


@styled
def corner(
    samples: Any,
    *,
    truth: Any = None,
    names: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
    prior: Any = None,
    titles: bool = True,
    most: int = 10,
) -> Figure:
    """One- and two-dimensional marginals with 68 % and 95 % regions.

    Arguments:
        samples: Samples or an array (n, d); or a dict of several by name, overlaid with a legend.
        truth: True values (d,), drawn as lines.
        names: Of the columns, where the samples are arrays.
        labels: LaTeX in place of the samples' own.
        units: Units in place of the samples' own.
        prior: Draws of the prior, Samples or (m, d): dashed on the diagonal, and a part of no
            range.
        titles: Whether the diagonal carries mean and standard deviation (one sample set only).
        most: The most columns to show: the first ones.

    Raises:
        ValueError: If the sample sets differ in their columns, or truth has another length.
    """
    named = isinstance(samples, Mapping)
    sets = {k: _as_samples(v) for k, v in (samples.items() if named else [("", samples)])}
    first = next(iter(sets.values()))
    d = first.draws.shape[1]
    if first.draws.ndim != 2 or any(s.draws.shape[1:] != (d,) for s in sets.values()):
        found = {k: s.draws.shape for k, s in sets.items()}
        raise ValueError(f"corner needs draws (n, d) of the same d; got {found}")
    labels = labels or (
        (names or first.labels) if not any(first.labels) or names else first.labels
    )
    units = units or first.units
    known = (
        [None] * d
        if truth is None
        else [float(v) for v in np.asarray(as_array(truth)).reshape(-1)]
    )
    for what, value in (("truth", known), ("labels", labels), ("units", units)):
        if len(value) != d:
            raise ValueError(f"{what} must be {d} values; got {len(value)}")
    k = min(d, most)
    text = [tex(a, b) for a, b in zip(labels, units)]
    spans = [_range(list(sets.values()), i, known[i]) for i in range(d)]
    side = {1: 4.2, 2: 2.7, 3: 2.25}.get(k, 1.75)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(side * k + 0.5, side * k + 0.4))
    axes = figure.subplots(k, k, squeeze=False)
    for i in range(k):
        for j in range(k):
            ax = axes[i, j]
            if j > i:
                ax.axis("off")
                continue
            for n, (colour, s) in enumerate(zip(cycle(len(sets)), sets.values())):
                if i == j:
                    _diagonal(ax, s, i, spans[i], colour, fill=n == 0)
                else:
                    _pair(ax, s, i, j, spans, colour, fill=n == 0)
            if i == j and prior is not None:
                _diagonal(
                    ax, _as_samples(prior), i, spans[i], GREY, linestyle=(0, (4, 2)), linewidth=1.2
                )
            _decorate(ax, i, j, k, text, spans, known)
            if i == j and titles and len(sets) == 1:
                ax.set_title(
                    f"{tex(labels[i])} = {_plus_minus(first.mean[i], first.sd[i])}", pad=6
                )
    figure.subplots_adjust(
        0.02 + 0.62 / (side * k),
        0.02 + 0.55 / (side * k),
        0.985,
        1 - 0.32 / (side * k),
        0.07,
        0.07,
    )
    figure.align_labels()
    _corner_legend(figure, axes, named and list(sets), prior is not None, truth is not None, k)
    return figure


def _decorate(ax: Axes, i: int, j: int, k: int, text: Any, spans: Any, truth: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlim(spans[j])
    ax.xaxis.set_major_locator(MaxNLocator(3 if k > 3 else 4, prune="both"))
    if truth[j] is not None:
        ax.axvline(truth[j], color=TRUTH, lw=0.9, ls=(0, (1, 1.2)))
    if i == j:
        ax.set_ylim(0, 1.12)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
    else:
        ax.set_ylim(spans[i])
        ax.yaxis.set_major_locator(MaxNLocator(3 if k > 3 else 4, prune="both"))
        ax.spines[["top", "right"]].set_visible(True)
        if truth[i] is not None:
            ax.axhline(truth[i], color=TRUTH, lw=0.9, ls=(0, (1, 1.2)))
            ax.plot(truth[j], truth[i], "o", color=TRUTH, ms=3.2)
    if i == k - 1:
        ax.set_xlabel(text[j])
        ax.tick_params(axis="x", rotation=35 if k > 3 else 0)
    else:
        ax.set_xticklabels([])
    if j == 0 and i > 0:
        ax.set_ylabel(text[i])
    elif i != j:
        ax.set_yticklabels([])


def _plus_minus(mean: float, sd: float) -> str:
    """Mean and standard deviation to two digits of the latter, in mathematics."""
    if not (np.isfinite(sd) and sd > 0):
        return f"{mean:.4g}"
    digits = int(np.floor(np.log10(sd)))
    if -4 <= digits <= 4:
        places = max(0, 1 - digits)
        return f"${mean:.{places}f} \\pm {sd:.{places}f}$"
    power = int(np.floor(np.log10(max(abs(mean), sd))))
    places = max(0, 1 - (digits - power))
    scale = 10.0**power
    return f"$({mean / scale:.{places}f} \\pm {sd / scale:.{places}f}) \\times 10^{{{power}}}$"


def _corner_legend(
    figure: Figure, axes: Any, names: Any, prior: bool, truth: bool, k: int
) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=c, lw=2.2, label=n)
        for c, n in zip(cycle(len(names or ())), names or ())
    ]
    if prior:
        handles.append(Line2D([], [], color=GREY, ls=(0, (4, 2)), label="prior"))
    if truth:
        handles.append(
            Line2D([], [], color=TRUTH, ls=(0, (1, 1.2)), marker="o", ms=3.2, label="truth")
        )
    if not handles:
        return
    if k == 1:
        axes[0, 0].legend(handles=handles, loc="upper right")
    else:
        box = axes[0, 1].get_position()
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(box.x0 + 0.02, box.y1))
