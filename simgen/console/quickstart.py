"""Quickstart: everything once, from a simulator to a checked posterior and its report.

The built-in collider chain: what do sets of collisions say about a contact interaction and the
strong coupling? The truth is known, so the posterior can be seen to be right.
"""

from __future__ import annotations

__all__ = ["Tour", "tour"]

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from ..calibration import Verdict
    from ..conditional import Conditional
    from ..samples import Samples

TRUTH = (0.8, 0.118)
"""eps in TeV^-2 and alpha_s of the held-out observation."""
ROWS, CHECKS, EVENTS = 12_000, 1_000, 300
EPOCHS, BATCH = 12, 64
BUDGET = "100s"
"""Of training: a slow machine trains less, and is done in time."""


class Tour(NamedTuple):
    """What the tour made: the posterior, draws given the observation, truth, verdict, report."""

    posterior: Conditional
    samples: Samples
    truth: np.ndarray
    verdict: Verdict
    report: Path


def tour(
    folder: str | os.PathLike[str],
    *,
    rows: int = ROWS,
    checks: int = CHECKS,
    events: int = EVENTS,
    epochs: int = EPOCHS,
    workers: int = 2,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> Tour:
    """Simulates, trains, infers, calibrates and reports, all in one folder.

    Arguments:
        folder: Where everything goes; simulations that are there already are used again.
        rows: Sets of events to train on.
        checks: Fresh sets to calibrate on.
        events: Events a set.
        epochs: Passes of training over them, as far as there is time.
        workers: Worker processes of the simulations.
        say: What is called with a line on each step.
        progress: Whether to show progress.
    """
    from simulators import ColliderShower

    from .. import calibrate, fit, report, simulate
    from .observation import draw_samples

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    workers = min(workers, os.cpu_count() or 1)
    simulator = ColliderShower(events=events, record=())
    truth = np.array(TRUTH)
    observed = simulator(truth, seed=2026)["x"]
    np.save(folder / "observation.npy", observed)

    say(f"1. simulate {rows:,} sets of {events} collisions: {folder / 'shower'}")
    dataset = simulate(
        simulator, rows, folder / "shower", seed=0, workers=workers, progress=progress
    )
    say(f"2. learn p(theta | x): {folder / 'posterior.safetensors'}")
    posterior = fit(
        "theta | x",
        dataset,
        seed=0,
        max_epochs=epochs,
        batch_size=BATCH,
        budget=BUDGET,
        progress=progress,
    )
    posterior.save(folder / "posterior.safetensors")
    say(f"3. infer theta of a held-out observation: {folder / 'samples.h5'}")
    samples = draw_samples(posterior, {"x": observed}, 10_000, seed=0)
    samples.save(folder / "samples.h5")
    say(f"4. calibrate on {checks:,} fresh simulations")
    fresh = simulate(
        simulator, checks, folder / "shower-check", seed=1, workers=workers, progress=progress
    )
    verdict = calibrate(posterior, fresh, n=checks, progress=progress)
    posterior.save(folder / "posterior.safetensors", verdict=verdict)
    page = folder / "report.html"
    say(f"5. report: {page}")
    report(
        page,
        posterior,
        verdict=verdict,
        observation=observed,
        truth=truth,
        simulator=simulator,
        dataset=dataset,
    )
    return Tour(posterior, samples, truth, verdict, page)
