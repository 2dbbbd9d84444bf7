"""`python -m studies.trust.sequential`: one observation, as many simulations at once or in rounds.

Truncated sequential posterior estimation beside the amortised posterior of as many simulations:
C2ST against the reference posteriors of sbibm, and CPU-seconds of one thread; with --peer, sbi's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array

import simgen
from simgen.calibration.c2st import c2st
from simgen.dataset import Dataset
from simgen.rounds.proposals import truncated
from simgen.rounds.sequence import sequential
from simulators.benchmarks import TASKS
from studies.sbibm.measure import DRAWS, Problem, read_problem

FOLDER = Path(__file__).parent
Run = Callable[[Any, Array, int, int, int], tuple[Array, dict[str, Any]]]
"""Maps simulator, observation, rows, rounds and seed to draws (n, d) and what else there is."""


def at_once(
    simulator: Any, x: Array, rows: int, rounds: int, seed: int
) -> tuple[Array, dict[str, Any]]:
    """The posterior of one fit to simulations from the prior."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = simgen.simulate(simulator, rows, folder, seed=seed, progress=False)
        posterior = simgen.fit("theta | x", dataset, seed=seed, device="cpu", progress=False)
    return posterior(x).sample((DRAWS,), seed=seed).numpy(), {}


def in_rounds(
    simulator: Any, x: Array, rows: int, rounds: int, seed: int
) -> tuple[Array, dict[str, Any]]:
    """The posterior of the last round; what each was, and the reference inside its region."""
    with tempfile.TemporaryDirectory() as folder:
        posterior = sequential(
            simulator,
            x,
            rows // rounds,
            folder,
            rounds=rounds,
            seed=seed,
            device="cpu",
            progress=False,
        )
        draws = posterior(x).sample((DRAWS,), seed=seed).numpy()
        law: Any = truncated(simulator.prior, Path(folder), Dataset(folder).rounds)
        law.regions  # noqa: B018  read while the folder is there
    found = {"rounds": posterior.provenance["rounds"], "inside": law.contains}
    return draws, found


