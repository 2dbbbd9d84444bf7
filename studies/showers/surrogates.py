r"""Surrogates of showers: a chain of conditionals, layers, then rings, then cells.

.. math::
    q(x \mid \theta) = q(p, \rho \mid \theta) \prod_{i : e_i > 0} q(\rho_i \mid s_i)
        \prod_{j : e_{ij} > 0} q(\rho_{ij} \mid s_{ij})

The energies of layers are a flow of pull and ratios (see `splits`); one law for all layers, given
their states, splits them into rings, and one for all rings splits these into cells: a flow, a VAE
or a diffusion. Zeros have a probability of their own: log_prob is the density of pull and ratios
with respect to counting on zeros and Lebesgue measure on what is positive. In training a ratio
has an error of 2 %: that of a cell alone in its ring is one number, where no density is.

References:
    | CaloFlow: Fast and Accurate Generation of Calorimeter Showers with Normalizing Flows
      (Krause and Shih, 2021), https://arxiv.org/abs/2106.05285
    | CaloDREAM: Detector Response Emulation via Attentive Flow Matching (Favaro et al., 2024)
    | https://arxiv.org/abs/2405.09629
"""

from __future__ import annotations

__all__ = ["FAMILIES", "Surrogate", "Trainer", "encode"]

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

import simgen
from simgen.networks import MLP
from simgen.schedule import Schedule, default_schedule
from simulators.calorimeter import LAYERS, RINGS, WEDGES, CalorimeterShower

from .splits import (
    LAYER_STATE,
    RING_STATE,
    layer_states,
    parts_of,
    pull_of,
    ratios_of,
    ring_states,
    whole_of,
)

JITTER = 0.02
STAGES = ("layers", "rings", "cells")
_STATES = {"layers": ("log10_E", "angle"), "rings": LAYER_STATE, "cells": RING_STATE}
_PARTS = {"layers": LAYERS, "rings": RINGS, "cells": WEDGES}
_SHARE = {"layers": 1, "rings": 3, "cells": 6}  # of how many showers one is learned from
_EPOCHS = {"layers": 9, "rings": 5, "cells": 3}


@dataclass(frozen=True)
class EnergyFlow(simgen.Flow):
    """The flow of the energies of layers: its default decay of weights is for fewer rows."""

    def schedule(self, rows: int, columns: int, vectors: bool) -> Schedule:
        """The default otherwise."""
        return replace(default_schedule(rows, columns, vectors), weight_decay=0.01)


ENERGIES = EnergyFlow(transform="spline", transforms=3, hidden=(128, 128), bins=10, linear=False)
FAMILIES: dict[str, Any] = {
    "flow": simgen.Flow(transform="spline", transforms=2, hidden=(64, 64), linear=False),
    "vae": simgen.VAE(latent=8, decoder="spline", width=64),
    "diffusion": simgen.Diffusion(hidden=96, blocks=2, levels=1, steps=10),
}


@dataclass(frozen=True)
class Surrogate:
    """A learned sampler of showers.

    Arguments:
        layers: p(x, ratios | state), x being the pull and the state theta.
        rings: p(x | state), x being the ratios of a layer's rings.
        cells: p(x | state), x being the ratios of a ring's cells.
        threshold: Least energy of a cell that is read out, MeV.
    """

    layers: simgen.Conditional
    rings: simgen.Conditional
    cells: simgen.Conditional
    threshold: float = CalorimeterShower().threshold

    def __call__(self, theta: Array, seed: int) -> Array:
        """Showers (n, 1, layers, wedges, rings) in MeV, at parameters (n, 2)."""
        theta = np.asarray(theta, dtype=np.float64)
        energies = self.energies(theta, seed)
        rings = np.zeros((*energies.shape, RINGS))
        seen = energies > 0
        state = layer_states(energies, theta)[seen]
        rings[seen] = self._split(self.rings, state, energies[seen], seed + 1)
        state = ring_states(rings[seen], state)[rings[seen] > 0]
        x = np.zeros((*rings.shape, WEDGES), dtype=np.float32)
        x[rings > 0] = self._split(self.cells, state, rings[rings > 0], seed + 2)
        return x.swapaxes(-1, -2)[:, None]

    def energies(self, theta: Array, seed: int) -> Array:
        """Energies of the layers (n, layers) in MeV, at parameters (n, 2)."""
        drawn = self.layers(theta).sample((), seed=seed).double().numpy()
        whole = whole_of(drawn[:, 0], 1e3 * 10 ** theta[:, 0])
        return parts_of(drawn[:, 1:], whole, self.threshold)

    def _split(self, law: simgen.Conditional, state: Array, whole: Array, seed: int) -> Array:
        ratios = law(state.astype(np.float32)).sample((), seed=seed).double().numpy()
        return parts_of(ratios, whole, self.threshold)

    def log_prob(self, x: Array, theta: Array) -> Array:
        """log q of pull and ratios (n,), of showers x at theta (n, 2); of a VAE a bound.

        With respect to counting on zeros and Lebesgue measure on what is positive.
        """
        fields = encode(x, theta)
        total = np.zeros(len(x))
        for stage in STAGES:
            rows, values = fields[stage], fields[stage]["x"]
            if stage == "layers":
                values = np.concatenate([values, rows["ratios"]], 1)
            found = getattr(self, stage)(rows["state"]).log_prob(values)
            total += np.bincount(rows["row"], found.double().numpy(), len(x))
        return total


