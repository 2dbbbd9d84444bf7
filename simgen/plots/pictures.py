"""Pictures of single rows: images, sets as scatter plots, series as lines."""

from __future__ import annotations

__all__ = ["picture_rows"]

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import COLOURS, as_array, new_figure, styled, tex

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CHANNELS = 3


@styled
def picture_rows(
    rows: Mapping[str, Any],
    layout: str,
    lengths: Any = None,
    labels: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
) -> Figure:
    """A few rows of a field side by side, and of others of its shape below: simulated, learned.

    An image (C, H, W) is shown channel by channel, with one range of colours a channel; of a
    third spatial axis the middle slice. A set (K, F) is a scatter plot of its first two features,
    a Lund plane where these are ln kt and eta, or a histogram of its only one. A series (T, F) is
    a line a feature.

    Arguments:
        rows: Rows of the field (n, *event) by what they are.
        layout: "image", "set" or "series".
        lengths: Elements of each row that count (n,), where the field is padded.
        labels: One a feature or channel.
        units: The same.
        titles: One a row.

    Raises:
        ValueError: If the layout has no picture.
    """
    drawers = {"image": _images, "set": _set, "series": _series}
    if layout not in drawers:
        raise ValueError(f"layout must be one of {', '.join(drawers)}; got {layout!r}")
    values = {name: as_array(v).astype(float) for name, v in rows.items()}
    first = next(iter(values.values()))
    if layout == "image":
        values = {k: v if v.ndim < 5 else v[:, :, v.shape[2] // 2] for k, v in values.items()}
        shown = min(first.shape[1], _CHANNELS)
        values = {
            f"{k}, {_label(labels, units, c)}" if first.shape[1] > 1 else k: v[:, c]
            for c in range(shown)
            for k, v in values.items()
        }
    n = len(first)
    figure = new_figure(2.1 * n + 0.5, 2.0 * len(values) + 0.2)
    axes = figure.subplots(len(values), n, squeeze=False, sharex=True, sharey=True)
    for line, (name, some) in zip(axes, values.items()):
        known = [v if lengths is None else v[: int(k)] for v, k in zip(some, _lengths(lengths, n))]
        drawers[layout](figure, line, known)
        line[0].set_ylabel(name if len(values) > 1 or layout == "image" else "")
    if layout != "image":
        _name_axes(axes, layout, first.shape[-1], labels, units)
    for ax, title in zip(axes[0], titles or ()):
        ax.set_title(title)
    return figure


def _lengths(lengths: Any, n: int) -> list[Any]:
    return [None] * n if lengths is None else list(as_array(lengths))


def _label(labels: Sequence[str] | None, units: Sequence[str] | None, i: int) -> str:
    return tex(labels[i] if labels else str(i), units[i] if units else "")


def _name_axes(
    axes: Any, layout: str, features: int, labels: Sequence[str] | None, units: Any
) -> None:
    for ax in axes[-1]:
        if layout == "series":
            ax.set_xlabel("step")
        elif labels:
            ax.set_xlabel(_label(labels, units, 0))
    if layout == "set" and features > 1 and labels:
        for line in axes:
            line[0].set_ylabel(_label(labels, units, 1))


def _images(figure: Figure, axes: Sequence[Axes], images: Sequence[np.ndarray]) -> None:
    low, high = np.nanquantile(np.stack(images), [0.002, 0.998])
    for ax, image in zip(axes, images):
        picture = ax.imshow(image, cmap="viridis", vmin=low, vmax=high, origin="lower")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    figure.colorbar(picture, ax=list(axes), shrink=0.85, pad=0.015)


def _set(figure: Figure, axes: Sequence[Axes], sets: Sequence[np.ndarray]) -> None:
    for ax, elements in zip(axes, sets):
        if elements.shape[-1] == 1:
            ax.hist(elements[:, 0], bins=24, color=COLOURS[0], histtype="stepfilled", alpha=0.6)
        else:
            size = float(np.clip(400 / max(len(elements), 1), 2, 24))
            ax.scatter(elements[:, 0], elements[:, 1], s=size, color=COLOURS[0], alpha=0.7, lw=0)


def _series(figure: Figure, axes: Sequence[Axes], series: Sequence[np.ndarray]) -> None:
    for ax, values in zip(axes, series):
        for f, line in enumerate(values.T):
            ax.plot(line, color=COLOURS[f % len(COLOURS)], lw=1)
