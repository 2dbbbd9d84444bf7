r"""How near a distribution comes to a checkerboard: divergence, leakage, and its picture.

.. math::
    \mathrm{KL}(p \,\|\, q) = -H(p) - \mathbb{E}_p[\log q(x)], \qquad H(p) = \log 8
"""

from __future__ import annotations

__all__ = ["CELLS", "DRAWS", "HALF", "HELD_OUT", "Picture", "Quality", "judge", "window"]

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array

from .densities_targets import Checkerboard

HELD_OUT, DRAWS = 2_000, 5_000
HALF, CELLS = 2.6, 104  # the density is drawn on [-2.6, 2.6]^2; cells of 0.05 end at every edge


@dataclass(frozen=True)
class Quality:
    """How near a distribution comes to the checkerboard.

    Attributes:
        log_likelihood: Of held-out rows, in nats.
        error: Its standard error.
        gap: To the negative entropy, an estimate of the KL divergence.
        inside: Share of draws on the dark squares.
        integral: Of the density over the window.
        density_ms: CPU milliseconds for 1,000 densities.
        draws_ms: And for 1,000 draws.
    """

    log_likelihood: float
    error: float
    gap: float
    inside: float
    integral: float
    density_ms: float
    draws_ms: float


@dataclass(frozen=True)
class Picture:
    """What is drawn of a distribution: its density on cells (CELLS, CELLS), and draws (n, 2)."""

    density: Array
    draws: Array


def window() -> Array:
    """Centres (CELLS^2, 2) of the window's cells."""
    centres = HALF * ((2 * np.arange(CELLS) + 1) / CELLS - 1)
    return np.stack(np.meshgrid(centres, centres, indexing="ij"), -1).reshape(-1, 2)


def judge(q: Any, board: Checkerboard, seed: int) -> tuple[Quality, Picture]:
    """Measures a torch Distribution over two numbers."""
    x = torch.from_numpy(board.sample(HELD_OUT, seed + 1)).float()
    with torch.no_grad():
        start = time.process_time()
        log_q = q.log_prob(x).double()
        seconds = time.process_time() - start
        density = q.log_prob(torch.from_numpy(window()).float()).double().exp()
        torch.manual_seed(seed)
        start = time.process_time()
        draws = q.sample((DRAWS,)).double().numpy()
        drawing = time.process_time() - start
    mean = float(log_q.mean())
    quality = Quality(
        log_likelihood=mean,
        error=float(log_q.std()) / math.sqrt(HELD_OUT),
        gap=-board.entropy - mean,
        inside=float(board.inside(draws).mean()),
        integral=float(density.mean()) * (2 * HALF) ** 2,
        density_ms=1e6 * seconds / HELD_OUT,
        draws_ms=1e6 * drawing / DRAWS,
    )
    return quality, Picture(density.view(CELLS, CELLS).numpy(), draws)
