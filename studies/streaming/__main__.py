"""`python -m studies.streaming`: what an epoch from disk costs, in time and in memory, and whether
training on sorted rows ends where it does from memory.

Each way takes its turn in every round, and the best round counts: other programs on the machine
can only add. Wall time is beside the processor time of all threads.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn

import simgen
from simgen.stream import Batches

FOLDER = Path(__file__).parent
NAMES = ("theta", "x")
BATCH = 256
Epoch = Callable[[int], Iterable[Any]]


def draw(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of theta (5,) and x (1, 32, 32) = theta_0 + noise, in order of theta_0."""
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal((rows, 5), dtype="f4")
    theta = theta[np.argsort(theta[:, 0])]
    noise = rng.standard_normal((rows, 1, 32, 32), dtype="f4")
    return theta, noise + theta[:, :1, None, None]


def make(folder: Path, rows: int) -> tuple[simgen.Dataset, Path]:
    """The same sorted rows as a dataset of ours, and as lampe's file."""
    theta, x = draw(rows, 0)
    with h5py.File(folder / "lampe.h5", "w") as file:
        file["theta"], file["x"] = theta, x[:, 0]
    return simgen.Dataset.create(folder / "ours", theta=theta, x=x), folder / "lampe.h5"


def resident() -> int:
    """Bytes of memory of this process, with the pages of files that are mapped."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def passing(epoch: Iterable[Any]) -> int:
    """Rows of an epoch, which is only gone through."""
    return sum(len(b["theta"] if isinstance(b, dict) else b[0]) for b in epoch)


class Trainer:
    """A small network that learns theta's mean and scale.

    Arguments:
        network: From x to five means and five logarithms of scales.
        rate: Its learning rate.
        steps: After which that, falling as a cosine, is zero; None if it stays.
    """

    def __init__(self, network: nn.Module, rate: float = 1e-3, steps: int | None = None) -> None:
        self.network = network
        self.optimiser = torch.optim.Adam(network.parameters(), rate)
        self.schedule = (
            None
            if steps is None
            else torch.optim.lr_scheduler.CosineAnnealingLR(self.optimiser, steps)
        )

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """The negative log-density of a Gaussian, in nats a row but for a constant."""
        mean, log_scale = self.network(batch["x"]).chunk(2, 1)
        residual = (batch["theta"] - mean) * (-log_scale).exp()
        return (0.5 * residual**2 + log_scale).sum(1).mean()

    def __call__(self, epoch: Iterable[dict[str, Tensor]]) -> int:
        """Trains for an epoch; returns its rows."""
        rows = 0
        for batch in epoch:
            self.optimiser.zero_grad()
            self.loss(batch).backward()
            self.optimiser.step()
            if self.schedule is not None:
                self.schedule.step()
            rows += len(batch["theta"])
        return rows


def every_pixel() -> nn.Module:
    """A network of a lower bound of what training costs."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 64), nn.SiLU(), nn.Linear(64, 10))


def pooled(seed: int) -> nn.Module:
    """A network that comes close to the optimum in a few epochs."""
    torch.manual_seed(seed)
    pool = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(16, 64))
    return nn.Sequential(pool, nn.SiLU(), nn.Linear(64, 10))


OPTIMUM = 5 / 2 - math.log(1 + 32 * 32) / 2
"""The loss of the exact posterior: theta_0 is known to 1 / sqrt(1 + 1024), the others to 1."""


