r"""An inverse problem at a glance: what was seen, what was there, and what is inferred.

.. math::
    \bar x = \frac1S \sum_s x_s, \qquad \mathrm{sd}(x), \qquad
    \frac{y - \overline{A(x)}}{\sigma}, \qquad x_s \sim p(x \mid y)

Truth, mean and draws share their colours; residuals are in units of the noise, where it is known.
"""

from __future__ import annotations

__all__ = ["inverse_pictures"]

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import as_array, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 5
_RESIDUALS = 4.0  # standard deviations at the ends of the colours


@styled
def inverse_pictures(
    observed: Any,
    draws: Any,
    truth: Any = None,
    predicted: Any = None,
    sigma: Any = None,
    samples: int = 3,
) -> Figure:
    """Observed, truth, posterior mean, its standard deviation, draws, and the residual.

    Images may be (H, W) or (C, H, W), of which the first channel is shown; of series (T,) lines.

    Arguments:
        observed: y, (*observed).
        draws: Draws of the posterior (S, *event).
        truth: x (*event), if it is known.
        predicted: A(x) of the draws, (S, *observed), for the residual of their mean.
        sigma: The noise's standard deviation, a number or (*observed): the residual's unit.
        samples: How many draws to show.

    Raises:
        ValueError: If shapes do not agree, or have no picture.
    """
    y, x = as_array(observed).astype(float), as_array(draws).astype(float)
    known = None if truth is None else as_array(truth).astype(float)
    if known is not None and known.shape != x.shape[1:]:
        raise ValueError(f"draws are {x.shape[1:]}, the truth {known.shape}")
    rest = None
    if predicted is not None:
        fit = as_array(predicted).astype(float)
        if fit.shape[1:] != y.shape:
            raise ValueError(f"predictions are {fit.shape[1:]}, the observation {y.shape}")
        rest = (y - fit.mean(0)) / (1.0 if sigma is None else as_array(sigma))
    mean = x.mean(0)
    scene = [mean, *x[:samples], *([] if known is None else [known])]
    low, high = np.nanquantile(np.stack(scene), [0.002, 0.998])
    same = {"vmin": low, "vmax": high}
    panels: list[tuple[str, np.ndarray, dict[str, Any]]] = [("observed", y, {})]
    if known is not None:
        panels.append(("truth", known, same))
    panels += [("posterior mean", mean, same), ("standard deviation", x.std(0), {"vmin": 0})]
    if rest is not None:
        top = _RESIDUALS if sigma is not None else float(abs(rest).max()) or 1.0
        ends = {"vmin": -top, "vmax": top, "cmap": "RdBu_r"}
        panels.append(("residual" + (r" / $\sigma$" if sigma is not None else ""), rest, ends))
    panels += [(f"draw {i + 1}", one, same) for i, one in enumerate(x[:samples])]
    lines = math.ceil(len(panels) / _COLUMNS)
    columns = math.ceil(len(panels) / lines)
    figure = new_figure(2.15 * columns, 1.95 * lines + 0.1)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for ax, (title, values, settings) in zip(axes, panels):
        _show(figure, ax, _plane(values), settings)
        ax.set_title(title)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    return figure


def _plane(values: np.ndarray) -> np.ndarray:
    """(H, W) or (T,) of what may have channels."""
    if values.ndim == 3:
        return values[0]
    if values.ndim in (1, 2):
        return values
    raise ValueError(f"a picture is (H, W), (C, H, W) or (T,); got {values.shape}")


def _show(figure: Figure, ax: Axes, values: np.ndarray, settings: dict[str, Any]) -> None:
    if values.ndim == 1:
        ax.plot(values, color="#2b6cb0", lw=1)
        if "vmax" in settings:
            ax.set_ylim(settings["vmin"], settings["vmax"])
        return
    picture = ax.imshow(values, **{"cmap": "viridis", "origin": "lower", **settings})
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    figure.colorbar(picture, ax=ax, shrink=0.85, pad=0.02)
