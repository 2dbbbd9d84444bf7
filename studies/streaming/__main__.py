"""`python -m studies.streaming`: what an epoch from disk costs, in time and in memory.

Each way takes its turn in every round, and the best round counts: other programs on the machine
can only add. Wall time is beside the processor time of all threads.
"""

from __future__ import annotations

import argparse
import json
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


def make(folder: Path, rows: int) -> tuple[simgen.Dataset, Path]:
    """Rows of theta (5,) and x (32, 32), sorted by theta: ours, and as lampe's file."""
    rng = np.random.default_rng(0)
    theta = np.sort(rng.standard_normal((rows, 5), dtype="f4"), 0)
    x = rng.standard_normal((rows, 1, 32, 32), dtype="f4") + theta[:, :1, None, None]
    with h5py.File(folder / "lampe.h5", "w") as file:
        file["theta"], file["x"] = theta, x[:, 0]
    return simgen.Dataset.create(folder / "ours", theta=theta, x=x), folder / "lampe.h5"


def resident() -> int:
    """Bytes of memory of this process, without files that are mapped."""
    fields = Path("/proc/self/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * resource.getpagesize()


def passing(epoch: Iterable[Any]) -> int:
    """Rows of an epoch, which is only gone through."""
    return sum(len(b["theta"] if isinstance(b, dict) else b[0]) for b in epoch)


class Trainer:
    """A small network that learns theta's mean and scale: a lower bound of what training costs."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Flatten(), nn.Linear(1024, 64), nn.SiLU(), nn.Linear(64, 10)
        )
        self.optimiser = torch.optim.Adam(self.network.parameters(), 1e-3)

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
            rows += len(batch["theta"])
        return rows


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


def measure(rows: int, budget: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Everything, side by side."""
    from lampe.data import H5Dataset

    dataset, file = make(folder, rows)
    disk = Batches(dataset, NAMES, BATCH, memory=budget)
    assert not disk.in_memory
    before = resident()
    peak = [resident() for epoch in range(2) for _ in disk.epoch(epoch)]
    lampe = H5Dataset(file, batch_size=BATCH, shuffle=True)
    lampe_peak = [resident() for _ in lampe]
    memory = Batches(dataset, NAMES, BATCH, memory=1 << 40)
    ways: dict[str, Callable[[int], int]] = {
        "memory": lambda i: passing(memory.epoch(i)),
        "disk": lambda i: passing(disk.epoch(i)),
        "lampe's H5Dataset": lambda i: passing(lampe),
    }
    slow = {
        "lampe's H5Dataset, row by row": lambda i: sum(1 for _ in H5Dataset(file, shuffle=True))
    }
    trainers = {"memory": Trainer(), "disk": Trainer()}
    training: dict[str, Callable[[int], int]] = {
        "memory": lambda i: trainers["memory"](memory.epoch(i)),
        "disk": lambda i: trainers["disk"](disk.epoch(i)),
    }
    out: dict[str, Any] = {
        "passing": clock(ways, rounds) | clock(slow, 1),
        "training": clock(training, rounds),
    }
    with torch.no_grad():
        held = [t.loss({k: dataset_rows(dataset, k) for k in NAMES}) for t in trainers.values()]
    out["loss"] = dict(zip(trainers, (float(v) for v in held)))
    out["MiB"] = {
        "rows": rows * memory._width / 2**20,
        "budget": budget / 2**20,
        "disk": (max(peak) - before) / 2**20,
        "lampe": (max(lampe_peak) - before) / 2**20,
    }
    return out


def dataset_rows(dataset: simgen.Dataset, name: str) -> Tensor:
    """Every tenth row of a field."""
    return torch.from_numpy(dataset[name][::10])


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
    ratios = {
        "training epoch, disk / memory, at most 1.3": t["disk"]["wall"] / t["memory"]["wall"],
        "bare epoch, disk / memory": p["disk"]["wall"] / p["memory"]["wall"],
        "rows/s of disk / lampe's H5Dataset in batches": p["lampe's H5Dataset"]["wall"]
        / p["disk"]["wall"],
        "rows/s of disk / lampe's H5Dataset row by row": p["lampe's H5Dataset, row by row"]["wall"]
        / p["disk"]["wall"],
    }
    lines += ["", "| ratio of wall times | |", "| --- | ---: |"]
    lines += [f"| {k} | {v:.2f} |" for k, v in ratios.items()]
    lines += [
        "",
        f"Memory beyond that of the process before: stream {m['disk']:.0f} MiB, lampe's "
        f"{m['lampe']:.0f} MiB. Loss after training on sorted rows: {found['loss']['disk']:.3f} "
        f"nats from disk, {found['loss']['memory']:.3f} from memory.",
        "",
        "The main thread of the stream does what it does in memory, a gather a batch; another "
        "reads. A bare epoch in memory is one pass over the rows, at the speed of memory; from "
        "disk it cannot be less than the kernel's copy out of the page cache, a second pass, and "
        "any training hides it.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures, and writes result.json and result.md beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.streaming", description=__doc__)
    options.add_argument("--rows", type=int, default=100_000)
    options.add_argument("--memory", type=int, default=256, metavar="MiB")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--folder", type=Path, metavar="DIR", help="where to put the data")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = measure(arguments.rows, arguments.memory << 20, arguments.rounds, Path(folder))
    chosen = f"--rows {arguments.rows} --memory {arguments.memory} --rounds {arguments.rounds}"
    (FOLDER / "result.json").write_text(json.dumps(found, indent=1) + "\n")
    result = text(found, f"python -m studies.streaming {chosen}")
    (FOLDER / "result.md").write_text(result)
    print(result)


if __name__ == "__main__":
    main()