def losses(
    dataset: simgen.Dataset, budget: int, seeds: int, epochs: int
) -> dict[str, list[float]]:
    """Held-out loss above that of the exact posterior, by the way of the rows, for each seed."""
    theta, x = draw(10_000, 1)
    held = {"theta": torch.from_numpy(theta), "x": torch.from_numpy(x)}
    ways: dict[str, dict[str, Any]] = {
        "memory": {"memory": 1 << 40},
        f"disk, {budget >> 20} MiB": {"memory": budget},
        f"disk, {budget >> 22} MiB": {"memory": budget // 4},
        "in the order of the file": {"memory": 1 << 40, "shuffle": False},
    }
    found: dict[str, list[float]] = {}
    for name, options in ways.items():
        for seed in range(seeds):
            rows = Batches(dataset, NAMES, BATCH, seed=seed, **options)
            trainer = Trainer(pooled(seed), 3e-3, epochs * rows.steps)
            for epoch in range(epochs):
                trainer(rows.epoch(epoch))
            with torch.no_grad():
                found.setdefault(name, []).append(float(trainer.loss(held)) - OPTIMUM)
    return found


def clock(ways: dict[str, Callable[[int], int]], rounds: int) -> dict[str, dict[str, float]]:
    """The least wall and processor time of each way, which take turns."""
    best: dict[str, dict[str, float]] = {}
    for i in range(rounds):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            rows = way(i)
            found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            known = best.setdefault(name, {"rows": rows, **found})
            best[name] = {"rows": rows, **{k: min(known[k], v) for k, v in found.items()}}
    return best


def speeds(dataset: simgen.Dataset, file: Path, budget: int, rounds: int) -> dict[str, Any]:
    """Times and memory of every way, side by side."""
    from lampe.data import H5Dataset
    from torch.utils.data import DataLoader

    disk = Batches(dataset, NAMES, BATCH, memory=budget)
    assert not disk.in_memory
    before = resident()
    peak = [resident() for epoch in range(2) for _ in disk.epoch(epoch)]
    lampe = H5Dataset(file, batch_size=BATCH, shuffle=True)
    lampe_peak = [resident() for _ in lampe]
    memory = Batches(dataset, NAMES, BATCH, memory=1 << 40)
    plain = Batches(dataset, NAMES, BATCH, memory=1 << 40, shuffle=False)
    room = torch.empty(2 * BATCH, 1, 32, 32)

    def copying(epoch: Iterable[dict[str, Tensor]]) -> int:
        return sum(len(room[: len(b["x"])].copy_(b["x"])) for b in epoch)

    ways: dict[str, Callable[[int], int]] = {
        "one copy of the same bytes, in order": lambda i: copying(plain.epoch(i)),
        "memory": lambda i: passing(memory.epoch(i)),
        "disk": lambda i: passing(disk.epoch(i)),
        "lampe's H5Dataset": lambda i: passing(lampe),
    }
    slow: dict[str, Callable[[int], int]] = {
        "lampe's H5Dataset, row by row": lambda i: sum(1 for _ in H5Dataset(file, shuffle=True)),
        "DataLoader(H5Dataset(file, shuffle=True))": lambda i: passing(
            DataLoader(H5Dataset(file, shuffle=True), batch_size=BATCH)
        ),
    }
    trainers = {k: Trainer(every_pixel()) for k in ("memory", "disk")}
    training: dict[str, Callable[[int], int]] = {
        "memory": lambda i: trainers["memory"](memory.epoch(i)),
        "disk": lambda i: trainers["disk"](disk.epoch(i)),
    }
    return {
        "passing": clock(ways, rounds) | clock(slow, min(rounds, 2)),
        "training": clock(training, rounds),
        "MiB": {
            "rows": len(dataset) * memory._width / 2**20,
            "budget": budget / 2**20,
            "disk": (max(peak) - before) / 2**20,
            "lampe": (max(lampe_peak) - before) / 2**20,
        },
    }


def text(found: dict[str, Any], command: str) -> str:
    """The result in Markdown."""
    p, t, m = found["passing"], found["training"], found["MiB"]
    versions = ", ".join(f"{k} {version(k)}" for k in ("torch", "h5py", "lampe"))
    lines = [
        "# Streaming from disk",
        "",
        f"`{command}` ({versions})",
        "",
        f"{p['disk']['rows']:,.0f} rows of theta (5,) and x (32, 32) float32, {m['rows']:.0f} "
        f"MiB, sorted by theta, shuffled in batches of {BATCH}; the files in the page cache; "
        f"{m['budget']:.0f} MiB allowed to the stream. Times are the least of rounds in turn.",
        "",
        "| going through the rows | wall, s | processor, s | rows/s |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, one in p.items():
        speed = one["rows"] / one["wall"]
        lines.append(f"| {name} | {one['wall']:.3f} | {one['cpu']:.3f} | {speed:,.0f} |")
    lines += ["", "| training a small network | wall, s | processor, s |", "| --- | ---: | ---: |"]
    lines += [f"| {k} | {one['wall']:.3f} | {one['cpu']:.3f} |" for k, one in t.items()]
    wall = {k: one["wall"] for k, one in p.items()}
    ratios = {
        "training epoch, disk / memory, at most 1.3": t["disk"]["wall"] / t["memory"]["wall"],
        "bare epoch, disk / memory": wall["disk"] / wall["memory"],
        **{f"rows/s of disk / {k}": wall[k] / wall["disk"] for k in list(wall)[3:]},
    }
    lines += ["", "| ratio of wall times | |", "| --- | ---: |"]
    lines += [f"| {k} | {v:.2f} |" for k, v in ratios.items()]
    lines += [
        "",
        f"Resident memory beyond that of the process before: stream "
        f"{m['disk']:.0f} MiB, lampe's {m['lampe']:.0f} MiB.",
        "",
        "A bare epoch in memory is one copy of each row at random. From disk it is the same copy "
        "and one before it, by the kernel, out of the page cache; two threads share them and work "
        "ahead, so that training hides them.",
        "",
        *told(found),
    ]
    return "\n".join(lines)


def told(found: dict[str, Any]) -> list[str]:
    """The losses in Markdown, with the standard errors of means over seeds."""
    runs = {k: np.array(v) for k, v in found["loss"].items()}
    seeds, steps = len(runs["memory"]), found["steps"]
    lines = [
        f"Held-out loss above that of the exact posterior, in nats, after {steps:,} steps on the "
        f"rows sorted by theta_0 (a learning rate that falls to zero; means of {seeds} seeds):",
        "",
        "| rows come from | loss - optimum | - that from memory, the same seeds |",
        "| --- | ---: | ---: |",
    ]
    for name, one in runs.items():
        if not np.isfinite(one).all():
            lines.append(f"| {name} | diverges | |")
            continue
        apart = one - runs["memory"]
        errors = [v.std(ddof=1) / math.sqrt(seeds) for v in (one, apart)]
        difference = "" if name == "memory" else f"{apart.mean():.4f} ± {errors[1]:.4f}"
        lines.append(f"| {name} | {one.mean():.4f} ± {errors[0]:.4f} | {difference} |")
    return [*lines, ""]


def main() -> None:
    """Measures, and writes result.json and result.md beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.streaming", description=__doc__)
    options.add_argument("--rows", type=int, default=100_000)
    options.add_argument("--memory", type=int, default=256, metavar="MiB")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seeds", type=int, default=4, help="trainings of each kind")
    options.add_argument("--epochs", type=int, default=5, help="of each of them")
    options.add_argument("--folder", type=Path, metavar="DIR", help="where to put the data")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        dataset, file = make(Path(folder), chosen.rows)
        found = speeds(dataset, file, chosen.memory << 20, chosen.rounds)
        found["loss"] = losses(dataset, chosen.memory << 20, chosen.seeds, chosen.epochs)
        found["steps"] = chosen.epochs * round(chosen.rows / BATCH)
    said = f"--rows {chosen.rows} --memory {chosen.memory} --rounds {chosen.rounds}"
    (FOLDER / "result.json").write_text(json.dumps(found, indent=1) + "\n")
    result = text(found, f"python -m studies.streaming {said}")
    (FOLDER / "result.md").write_text(result)
    print(result)


if __name__ == "__main__":
    main()
