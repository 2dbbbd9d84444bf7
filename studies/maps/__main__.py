"""`python -m studies.maps`: p(map | theta) of noise-free lognormal convergence maps, four ways."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array

import simgen
from simulators.cosmology import ConvergenceMaps

from .figure import draw
from .judge import SUMMARIES, edges_of, judge, nearest, told_apart

FOLDER = Path(__file__).parent
FAMILIES: dict[str, Any] = {
    "flow": simgen.Flow(),
    "vae": simgen.VAE(periodic=True),
    "diffusion": simgen.Diffusion(periodic=True),
    "latent": simgen.LatentDiffusion(periodic=True),
}


def emulate(
    name: str, dataset: simgen.Dataset, theta: Array, arguments: argparse.Namespace
) -> tuple[Array, dict[str, Any]]:
    """Maps of a family at parameters (n, 3), and what it cost."""
    start = time.perf_counter()
    emulator = simgen.fit(
        "x | theta", dataset, FAMILIES[name], seed=arguments.seed, budget=arguments.budget
    )
    trained = time.perf_counter()
    maps = emulator(theta).sample((), seed=arguments.seed).numpy()
    drawn = time.perf_counter()
    training = emulator.provenance["training"]
    return maps, {
        "family": repr(FAMILIES[name]),
        "training_s": round(trained - start, 1),
        "epochs": training["epochs"],
        "steps": training["steps"],
        "parameters": training["parameters"],
        "milliseconds_a_map": round(1e3 * (drawn - trained) / len(maps), 2),
    }


def row(name: str, r: dict[str, Any]) -> str:
    """A line of the table."""
    cells = [f"{100 * size:.1f} ± {100 * error:.1f} %" for size, error in r["error"].values()]
    cost = [f"{r[k]:.4g}" if k in r else "" for k in ("training_s", "milliseconds_a_map")]
    cells += [f"{area:.2f} ± {error:.2f}" for area, error in r["auc"].values()]
    return f"| {name} | {' | '.join(cells)} | {r['memorised']:.3f} | {' | '.join(cost)} |"


def table(results: dict[str, Any], about: dict[str, Any]) -> str:
    """The result in Markdown."""
    lines = [
        "# Emulators of lensing maps",
        "",
        f"`{about['command']}` ({about['versions']}; {about['threads']} threads)",
        "",
        f"p(map | Omega_m, sigma_8, w_0) of noise-free lognormal convergence maps of "
        f"{about['pixels']} by {about['pixels']} pixels over {about['side']} degrees, learned "
        f"from {about['simulations']:,} simulations by each family with its default settings "
        f"(periodic edges), stopped after {about['budget']}. Each is judged by "
        f"{about['held_out']:,} maps at the parameters of as many held-out simulations: root mean "
        "square relative deviation of a summary's bins, the chance part taken out, with its "
        "standard error. The first row compares two sets of simulations. AUC: of a classifier "
        "that sees theta and these summaries, or theta and the pixels, and maps of a fifth of "
        "the parameters that it has not seen; 0.5 is right. Memorisation is the "
        "median distance to the nearest training map over that of held-out simulations: 1 is "
        "right, 0 is a copy. Wall time.",
        "",
        f"| family | {' | '.join(SUMMARIES)} | AUC summaries | AUC pixels | memorisation "
        "| training, s | a map, ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(row(name, r) for name, r in results.items()),
        "",
        "![maps and their summaries](maps.png)",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs the study and writes result.json, result.md and the figure beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.maps", description=__doc__)
    options.add_argument("--families", default=",".join(FAMILIES), help="by comma")
    options.add_argument("--pixels", type=int, default=32)
    options.add_argument("--simulations", type=int, default=10_000, metavar="N")
    options.add_argument("--held-out", type=int, default=1_000, metavar="N")
    options.add_argument("--budget", default="4min", help="of each family's training")
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    names = arguments.families.split(",")
    if unknown := [n for n in names if n not in FAMILIES]:
        options.error(f"no family {unknown[0]!r}; there are {', '.join(FAMILIES)}")
    simulator = ConvergenceMaps(pixels=arguments.pixels, field="lognormal", noise=False, record=())
    seed, side = arguments.seed, simulator.side_deg
    fresh = [
        simulator(simulator.prior.sample((arguments.held_out,), seed=seed + 1), seed=seed + k)["x"]
        for k in (1, 2)
    ]
    theta, other = (
        simulator.prior.sample((arguments.held_out,), seed=seed + k).numpy() for k in (1, 3)
    )
    others = simulator(other, seed=seed + 3)["x"]
    edges = edges_of(fresh[0], side)
    maps, judged, results = {"simulator": fresh[0]}, {}, {}
    chance = judge(fresh[1], fresh[0], edges, side)
    with tempfile.TemporaryDirectory() as folder:
        dataset = simgen.simulate(simulator, arguments.simulations, folder + "/maps", seed=seed)
        training = dataset.train.read(["x"])["x"]
        own = np.median(nearest(fresh[0], np.asarray(training)))
        entries: dict[str, Any] = {"simulator": (fresh[1], {})}
        for name in names:
            entries[name] = emulate(name, dataset, theta, arguments)
        for name, (values, cost) in entries.items():
            found = judge(values, fresh[0], edges, side)
            distance = np.median(nearest(values, np.asarray(training)))
            areas = told_apart(values, others, (theta, other), edges, side, seed)
            results[name] = {
                "auc": {k: [round(v, 4) for v in area] for k, area in areas.items()},
                "error": {k: [round(v, 5) for v in found[k].error] for k in SUMMARIES},
                "memorised": round(float(distance / own), 4),
                **cost,
            }
            if name != "simulator":
                maps[name], judged[name] = values, found
            print(row(name, results[name]), flush=True)
    about = {
        "command": f"python -m studies.maps --families {arguments.families} --pixels "
        f"{arguments.pixels} --simulations {arguments.simulations} --held-out "
        f"{arguments.held_out} --budget {arguments.budget} --seed {seed}",
        "versions": f"torch {torch.__version__}, zuko {version('zuko')}",
        "threads": torch.get_num_threads(),
        "pixels": arguments.pixels,
        "side": side,
        "simulations": arguments.simulations,
        "held_out": arguments.held_out,
        "budget": arguments.budget,
    }
    draw(maps, judged, chance, [FOLDER / "maps.png"])
    (FOLDER / "result.json").write_text(json.dumps({**about, "results": results}, indent=1) + "\n")
    (FOLDER / "result.md").write_text(table(results, about))
    print(table(results, about))


if __name__ == "__main__":
    main()
