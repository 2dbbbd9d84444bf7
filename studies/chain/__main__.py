"""`python -m studies.chain`: p(configuration | T, P, epsilon) of a chain, learned and exact."""

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
from simulators.takahashi import TakahashiChain

from .figure import draw

FOLDER = Path(__file__).parent
TARGETS = {"vector": "spacings", "set": "set"}
"""How a learned model sees the spacings, and the simulator's name for it."""
TITLES = {
    "none": "exact p(x), theta ignored",
    "vector": "flow of a vector of {k} spacings",
    "set": "flow of one spacing, a set of {k} independent ones",
}


def learn(coordinates: str, arguments: argparse.Namespace) -> tuple[simgen.Conditional, float]:
    """The learned p(x | theta), and seconds of processor time to fit it."""
    chain = TakahashiChain(arguments.spacings, coordinates)
    with tempfile.TemporaryDirectory() as folder:
        dataset = simgen.simulate(
            chain, arguments.simulations, folder + "/chain", seed=arguments.seed
        )
        start = time.process_time()
        learned = simgen.fit(
            "x | theta", dataset, model=simgen.Flow(), seed=arguments.seed, budget=arguments.budget
        )
        return learned, time.process_time() - start


def divergence(log_ratio: Array, spacings: int) -> dict[str, float]:
    """KL(exact || learned) in nats a spacing and its standard error, of log p - log q (n,)."""
    log_ratio = log_ratio / spacings
    return {
        "kl": round(float(log_ratio.mean()), 6),
        "error": round(float(log_ratio.std(ddof=1) / len(log_ratio) ** 0.5), 6),
    }


def ignorant(chain: TakahashiChain, x: Array, log_p: Array) -> Array:
    """log p(x | theta) - log p(x) of configurations (n, k)."""
    parts = [chain.exact_posterior(part).log_evidence for part in np.array_split(x, len(x) // 50)]
    return log_p - np.concatenate(parts)


def table(results: dict[str, Any], about: dict[str, Any]) -> str:
    """The result in Markdown."""
    lines = [
        "# Learned configurations of a Takahashi chain",
        "",
        f"`{about['command']}` ({about['versions']}; {about['threads']} threads)",
        "",
        f"p(x | T, P, epsilon) of {about['spacings']} spacings of a Lennard-Jones chain at "
        f"constant pressure, learned by `simgen.Flow()` from {about['simulations']:,} simulations "
        "with default settings, against its exact density: KL(exact || learned), the mean of "
        f"log p - log q over {about['held_out']:,} fresh simulations with theta from the prior, "
        "in nats a spacing, with its standard error. The first row is the divergence of the exact "
        f"p(x), over {about['ignorant']:,} of them: what there is to learn of theta.",
        "",
        "| density | KL, nats a spacing | parameters | fit, CPU-seconds |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, r in results.items():
        title = TITLES[name].format(k=about["spacings"])
        cost = [f"{r[k]:,}" if k in r else "" for k in ("parameters", "fit_s")]
        lines.append(f"| {title} | {r['kl']:.5f} ± {r['error']:.5f} | {' | '.join(cost)} |")
    lines += [
        "",
        "Below, lines and crosses: the set; dots and circles: draws of the vector; areas and the "
        "curves of the equation of state: exact.",
        "",
        "![densities and the equation of state](chain.png)",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs the study and writes result.json, result.md and the figure beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.chain", description=__doc__)
    options.add_argument("--spacings", type=int, default=6, metavar="K")
    options.add_argument("--simulations", type=int, default=20_000, metavar="N")
    options.add_argument("--held-out", type=int, default=20_000, metavar="N")
    options.add_argument("--budget", default=None, help="of each training, in wall time")
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    k, seed = arguments.spacings, arguments.seed
    chain = TakahashiChain(k)
    theta = chain.prior.sample((arguments.held_out,), seed=seed + 1).double().numpy()
    x = chain(theta, seed=seed + 1)["x"]
    log_p = chain.log_likelihood(x, theta)
    few = min(2_000, len(x))
    results: dict[str, Any] = {
        "none": divergence(ignorant(chain, x[:few], log_p[:few]), k),
    }
    learned = {}
    for name, coordinates in TARGETS.items():
        learned[name], seconds = learn(coordinates, arguments)
        with torch.no_grad():
            value = torch.as_tensor(x if name == "vector" else x[..., None]).double()
            log_q = learned[name](theta).log_prob(value).numpy()
        results[name] = divergence(log_p - log_q, k) | {
            "parameters": learned[name].provenance["training"]["parameters"],
            "fit_s": round(seconds),
        }
        print(name, json.dumps(results[name]), flush=True)
    budget = "" if arguments.budget is None else f" --budget {arguments.budget}"
    about = {
        "command": f"python -m studies.chain --spacings {k} --simulations {arguments.simulations} "
        f"--held-out {arguments.held_out}{budget} --seed {seed}",
        "versions": f"torch {torch.__version__}, zuko {version('zuko')}",
        "threads": torch.get_num_threads(),
        "spacings": k,
        "simulations": arguments.simulations,
        "held_out": arguments.held_out,
        "ignorant": few,
    }
    draw(chain, learned, [FOLDER / "chain.png"], seed)
    (FOLDER / "result.json").write_text(json.dumps({**about, "results": results}, indent=1) + "\n")
    (FOLDER / "result.md").write_text(table(results, about))
    print(table(results, about))


if __name__ == "__main__":
    main()
