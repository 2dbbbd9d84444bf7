"""The figure: showers of the simulator and of a surrogate, and the observables of all samplers."""

from __future__ import annotations

__all__ = ["draw"]

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy import ndarray as Array

from simgen.plots.style import COLOURS, GREY
from simulators.shower_metrics import observables

from .judge import SPECTRUM, voxel_spectrum


def draw(showers: dict[str, tuple[Array, Array]], path: Path, pictured: str = "") -> None:
    """Draws three showers of the simulator and of a surrogate, and observables of every sampler.

    Arguments:
        showers: Showers (n, 1, layers, wedges, rings) and their incident energies (n,) in MeV,
            by name, the simulator's first.
        path: Where to write the figure.
        pictured: The surrogate of which showers are drawn, where there is one.
    """
    rows = [next(iter(showers)), *filter(None, [pictured])]
    figure = Figure(figsize=(12, 3 + 3 * len(rows)), layout="constrained")
    panels: Any = figure.subplots(1 + len(rows), 3)
    for axes, name in zip(panels, rows):
        _pictures(axes, *showers[name], name)
    response, profile, spectrum = panels[-1]
    edges = np.linspace(0.5, 1.5, 61)
    layer = np.arange(next(iter(showers.values()))[0].shape[2])
    for i, (name, (x, energy)) in enumerate(showers.items()):
        style: dict[str, Any] = (
            {"color": COLOURS[i - 1], "lw": 1.2} if i else {"color": GREY, "lw": 4}
        )
        found = observables(x, energy)
        response.stairs(np.histogram(found["response"], edges)[0], edges, label=name, **style)
        share = found["energy"] / energy[:, None]
        profile.plot(layer, share.mean(0), **style)
        counts = voxel_spectrum(x)[1:] / len(x)
        spectrum.stairs(counts, SPECTRUM, **style)
    response.set(xlabel=r"$E_\mathrm{tot} / E_\mathrm{inc}$", ylabel="showers")
    response.legend(fontsize=8, loc="upper left")
    profile.set(xlabel="layer", ylabel=r"mean $E_\mathrm{layer} / E_\mathrm{inc}$")
    spectrum.set(xlabel=r"$\log_{10}(E_\mathrm{voxel} / \mathrm{MeV})$", ylabel="voxels a shower")
    spectrum.set_yscale("log")
    figure.savefig(path, dpi=130)


def _pictures(panels: Any, x: Array, energy: Array, name: str) -> None:
    """Showers near 3, 50 and 800 GeV: layers along, rings across, the leaning side up."""
    for axes, wanted in zip(panels, (3e3, 5e4, 8e5)):
        i = int(np.abs(np.log(energy / wanted)).argmin())
        up = x[i, 0][:, [0, 1, 2, 7, 8]].sum(1)
        down = x[i, 0][:, [3, 4, 5, 6]].sum(1)
        image = np.concatenate([down[:, ::-1], up], 1).T
        rings = x.shape[-1]
        shown = axes.imshow(
            np.where(image > 0, image, np.nan),
            origin="lower",
            extent=(0, x.shape[2], -rings, rings),
            aspect="auto",
            cmap="magma",
            norm=LogNorm(),
            interpolation="nearest",
        )
        axes.set(
            title=f"{name}, {energy[i] / 1e3:.3g} GeV",
            xlabel="layer",
            ylabel="distance, Moliere radii",
        )
        axes.figure.colorbar(shown, ax=axes, label="MeV")
