"""The study's table, written from the JSON files beside it."""

from __future__ import annotations

__all__ = ["read", "record", "write_table"]

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

PUBLISHED = {
    ("two_moons", 10_000): 0.554,
    ("slcp", 10_000): 0.874,
    ("gaussian_linear", 10_000): 0.552,
    ("gaussian_linear_uniform", 10_000): 0.553,
}
"""The best published mean C2ST of an amortised neural posterior: of two moons and SLCP by the
re-runs of sbi's NSF in the repository npe-pfn, of the Gaussians by Lueckmann et al. (2021)."""

_BATCH = "draws_1000_x_100"

_HEAD = """# sbibm: default settings

C2ST by sbibm's definition (10,000 draws against the 10,000 public reference draws, multilayer
perceptron, five folds, z-scored; 0.5 is best), of each of the observations and their mean. Each
method is trained once, on the same simulations, with its default settings and one thread. Seconds
are CPU-seconds of its process: of training, of 10,000 draws for each public observation one by
one, and of 1,000 draws for each of 100 fresh observations. "published" is the best amortised
neural posterior in print at that budget (`table.py` says where).
"""


def read(task: str) -> dict[str, Any]:
    """What is recorded of a task, by number of simulations."""
    path = FOLDER / f"{task}.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def record(task: str, simulations: int, title: str, result: dict[str, Any]) -> None:
    """Replaces what is recorded of a method on a task at this number of simulations."""
    runs = read(task)
    runs.setdefault(str(simulations), {})[title] = result
    runs = {key: runs[key] for key in sorted(runs, key=int)}
    (FOLDER / f"{task}.json").write_text(json.dumps(runs, indent=1) + "\n")


def write_table(tasks: list[str]) -> Path:
    """Writes result.md from all that is recorded, and returns its path."""
    parts = [_HEAD]
    for task in tasks:
        parts += [_section(task, int(key), run) for key, run in read(task).items()]
    path = FOLDER / "result.md"
    path.write_text("\n".join(parts))
    return path


def _section(task: str, simulations: int, methods: dict[str, Any]) -> str:
    published = PUBLISHED.get((task, simulations))
    numbers = range(1, 11)
    lines = [
        f"## {task}, {simulations:,} simulations",
        "",
        "| method | mean C2ST | "
        + " | ".join(str(i) for i in numbers)
        + " | training, s | 10,000 each, s | 1,000 by 100, s |",
        "| --- |" + " ---: |" * (len(numbers) + 4),
    ]
    for name, m in methods.items():
        each = dict(zip(m["observations"], m["c2st"]))
        seconds = [m.get(f"{k}_cpu_s") for k in ("training", "draws_10000_each", _BATCH)]
        few = "" if len(each) == 10 else f" (of {len(each)})"
        cells = [
            f"{m['mean']:.3f}{few}",
            *(f"{each[i]:.3f}" if i in each else "" for i in numbers),
            *("" if v is None else f"{v:.1f}" for v in seconds),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if published is not None:
        lines.append(f"| published | {published:.3f} |" + " |" * (len(numbers) + 3))
    lines += ["", *(f"- {k}: `{m['command']}` ({m['versions']})" for k, m in methods.items())]
    return "\n".join(lines) + "\n"
