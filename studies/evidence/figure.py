"""The figure: what each estimate of the evidence lacks, and what the parameters fitted with it
lose, against the number of latents.
"""

from __future__ import annotations

__all__ = ["draw"]

from pathlib import Path

from matplotlib.figure import Figure

from .model import Shortfall

_LEAST = 1e-3  # nats: below it an estimate is as good as exact
_COLOURS = {"naive": "#d1495b", "ELBO": "#edae49", "IWAE": "#3a6ea5"}
_MARKERS = {1: "o", 10: "v", 100: "s", 1_000: "D", 10_000: "^"}
_FITS = {
    "naive, K = 100": ("#d1495b", "o"),
    "each row's own q": ("#edae49", "v"),
    "q by a network": ("#66a182", "s"),
    "IWAE, K = 10": ("#3a6ea5", "D"),
    "closed form": ("#333333", "_"),
}


def draw(
    shortfalls: dict[int, list[Shortfall]], fits: dict[int, dict[str, float]], paths: list[Path]
) -> None:
    """Draws both panels.

    Arguments:
        shortfalls: Of each estimate, by the number of latents.
        fits: Loss of each method, by the number of latents.
        paths: Where to write the figure, by extension.
    """
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    dimensions = list(shortfalls)
    for i, first in enumerate(shortfalls[dimensions[0]]):
        rows = [shortfalls[d][i] for d in dimensions]
        label = first.name if first.name == "ELBO" else f"{first.name}, K = {first.draws:,}"
        left.errorbar(
            dimensions,
            [max(r.mean, _LEAST) for r in rows],
            [r.error for r in rows],
            color=_COLOURS[first.name],
            marker=_MARKERS[first.draws],
            ms=4,
            lw=1,
            label=label,
        )
    left.set(xscale="log", yscale="log", ylim=(_LEAST / 1.5, 600), xlabel="latents")
    left.set(ylabel="log p(x) less its estimate, nats")
    for name, (colour, marker) in _FITS.items():
        values = [fits[d][name] for d in fits]
        right.plot(list(fits), values, color=colour, marker=marker, ms=5, lw=1, label=name)
    right.set(xscale="log", yscale="log", xlabel="latents")
    right.set(ylabel="evidence that the fitted model lacks,\nnats a row and number")
    for axes, ticks in ((left, dimensions), (right, list(fits))):
        axes.set_xticks(ticks, [str(d) for d in ticks])
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8)
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