def encode(x: Array, theta: Array) -> dict[str, dict[str, Array]]:
    """Of each stage the fields of its splits, and the shower (row) that each belongs to.

    Arguments:
        x: Showers (n, 1, layers, wedges, rings), MeV.
        theta: Their parameters (n, 2).
    """
    cells = x[:, 0].swapaxes(-1, -2).astype(np.float64)
    rings = cells.sum(-1)
    energies = rings.sum(-1)
    seen, lit = energies > 0, rings > 0
    pull = pull_of(energies.sum(1), 1e3 * 10 ** theta[:, 0])
    state = layer_states(energies, theta)[seen]
    return {
        "layers": {
            "x": pull[:, None],
            "ratios": ratios_of(energies),
            "state": theta,
            "row": np.arange(len(x)),
        },
        "rings": {"x": ratios_of(rings[seen]), "state": state, "row": np.nonzero(seen)[0]},
        "cells": {
            "x": ratios_of(cells[lit]),
            "state": ring_states(rings[seen], state)[rings[seen] > 0],
            "row": np.nonzero(lit)[0],
        },
    }


def simulate(n: int, folder: Path, seed: int) -> None:
    """Writes a dataset for each stage into a folder, of up to n showers."""
    simulator = CalorimeterShower(record=())
    theta = simulator.prior.sample((n,), seed=seed).double().numpy()
    parts: dict[str, list[dict[str, Array]]] = {stage: [] for stage in STAGES}
    for i in range(0, n, 2_000):
        some = theta[i : i + 2_000]
        fields = encode(simulator(some, seed=seed + 1 + i)["x"], some)
        for stage, rows in fields.items():
            if i < n / _SHARE[stage]:
                single = {k: v.astype(np.float32) for k, v in rows.items() if k != "row"}
                parts[stage].append(single)
    for stage, rows in parts.items():
        arrays = {k: np.concatenate([r[k] for r in rows]) for k in rows[0]}
        target = "ratios" if stage == "layers" else "x"
        declared = {
            target: simgen.Field((_PARTS[stage] - 1,), zeros=True),
            "state": simgen.Field((len(_STATES[stage]),), names=_STATES[stage]),
        }
        simgen.Dataset.create(folder / stage, declared=declared, **arrays)


def augment(batch: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
    """Ratios of a batch with errors."""
    error = rng.standard_normal(tuple(batch["x"].shape), dtype=np.float32)
    return {**batch, "x": batch["x"] * torch.as_tensor(np.exp(JITTER * error))}


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
        first = stage == "layers"
        path = self.folder / f"{stage if first else f'{stage}-{name}'}.safetensors"
        if path.exists():
            return simgen.load(path, families=[EnergyFlow])
        model = simgen.fit(
            "x, ratios | state" if first else "x | state",
            simgen.Dataset(self.data / stage, split=(0.98, 0.02, 0.0)),
            ENERGIES if first else FAMILIES[name],
            embedding={"state": MLP(len(_STATES[stage]), 32, (64,))},
            augment=None if first else augment,
            max_epochs=_EPOCHS[stage],
            seed=self.seed,
            batch_size=512 if first else 1024,
            learning_rate=2e-3,
        )
        model.save(path)
        return model
