"""`python -m studies.inverse --gates 1,2,3,6,em --seeds 20`: what is run replaces what was
recorded of the same problem, method and seed; the table and the figure show all that is recorded.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from . import corrupted, gaussian, learned, peers
from .figure import figure
from .measure import sliced_w1
from .methods import draw, names
from .mixture import Task
from .table import text

FOLDER = Path(__file__).parent
DRAWS = 2000
GATES = ("1", "2", "3", "6", "em")

Results = dict[str, Any]


def gate_1(results: Results, sides: Sequence[int], save: Any) -> None:
    """Every covariance, operator and size."""
    for side in sides:
        for covariance in gaussian.COVARIANCES:
            for operator in gaussian.OPERATORS:
                task = gaussian.Task.of(covariance, operator, side)
                found = {m: gaussian.measure(task, m) for m in gaussian.METHODS}
                key = f"{covariance}, {operator}, {side**2}"
                results.setdefault("gaussian", {})[key] = {
                    m: {k: _short(v) for k, v in one.items()} for m, one in found.items()
                }
                ratios = {m: round(v["kl"] / v["floor"], 2) for m, v in found.items()}
                print(key, ratios, flush=True)
            save()


def gate_2(
    results: Results,
    shapes: Sequence[tuple[int, int]],
    seeds: Sequence[int],
    methods: Sequence[str],
    save: Any,
) -> None:
    """The mixture, with the exact denoiser."""
    cells = results.setdefault("mixture", {})
    for seed in seeds:
        for dx, dy in shapes:
            cell = cells.setdefault(f"{dx}, {dy}", {})
            _problem(cell, Task.of(dx, dy, seed), methods, seed)
            save()
    for dx, dy in shapes:
        _tell(f"mixture {dx}, {dy}", cells[f"{dx}, {dy}"], methods)


def gate_6(
    results: Results,
    observed: Sequence[int],
    seeds: Sequence[int],
    methods: Sequence[str],
    rows: int,
    save: Any,
) -> None:
    """The mixture in eight dimensions, with a learned denoiser."""
    prior, about = learned.learn(rows, 0)
    found = results.setdefault("learned", {})
    found["prior"] = {k: _short(v) for k, v in about.items()}
    print("learned", found["prior"], flush=True)
    keys = {dy: f"{learned.DIMENSIONS}, {dy}" for dy in observed}
    for seed in seeds:
        for dy, key in keys.items():
            task = Task.of(learned.DIMENSIONS, dy, seed, learned.prior())
            _problem(found.setdefault(key, {}), task, methods, seed, prior)
            save()
    for key in keys.values():
        _tell(f"learned {key}", found[key], methods)


def _problem(
    cell: Results, task: Task, methods: Sequence[str], seed: int, prior: Any = None
) -> None:
    """Methods on one problem: sliced W1, seconds; z of the evidence and particles where known."""
    exact, again = task.exact(DRAWS, seed), task.exact(DRAWS, seed + 1_000_000)
    cell.setdefault("floor", {})[str(seed)] = {"w1": _short(sliced_w1(exact, again))}
    for method in methods:
        drawn = draw(task, method, DRAWS, seed, prior)
        w1 = sliced_w1(drawn.x, exact) if bool(drawn.x.isfinite().all()) else None
        one: Results = {"w1": _short(w1), "seconds": round(drawn.seconds, 2)}
        if drawn.evidence is not None:
            value, error = drawn.evidence
            one |= {"nats": _short(value - task.log_evidence), "error": _short(error)}
            one |= {"particles": drawn.particles}
        cell.setdefault(method, {})[str(seed)] = one


def _tell(title: str, cell: Results, methods: Sequence[str]) -> None:
    means = {}
    for name in ("floor", *methods):
        values = [v["w1"] for v in cell[name].values() if v["w1"] is not None]
        means[name] = round(sum(values) / max(len(values), 1), 3)
    print(title, means, flush=True)


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _numbers(text: str) -> list[int]:
    return [int(v) for v in text.split(",")]


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> Results:
    """Runs gates and writes result.json, result.md and the figure."""
    parser = argparse.ArgumentParser(prog="python -m studies.inverse", description=__doc__)
    parser.add_argument("--gates", default="1,2,3,6", help=", ".join(GATES))
    parser.add_argument("--seeds", type=int, default=20, help="problems of gates 2 and 6")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--methods", default="", help="of gates 2 and 6, split by ';'")
    parser.add_argument("--sides", type=_numbers, default=list(gaussian.SIZES), help="gate 1")
    parser.add_argument("--dx", type=_numbers, default=[8, 80, 800], help="gate 2")
    parser.add_argument("--dy", type=_numbers, default=[1, 2, 4], help="gates 2 and 6")
    parser.add_argument("--rows", type=int, default=50_000, help="to learn from, gate 6")
    parser.add_argument("--em-rows", type=int, default=8192)
    parser.add_argument("--laps", type=int, default=6, help="em")
    options = parser.parse_args(arguments)
    gates = options.gates.split(",")
    if unknown := [gate for gate in gates if gate not in GATES]:
        parser.error(f"gates are {', '.join(GATES)}; got {unknown[0]!r}")
    path, start = folder / "result.json", time.process_time()
    results: Results = json.loads(path.read_text()) if path.is_file() else {}
    results["versions"] = ", ".join(map(_version, ("torch", "azula")))
    results["missing"] = peers.missing()
    said = sys.argv[1:] if arguments is None else arguments
    ran = f"python -m studies.inverse {shlex.join(said)}"

    def save() -> None:
        results.setdefault("commands", {})[ran] = round(time.process_time() - start)
        path.write_text(_compact(results))

    seeds = range(options.first, options.first + options.seeds)
    chosen = tuple(options.methods.split(";")) if options.methods else names()
    if "1" in gates:
        gate_1(results, options.sides, save)
    if "2" in gates:
        shapes = [(dx, dy) for dx in options.dx for dy in options.dy]
        gate_2(results, shapes, seeds, chosen, save)
    if "6" in gates:
        more = () if options.methods else learned.METHODS
        gate_6(results, options.dy, seeds, (*chosen, *more), options.rows, save)
    if "em" in gates:
        found = corrupted.gaussian(options.em_rows, 2, 0)
        results["corrupted"] = {"gaussian": found}
        print(found, flush=True)
        found = corrupted.mixture(options.em_rows, options.laps, 0)
        results["corrupted"]["mixture"] = found
        print({k: v for k, v in found.items() if k != "picture"}, flush=True)
        save()
    (folder / "result.md").write_text(text(results))
    figure(results, folder / "figure.png")
    return results


def _compact(results: Results) -> str:
    """JSON with each innermost object on one line."""
    found = json.dumps(results, indent=1)
    return re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda part: " ".join(part[0].split()), found) + "\n"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
