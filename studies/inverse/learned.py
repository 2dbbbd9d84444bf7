"""Gate 6: the mixture of gate 2 in eight dimensions, known by draws alone."""

from __future__ import annotations

__all__ = ["PRIOR_SEED", "learn", "prior"]

import tempfile
import time
from pathlib import Path

import torch

import simgen

from .measure import sliced_w1
from .mixture import mixture

PRIOR_SEED, DIMENSIONS = 0, 8
METHODS = ("noise-denoise",)
"""Of simgen's, beside those of gate 2."""


def prior() -> simgen.MixturePrior:
    """The prior that is to be learned: one set of weights for all problems."""
    return mixture(DIMENSIONS, torch.Generator().manual_seed(PRIOR_SEED))


def learn(rows: int, seed: int) -> tuple[simgen.Conditional, dict[str, float]]:
    """A diffusion prior with default settings, and what it cost and is worth."""
    exact = prior()
    torch.manual_seed(seed)
    x = exact.sample((rows,))
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        dataset = simgen.Dataset.create(Path(folder) / "mixture", x=x.float().numpy())
        learned = simgen.fit("x", dataset, model=simgen.Diffusion(), seed=seed, progress=False)
    seconds = time.process_time() - start
    ours, theirs, others = learned().sample((5000,)), exact.sample((5000,)), exact.sample((5000,))
    return learned, {
        "rows": rows,
        "seconds": round(seconds, 1),
        "w1": sliced_w1(ours, theirs),
        "floor": sliced_w1(theirs, others),
    }
