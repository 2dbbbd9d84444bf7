"""The figure: power of draws and of their mean over the truth's, and one-point distributions."""

from __future__ import annotations

__all__ = ["summaries"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy import ndarray as Array

from simgen.plots.style import COLOURS, GREY, TRUTH


def summaries(found: Mapping[str, Mapping[str, Any]], values: Array, path: Path) -> None:
    """Draws both for each part.

    Arguments:
        found: Results by part.
        values: Edges of the bins of convergence.
        path: Where to write the figure.
    """
    figure = Figure(figsize=(8.6, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.axhline(1, color=GREY, lw=0.8)
    middle = (values[1:] + values[:-1]) / 2
    for i, (name, one) in enumerate(found.items()):
        bins = 1 + np.arange(len(one["power"]))
        left.plot(bins, one["power"], color=COLOURS[i], label=f"{name}: draws")
        left.plot(bins, one["power_of_mean"], "--", color=COLOURS[i], label="posterior mean")
        right.plot(middle, one["pdf"], color=COLOURS[i], label=f"{name}: draws")
    for name, one in found.items():
        if name in ("gaussian, Wiener", "lognormal, Wiener"):
            style = ":" if name.startswith("gaussian") else "-."
            field = name.split(",")[0]
            right.plot(middle, one["pdf_truth"], style, color=TRUTH, lw=1, label=f"{field} truths")
    left.set(xlabel="band of multipoles", ylabel="power over the truth's", ylim=(0, 1.6))
    right.set(xlabel=r"$\kappa$", ylabel="density", yscale="log")
    for ax in (left, right):
        ax.legend(fontsize=6.5, frameon=False)
    figure.savefig(path, dpi=130)
