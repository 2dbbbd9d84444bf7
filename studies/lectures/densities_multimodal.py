r"""Discrete and continuous flows on a multimodal, discontinuous density: a checkerboard.

.. math::
    \log p(x) = \log p_0(f(x)) + \sum_l \log \left| \det J_{f_l} \right|
    \qquad \text{or} \qquad
    \log p(x) = \log p_0(x_T) + \int_0^T \operatorname{tr} \frac{\partial v}{\partial x_t}\, dt

A flow is a diffeomorphism of the plane: it has one mode to begin with, and no edges. How near it
comes to a density of eight separate squares depends on the transformation and on the training. A
continuous flow solves its equation at every step of the training; the probability flow of a
diffusion model is one too, learned by regression on noise, without a solver.

References:
    | FFJORD (Grathwohl et al., 2019), figure 2, https://arxiv.org/abs/1810.01367
    | Neural Autoregressive Flows (Huang et al., 2018), https://arxiv.org/abs/1804.00779
    | Neural Spline Flows (Durkan et al., 2019), figure 1, https://arxiv.org/abs/1906.04032
    | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2021)
    | https://arxiv.org/abs/2011.13456, eq. 13
"""

from __future__ import annotations

__all__ = ["METHODS", "Method", "main"]

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import simgen
from simgen.plots.style import TRUTH, new_figure, styled

from .densities_board import CELLS, DRAWS, HALF, HELD_OUT, Picture, judge, window
from .densities_targets import Checkerboard

STEM = Path(__file__).with_suffix("")
ROWS = 20_000


@dataclass(frozen=True)
class Method:
    """A family and its training; the epochs make training times about equal.

    Arguments:
        family: With its settings.
        epochs: Passes over the training rows, in batches of 256.
        learning_rate: At the peak; by default unless said.
    """

    family: Any
    epochs: int
    learning_rate: float | None = None


METHODS = {
    "affine coupling": Method(simgen.Flow("coupling"), 28),
    "spline coupling": Method(simgen.Flow("spline-coupling"), 21),
    "autoregressive, monotonic": Method(simgen.Flow("monotonic"), 19),
    "continuous": Method(simgen.Flow("continuous", hidden=(64, 64, 64)), 4, 2.5e-2),
    "diffusion's probability flow": Method(simgen.Diffusion(hidden=64), 14),
}
"""Of two variables, the autoregressive splines are the spline coupling."""


@styled
def draw(board: Checkerboard, pictures: dict[str, Picture], path: Path) -> None:
    """Draws densities above draws, a column a distribution, the exact one first."""
    exact = np.exp(board.log_prob(window())).reshape(CELLS, CELLS)
    pictures = {"exact": Picture(exact, board.sample(DRAWS, 0)), **pictures}
    figure = new_figure(2.1 * len(pictures), 4.5)
    axes = figure.subplots(2, len(pictures), sharex=True, sharey=True)
    for column, (name, picture) in zip(axes.T, pictures.items()):
        image = column[0].imshow(
            picture.density.T,
            origin="lower",
            extent=(-HALF, HALF, -HALF, HALF),
            cmap="Blues",
            vmin=0,
            vmax=1.5 * exact.max(),
            interpolation="nearest",
        )
        column[1].plot(*picture.draws.T, ".", color=TRUTH, ms=1.2, alpha=0.5, mew=0)
        column[0].set_title(name, fontsize=9)
        column[1].set(xlim=(-HALF, HALF), ylim=(-HALF, HALF), aspect="equal")
        for axis in column:
            axis.set(xticks=(-2, 0, 2), yticks=(-2, 0, 2))
            axis.spines[:].set_visible(False)
    axes[0, 0].set_ylabel("density")
    axes[1, 0].set_ylabel(f"{DRAWS:,} draws")
    figure.colorbar(image, ax=axes[0], pad=0.01, extend="max")
    figure.savefig(path)


def table(results: dict[str, dict[str, Any]], entropy: float, command: str) -> str:
    """The result in Markdown."""
    heads = ["held-out log-likelihood", "gap, nats", "draws inside", "integral", "parameters"]
    heads += ["steps", "training, s", "1,000 densities, ms", "1,000 draws, ms"]
    lines = [
        "# Discrete and continuous flows on a checkerboard",
        "",
        f"`{command}` (torch {torch.__version__}, one thread)",
        "",
        f'`fit("x", dataset, ...)` of {ROWS:,} draws from eight unit squares, in batches of 256, '
        "the epochs of each chosen to take about the same time on one core. Log-likelihood in "
        f"nats of {HELD_OUT:,} held-out rows; the exact one is minus the entropy, "
        f"{-entropy:.4f}, and the gap to it the Kullback-Leibler divergence. Inside: on the dark "
        f"squares. Integral: of the density over [-{HALF}, {HALF}]^2. CPU times. Of two variables "
        "the autoregressive splines are the same as the spline coupling.",
        "",
        f"| flow | {' | '.join(heads)} |",
        "| --- |" + " ---: |" * len(heads),
    ]
    for name, r in results.items():
        cells = [f"{r['log_likelihood']:.3f} ± {r['error']:.3f}", f"{r['gap']:.3f}"]
        cells += [f"{100 * r['inside']:.1f} %", f"{r['integral']:.3f}", f"{r['parameters']:,}"]
        cells += [f"{r['steps']:,}", f"{r['training_s']:.1f}"]
        cells += [f"{r[k]:.3g}" for k in ("density_ms", "draws_ms")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"![densities and draws]({STEM.name}.png)", ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study and writes its figure, table and numbers beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.lectures multimodal")
    options.add_argument("--seed", type=int, default=0)
    seed = options.parse_args(arguments).seed
    torch.set_num_threads(1)
    board = Checkerboard()
    results, pictures = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        dataset = simgen.Dataset.create(f"{folder}/board", x=board.sample(ROWS, seed))
        for name, method in METHODS.items():
            start = time.process_time()
            learned = simgen.fit(
                "x",
                dataset,
                method.family,
                seed=seed,
                batch_size=256,
                max_epochs=method.epochs,
                learning_rate=method.learning_rate,
            )
            seconds = time.process_time() - start
            quality, pictures[name] = judge(learned(), board, seed)
            training = learned.provenance["training"]
            results[name] = {
                "family": repr(method.family),
                **asdict(quality),
                "parameters": training["parameters"],
                "steps": training["steps"],
                "training_s": round(seconds, 1),
            }
            print(name, json.dumps(results[name]), flush=True)
    command = f"python -m studies.lectures multimodal --seed {seed}"
    numbers = {"command": command, "entropy": board.entropy, "results": results}
    STEM.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")
    draw(board, pictures, STEM.with_suffix(".png"))
    text = table(results, board.entropy, command)
    STEM.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
