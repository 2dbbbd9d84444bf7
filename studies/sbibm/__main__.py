"""`python -m studies.sbibm --task two_moons --simulations 10000 [--methods A,B] [--peer sbi]`."""

from __future__ import annotations

import argparse
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import simgen
from simulators.benchmarks import TASKS

from .measure import measure, read_problem
from .methods import METHODS, PEERS
from .table import record, write_table

DATA = Path(__file__).parents[3] / "shared" / "data" / "sbibm"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(prog="python -m studies.sbibm", description=__doc__)
    out.add_argument("--task", choices=[*TASKS, "all"], default="two_moons")
    out.add_argument("--simulations", type=int, default=10_000, metavar="N")
    out.add_argument("--methods", default="flow", help=f"by comma: {', '.join(METHODS)}")
    out.add_argument("--peer", choices=PEERS, help="run this package on the same simulations")
    out.add_argument(
        "--draw-only-each", action="store_true", help="leave out 1,000 draws for each of 100 x"
    )
    out.add_argument(
        "--observations", default="1,2,3,4,5,6,7,8,9,10", help="numbers from 1 to 10, by comma"
    )
    out.add_argument("--seed", type=int, default=0)
    out.add_argument("--data", default=DATA, help="folder of the public posteriors, TASK.h5")
    out.add_argument("--c2st-jobs", type=int, default=1, help="processes that judge observations")
    out.add_argument("--dry", action="store_true", help="print only, write no result")
    return out


def run(task: str, arguments: argparse.Namespace, numbers: list[int]) -> None:
    """Simulates, then trains, judges, prints and records each method on one task."""
    n, seed = arguments.simulations, arguments.seed
    problem = read_problem(task, arguments.data, numbers, seed)
    chosen = [*arguments.methods.split(","), *PEERS.get(arguments.peer, ())]
    packages = ["torch", "zuko", "scikit-learn", "sbi"]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    with tempfile.TemporaryDirectory() as folder:
        dataset = simgen.simulate(TASKS[task](), n, Path(folder) / task, seed=seed, progress=False)
        for name in chosen:
            title, method = METHODS[name]
            result = measure(
                method, dataset, problem, seed, arguments.c2st_jobs, not arguments.draw_only_each
            )
            show(f"{task}, {n} simulations, {title}", numbers, result)
            about = {
                "command": command(task, name, arguments),
                "versions": versions,
                "seed": seed,
                "observations": numbers,
            }
            if not arguments.dry:
                record(task, n, title, {**about, **result})
                write_table(list(TASKS))


def show(title: str, numbers: list[int], result: dict[str, Any]) -> None:
    """Prints what was measured of one method."""
    print(f"\n{title}")
    for number, value in zip(numbers, result["c2st"]):
        print(f"  observation {number:2d}  C2ST {value:.3f}")
    print(f"  mean            C2ST {result['mean']:.3f}")
    for key in (key for key in result if key.endswith("cpu_s")):
        print(f"  {key} {result[key]}", flush=True)


def command(task: str, method: str, arguments: argparse.Namespace) -> str:
    """The command that repeats a result."""
    words = ["python -m studies.sbibm", f"--task {task}", f"--simulations {arguments.simulations}"]
    words += [f"--methods {method}", f"--seed {arguments.seed}"]
    if len(arguments.observations.split(",")) < 10:
        words.append(f"--observations {arguments.observations}")
    return " ".join([*words, *(["--draw-only-each"] if arguments.draw_only_each else [])])


def main() -> None:
    """Runs the study."""
    options = parser()
    arguments = options.parse_args()
    try:
        numbers = [int(i) for i in arguments.observations.split(",")]
    except ValueError:
        options.error(f"--observations takes numbers by comma; got {arguments.observations!r}")
    if not set(numbers) <= set(range(1, 11)):
        options.error(f"--observations are from 1 to 10; got {arguments.observations}")
    if unknown := [m for m in arguments.methods.split(",") if m not in METHODS]:
        options.error(f"no method {unknown[0]!r}; there are {', '.join(METHODS)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    for task in TASKS if arguments.task == "all" else [arguments.task]:
        try:
            run(task, arguments, numbers)
        except ValueError as error:
            options.error(str(error))


if __name__ == "__main__":
    main()
