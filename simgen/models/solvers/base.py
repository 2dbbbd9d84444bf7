r"""What every solver shares: its signature, its noise levels, its noise.

.. math::
    x_T \sim p(x_{t=1}) \; \longrightarrow \; x_0, \qquad
    r_1 = r_{\max} > r_2 > \dots > r_n = r_{\min} > r_{n+1} = 0, \qquad r = \sigma / \alpha

A solver walks down n noise levels; the last step, from r_min to 0, takes the denoiser's mean.
"""

from __future__ import annotations

__all__ = ["Noise", "Solve", "Solver", "levels", "log_ratios", "normal"]

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..noise_levels import NoiseLevels
from ..process import Process

Noise = torch.Generator | Iterator[Tensor] | None
"""Where a stochastic solver's noise comes from: a generator, or tensors handed in."""


class Solve(Protocol):
    """Maps x_T to x_0."""

    def __call__(
        self,
        denoiser: Denoiser,
        process: Process,
        x_T: Tensor,
        steps: int,
        generator: Noise = None,
    ) -> Tensor:
        """As `Solver`."""
        ...


@dataclass(frozen=True)
class Solver:
    """A solver and what it costs.

    Arguments:
        solve: The function.
        evaluations: Of the denoiser, a step; None where the error decides.
        draws: Noises of x's shape, a step; 0 is a deterministic solver.
    """

    solve: Solve
    evaluations: int | None = 1
    draws: int = 0

    def __call__(
        self,
        denoiser: Denoiser,
        process: Process,
        x_T: Tensor,
        steps: int,
        generator: Noise = None,
    ) -> Tensor:
        """x_0 (n, *event) of x_T (n, *event) ~ p(x_T) in a number of steps.

        Raises:
            ValueError: If there are fewer than two steps.
        """
        if steps < 2:
            raise ValueError(f"a solver needs two steps or more; got {steps}")
        return self.solve(denoiser, process, x_T, steps, generator)


def levels(
    process: Process, steps: int, like: Tensor, spread: float = 2.0
) -> tuple[Tensor, Tensor]:
    """alpha and sigma (steps + 1,) from the most noise to the least, then none: (1, 0)."""
    alpha, sigma = process.at(log_ratios(process, steps, spread).exp())
    ends = alpha.new_tensor([1.0]), alpha.new_tensor([0.0])
    return torch.cat([alpha, ends[0]]).to(like), torch.cat([sigma, ends[1]]).to(like)


def log_ratios(process: Process, steps: int, spread: float = 2.0) -> Tensor:
    """log(sigma / alpha) (steps,) from the largest to the smallest, float64."""
    shares = torch.linspace(1, 0, steps, dtype=torch.float64)
    return NoiseLevels(process, spread=spread).quantile(shares)


def normal(like: Tensor, source: Noise) -> Tensor:
    """Standard normal noise of a tensor's shape."""
    if source is None or isinstance(source, torch.Generator):
        return torch.randn(like.shape, generator=source, dtype=like.dtype, device=like.device)
    return next(source)
