r"""One coupling layer, drawn: what the change of variables does to a grid and to a density.

.. math::
    x = g(z): \quad x_1 = g_1(z_1), \quad x_2 = g_2(z_2; x_1), \qquad
    p(x) = p(z) \left| \det J_g(z) \right|^{-1}, \qquad
    \det J_g = \frac{\partial x_1}{\partial z_1} \frac{\partial x_2}{\partial z_2}

The layer is fitted to a fork by maximum likelihood. If g_2 is affine in z_2, p(x_2 | x_1) stays
Gaussian and covers both branches with one; a spline splits it.

References:
    | Density estimation using Real NVP (Dinh et al., 2017), eqs. 2, 4, 5
    | https://arxiv.org/abs/1605.08803
    | Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import PowerNorm

import simgen
from simgen.plots.style import COLOURS, new_figure, styled

from .densities_change import SQUARE, Change, centres, change, jacobian
from .densities_targets import Fork

STEM = Path(__file__).with_suffix("")
ROWS, HELD_OUT = 10_000, 10_000
VIEW = ((-3.0, 3.0), (-4.0, 5.5))  # of x_1 and x_2
LAYERS = {"affine": "coupling", "spline": "spline-coupling"}


@styled
def draw(layers: dict[str, Any], target: Fork, path: Path) -> None:
    """Draws the base space, its image and the density, a row a layer."""
    figure = new_figure(10.5, 3.45 * len(layers))
    axes = figure.subplots(len(layers), 3, squeeze=False)
    x = centres(VIEW, (300, 475)).double().numpy()
    exact = np.exp(target.log_prob(x))
    norm = PowerNorm(0.5, 0, exact.max())
    shared: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -3, "vmax": 3, "shading": "gouraud"}
    angle = torch.linspace(0, 2 * math.pi, 400)
    circles = [r * torch.stack((angle.cos(), angle.sin()), -1) for r in (1, 2)]
    sides = [torch.linspace(-SQUARE, SQUARE, n) for n in (401, 801)]
    z = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1)
    lines = [*z[::40], *z.transpose(0, 1)[::80]]
    for row, (name, q) in zip(axes, layers.items()):
        log_det = torch.linalg.det(jacobian(q, z)[1]).abs().log().numpy()
        with torch.no_grad():
            density = q.log_prob(torch.from_numpy(x)).exp().numpy()
            for axis, move in ((row[0], torch.clone), (row[1], q.transport)):
                image = move(z).numpy()
                mesh = axis.pcolormesh(image[..., 0], image[..., 1], log_det, **shared)
                for line in lines:
                    axis.plot(*move(line).numpy().T, color="k", lw=0.4, alpha=0.55)
                for circle in circles:
                    axis.plot(*move(circle).numpy().T, color="k", lw=1.3)
        row[2].pcolormesh(x[..., 0], x[..., 1], density, cmap="Blues", norm=norm)
        levels = exact.max() * np.array([0.05, 0.3, 0.7])
        row[2].contour(x[..., 0], x[..., 1], exact, levels, colors=COLOURS[1], linewidths=0.9)
        row[0].set(xlabel="$z_1$", ylabel=f"{name} coupling\n\n$z_2$", aspect="equal")
        row[0].set(xlim=(-3, 3), ylim=(-3, 3))
        for axis in row[1:]:
            axis.set(xlabel="$x_1$", ylabel="$x_2$", xlim=VIEW[0], ylim=VIEW[1])
        figure.colorbar(mesh, ax=row[:2], label=r"$\log\,|\det J_g|$", pad=0.01, extend="both")
    titles = ["base space: level lines of $p(z)$", "their images under $x = g(z)$"]
    titles += ["$p(x)$; contours: the target"]
    for axis, title in zip(axes[0], titles):
        axis.set_title(title)
    figure.savefig(path)


def table(results: dict[str, Change], limits: tuple[float, float], about: dict[str, Any]) -> str:
    """The result in Markdown."""
    exact, gaussian = limits
    size = f"[-{SQUARE}, {SQUARE}]²"
    heads = ["integral of p(x)", "log p(x) - log p(z) + log det J", "∂x₁/∂z₂"]
    heads += ["∫ det J dz", "area of the image", "held-out log-likelihood", "gap"]
    lines = [
        "# One coupling layer, drawn",
        "",
        f"`{about['command']}` (torch {torch.__version__}, {about['cpu_s']:.0f} CPU seconds)",
        "",
        f"`Flow(transforms=1, linear=False, permute=False)` fitted to {ROWS:,} draws of a bent "
        "fork: x_1 ~ N(0, 1), and x_2 given x_1 a mixture of two Gaussians that part as x_1 "
        "grows. J = dx/dz by automatic differentiation on 250 by 4,000 points of the square "
        f"{size} of the base space; the largest deviation is given. The square's image has the "
        "area that its outline encloses: the integral of det J. Log-likelihood in nats of "
        f"{HELD_OUT:,} fresh rows: the true density has {exact:.4f}, the best one whose "
        f"p(x_2 | x_1) is Gaussian {gaussian:.4f} (a gap of {exact - gaussian:.4f}).",
        "",
        f"| layer | {' | '.join(heads)} |",
        "| --- |" + " ---: |" * len(heads),
    ]
    for name, r in results.items():
        cells = [f"{r.integral:.5f}", f"{r.identity:.1e}", f"{r.triangle:.0f}"]
        cells += [f"{r.volume:.3f}", f"{r.area:.3f}"]
        cells += [f"{r.log_likelihood:.4f} ± {r.error:.4f}", f"{r.gap:.4f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"![one coupling layer]({STEM.name}.png)", ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study and writes its figure, table and numbers beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.lectures coupling-layer")
    options.add_argument("--seed", type=int, default=0)
    seed = options.parse_args(arguments).seed
    torch.set_num_threads(1)
    target, start = Fork(), time.process_time()
    held_out = target.sample(HELD_OUT, seed + 1)
    exact = target.log_prob(held_out)
    layers, results = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        dataset = simgen.Dataset.create(f"{folder}/fork", x=target.sample(ROWS, seed))
        for name, transform in LAYERS.items():
            family = simgen.Flow(transform, transforms=1, linear=False, permute=False)
            layers[name] = simgen.fit("x", dataset, family, seed=seed)()
            results[name] = change(layers[name], held_out, exact)
            print(name, results[name], flush=True)
    limits = float(exact.mean()), float(target.best_gaussian(held_out).mean())
    draw(layers, target, STEM.with_suffix(".png"))
    about = {
        "command": f"python -m studies.lectures coupling-layer --seed {seed}",
        "cpu_s": round(time.process_time() - start, 1),
    }
    numbers = {
        **about,
        "exact_log_likelihood": limits[0],
        "gaussian_log_likelihood": limits[1],
        "results": {name: asdict(r) for name, r in results.items()},
    }
    STEM.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")
    text = table(results, limits, about)
    STEM.with_suffix(".md").write_text(text)
    print(text)
