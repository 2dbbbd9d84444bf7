"""`python -m studies.assimilation`: trajectories from sparse observations, learned and exact."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from simulators.lorenz import Lorenz63

from .figure import draw
from .prior import STATES, learn
from .reference import smooth
from .sampling import assimilate
from .task import LENGTH, RATES, Rate, truths, wasserstein

FOLDER = Path(__file__).parent
SYSTEM = Lorenz63.stationary(LENGTH)


def reference(rate: Rate, y: Tensor, first: Tensor, draws: int, seed: int) -> Tensor:
    """Draws (n, length, 3) of the posterior under the true dynamics, from draws (particles, 3) of
    the first state.
    """

    def log_likelihood(i: int, x: Tensor) -> Tensor | None:
        if i % rate.every:
            return None
        seen = rate.observe(x[:, None])[:, 0]
        constant = math.log(rate.sd * math.sqrt(2 * math.pi))
        return -0.5 * ((y[i // rate.every] - seen) / rate.sd).square() - constant

    generator = torch.Generator().manual_seed(seed)
    return smooth(SYSTEM.step, SYSTEM.variance, first, log_likelihood, LENGTH, draws, generator)[0]


def judged(rate: Rate, y: Tensor, x: Tensor) -> dict[str, float]:
    """Means over draws of log p(x_2:L | x_1) and log p(y | x) under the truth."""
    steps = SYSTEM.transition_log_prob(x[:, :-1], x[:, 1:]).sum(1)
    return {
        "log_px": round(float(steps.mean()), 2),
        "log_py": round(float(rate.log_likelihood(y, x).mean()), 2),
    }


def text(results: dict[str, list[dict[str, Any]]], about: dict[str, Any]) -> str:
    """The result in Markdown."""
    done: Any = min(map(len, results.values()))
    if done < about["trajectories"]:  # stopped
        done = f"the first {done} of {about['trajectories']}"
    lines = [
        "# Lorenz-63 from sparse observations",
        "",
        f"`{about['command']}` ({about['versions']}, one thread)",
        "",
        f"Trajectories of {LENGTH} states, of which one number is seen: every eighth state with a "
        "noise of 0.05 (low), every state with 0.25 (high). The prior is learned from "
        f'simulated windows: a row of `fit("x")` is a vector of {STATES} x 3 numbers, '
        f"{STATES} consecutive states; a second model knows single states. They make a "
        "series by `simgen.samplers.windows`. Trained in "
        f"{about['fit_s']:.0f} seconds of processor time. The reference knows the dynamics: "
        f"{about['particles']:,} particles forwards, {about['draws']} draws backwards. "
        f"{about['draws']} draws each; medians of {done} trajectories. W1 pairs "
        "draws in R^195, in physical units; beside it that of two references.",
        "",
        "| rate | W1 | two references | log p(x) | reference | log p(y given x) | reference | s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, rows in results.items():
        if rows:
            m = {k: median(r[k] for r in rows) for k in rows[0]}
            lines.append(
                f"| {name} | {m['w1']:.2f} | {m['floor']:.2f} | {m['log_px']:.1f} | "
                f"{m['reference_log_px']:.1f} | {m['log_py']:.1f} | {m['reference_log_py']:.1f} | "
                f"{m['seconds']:.0f} |"
            )
    lines += [
        "",
        "log p(x) is that of all states given the first, under the true dynamics: 81.7 on average "
        "for trajectories of the system itself; s: processor time of a posterior, in seconds.",
        "",
        "![trajectories](figure.png)",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs the study and writes result.json, result.md and the figure beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.assimilation", description=__doc__)
    options.add_argument("--trajectories", type=int, default=8, metavar="N")
    options.add_argument("--draws", type=int, default=512, metavar="N")
    options.add_argument("--particles", type=int, default=16_384, metavar="N")
    options.add_argument("--epochs", type=int, default=8, metavar="N")
    options.add_argument("--steps", type=int, default=16, metavar="N")
    options.add_argument("--corrections", type=int, default=3, metavar="N")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--models", type=Path, help="folder to keep the trained models in")
    options.add_argument("--output", type=Path, default=FOLDER, help="folder of the result")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    n, seed, draws = arguments.trajectories, arguments.seed, arguments.draws
    with tempfile.TemporaryDirectory() as folder:
        prior, cost = learn(arguments.models or Path(folder), arguments.epochs, seed)
    print(f"trained in {cost:.0f} s", flush=True)
    truth, seen = truths(n, seed + 1)
    stationary = Lorenz63.stationary(2)
    firsts = [
        torch.from_numpy(stationary(arguments.particles, seed=seed + k)["x"][:, -1]).double()
        for k in (2, 3)
    ]
    options_ = [f"--{k} {v}" for k, v in vars(arguments).items() if k not in ("output", "models")]
    about = {
        "command": "python -m studies.assimilation " + " ".join(options_),
        "versions": f"torch {torch.__version__}",
        "fit_s": round(cost, 1),
        "trajectories": n,
        "draws": draws,
        "particles": arguments.particles,
    }
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in RATES}
    panels: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
    for j in range(n):
        for name, rate in RATES.items():
            y = seen[name][j]
            exact = [
                reference(rate, y, first, draws, 1_000 * k + seed + j)
                for k, first in enumerate(firsts)
            ]
            start = time.process_time()
            x = assimilate(prior, rate, y, draws, arguments.steps, arguments.corrections, seed + j)
            seconds = time.process_time() - start
            row: dict[str, Any] = {
                "w1": round(sum(wasserstein(x, one) for one in exact) / 2, 3),
                "floor": round(wasserstein(*exact), 3),
                **judged(rate, y, x),
                **{f"reference_{k}": v for k, v in judged(rate, y, exact[0]).items()},
                "seconds": round(seconds, 1),
            }
            results[name].append(row)
            print(j, name, json.dumps(row), flush=True)
            panels.setdefault(name, (truth[j], y, x, exact[0]))
        (arguments.output / "result.json").write_text(
            json.dumps({**about, "results": results}, indent=1) + "\n"
        )
        (arguments.output / "result.md").write_text(text(results, about))
        if not j:
            draw(panels, arguments.output / "figure.png")


if __name__ == "__main__":
    main()
