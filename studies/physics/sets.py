"""Sets: the learned posterior of the collider chain from sets of events, against the exact one.

The embedding is simgen's default for sets: a network on each event, and the mean over the events.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import simgen
from simulators import ColliderShower
from simulators.grid_posterior import GridPosterior

from .against_grid import compare, contours, table

FOLDER = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> None:
    """Fits and judges; writes sets.json, sets.md and sets.png beside itself."""
    parser = argparse.ArgumentParser(prog="python -m studies.physics sets")
    parser.add_argument("--rows", type=int, default=50_000, metavar="N")
    parser.add_argument("--fresh", type=int, default=1_000, metavar="N")
    parser.add_argument("--events", type=int, default=500, metavar="N")
    parser.add_argument("--epochs", type=int, default=10, metavar="N")
    parser.add_argument("--batch", type=int, default=128, metavar="N", help="sets a step")
    parser.add_argument("--points", type=int, default=96, help="cells of the grid a parameter")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    simulator = ColliderShower("coarse", options.events)
    theta = simulator.prior.sample((options.fresh,), seed=options.seed + 1).numpy()
    fresh = {"theta": theta, "x": simulator(theta, seed=options.seed + 1)["x"]}
    with tempfile.TemporaryDirectory() as folder:
        dataset = simgen.simulate(
            simulator, options.rows, f"{folder}/sets", seed=options.seed, keep=["x"]
        )
        start = time.process_time()
        posterior = simgen.fit(
            "theta | x",
            dataset,
            max_epochs=options.epochs,
            batch_size=options.batch,
            seed=options.seed,
        )
        seconds = round(time.process_time() - start)

    def exact(x: np.ndarray) -> GridPosterior:
        return simulator.exact_posterior(x, options.points)

    found = compare(posterior, exact, fresh, (0, 1))
    result = {"expression": "theta | x", "training_cpu_s": seconds, **found}
    contours(FOLDER / "sets.png", posterior, exact, fresh, (r"$\epsilon$", r"$\alpha_s$"))
    command = (
        f"python -m studies.physics sets --rows {options.rows} --fresh {options.fresh} --events "
        f"{options.events} --epochs {options.epochs} --batch {options.batch} --seed {options.seed}"
    )
    versions = f"torch {torch.__version__}, zuko {version('zuko')}"
    text = "\n".join(
        [
            "# Posterior from sets of collider events",
            "",
            f"`{command}` ({versions})",
            "",
            f"{options.rows:,} sets of {options.events} events (coarse detector), `simgen.Flow()` "
            f"with the default embedding of sets, judged on {options.fresh:,} fresh sets.",
            "",
            *table([result]),
            "",
            "68 and 95 % of five fresh sets, exact (grey) and learned; the cross is the truth:",
            "",
            "![posteriors](sets.png)",
            "",
        ]
    )
    about = {"command": command, "versions": versions, **result}
    (FOLDER / "sets.json").write_text(json.dumps(about, indent=1) + "\n")
    (FOLDER / "sets.md").write_text(text)
    print(text)
