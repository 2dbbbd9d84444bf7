"""The figure: the ratio to the floor by method, z of the evidence, and priors without any x."""

from __future__ import annotations

__all__ = ["figure"]

import math
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .table import NAMES, mean

Results = dict[str, Any]
COLOURS = {
    "smc": "#d1495b",
    "ancestral": "#e08e45",
    "moment-matching": "#3d5a80",
    "pigdm": "#6f9bcf",
    "diffpir": "#2a9d8f",
    "dps": "#9d8ec7",
    "noise-denoise": "#8c564b",
}


def figure(results: Results, path: Path) -> None:
    """Draws what there is of the gates.

    Arguments:
        results: All that is recorded.
        path: Where to write the figure.
    """
    picture = results.get("corrupted", {}).get("mixture", {}).get("picture")
    panels = [
        (found, title)
        for key, title in (("mixture", "exact denoiser"), ("learned", "learned denoiser"))
        if (found := {k: v for k, v in results.get(key, {}).items() if k != "prior"})
    ]
    z = [
        one["nats"] / one["error"]
        for cell in results.get("mixture", {}).values()
        for one in cell.get("smc", {}).values()
    ]
    count = len(panels) + bool(z) + bool(picture)
    if not count:
        return
    canvas = Figure(figsize=(4.4 * count, 4.6), layout="constrained")
    axes = iter(canvas.subplots(1, count, squeeze=False)[0])
    lines: dict[str, Any] = {}
    for found, title in panels:
        axis = next(axes)
        _ratios(axis, found, title)
        for line, label in zip(*axis.get_legend_handles_labels()):
            lines.setdefault(label, line)
    if lines:
        options = {"loc": "outside lower center", "ncols": 7, "frameon": False, "fontsize": 7}
        canvas.legend(lines.values(), lines.keys(), **options)
    if z:
        _scores(next(axes), z)
    if picture:
        _clouds(next(axes), picture)
    canvas.savefig(path, dpi=130)


def _ratios(axis: Axes, found: Results, title: str) -> None:
    seen = dict.fromkeys(m for cell in found.values() for m in cell if m != "floor")
    markers = iter("sD^v<>Px")
    for name in seen:
        x, y = [], []
        for i, cell in enumerate(found.values()):
            if name in cell:
                floor = mean(cell["floor"], seeds=cell[name])[0]
                x.append(i)
                y.append(mean(cell[name])[0] / floor)
        peer = name not in COLOURS
        settings: dict[str, Any] = {"color": COLOURS.get(name, "#999999")}
        if peer:
            settings |= {"lw": 0.8, "ls": ":", "ms": 5, "marker": next(markers)}
        else:
            settings |= {"marker": "o", "ms": 4}
        axis.plot(x, y, label=NAMES.get(name, name), **settings)
    axis.axhline(1, color="k", lw=0.8)
    axis.set(yscale="log", ylabel="sliced W1 over that of exact draws", title=title)
    axis.set_xticks(range(len(found)), [k.replace(", ", "→") for k in found], fontsize=8)
    axis.set_xlabel("unknown → observed numbers")


def _scores(axis: Axes, z: list[float]) -> None:
    edges = [-4 + 0.5 * i for i in range(17)]
    axis.hist([min(max(v, -3.99), 3.99) for v in z], edges, density=True, color="#d1495b")
    grid = [-4 + 0.05 * i for i in range(161)]
    axis.plot(grid, [math.exp(-0.5 * v * v) / math.sqrt(2 * math.pi) for v in grid], "k", lw=0.8)
    axis.set(xlabel="(log p(y) less the exact one) / reported error", title="evidence by smc")
    axis.set_yticks([])


def _clouds(axis: Axes, picture: Results) -> None:
    for name, colour in (("gaussian", "#b0b0b0"), ("learned", "#d1495b"), ("exact", "#3d5a80")):
        x, y = zip(*picture[name])
        label = {"gaussian": "Gaussian EM", "learned": "diffusion EM", "exact": "truth"}[name]
        axis.plot(x, y, ".", ms=2, color=colour, alpha=0.6, label=label)
    axis.set(title="a prior from corrupted data", xlabel="$x_1$", ylabel="$x_2$")
    axis.legend(frameon=False, fontsize=7, markerscale=3)
