"""The cost of a shard to coordinator, index and readers, from ten shards to 100,000.

A shard of one row of a simulator that does nothing, in a file system in memory, so that what is
left is the bookkeeping. Of many shards all but some hundred are links to one file: those that are
missing are simulated, as in a campaign that is resumed.
"""

from __future__ import annotations

__all__ = ["scaling"]

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from torch.distributions import Uniform

import simgen
from simgen.storage.manifest import Manifest, write_index
from simgen.storage.shard import shard_name

from .table import Part

COUNTS = (10, 100, 1_000, 10_000, 100_000)


def nothing() -> simgen.Simulator:
    """A simulator that returns its parameters."""

    def function(theta: Any, rng: np.random.Generator) -> Any:
        return np.asarray(theta)

    prior = simgen.Prior(mu=Uniform(-1.0, 1.0))
    return simgen.simulator(function, prior=prior, batched=True, name="nothing")


def scaling(folder: Path, most: int = 100_000) -> Part:
    """Microseconds a shard of each step, by the number of shards."""
    folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else folder
    path = folder / "simgen-scaling"
    lines = [
        "| shards | simulate and commit | plan, resuming | write the index | open | open the "
        "index, read 5 rows | open, s | index, s |",
        "| ---: |" + " ---: |" * 7,
    ]
    found: dict[int, list[float]] = {}
    for count in (c for c in COUNTS if c <= most):
        shutil.rmtree(path, ignore_errors=True)
        found[count] = _measured(path, count)
        a_shard = " | ".join(f"{1e6 * s:.0f}" for s in found[count])
        seconds = " | ".join(f"{count * s:.3g}" for s in found[count][3:])
        lines.append(f"| {count:,} | {a_shard} | {seconds} |")
    shutil.rmtree(path, ignore_errors=True)
    last = max(found)
    growth = max(a / b for a, b in zip(found[last], found[last // 100]))
    return Part(
        [
            (
                f"opening {last:,} shards; their index, with a first read",
                "< 5 s",
                f"{last * found[last][3]:.2f} s; {last * found[last][4]:.2f} s",
            ),
            (
                f"cost of a shard at {last:,} against {last // 100:,} shards, the dearest step",
                "linear",
                f"{growth:.2f} times",
            ),
        ],
        "Shards: microseconds a shard of each step, and seconds to open. Processor time, so that "
        "other work on the machine does not count.\n\n" + "\n".join(lines),
    )


def _measured(path: Path, count: int) -> list[float]:
    """Seconds a shard of: commit, plan, index, open, open the index."""
    missing = min(count // 2, 200)
    simgen.simulate(nothing(), 1, path, block=1, shard_size=1, progress=False)
    for i in range(1, count - missing):
        os.link(path / shard_name(0), path / shard_name(i))
    manifest = Manifest.load(path).extended(count)
    manifest.save(path)
    index = _seconds(lambda: write_index(path, manifest))
    whole = _seconds(lambda: simgen.simulate(nothing(), count, path, progress=False), repeats=1)
    plan = _seconds(lambda: simgen.simulate(nothing(), count, path, progress=False))
    opened = _seconds(lambda: simgen.Dataset(path))

    def read() -> None:
        with h5py.File(path / "index.h5") as file:
            file["x"][count // 2 : count // 2 + 5]

    return [(whole - plan) / missing, *(s / count for s in (plan, index, opened, _seconds(read)))]


def _seconds(work: Callable[[], Any], repeats: int = 2) -> float:
    best = np.inf
    for _ in range(repeats):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best
