"""The learned prior: a diffusion model of galaxies, trained once and kept in a file."""

from __future__ import annotations

__all__ = ["learned"]

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

import simgen

from .network import WienerUNet


def learned(
    simulator: simgen.Simulator,
    path: Path | None,
    rows: int,
    budget: str | float,
    seed: int = 0,
    **network: Any,
) -> simgen.Conditional:
    """A diffusion model of what a simulator without parameters draws.

    Arguments:
        simulator: Of images x (1, N, N).
        path: Its file: it is read if it is there, and written if it is not; None for none.
        rows: Images to learn from.
        budget: Wall time of training.
        seed: Of simulations and training.
        network: Settings of the `WienerUNet`.
    """
    if path is not None and path.exists():
        pixels = simulator.fields["x"].shape[-1]
        return simgen.load(
            path,
            modules={"network": WienerUNet(pixels, **network)},
        )
    with tempfile.TemporaryDirectory() as folder:
        dataset = simgen.simulate(simulator, rows, Path(folder) / "images", seed=seed)
        images = torch.as_tensor(np.asarray(dataset.train.read(["x"])["x"]))
        model = simgen.Diffusion(
            network=WienerUNet.of(images, **network),
            noise_location=-0.5,  # noise of the data is that of fine scales
            noise_spread=2.0,
            affine=True,  # brightness spans decades; in asinh of it no lens is linear
        )
        prior = simgen.fit("x", dataset, model, budget=budget, learning_rate=2e-3, seed=seed)
    if path is not None:
        prior.save(path)
    return prior
