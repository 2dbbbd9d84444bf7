"""A campaign whose coordinator and workers are killed at random instants, until it is whole.

Each kill is a SIGKILL, of the coordinator or of one of its workers; the campaign is started again
each time. In the end its shards are compared, byte by byte, with those of one that ran in peace.
"""

from __future__ import annotations

__all__ = ["Toll", "campaign", "peace", "torture", "walk"]

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from torch.distributions import Normal, Uniform

import simgen

BLOCK, SHARD = 32, 64
Stamp = tuple[int, int, int]


def walk(pause: float) -> simgen.Simulator:
    """A simulator of rows that take an exponential time of this mean, and fail once in fifty."""

    def simulate(theta: Any, rng: np.random.Generator) -> dict[str, Any]:
        x = theta["mu"] + rng.standard_normal(16).cumsum()
        u = rng.random()
        time.sleep(pause * rng.exponential())
        if u < 0.01:
            raise ArithmeticError(f"unlucky: {u:.4f}")
        if u > 0.99:
            x[3] = np.nan
        return {"x": x, "z_u": u, "z_n": rng.poisson(4)}

    prior = simgen.Prior(mu=Uniform(-1.0, 1.0), tau=Normal(0.0, 2.0))
    return simgen.simulator(simulate, prior=prior, name="walk")


def campaign(path: str, rows: int, pause: float, workers: int = 2, **options: Any) -> None:
    """Simulates in this process; what goes wrong is written beside the dataset."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        simgen.simulate(
            walk(pause), rows, path, workers=workers, block=BLOCK, shard_size=SHARD, **options
        )
    except Exception as error:
        Path(f"{path}.{os.getpid()}.txt").write_text(str(error))
        raise SystemExit(3) from None


def peace(path: Path, rows: int) -> simgen.Dataset:
    """The same rows without pauses and kills, in this process."""
    return simgen.simulate(walk(0.0), rows, path, block=BLOCK, shard_size=SHARD, progress=False)


def processes() -> ForkServerContext:
    """Where campaigns are forked from: a process that has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["simgen.simulation", "simgen.prior", __name__])
    return context


@dataclass(frozen=True)
class Toll:
    """What a tortured campaign cost, and what is wrong with it.

    Arguments:
        coordinators: Kills of the coordinator.
        workers: Kills of a worker.
        lost: Rows that are missing.
        duplicated: Rows that are there more than once.
        different: Shards whose bytes are not those of the campaign in peace.
        rewritten: Committed shards that were another file later.
        failed: Rows whose simulation failed, in both campaigns.
        seconds: Wall time.
    """

    coordinators: int
    workers: int
    lost: int
    duplicated: int
    different: int
    rewritten: int
    failed: int
    seconds: float

    @property
    def kills(self) -> int:
        """Kills of any process."""
        return self.coordinators + self.workers


def torture(
    folder: Path, rows: int, kills: int, pause: float, longest: float = 1.5, seed: int = 0
) -> Toll:
    """Kills and restarts a campaign, alternately its coordinator and a random worker.

    Arguments:
        folder: Where to put both datasets; what is there is removed.
        rows: How many rows.
        kills: How many kills.
        pause: Mean seconds a row.
        longest: The most seconds between kills; they are uniform.
        seed: Of the instants.

    Raises:
        RuntimeError: If the campaign fails, or is whole before the last kill.
    """
    rng = np.random.default_rng(seed)
    path = folder / "torture"
    for name in ("torture", "peace"):
        shutil.rmtree(folder / name, ignore_errors=True)
    began = time.perf_counter()
    count, rewritten = {"coordinator": 0, "worker": 0}, 0
    seen: dict[str, Stamp] = {}
    process = _start(path, rows, pause)
    while True:
        left = kills - sum(count.values())
        process.join(rng.uniform(0, longest) if left else None)
        rewritten += _rewritten(path, seen)
        if not process.is_alive():
            if process.exitcode != 0 or left:
                raise RuntimeError(f"ended with {process.exitcode}, {left} kills too early")
            break
        if count["worker"] < count["coordinator"]:
            if workers := _workers(process.pid):
                os.kill(workers[rng.integers(len(workers))], signal.SIGKILL)
                count["worker"] += 1
        else:
            process.kill()
            process.join()
            count["coordinator"] += 1
            process = _start(path, rows, pause)
    seconds = time.perf_counter() - began
    whole = peace(folder / "peace", rows)
    row = _column(path, "row")
    found = np.bincount(row, minlength=rows)
    return Toll(
        coordinators=count["coordinator"],
        workers=count["worker"],
        lost=int((found == 0).sum()),
        duplicated=int((found > 1).sum()),
        different=_different(path, folder / "peace"),
        rewritten=rewritten,
        failed=int((whole.status != 0).sum()),
        seconds=seconds,
    )


def _start(path: Path, rows: int, pause: float) -> BaseProcess:
    process = processes().Process(target=campaign, args=(str(path), rows, pause))
    process.start()
    return process


def _workers(coordinator: int | None) -> list[int]:
    """The worker processes of a coordinator, without the one that tracks their resources."""
    tasks = Path(f"/proc/{coordinator}/task").glob("*/children")
    out = []
    for child in (int(c) for task in tasks for c in task.read_text().split()):
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if b"popen_loky" in command:
            out.append(child)
    return out


def _rewritten(path: Path, seen: dict[str, Stamp]) -> int:
    """How many of the shards that were seen are another file now; notes what is there."""
    changed = 0
    for shard in path.glob("shard-*.h5"):
        about = shard.stat()
        stamp = (about.st_ino, about.st_mtime_ns, about.st_size)
        changed += seen.setdefault(shard.name, stamp) != stamp
    return changed + len(set(seen) - {shard.name for shard in path.glob("shard-*.h5")})


def _column(path: Path, name: str) -> np.ndarray:
    parts = []
    for shard in sorted(path.glob("shard-*.h5")):
        with h5py.File(shard) as file:
            parts.append(file[name][()])
    return np.concatenate(parts)


def _different(path: Path, other: Path) -> int:
    """Shards that are missing or differ in any byte of any column; errors too."""
    names: Sequence[str] = sorted(file.name for file in other.glob("shard-*.h5"))
    bad = {file.name for file in path.glob("shard-*.h5")} ^ set(names)
    for name in names:
        if name not in bad and (path / name).read_bytes() != (other / name).read_bytes():
            bad.add(name)
    return len(bad)
