"""Posterior-predictive checks: the observation beside what the posterior predicts."""

from __future__ import annotations

__all__ = ["image_predictive", "posterior_predictive", "set_predictive", "vector_predictive"]

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import COLOURS, GREY, TRUTH, as_array, new_figure, styled, tex

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def posterior_predictive(
    observed: Any,
    draws: Any,
    layout: str = "vector",
    labels: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
) -> Figure:
    """The observation beside what the posterior predicts.

    Arguments:
        observed: The observation, (*event).
        draws: Simulations from posterior draws, (n, *event).
        layout: "vector", "set", "series" or "image".
        labels: One a column, feature or channel.
        units: The same.

    Raises:
        ValueError: If the shapes do not match.
    """
    y, x = as_array(observed).astype(float), as_array(draws).astype(float)
    if x.shape[1:] != y.shape and layout == "vector":
        raise ValueError(f"draws must be (n, *{y.shape}), as the observation; got {x.shape}")
    panels = {"vector": vector_predictive, "image": image_predictive}
    return panels.get(layout, set_predictive)(y, x, labels=labels, units=units)


@styled
def vector_predictive(
    y: np.ndarray,
    x: np.ndarray,
    labels: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
) -> Figure:
    """Bands of 68 % and 95 % of each column of x (n, d), and the observation y (d,) as dots.

    A lower panel shows the same in units of the predictive standard deviation.
    """
    y, x = y.reshape(-1), x.reshape(len(x), -1)
    d = len(y)
    low2, low1, middle, high1, high2 = np.nanquantile(x, [0.025, 0.16, 0.5, 0.84, 0.975], axis=0)
    sd = np.nanstd(x, axis=0)
    figure = new_figure(min(max(5.2, 0.34 * d), 8.0), 4.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
    where = np.arange(d)
    scale = np.where(sd > 0, sd, 1.0)
    for ax, centre, unit in ((top, 0.0, 1.0), (bottom, middle, scale)):
        bands = [(low2, high2, 0.18), (low1, high1, 0.35)]
        for low, high, alpha in bands:
            a, b = (low - centre) / unit, (high - centre) / unit
            if d <= 30:
                ax.bar(where, b - a, 0.7, bottom=a, color=COLOURS[0], alpha=alpha, lw=0)
            else:
                ax.fill_between(where, a, b, color=COLOURS[0], alpha=alpha, lw=0)
        ax.plot(
            where, (middle - centre) / unit, "_" if d <= 30 else "-", color=COLOURS[0], ms=9, lw=1
        )
        ax.plot(
            where,
            (y - centre) / unit,
            "o",
            color=TRUTH,
            ms=3.5 if d <= 60 else 2,
            label="observed",
        )
    bottom.axhline(0, color=GREY, lw=0.8, zorder=0)
    bottom.set_ylabel("in sd")
    top.set_ylabel(
        "value"
        if not units or len(set(units)) > 1
        else f"value [{units[0]}]"
        if units[0]
        else "value"
    )
    _legend_bands(top)
    if labels and d <= 12:
        bottom.set_xticks(where, [tex(v) for v in labels], rotation=0 if d <= 6 else 40)
    else:
        from matplotlib.ticker import MaxNLocator

        bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
        bottom.set_xlabel("column")
    return figure


def _legend_bands(ax: Axes) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=TRUTH, marker="o", ms=3.5, ls="", label="observed"),
        Patch(color=COLOURS[0], alpha=0.5, lw=0, label="68 %"),
        Patch(color=COLOURS[0], alpha=0.18, lw=0, label="95 % of predictions"),
    ]
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)


@styled
def set_predictive(
    y: np.ndarray,
    x: np.ndarray,
    labels: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
) -> Figure:
    """Histograms of each feature over the elements of y (K, F), with bands of x (n, K, F).

    Missing elements are NaN.
    """
    features = y.shape[-1]
    shown = min(features, 8)
    columns = min(shown, 4 if shown != 3 else 3)
    rows = -(-shown // columns)
    figure = new_figure(2.6 * max(columns, 2), 2.4 * rows + 0.35)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[shown:]:
        ax.axis("off")
    for f, ax in enumerate(axes[:shown]):
        observed = y[..., f][np.isfinite(y[..., f])]
        simulated = [row[np.isfinite(row)] for row in x[..., f].reshape(len(x), -1)]
        everything = np.concatenate([observed, *simulated])
        low, high = np.quantile(everything, [0.002, 0.998])
        if not high > low:
            low, high = low - 0.5, high + 0.5
        edges = np.linspace(low, high, int(np.clip(len(observed) ** 0.5 * 1.5, 8, 40)) + 1)
        each = np.stack([_density(s, edges) for s in simulated])
        seen = _density(observed, edges)
        for a, b, alpha in ((2.5, 97.5, 0.18), (16, 84, 0.35)):
            lower, upper = np.percentile(each, [a, b], axis=0)
            ax.stairs(upper, edges, baseline=lower, fill=True, color=COLOURS[0], alpha=alpha, lw=0)
        ax.stairs(seen, edges, color=TRUTH, lw=1.2)
        label = labels[f] if labels else f"feature {f}"
        ax.set_xlabel(tex(label, units[f] if units else ""))
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.set_ylim(bottom=0)
    _legend_figure(figure)
    return figure


def _density(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Histogram of the share of the values per unit."""
    counts = np.histogram(values, edges)[0]
    return counts / (max(len(values), 1) * (edges[1] - edges[0]))


def _legend_figure(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Line2D([], [], color=TRUTH, lw=1.2, label="observed"),
        Patch(color=COLOURS[0], alpha=0.5, lw=0, label="68 %"),
        Patch(color=COLOURS[0], alpha=0.18, lw=0, label="95 % of predictions"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)


@styled
def image_predictive(
    y: np.ndarray,
    x: np.ndarray,
    labels: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
) -> Figure:
    """The observed image (C, H, W), three predictions, and its distance from their mean.

    A third spatial axis is shown by its middle slice.
    """
    if y.ndim == 4:
        y, x = y[:, y.shape[1] // 2], x[:, :, x.shape[2] // 2]
    channels, shown = min(len(y), 3), min(len(x), 3)
    figure = new_figure(1.9 * (shown + 2) + 0.9, 2.1 * channels + 0.3)
    axes = figure.subplots(channels, shown + 2, squeeze=False)
    mean, sd = x.mean(0), x.std(0)
    pull = (y - mean) / np.where(sd > 0, sd, 1.0)
    for c in range(channels):
        low, high = np.quantile(
            np.concatenate([y[c].ravel(), x[:shown, c].ravel()]), [0.005, 0.995]
        )
        titles = ["observed", *(f"prediction {i + 1}" for i in range(shown))]
        for ax, image, title in zip(axes[c], [y[c], *x[:shown, c]], titles):
            picture = ax.imshow(image, cmap="viridis", vmin=low, vmax=high, origin="lower")
            ax.set_title(title if c == 0 else "")
        bar = figure.colorbar(picture, ax=list(axes[c, : shown + 1]), shrink=0.8, pad=0.015)
        if labels or units:
            bar.set_label(tex(labels[c] if labels else f"channel {c}", units[c] if units else ""))
        limit = max(3.0, float(np.quantile(np.abs(pull[c]), 0.99)))
        picture = axes[c, -1].imshow(
            pull[c], cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower"
        )
        axes[c, -1].set_title("(observed - mean) / sd" if c == 0 else "")
        figure.colorbar(picture, ax=axes[c, -1], shrink=0.8, pad=0.03)
    for ax in axes.ravel():
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    return figure