def peer(
    simulator: Any, x: Array, rows: int, rounds: int, seed: int
) -> tuple[Array, dict[str, Any]]:
    """sbi's NPE with its default network and a prior restricted in each round."""
    import sbi.inference
    from sbi.utils import RestrictedPrior, get_density_thresholder

    torch.manual_seed(seed)
    low, high = simulator.prior.low.float(), simulator.prior.high.float()
    box = torch.distributions.Independent(torch.distributions.Uniform(low, high), 1)
    proposal: Any = box
    with _scratch():
        trainer = sbi.inference.NPE(prior=box, show_progress_bars=False)
        for k in range(rounds):
            theta = proposal.sample((rows // rounds,))
            fields = simulator(theta.numpy(), seed=1_000 * seed + k)
            trainer.append_simulations(theta, torch.as_tensor(fields["x"]).float())
            trainer.train(force_first_round_loss=True)
            posterior = trainer.build_posterior().set_default_x(torch.as_tensor(x).float()[None])
            keep = get_density_thresholder(posterior, quantile=1e-4)
            proposal = RestrictedPrior(box, keep, sample_with="rejection")
        draws = posterior.sample((DRAWS,), show_progress_bars=False)
    return draws.numpy(), {}


@contextlib.contextmanager
def _scratch() -> Iterator[None]:
    """A folder for what the peer writes."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(here)


METHODS: dict[str, tuple[str, Run]] = {
    "prior": ("all from the prior", at_once),
    "rounds": ("in rounds (`sequential`)", in_rounds),
    "peer": ("sbi NPE, in rounds", peer),
}


def study(
    problem: Problem, methods: list[str], rows: int, rounds: int, seed: int
) -> dict[str, Any]:
    """What each method reaches for one observation."""
    simulator, x = TASKS[problem.task](), problem.observations[0]
    found: dict[str, Any] = {}
    for name in methods:
        start = time.process_time()
        draws, more = METHODS[name][1](simulator, x, rows, rounds, seed)
        seconds = time.process_time() - start
        row = {"c2st": round(c2st(problem.references[0], draws), 4), "seconds": round(seconds, 1)}
        if "inside" in more:
            inside = more.pop("inside")(torch.as_tensor(problem.references[0]))
            row["outside"] = int((~inside).sum())
        found[name] = {**row, **more}
        print(problem.task, name, row, flush=True)
    return found


def table(result: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    about = result["about"]
    lines = [
        "# One observation, in rounds",
        "",
        f"`{about['command']}` ({about['versions']}; one thread)",
        "",
        f"{about['rows']:,} simulations at once, or {about['rounds']} rounds of "
        f"{about['rows'] // about['rounds']:,}, each where the posterior of the round before "
        "lives, for one observation: its number among those of sbibm. C2ST of 10,000 draws "
        "against the reference posterior (0.5: none can tell); CPU-seconds with simulations. "
        "Default settings everywhere. Outside: of 10,000 reference draws those beyond the last "
        "region.",
        "",
        "| task | observation | method | C2ST | CPU s | outside |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for key, methods in result["tasks"].items():
        task, number = key.split(":")
        best = min(r["c2st"] for r in methods.values())
        for name, r in methods.items():
            bold = "**" if r["c2st"] == best else ""
            lines.append(
                f"| {task} | {number} | {METHODS[name][0]} | {bold}{r['c2st']:.3f}{bold} | "
                f"{r['seconds']:.0f} | {r.get('outside', '')} |"
            )
    lines += [
        "",
        "| task | round | rows | share of the prior | drawn from | kept | training rows |"
        " held-out loss |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for key, methods in result["tasks"].items():
        for r in methods.get("rounds", {}).get("rounds", []):
            lines.append(
                f"| {key} | {r['round']} | {r['rows']:,} | {r['volume']:.3g} | {r['drawn']} | "
                f"{r['acceptance']:.2g} | {r['training_rows']:,} | {r['held_out_loss']:.3f} |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs the study and writes sequential.json and sequential.md beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.trust.sequential")
    options.add_argument("--tasks", default="two_moons,slcp", help="by comma")
    options.add_argument("--observation", type=int, default=1, metavar="K", help="from 1")
    options.add_argument("--rows", type=int, default=10_000, metavar="N", help="in all")
    options.add_argument("--rounds", type=int, default=4, metavar="N")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--peer", action="store_true", help="sbi as well")
    options.add_argument("--data", type=Path, default=Path("data"), help="folder of sbibm's files")
    options.add_argument("--out", type=Path, default=FOLDER, metavar="DIR")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    path = arguments.out / "sequential.json"
    found = json.loads(path.read_text())["tasks"] if path.is_file() else {}
    methods = ["prior", "rounds", *["peer"] * arguments.peer]
    for task in arguments.tasks.split(","):
        problem = read_problem(task, arguments.data, [arguments.observation], arguments.seed)
        key = f"{task}:{arguments.observation}"
        new = study(problem, methods, arguments.rows, arguments.rounds, arguments.seed)
        found[key] = {**found.get(key, {}), **new}
        about = {
            "command": f"python -m studies.trust.sequential --rows {arguments.rows} --rounds "
            f"{arguments.rounds} --seed {arguments.seed}{' --peer' * arguments.peer} --data DIR",
            "versions": f"simgen {simgen.__version__}, torch {torch.__version__}, NumPy "
            f"{np.__version__}, Python {platform.python_version()}",
            "rows": arguments.rows,
            "rounds": arguments.rounds,
        }
        result = {"about": about, "tasks": found}
        path.write_text(json.dumps(result, indent=1) + "\n")
        path.with_suffix(".md").write_text(table(result))


if __name__ == "__main__":
    main()
