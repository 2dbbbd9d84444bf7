r"""Bounds of the log-probability of digits by models with latents, in nats an image.

.. math::
    \log P(k) \ge \mathbb{E}_u \log p(k + u) \ge \mathbb{E}_u \mathcal{L}_{64}(k + u)
        \ge \mathbb{E}_u \mathrm{ELBO}(k + u)
"""

from __future__ import annotations

__all__ = ["Bounds", "bounds", "mean"]

from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray as Array

from simgen.conditional import Conditional

from .digits import Batch

DRAWS = 16  # of the latent, for the ELBO


@dataclass(frozen=True)
class Bounds:
    """Of each row.

    Attributes:
        elbo: (n,).
        kl: Its KL part, (n,).
        importance: The bound of 64 draws, (n,).
    """

    elbo: Array
    kl: Array
    importance: Array


def bounds(model: Conditional, rows: Batch, seed: int) -> Bounds:
    """Bounds of spread rows under a `VAE` or `HierarchicalVAE` of the field that they name."""
    y = rows[model.target[0]].double()
    pipeline = model.pipeline
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        z, ladj = pipeline.target(y)
        terms = pipeline.heads[0].model.elbo(z, draws=DRAWS)
        importance = model().log_prob(y)
    elbo = (terms.value.double() + ladj).numpy()
    return Bounds(elbo, terms.kl.double().numpy(), importance.double().numpy())


def mean(values: Array) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
