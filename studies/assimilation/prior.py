r"""What is learned: windows of a few states, as rows of numbers.

A row of `fit("x", ...)` is a vector of 5 x 3 numbers, five consecutive states one after the other,
cut from simulated trajectories so that no two rows share a state. The series knows the states that
follow a state by that state alone, so windows that overlap in one state say all there is to say;
what a single state says, which two windows would say twice, is a model of its own. Neither knows
where in a trajectory it stands, nor the equations of motion.
"""

from __future__ import annotations

__all__ = ["STATES", "learn"]

import json
import time
from pathlib import Path

import simgen
from simgen.samplers.windows import Windows
from simulators.lorenz import Lorenz63

from .task import LENGTH

STATES = 5
"""Of a window."""
_OVERLAP, _SPARE = 1, 10  # states of an overlap, of which every tenth is enough


def learn(folder: Path, epochs: int, seed: int, trajectories: int = 1024) -> tuple[Windows, float]:
    """The learned prior of trajectories, and the processor time that it took, in seconds.

    Arguments:
        folder: Where the models are written, or read where they are already.
        epochs: Passes over the windows.
        seed: Of trajectories and training.
        trajectories: How many of 1,024 states.
    """
    cost = {}
    paths = [folder / f"windows-{states}.safetensors" for states in (STATES, _OVERLAP)]
    if not all(path.exists() for path in paths):
        x = Lorenz63.stationary(1024)(trajectories, seed=seed)["x"]
        for states, path in zip((STATES, _OVERLAP), paths):
            rows = x[:, : x.shape[1] // states * states].reshape(-1, 3 * states)
            rows = rows[::_SPARE] if states == _OVERLAP else rows
            dataset = simgen.Dataset.create(folder / path.stem, x=rows)
            start = time.process_time()
            found = simgen.fit(
                "x",
                dataset,
                model=simgen.Diffusion(hidden=64, blocks=3, noise_location=0.0, noise_spread=1.2),
                max_epochs=epochs,
                batch_size=256,
                learning_rate=3e-3,
                seed=seed,
            )
            cost[path.stem] = time.process_time() - start
            found.save(path)
        (folder / "seconds.json").write_text(json.dumps(cost))
    window, overlap = (simgen.load(path)() for path in paths)
    seconds = json.loads((folder / "seconds.json").read_text())
    return Windows(window, overlap, LENGTH, 3), sum(seconds.values())
