r"""Trend: means of event shapes against alpha_s, of Pythia and of our own parton shower.

.. math::
    \ln \langle h \rangle = a + b \ln \frac{\alpha_s}{0.12}

Generators differ in cut-off, hadrons and detector, which is the level a; the growth b with the
coupling is what they should share.
"""

from __future__ import annotations

__all__ = ["ALPHAS", "REFERENCE", "SHAPES", "Means", "growth", "means"]

from typing import NamedTuple

import numpy as np
from numpy import ndarray as Array

from simgen import Simulator

ALPHAS = np.array([0.10, 0.11, 0.12, 0.13, 0.14])
REFERENCE = 0.12
SHAPES = ("1 - thrust", "jets", "particles")
"""The columns of x of `PythiaEvents` and of `PartonShower("shapes")`."""


class Means(NamedTuple):
    """Means of shapes and their standard errors, (alphas, 3)."""

    mean: Array
    error: Array


def means(simulator: Simulator, seed: int) -> Means:
    """Of a simulator of sets of events, one set at each of `ALPHAS`."""
    x = simulator(ALPHAS[:, None], seed=seed)["x"].astype(np.float64)
    return Means(x.mean(1), x.std(1, ddof=1) / np.sqrt(x.shape[1]))


def growth(found: Means) -> tuple[Array, Array, Array]:
    """Level exp(a), growth b and its standard error of each shape, (3,), by least squares."""
    columns = np.stack([np.ones_like(ALPHAS), np.log(ALPHAS / REFERENCE)], -1)
    rows = []
    for mean, error in zip(found.mean.T, found.error.T):
        weighted = columns * (mean / error)[:, None]
        covariance = np.linalg.inv(weighted.T @ weighted)
        a, b = covariance @ weighted.T @ (np.log(mean) * mean / error)
        rows.append((np.exp(a), b, np.sqrt(covariance[1, 1])))
    level, slope, error = np.array(rows).T
    return level, slope, error
