r"""Posteriors of many observations at once, each a row, by one covariance that all share."""

from __future__ import annotations

__all__ = ["Averaged", "reconstruct"]

from typing import Any

import torch
from torch import Tensor

from simgen.samplers.ancestral import ancestral
from simgen.samplers.denoising import Network
from simgen.samplers.problem import Problem


class Averaged(Network):
    """A distribution that denoises, with the covariance averaged over its draws, whatever is
    observed.
    """

    def __init__(self, distribution: Any) -> None:
        super().__init__(distribution, 2**30)


def reconstruct(
    prior: Averaged, matrix: Tensor, y: Tensor, n: int, steps: int, seed: int
) -> Tensor:
    """Draws (n, k, *event) of p(x | y) by the ancestral sampler, of k observations in one run:
    each row has a y of its own.

    Arguments:
        prior: Whose own space is linear in x.
        matrix: The instrument (m, d), in units of its noise.
        y: What was observed (k, m), in the same units.
        n: Draws of each.
        steps: Noise levels.
        seed: Of the draws.
    """
    zero = torch.zeros(1, prior.size, dtype=torch.float64)
    origin = prior.physical(zero).double().flatten(1)
    unit = prior.physical(zero + 1).double().flatten(1) - origin
    own = matrix * unit
    rows = (y - origin @ matrix.mT).repeat(n, 1)
    problem = Problem(prior, lambda z: z @ own.mT, rows, 0.0, own)
    z = ancestral(problem, len(rows), steps, torch.Generator().manual_seed(seed))
    x = prior.physical(z)
    return x.view(n, len(y), *x.shape[1:])
