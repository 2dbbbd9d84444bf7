r"""How far the showers of a sampler are from the simulator's, both over the prior.

Separation power S of each observable, averaged over layers; the root mean square difference of
the layers' correlations; the area under the curve of a classifier that sees the observables, or
the voxels. Two sets of n simulations have

.. math::
    S \approx \frac{\mathrm{bins} - 1}{2 n}, \qquad
    \mathrm{rms}(\Delta\rho) \approx \sqrt{2 \, \overline{(1 - \rho^2)^2} / n}, \qquad
    \mathrm{AUC} = \tfrac12

of observables that are continuous and Gaussian; the study measures all three.
"""

from __future__ import annotations

__all__ = ["OBSERVABLES", "Judgement", "Sampler", "draw_showers", "judge", "voxel_spectrum"]

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy import ndarray as Array

from simulators.shower_metrics import (
    AUC,
    classifier_auc,
    high_level,
    layer_correlation,
    low_level,
    observables,
    sample_separation,
    separation_power,
)

Sampler = Callable[[Array, int], Array]
"""Showers (n, 1, layers, wedges, rings) in MeV, of parameters (n, 2) and a seed."""

OBSERVABLES = ("response", "layer energy", "centre", "width", "sparsity", "voxel")
SPECTRUM = np.linspace(-2, 6, 81)
"""Edges of the voxels' spectrum in log10 of MeV."""


@dataclass(frozen=True)
class Judgement:
    """What a sampler's showers are like.

    Arguments:
        separation: S of each of `OBSERVABLES`, averaged over layers and directions.
        correlation: Root mean square difference of the Pearson correlations of layer energies.
        high: The classifier of observables.
        low: The classifier of voxels.
    """

    separation: dict[str, float]
    correlation: float
    high: AUC
    low: AUC


def draw_showers(
    sampler: Sampler, theta: Array, seed: int, batch: int = 1000
) -> tuple[Array, float]:
    """Showers of a sampler, and the processor's time a shower in milliseconds.

    Arguments:
        sampler: Draws showers; it is called once on a few rows before the clock starts.
        theta: Parameters (n, 2).
        seed: Seed of the first batch; each batch has its own.
        batch: Showers a call.
    """
    sampler(theta[:2], seed)
    parts, start = [], time.process_time()
    for i in range(0, len(theta), batch):
        parts.append(np.asarray(sampler(theta[i : i + batch], seed + i), dtype=np.float32))
    spent = time.process_time() - start
    return np.concatenate(parts), 1e3 * spent / len(theta)


def voxel_spectrum(x: Array) -> Array:
    """Counts of voxels that are zero, then by log10 of MeV; the ends take what lies outside."""
    values = x[x > 0]
    place = np.clip(np.digitize(np.log10(values), SPECTRUM) - 1, 0, len(SPECTRUM) - 2)
    counts = np.bincount(place, minlength=len(SPECTRUM) - 1)
    return np.concatenate([[x.size - len(values)], counts])


def judge(x: Array, energy: Array, reference: Array, at: Array, seed: int = 0) -> Judgement:
    """Compares showers with simulated ones; the parameters of both are independent draws.

    Arguments:
        x: Showers (n, 1, layers, wedges, rings), MeV.
        energy: Their incident energies (n,), MeV.
        reference: Simulated showers (m, 1, layers, wedges, rings), MeV.
        at: Their incident energies (m,), MeV.
        seed: Of the classifiers.
    """
    ours, truth = observables(x, energy), observables(reference, at)
    pairs = {k: (ours[k], truth[k]) for k in truth if k != "energy"}
    pairs["layer energy"] = (ours["energy"] / energy[:, None], truth["energy"] / at[:, None])
    separation = {}
    for name in OBSERVABLES[:-1]:
        values = [sample_separation(*pairs[k]).mean() for k in pairs if k.startswith(name)]
        separation[name] = float(np.mean(values))
    spectra = voxel_spectrum(x), voxel_spectrum(reference)
    separation["voxel"] = float(separation_power(*spectra))
    difference = layer_correlation(x) - layer_correlation(reference)
    upper = difference[np.triu_indices(len(difference), 1)]
    return Judgement(
        separation,
        float(np.sqrt((upper**2).mean())),
        classifier_auc(high_level(ours, energy), high_level(truth, at), seed),
        classifier_auc(low_level(x, energy), low_level(reference, at), seed),
    )
