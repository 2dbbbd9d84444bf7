"""Maps: the learned posterior of cosmology from Gaussian maps, against the exact one.

The exact posterior is tabulated on a grid, with w_0 integrated out where it is not asked for.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

import simgen
from simgen.networks import PowerSpectrum
from simulators import ConvergenceMaps

from .against_grid import compare, contours, table

FOLDER = Path(__file__).parent
TARGETS = {"Omega_m, sigma_8 | x": (0, 1), "theta | x": (0, 1, 2)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Fits and judges; writes maps.json, maps.md and maps.png beside itself."""
    parser = argparse.ArgumentParser(prog="python -m studies.physics maps")
    parser.add_argument("--rows", type=int, default=50_000, metavar="N")
    parser.add_argument("--fresh", type=int, default=1_000, metavar="N")
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--points", type=int, default=48, help="cells of the grid a parameter")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    simulator = ConvergenceMaps(pixels=options.pixels)
    theta = simulator.prior.sample((options.fresh,), seed=options.seed + 1).numpy()
    fresh = {"theta": theta, "x": simulator(theta, seed=options.seed + 1)["x"]}
    results, models = [], []
    with tempfile.TemporaryDirectory() as folder:
        dataset = simgen.simulate(
            simulator, options.rows, f"{folder}/maps", seed=options.seed, keep=["x"]
        )
        for expression, columns in TARGETS.items():
            embedding = PowerSpectrum(1, (options.pixels, options.pixels))
            start = time.process_time()
            posterior = simgen.fit(expression, dataset, embedding=embedding, seed=options.seed)
            seconds = round(time.process_time() - start)
            found = compare(
                posterior, lambda x: simulator.exact_posterior(x, options.points), fresh, columns
            )
            results.append({"expression": expression, "training_cpu_s": seconds, **found})
            models.append(posterior)
            print(results[-1], flush=True)
    contours(
        FOLDER / "maps.png",
        models[0],
        lambda x: simulator.exact_posterior(x, options.points),
        fresh,
        (r"$\Omega_m$", r"$\sigma_8$"),
    )
    command = (
        f"python -m studies.physics maps --rows {options.rows} --fresh {options.fresh} "
        f"--pixels {options.pixels} --seed {options.seed}"
    )
    versions = f"torch {torch.__version__}, zuko {version('zuko')}"
    text = "\n".join(
        [
            "# Posterior from Gaussian convergence maps",
            "",
            f"`{command}` ({versions})",
            "",
            f"{options.rows:,} maps of {options.pixels} x {options.pixels} pixels, "
            "`simgen.Flow()` with power spectra as embedding (`simgen.networks.PowerSpectrum`), "
            f"judged on {options.fresh:,} fresh maps.",
            "",
            *table(results),
            "",
            "68 and 95 % of five fresh maps, exact (grey) and learned; the cross is the truth:",
            "",
            "![posteriors](maps.png)",
            "",
        ]
    )
    about = {"command": command, "versions": versions, "results": results}
    (FOLDER / "maps.json").write_text(json.dumps(about, indent=1) + "\n")
    (FOLDER / "maps.md").write_text(text)
    print(text)
