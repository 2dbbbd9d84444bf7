"""What is measured of a method: C2ST by sbibm's definition, and CPU-seconds of one thread."""

from __future__ import annotations

__all__ = ["Problem", "measure", "read_problem"]

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import joblib
import numpy as np
from numpy import ndarray as Array

from simgen import Dataset
from simgen.calibration.c2st import c2st
from simulators.benchmarks import TASKS

from .methods import Method

DRAWS = 10_000
FRESH, FRESH_DRAWS = 100, 1_000


@dataclass(frozen=True)
class Problem:
    """A task of sbibm.

    Arguments:
        task: Its name.
        observations: The public observations in use, shape (b, dx).
        references: Reference posterior draws of each, shape (b, 10000, d).
        fresh: Simulated observations for timing, shape (100, dx).
    """

    task: str
    observations: Array
    references: Array
    fresh: Array


def read_problem(task: str, folder: str | Path, numbers: Sequence[int], seed: int) -> Problem:
    """Reads the public files and simulates fresh observations.

    Arguments:
        task: A name in `simulators.benchmarks.TASKS`.
        folder: Where <task>.h5 is, with `observation` (10, dx) and `reference_posterior`
            (10, 10000, d).
        numbers: The observations to use, counted from 1.
        seed: Of the fresh observations, disjoint from the training's.

    Raises:
        ValueError: If the file is not there.
    """
    path = Path(folder) / f"{task}.h5"
    if not path.is_file():
        raise ValueError(
            f"there is no {path}: give --data DIR with the reference posteriors of sbibm 1.1.0 "
            "(https://github.com/sbi-benchmark/sbibm, files sbibm/tasks/*/files) as one HDF5 file "
            "a task, `observation` (10, dx) and `reference_posterior` (10, 10000, d)"
        )
    rows = np.array(numbers) - 1
    with h5py.File(path) as file:
        observations, references = file["observation"][:], file["reference_posterior"][:]
    simulator = TASKS[task]()
    theta = simulator.prior.sample((FRESH,), seed=1_000_000 + seed)
    fresh = simulator(theta, seed=1_000_000 + seed)["x"]
    return Problem(task, observations[rows], references[rows], fresh)


def measure(
    method: Method, dataset: Dataset, problem: Problem, seed: int, jobs: int, batch: bool = True
) -> dict[str, Any]:
    """Trains once, then draws and judges.

    Returns:
        `c2st` of each observation and its mean; CPU-seconds of training, of drawing 10,000 for
        each of the observations one by one, and, unless batch is False, of 1,000 for each of 100
        observations at once.
    """
    start = time.process_time()
    draw = method(dataset, seed)
    trained = time.process_time()
    samples = [draw(x[None], DRAWS)[:, 0] for x in problem.observations]
    drawn = time.process_time()
    timed = {}
    if batch:
        fresh = draw(problem.fresh, FRESH_DRAWS)
        assert fresh.shape[:2] == (FRESH_DRAWS, FRESH), fresh.shape
        timed = {"draws_1000_x_100_cpu_s": round(time.process_time() - drawn, 2)}
    tests = (joblib.delayed(c2st)(r, s) for r, s in zip(problem.references, samples))
    values = joblib.Parallel(n_jobs=jobs)(tests)
    return {
        "c2st": [round(v, 4) for v in values],
        "mean": round(float(np.mean(values)), 4),
        "training_cpu_s": round(trained - start, 2),
        "draws_10000_each_cpu_s": round(drawn - trained, 2),
        **timed,
    }
