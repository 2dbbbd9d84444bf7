r"""How far a surrogate is from the exact likelihood, and how many rows gold saves.

.. math::
    \Delta = E\left[ \log \frac{p(x \mid \vartheta)}{q(x \mid \vartheta)} \right]
        = E\left[ \log \frac{p}{q} + \frac{q}{p} - 1 \right]
        = E\left[ \log \frac{p(x)}{q(x)} \right] + \Delta_\vartheta, \qquad
    \Delta_\vartheta = E\, \mathrm{KL}\bigl( p(\vartheta \mid x) \,\|\, q(\vartheta \mid x) \bigr)

with expectations over the prior and p(x | theta). The second form has less noise: no row of it is
negative. The third says what a gap is made of: the shape of the marginal, of which a joint score
knows nothing, and what is wrong with the inference from one x. Posteriors are on a grid.
"""

from __future__ import annotations

__all__ = ["Gap", "Judge", "saved"]

import itertools
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array
from scipy.special import logsumexp

import simgen

_GRID = 6  # points along each parameter


@dataclass(frozen=True)
class Gap:
    """Of one fit.

    Attributes:
        gap: The gap of the likelihood, nats a row.
        posterior: That of the posterior from one x, nats.
        seconds: CPU seconds of the fit.
        epochs: Its epochs.
    """

    gap: float
    posterior: float
    seconds: float
    epochs: int


class Judge:
    """Fresh rows of a problem with their exact likelihoods.

    Arguments:
        simulator: The problem.
        rows: Fresh rows for the gap.
        few: Of these, for posteriors.
        seed: Of the rows.
    """

    def __init__(self, simulator: Any, rows: int, few: int, seed: int) -> None:
        self.simulator, self.few = simulator, few
        self.theta = simulator.prior.sample((rows,), seed=seed).numpy().astype(np.float64)
        self.fields = simulator(self.theta, seed=seed)
        self.exact = simulator.exact(self.fields, self.theta)
        low, high = simulator.prior.low.numpy(), simulator.prior.high.numpy()
        cells = (np.arange(_GRID) + 0.5) / _GRID
        points = np.array(list(itertools.product(cells, repeat=len(low))))
        self.grid = low + (high - low) * points
        first = {k: v[:few] for k, v in self.fields.items()}
        log_p = np.stack(
            [simulator.exact(first, p) for p in np.repeat(self.grid[:, None], few, 1)]
        )
        self.posterior = log_p - logsumexp(log_p, 0)

    @property
    def information(self) -> float:
        """Mutual information of theta and one x, nats, on the grid."""
        p = self.posterior
        return float((np.exp(p) * (p + np.log(len(p)))).sum(0).mean())

    def __call__(self, surrogate: Any) -> tuple[float, float]:
        """Both gaps of a surrogate."""
        y = self._target(self.fields)
        log_q = surrogate(self.theta).log_prob(y).double().numpy()
        excess = self.exact - log_q
        given = np.repeat(self.grid[:, None], self.few, 1)
        log_q_grid = surrogate(given).log_prob(y[: self.few]).double().numpy()
        q = log_q_grid - logsumexp(log_q_grid, 0)
        p = self.posterior
        divergence = (np.exp(p) * (p - q)).sum(0)
        return float((excess + np.expm1(-excess)).mean()), float(divergence.mean())

    def fit(self, rows: int, gold: str | None, seed: int) -> Gap:
        """A surrogate from so many simulations, judged."""
        with tempfile.TemporaryDirectory() as folder:
            dataset = simgen.simulate(
                self.simulator, rows, folder + "/rows", seed=seed, progress=False
            )
            start = time.process_time()
            surrogate = simgen.fit(
                self.simulator.expression, dataset, gold=gold, seed=seed, progress=False
            )
            seconds = time.process_time() - start
        gap, posterior = self(surrogate)
        return Gap(gap, posterior, seconds, surrogate.provenance["training"]["epochs"])

    def _target(self, fields: Mapping[str, Array]) -> torch.Tensor:
        names = self.simulator.expression.split("|")[0].split(",")
        columns = [np.asarray(fields[k.strip()], np.float64) for k in names]
        return torch.from_numpy(np.concatenate([c.reshape(len(c), -1) for c in columns], 1))


def saved(plain: Mapping[int, float], gold: Mapping[int, float]) -> dict[int, float]:
    """How many times more rows without gold reach the gap that each number of rows has with it.

    Between the measured numbers of rows the gap is a power law; beyond them the answer is NaN.

    Arguments:
        plain: Gaps without gold, by the number of rows.
        gold: Gaps with it.
    """
    log_n = np.log(sorted(plain))
    gaps = np.array([plain[n] for n in sorted(plain)])
    log_gap = np.log(np.maximum.accumulate(gaps[::-1])[::-1])
    out = {}
    for n, gap in gold.items():
        inside = log_gap[-1] <= np.log(gap) <= log_gap[0]
        needed = np.interp(-np.log(gap), -log_gap, log_n)
        out[n] = float(np.exp(needed) / n) if inside else float("nan")
    return out
