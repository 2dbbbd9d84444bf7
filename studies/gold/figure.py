"""The figure: gaps of likelihood and posterior against the number of simulations."""

from __future__ import annotations

__all__ = ["draw"]

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .measure import Gap

_COLOURS = {"plain": "#3a6ea5", "gold": "#d19a00"}


def draw(result: dict[str, dict[int, list[Gap]]], information: float, path: Path) -> None:
    """Draws both gaps.

    Arguments:
        result: Gaps by "plain" and "gold", by number of rows.
        information: What one x says of theta, nats: the gap of a posterior that is the prior.
        path: Where to write the figure.
    """
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for panel, quantity in zip(axes, ("gap", "posterior")):
        for name, rows in result.items():
            values = {n: [getattr(g, quantity) for g in rows[n]] for n in sorted(rows) if rows[n]}
            label = "density alone" if name == "plain" else "with joint scores"
            means = [np.mean(v) for v in values.values()]
            panel.plot(list(values), means, color=_COLOURS[name], label=label)
            for n, v in values.items():
                panel.plot([n] * len(v), v, ".", color=_COLOURS[name], ms=5)
        panel.set(xscale="log", yscale="log", xlabel="simulations")
    axes[0].set(ylabel="gap of the log-likelihood, nats")
    axes[1].set(ylabel="gap of the posterior, nats")
    axes[1].axhline(information, color="#888888", lw=1, ls=":", label="the prior")
    for panel in axes:
        panel.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
