"""The figure: densities of a spacing and the equation of state, exact and learned."""

from __future__ import annotations

__all__ = ["PRESSURES", "STATES", "draw"]

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import simgen
from simgen.plots.style import COLOURS
from simulators.takahashi import TakahashiChain

STATES = ((0.5, 0.5, 1.5), (1.0, 1.0, 1.0), (2.0, 0.5, 1.0))
"""T, P and epsilon of the densities."""
PRESSURES = np.array([0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0])


def draw(
    chain: TakahashiChain, learned: dict[str, simgen.Conditional], paths: list[Path], seed: int
) -> None:
    """Draws both panels.

    Arguments:
        chain: The exact chain, of spacings.
        learned: p(x | theta) of "vector" and of "set".
        paths: Where to write the figure, by extension.
        seed: Of the draws.
    """
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    r = np.linspace(0.75, 3.5, 400)
    single = TakahashiChain(1)
    for colour, state in zip(COLOURS, STATES):
        exact = np.exp(single.log_likelihood(r[:, None], np.array(state)))
        left.fill_between(r, exact, color=colour, alpha=0.25, lw=0)
        with torch.no_grad():
            events = torch.as_tensor(r)[:, None, None].expand(-1, chain.spacings, 1)
            log_q = learned["set"](state).log_prob(events).numpy() / chain.spacings
        label = "$T$, $P$, " + r"$\varepsilon$ = " + ", ".join(f"{v:g}" for v in state)
        left.plot(r, np.exp(log_q), color=colour, label=label)
        x = learned["vector"](state).sample((4000,), seed=seed).numpy().ravel()
        counts, edges = np.histogram(x, np.linspace(0.75, 3.5, 56))
        left.plot((edges[1:] + edges[:-1]) / 2, counts / x.size / np.diff(edges), "o", ms=2.5,
                  color=colour)  # fmt: skip
    left.set(xlabel="spacing $r$", ylabel="density", xlim=(0.75, 3.5), ylim=(0, None))
    left.legend(fontsize=8)
    for colour, T in zip(COLOURS, (0.5, 1.0, 2.0)):
        P = np.linspace(0.2, 2, 200)
        theta = np.stack([np.full(200, T), P, np.ones(200)], -1)
        right.plot(P, chain.mean_spacing(theta), color=colour, label=f"$T$ = {T:g}")
        theta = np.stack([np.full(7, T), PRESSURES, np.ones(7)], -1)
        for name, marker in (("vector", "o"), ("set", "x")):
            x = learned[name](theta).sample((4000,), seed=seed).numpy()
            right.plot(PRESSURES, x.reshape(4000, 7, -1).mean((0, 2)), marker, ms=4, color=colour)
    right.set(xlabel="pressure $P$", ylabel="mean spacing", yscale="log")
    right.legend(fontsize=8, title=r"$\varepsilon$ = 1; circles: vector, crosses: set")
    for path in paths:
        figure.savefig(path, dpi=150)
