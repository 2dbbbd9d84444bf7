"""Wall time of a campaign beside a bare loop over the same calls, and beside sbi's."""

from __future__ import annotations

__all__ = ["overhead", "speed_up", "waiting"]

import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributions import Uniform

import simgen
import simulators
from simgen.campaign.coordinator import draw_theta
from simgen.forward import BLOCK, ROW, stream

from .calls import arithmetic, sleep
from .table import Part


def overhead(folder: Path, rows: int = 32_768, repeats: int = 4) -> Part:
    """A campaign of 64 x 64 maps, a vectorised simulator, against a loop that keeps nothing."""
    simulator = simulators.get("map-quick")
    block = 256
    ratios, loops, campaigns = [], [], []
    for _ in range(repeats):
        began = time.perf_counter()
        for b in range(rows // block):
            theta = draw_theta(simulator.prior, 0, b, block)
            simulator.run(theta.astype(float), stream(0, BLOCK, b))
        loops.append(time.perf_counter() - began)
        campaigns.append(_campaign(simulator, rows, folder, block=block))
        ratios.append(campaigns[-1] / loops[-1])
    best = min(campaigns) / min(loops)
    return Part(
        [
            (
                "overhead over a bare loop, vectorised simulator of 64 by 64 maps, 1 worker",
                "≤ 10 %",
                f"{100 * (best - 1):+.1f} %",
            )
        ],
        f"Overhead: {rows:,} maps of preset map-quick, {repeats} runs side by side, the best of "
        f"each: bare loop {min(loops):.2f} s, campaign {min(campaigns):.2f} s to the last fsync "
        f"(ratios pair by pair: {', '.join(f'{r:.2f}' for r in ratios)}).",
    )


def speed_up(folder: Path, rows: int = 20_000, repeats: int = 2) -> Part:
    """A Python simulator of 1 ms a row with two workers, against its bare loop and sbi's."""
    return _speed_up(folder, rows, repeats, "computes for 1 ms a row", arithmetic)


def waiting(folder: Path, rows: int = 12_000, repeats: int = 2) -> Part:
    """The same of a simulator that sleeps for the millisecond."""
    return _speed_up(folder, rows, repeats, "waits for 1 ms a row", sleep)


def _speed_up(
    folder: Path, rows: int, repeats: int, what: str, call: Callable[[Any, Any], Any]
) -> Part:
    simulator = rowwise(call)
    times: dict[str, list[tuple[float, float]]] = {"loop": [], "simgen": [], "sbi": []}
    for _ in range(repeats):
        times["loop"].append(_clocked(lambda: _loop(simulator, rows)))
        times["simgen"].append(_clocked(lambda: _campaign(simulator, rows, folder, workers=2)))
        times["sbi"].append(_clocked(lambda: _sbi(rows, call)))
    loop, ours, theirs = (min(wall for wall, _ in times[k]) for k in ("loop", "simgen", "sbi"))
    busy = {k: min(processor for _, processor in pairs) for k, pairs in times.items()}
    return Part(
        [
            (
                f"speed-up of a Python simulator that {what}, 2 workers, over the bare loop",
                "≥ 1.8",
                f"{loop / ours:.2f}",
            ),
            (
                "the same of sbi's simulate_for_sbi, 2 workers, same run",
                "less than ours",
                f"{loop / theirs:.2f}",
            ),
        ],
        f"Speed-up, a simulator that {what}: {rows:,} rows, best of {repeats} side by side: bare "
        f"loop {loop:.1f} s, simgen {ours:.1f} s with the start of its workers and every fsync, "
        f"sbi {theirs:.1f} s (batches of 100 rows, nothing written). Processor seconds of all "
        f"processes: {busy['loop']:.1f}, {busy['simgen']:.1f} and {busy['sbi']:.1f}.",
    )


def rowwise(call: Callable[[Any, Any], Any]) -> simgen.Simulator:
    """A simulator that takes a row at a time, about a millisecond."""

    def function(theta: Any, rng: np.random.Generator) -> Any:
        return call(np.asarray(theta), rng.standard_normal(4))

    return simgen.simulator(
        function, prior=simgen.Prior(**{f"p{i}": Uniform(-1.0, 1.0) for i in range(4)})
    )


def _loop(simulator: simgen.Simulator, rows: int) -> None:
    for b in range(-(-rows // 256)):
        theta = draw_theta(simulator.prior, 0, b, 256).astype(float)
        for row, one in enumerate(theta[: rows - 256 * b], 256 * b):
            simulator.run(one, stream(0, ROW, row))


def _sbi(rows: int, call: Callable[[Any, Any], Any]) -> None:
    from joblib.externals.loky import get_reusable_executor
    from sbi.inference import simulate_for_sbi
    from sbi.utils import BoxUniform

    def function(theta: np.ndarray) -> torch.Tensor:
        rng = np.random.default_rng()
        out = [call(one, rng.standard_normal(4)) for one in theta]
        return torch.from_numpy(np.stack(out)).float()

    prior = BoxUniform(-torch.ones(4), torch.ones(4))
    _, x = simulate_for_sbi(
        function, prior, rows, num_workers=2, simulation_batch_size=100, show_progress_bar=False
    )
    assert x.shape == (rows, 4)
    get_reusable_executor().shutdown(wait=True)  # each run starts its workers, as ours does


def _clocked(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall seconds, and processor seconds of this process and those that it has waited for."""

    def busy() -> float:
        usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    before, began = busy(), time.perf_counter()
    work()
    return time.perf_counter() - began, busy() - before


def _campaign(simulator: simgen.Simulator, rows: int, folder: Path, **options: Any) -> float:
    path = folder / "speed"
    shutil.rmtree(path, ignore_errors=True)
    began = time.perf_counter()
    simgen.simulate(simulator, rows, path, progress=False, **options)
    seconds = time.perf_counter() - began
    shutil.rmtree(path)
    return seconds
