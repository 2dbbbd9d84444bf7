"""Surrogates of showers are learned: a dataset of splits for each stage, and a family on it.

A ratio that says nothing, the first of a split, is noise of a known density in training. The flows
that all surrogates share are of profiles, whose logarithms are Gaussian, and of the energies of
layers.
"""

from __future__ import annotations

__all__ = ["FAMILIES", "SHARED", "Trainer"]

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray as Array

import simgen
from simgen.fitting.schedule import Schedule, default_schedule
from simgen.networks import MLP
from simulators.calorimeter import LAYERS, RINGS, WEDGES, CalorimeterShower

from .splits import LAYER_STATE, RING_STATE, SHOWER_STATE
from .surrogates import STAGES, Surrogate, encode

_STATES = {
    "profile": SHOWER_STATE[:2],
    "layers": SHOWER_STATE,
    "rings": LAYER_STATE,
    "cells": RING_STATE,
}
_PARTS = {"layers": LAYERS, "rings": RINGS, "cells": WEDGES}
_SHARE = {"profile": 1, "layers": 1, "rings": 3, "cells": 6}  # learned from one in so many showers
_EPOCHS = {"profile": 6, "layers": 9, "rings": 6, "cells": 3}


@dataclass(frozen=True)
class EnergyFlow(simgen.Flow):
    """The flow of profiles and energies of layers: its default decay of weights is for fewer
    rows.
    """

    def schedule(self, rows: int, columns: int, vectors: bool) -> Schedule:
        """The default otherwise."""
        return replace(default_schedule(rows, columns, vectors), weight_decay=0.01)


def _in_order(flow: type[simgen.Flow], width: int, bins: int) -> simgen.Flow:
    """One autoregressive transformation in the parts' own order: a ratio's law needs to know
    whether anything is before it.
    """
    hidden = (width, width)
    return flow("spline", transforms=1, hidden=hidden, bins=bins, permute=False, linear=False)


SHARED = {
    "profile": EnergyFlow("affine", transforms=2, hidden=(64, 64), permute=False, linear=False),
    "layers": _in_order(EnergyFlow, 160, 16),
}
FAMILIES: dict[str, Any] = {
    "flow": _in_order(simgen.Flow, 128, 20),
    "vae": simgen.VAE(latent=8, decoder="spline", width=64),
    "diffusion": simgen.Diffusion(hidden=96, blocks=2, levels=1, steps=10),
}


def simulate(n: int, folder: Path, seed: int) -> None:
    """Writes a dataset for each stage into a folder, of up to n showers."""
    simulator, rng = CalorimeterShower(record="z_profile"), np.random.default_rng(seed)
    theta = simulator.prior.sample((n,), seed=seed).double().numpy()
    parts: dict[str, list[dict[str, Array]]] = {stage: [] for stage in STAGES}
    for i in range(0, n, 2_000):
        some = theta[i : i + 2_000]
        drawn = simulator(some, seed=seed + 1 + i)
        for stage, rows in encode(drawn["x"], drawn["z_profile"], some).items():
            if i < n / _SHARE[stage]:
                single = {k: v.astype(np.float32) for k, v in rows.items() if k != "row"}
                if stage != "profile":
                    _blur(single["ratios" if stage == "layers" else "x"], rng)
                parts[stage].append(single)
    for stage, found in parts.items():
        arrays = {k: np.concatenate([r[k] for r in found]) for k in found[0]}
        declared = {"state": simgen.Field((len(_STATES[stage]),), names=_STATES[stage])}
        if stage == "profile":
            declared["x"] = simgen.Field((2,), names=("ln_T", "ln_alpha"))
        else:
            ratios = simgen.Field((_PARTS[stage],), zeros=True)
            declared["ratios" if stage == "layers" else "x"] = ratios
        simgen.Dataset.create(folder / stage, declared=declared, **arrays)


def _blur(ratios: Array, rng: np.random.Generator) -> None:
    """Noise exp(N(0, 1)) in place of the first positive ratio of each row (n, K)."""
    first = (ratios > 0).argmax(1)
    every = np.arange(len(ratios))
    ratios[every, first] *= np.exp(rng.standard_normal(len(ratios), dtype=np.float32))


@dataclass
class Trainer:
    """Learns surrogates, or reads those that a folder has.

    Arguments:
        folder: Where models and simulations are, and where new ones go.
        simulations: Showers to learn from.
        seed: Of simulations and training.
    """

    folder: Path
    simulations: int = 180_000
    seed: int = 0

    @cached_property
    def data(self) -> Path:
        """The folder of the stages' datasets."""
        folder = self.folder / f"simulations-{self.simulations}-{self.seed}"
        if not folder.exists():
            folder.mkdir(parents=True)
            simulate(self.simulations, folder, 1_000 + self.seed)
        return folder

    def __call__(self, name: str) -> Surrogate:
        """The surrogate whose rings and cells are of the family of this name."""
        return Surrogate(*(self._model(name, stage) for stage in STAGES))

    def _model(self, name: str, stage: str) -> simgen.Conditional:
        shared = SHARED.get(stage)
        path = self.folder / f"{stage if shared else f'{stage}-{name}'}.safetensors"
        if path.exists():
            return simgen.load(path, families=[EnergyFlow])
        model = simgen.fit(
            "x, ratios | state" if stage == "layers" else "x | state",
            simgen.Dataset(self.data / stage, split=(0.98, 0.02, 0.0)),
            shared or FAMILIES[name],
            embedding={"state": MLP(len(_STATES[stage]), 32, (96, 96))},
            max_epochs=_EPOCHS[stage],
            seed=self.seed,
            batch_size=512 if shared else 1024,
            learning_rate=2e-3,
        )
        model.save(path)
        return model
