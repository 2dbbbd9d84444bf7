r"""Posterior-predictive check: would the posterior have predicted the observation?

.. math::
    \vartheta_i \sim q(\vartheta \mid x_o), \quad x_i \sim p(x \mid \vartheta_i), \qquad
    P\big(d(x_i) > d(x_o)\big), \quad d(x)^2 = \sum_j (h_j(x) - \bar h_j)^2 / s_j^2

h are the columns of a vector, or means and deviations of what a set, series or image holds.
"""

from __future__ import annotations

__all__ = ["check_predictions"]

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import plots
from .page import Page
from .samples import Samples

PREDICTIONS = 200


def check_predictions(
    page: Page,
    conditional: Any,
    samples: Samples,
    observed: Mapping[str, Any],
    simulator: Any,
    seed: int,
    missing: list[str],
) -> None:
    """Adds a section that simulates from posterior draws and compares with the observation.

    Arguments:
        page: The page to add to.
        conditional: What was inferred with.
        samples: Draws of the posterior.
        observed: The observation, by field.
        simulator: Simulates again; None leaves the section out.
        seed: Of the draws and simulations taken.
        missing: Where to say what was left out, and why.
    """
    if simulator is None:
        missing.append("the posterior-predictive check: no simulator was given")
        return
    if any(not np.isfinite(plots.as_array(v)).all() for v in observed.values()):
        missing.append("the posterior-predictive check: part of the observation is missing")
        return
    if not simulator.names or set(simulator.names) - set(samples.names):
        missing.append(
            "the posterior-predictive check: the target lacks parameters of the simulator"
        )
        return
    draws = samples.resample(PREDICTIONS, seed=seed)
    theta = np.stack([draws[k] for k in simulator.names], -1)
    try:
        predicted = simulator(theta, seed=seed)
    except Exception as error:  # the simulator is the user's: its failure is a finding, not ours
        missing.append(f"the posterior-predictive check: the simulator raised {error!r}")
        return
    shown = [k for k in conditional.given if k in predicted]
    if not shown:
        missing.append("the posterior-predictive check: the simulator makes no given field")
        return
    page.section("predictive", "Posterior-predictive check")
    page.text(
        f"{len(theta)} simulations from draws of the posterior, and the observation. A posterior "
        "that is right, of a simulator that is right, predicts what was observed."
    )
    fields = {**(getattr(simulator, "fields", None) or {}), **(getattr(conditional, "fields", {}))}
    for name in shown:
        _predicted_field(page, name, fields.get(name), observed, predicted, missing)


def _predicted_field(
    page: Page,
    name: str,
    field: Any,
    observed: Mapping[str, Any],
    predicted: Mapping[str, np.ndarray],
    missing: list[str],
) -> None:
    y = _unpadded(np.asarray(plots.as_array(observed[name]), float), observed, name)
    x = _unpadded(np.asarray(predicted[name], float), predicted, name)
    layouts = {0: "vector", 1: "vector", 2: "series", 3: "image", 4: "image"}
    layout = field.layout if field is not None else layouts.get(y.ndim, "")
    good = np.isfinite(x).reshape(len(x), -1).any(1)
    if layout in ("vector", "image"):
        y = y.reshape(x.shape[1:]) if y.size == x[0].size else y
        good &= np.isfinite(x).reshape(len(x), -1).all(1)
    x = x[good]
    if len(x) < 2 or (y.shape != x.shape[1:] and layout != "set" and layout != "series"):
        missing.append(
            f"the posterior-predictive check of {name}: {len(x)} good simulations of shape "
            f"{x.shape[1:]}, an observation of shape {y.shape}"
        )
        return
    labels = (field.labels or field.names) if field is not None else None
    units = field.units if field is not None else None
    share = _farther(y, x, layout)
    page.figure(
        plots.posterior_predictive(y, x, layout, labels, units),
        f"{name}: {share:.0%} of the predictions lie farther from the mean prediction than the "
        "observation does"
        + (f"; {int((~good).sum())} simulations failed." if not good.all() else "."),
    )


def _unpadded(values: np.ndarray, fields: Mapping[str, Any], name: str) -> np.ndarray:
    """Elements beyond a variable length as NaN."""
    if f"{name}_length" not in fields:
        return values
    length = np.asarray(plots.as_array(fields[f"{name}_length"]))
    there = np.arange(values.shape[-2]) < length[..., None]
    return np.where(there[..., None], values, np.nan)


def _farther(y: np.ndarray, x: np.ndarray, layout: str) -> float:
    """Share of predictions that lie farther from the mean prediction, in standard deviations."""

    def features(v: np.ndarray) -> np.ndarray:
        if layout == "vector":
            return v.reshape(len(v), -1)
        axes = (1,) if layout in ("set", "series") else tuple(range(2, v.ndim))
        return np.concatenate([np.nanmean(v, axes), np.nanstd(v, axes)], 1)

    h, h_y = features(x), features(y[None])[0]
    mean, sd = h.mean(0), h.std(0)
    unit = np.where(sd > 0, sd, 1.0)
    distance = (((h - mean) / unit) ** 2).sum(1)
    return float(np.mean(distance > (((h_y - mean) / unit) ** 2).sum()))
