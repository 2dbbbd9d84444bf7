"""The figure: trajectories, what was seen of them, and draws of both posteriors."""

from __future__ import annotations

__all__ = ["draw"]

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from simgen.plots.style import COLOURS

from .task import RATES, UNIT

_LINES = 24


def draw(panels: Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]], path: Path) -> None:
    """Draws a row for each rate, a column for each number of the state.

    Arguments:
        panels: By rate: the truth (length, 3), what was seen (seen,), and draws (n, length, 3) of
            the learned posterior and of the reference.
        path: Where to write the figure.
    """
    figure = Figure(figsize=(10.5, 2.9 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 3, sharex=True, squeeze=False)
    for row, (name, (truth, y, ours, reference)) in zip(axes, panels.items()):
        time = np.arange(len(truth))
        for k, (axis, label) in enumerate(zip(row, "xyz")):
            low, high = np.quantile(reference[:, :, k].numpy(), (0.025, 0.975), axis=0)
            axis.fill_between(time, low, high, color=COLOURS[0], alpha=0.3, lw=0,
                              label="reference, 95 %")  # fmt: skip
            for i, path_ in enumerate(ours[:_LINES, :, k].numpy()):
                axis.plot(time, path_, color=COLOURS[1], lw=0.4, alpha=0.6,
                          label=None if i else "learned, draws")  # fmt: skip
            axis.plot(time, truth[:, k].numpy(), "k", lw=1, ls="--", label="truth")
            if k == 0:
                every = RATES[name].every
                axis.plot(time[::every], UNIT * y.numpy(), "o", ms=2.5, color=COLOURS[2],
                          label="seen")  # fmt: skip
            axis.set_ylabel(f"${label}$")
        row[1].set_title(f"{name} rate")
    for axis in axes[-1]:
        axis.set_xlabel("step")
    axes[0, 0].legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=150)
