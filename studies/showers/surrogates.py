r"""Surrogates of showers: a chain of conditionals, profile, layers, then rings, then cells.

.. math::
    q(x, z \mid \theta) = q(z \mid \theta) \, q(p, \rho \mid z, \theta)
        \prod_{i : e_i > 0} q(\rho_i \mid s_i) \prod_{j : e_{ij} > 0} q(\rho_{ij} \mid s_{ij}),
    \qquad z = (T, \alpha)

The longitudinal profile is a latent that the simulator records: what happens in one layer knows
of the others only through it, so that the hits of a whole shower fluctuate together. The energies
of layers are a flow of pull and ratios (see `splits`); one law for all layers, given their states,
splits them into rings, and one for all rings splits these into cells: a flow, a VAE or a
diffusion. Zeros have a probability of their own: log_prob is the density of the profile's
logarithms, pull and ratios with respect to counting on zeros and Lebesgue measure on what is
positive. The first ratio of a split, which says nothing, is trained as noise of known density,
which is divided out.

References:
    | CaloFlow: Fast and Accurate Generation of Calorimeter Showers with Normalizing Flows
      (Krause and Shih, 2021), https://arxiv.org/abs/2106.05285
    | CaloDREAM: Detector Response Emulation via Attentive Flow Matching (Favaro et al., 2024)
    | https://arxiv.org/abs/2405.09629
"""

from __future__ import annotations

__all__ = ["STAGES", "Surrogate", "encode"]

import math
from dataclasses import dataclass

import numpy as np
from numpy import ndarray as Array

import simgen
from simulators.calorimeter import RINGS, WEDGES

from .splits import (
    layer_states,
    parts_of,
    pull_of,
    ratios_of,
    ring_states,
    shower_states,
    whole_of,
)

STAGES = ("profile", "layers", "rings", "cells")
_ALPHA = 1 + 1e-6  # the profile is defined above one
_FIRST = -0.5 * math.log(2 * math.pi)  # the log-density of exp(N(0, 1)) at one


@dataclass(frozen=True)
class Surrogate:
    """A learned sampler of showers.

    Arguments:
        profile: p(x | state), x being the logarithms of T and alpha, and the state theta.
        layers: p(x, ratios | state), x being the pull, and the state that of a shower.
        rings: p(x | state), x being the ratios of a layer's rings.
        cells: p(x | state), x being the ratios of a ring's cells.
    """

    profile: simgen.Conditional
    layers: simgen.Conditional
    rings: simgen.Conditional
    cells: simgen.Conditional

    def __call__(self, theta: Array, seed: int) -> Array:
        """Showers (n, 1, layers, wedges, rings) in MeV, at parameters (n, 2)."""
        theta = np.asarray(theta, dtype=np.float64)
        profile = self.profiles(theta, seed)
        energies = self.energies(theta, profile, seed + 1)
        seen = energies > 0
        state = layer_states(energies, theta, profile)[seen]
        rings = np.zeros((*energies.shape, RINGS))
        rings[seen] = parts_of(_drawn(self.rings, state, seed + 2), energies[seen])
        lit = rings > 0
        state = ring_states(rings[seen], state)[lit[seen]]
        x = np.zeros((*rings.shape, WEDGES), dtype=np.float32)
        x[lit] = parts_of(_drawn(self.cells, state, seed + 3), rings[lit])
        return x.swapaxes(-1, -2)[:, None]

    def profiles(self, theta: Array, seed: int) -> Array:
        """T and alpha (n, 2), at parameters (n, 2)."""
        profile: Array = np.exp(_drawn(self.profile, theta, seed))
        profile[:, 1] = np.maximum(profile[:, 1], _ALPHA)
        return profile

    def energies(self, theta: Array, profile: Array, seed: int) -> Array:
        """Energies of the layers (n, layers) in MeV, at parameters and profiles (n, 2)."""
        drawn = _drawn(self.layers, shower_states(theta, profile), seed)
        return parts_of(drawn[:, 1:], whole_of(drawn[:, 0], 1e3 * 10 ** theta[:, 0]))

    def log_prob(self, x: Array, profile: Array, theta: Array) -> Array:
        """log q of ln T, ln alpha, pull and ratios (n,), of showers x with profiles (n, 2) at
        theta (n, 2); of a VAE a bound.

        With respect to counting on zeros and Lebesgue measure on what is positive.
        """
        total = np.zeros(len(x))
        for stage, rows in encode(x, profile, theta).items():
            values = np.concatenate([rows[k] for k in ("x", "ratios") if k in rows], 1)
            found = getattr(self, stage)(rows["state"]).log_prob(values)
            first = 0.0 if stage == "profile" else _FIRST
            total += np.bincount(rows["row"], found.double().numpy() - first, len(x))
        return total


def _drawn(law: simgen.Conditional, state: Array, seed: int) -> Array:
    """A draw (n, k) at each state (n, s)."""
    return law(state.astype(np.float32)).sample((), seed=seed).double().numpy()


def encode(x: Array, profile: Array, theta: Array) -> dict[str, dict[str, Array]]:
    """Of each stage the fields of its splits, and the shower (row) that each belongs to.

    Arguments:
        x: Showers (n, 1, layers, wedges, rings), MeV.
        profile: Their T and alpha (n, 2).
        theta: Their parameters (n, 2).
    """
    profile = profile.astype(np.float64)
    cells = x[:, 0].swapaxes(-1, -2).astype(np.float64)
    rings = cells.sum(-1)
    energies = rings.sum(-1)
    seen, lit = energies > 0, rings > 0
    state, every = layer_states(energies, theta, profile)[seen], np.arange(len(x))
    return {
        "profile": {"x": np.log(profile), "state": theta, "row": every},
        "layers": {
            "x": pull_of(energies.sum(1), 1e3 * 10 ** theta[:, 0])[:, None],
            "ratios": ratios_of(energies),
            "state": shower_states(theta, profile),
            "row": every,
        },
        "rings": {"x": ratios_of(rings[seen]), "state": state, "row": np.nonzero(seen)[0]},
        "cells": {
            "x": ratios_of(cells[lit]),
            "state": ring_states(rings[seen], state)[lit[seen]],
            "row": np.nonzero(lit)[0],
        },
    }
