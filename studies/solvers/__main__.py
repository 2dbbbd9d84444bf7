"""`python -m studies.solvers`: error of every solver against evaluations of the denoiser.

First with the exact denoiser of two mixtures of Gaussians, so that nothing but the solver is
measured, then with one that a `Diffusion` learned from 10,000 draws.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import torch

from simgen.field import Field
from simgen.models.denoiser import Denoiser
from simgen.models.diffusion import Diffusion, DiffusionModule
from simgen.models.process import PROCESSES
from simgen.models.solvers import SOLVERS

from .figure import Table, curves
from .measure import Problem, Reading, crescents, measure, mixture

FOLDER = Path(__file__).parent
EVALUATIONS = (8, 16, 32, 64, 128, 1000)
TOLERANCES = (4, 8, 16, 32, 64)  # of the adaptive solver: steps^-3
STEPS = 1_000  # of the learned model's training


def learned(rows: int, seed: int) -> DiffusionModule:
    """A diffusion model of the crescents, with default settings."""
    torch.manual_seed(seed)
    x = crescents().sample((rows,)).float()
    module = Diffusion().build(Field((2,)), {})
    module.initialise(x, (None, None))
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=0.1)
    average = torch.optim.swa_utils.AveragedModel(
        module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    for i in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1.5e-3 * (1 + math.cos(math.pi * i / STEPS))
        batch = x[torch.randint(rows, (256,))]
        module.loss(batch, (None, None)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(module)
    return average.module.eval()


def readings(problem: Problem, denoiser: Denoiser, seed: int) -> dict[str, list[Reading]]:
    """Every solver at every number of evaluations."""
    process, x_T = problem.process, problem.x_T
    with torch.no_grad():
        exact = SOLVERS["dopri5"](denoiser, process, x_T, 150)
    table = {}
    for name, solver in SOLVERS.items():
        counts = EVALUATIONS if solver.evaluations else TOLERANCES
        table[name] = [measure(problem, denoiser, name, n, exact, seed) for n in counts]
        print(name, *(f"{r.evaluations}: {r.distance:.4f}" for r in table[name]), flush=True)
    return table


def rows(table: Table) -> list[str]:
    """The readings in Markdown."""
    lines = [
        "| solver | " + " | ".join(map(str, EVALUATIONS)) + " |",
        "| --- |" + " ---: |" * len(EVALUATIONS),
    ]
    for name, found in table.items():
        if SOLVERS[name].evaluations is None:
            continue
        cells = (
            f"{r.distance:.4f}" + ("" if r.displacement is None else f" ({r.displacement:.4f})")
            for r in found
        )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    adaptive = ", ".join(
        f"{r.evaluations}: {r.distance:.4f} ({r.displacement:.4f})" for r in table["dopri5"]
    )
    return [*lines, "", f"dopri5, whose evaluations follow a tolerance: {adaptive}."]


def text(panels: dict[str, tuple[float, Table]], about: dict[str, object]) -> str:
    """The result in Markdown."""
    lines = [
        "# Solvers: error against evaluations of the denoiser",
        "",
        f"`{about['command']}` ({about['versions']})",
        "",
        f"Sliced Wasserstein distance of {about['draws']:,} draws from exact ones; in brackets, "
        "of a deterministic solver, the mean distance of its draws from those of the exact "
        "flow from the same noise. Process vp-cosine, data of about unit scale; a predictor-"
        "corrector or Heun step takes two evaluations. `adams` in 16 is the default of "
        "`Diffusion`.",
    ]
    for title, (floor, table) in panels.items():
        lines += ["", f"## {title}", "", f"As many exact draws: {floor:.4f}.", "", *rows(table)]
    return "\n".join([*lines, "", "![curves](figure.png)", ""])


def main() -> None:
    """Runs the study and writes result.json, result.md and the figure beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.solvers", description=__doc__)
    options.add_argument("--draws", type=int, default=1_000, metavar="N")
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    draws, seed = arguments.draws, arguments.seed
    process = PROCESSES["vp-cosine"](1e-3, 80.0, 0.3)
    panels: dict[str, tuple[float, Table]] = {}
    for title, prior in (("two crescents", crescents()), ("ten dimensions", mixture())):
        problem = Problem.of(prior, process, draws, seed)
        table = readings(problem, prior.denoise, seed)
        panels[f"{title}, exact denoiser"] = problem.floor(), table
    module = learned(10_000, seed)
    problem = Problem.of(crescents(), module.process, draws, seed)
    single = replace(problem, x_T=problem.x_T.float())  # as networks are
    table = readings(single, module.denoiser((None, None), draws), seed)
    panels["two crescents, learned denoiser"] = problem.floor(), table
    about: dict[str, object] = {
        "command": f"python -m studies.solvers --draws {draws} --seed {seed}",
        "versions": f"torch {torch.__version__}",
        "draws": draws,
    }
    results = {
        title: {"floor": floor, **{k: [asdict(r) for r in v] for k, v in table.items()}}
        for title, (floor, table) in panels.items()
    }
    (FOLDER / "result.json").write_text(json.dumps({**about, "results": results}, indent=1) + "\n")
    (FOLDER / "result.md").write_text(text(panels, about))
    curves(panels, FOLDER / "figure.png")


if __name__ == "__main__":
    main()
