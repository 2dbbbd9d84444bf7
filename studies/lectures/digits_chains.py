r"""Chains of a diffusion model: forward by its noise, reverse by a solver that is watched.

.. math::
    q(x_t \mid x_s) = \mathcal{N}\bigl(\alpha_{ts} x_s,\, \sigma_{ts}^2 I\bigr), \qquad
    \alpha_{ts} = \frac{\alpha_t}{\alpha_s}, \quad
    \sigma_{ts}^2 = \sigma_t^2 - \alpha_{ts}^2 \sigma_s^2

All in the model's standardised space, where data have variance one.

References:
    | Denoising Diffusion Probabilistic Models (Ho et al., 2020), eqs. 2 and 4, algorithm 2
    | https://arxiv.org/abs/2006.11239
"""

from __future__ import annotations

__all__ = ["Watched", "first_noise", "forward", "solve", "standardised"]

from dataclasses import dataclass, field

import torch
from torch import Tensor

from simgen.conditional import Conditional
from simgen.models.denoiser import Denoiser
from simgen.models.process import Process
from simgen.models.solvers import SOLVERS

from .digits import Batch


@dataclass
class Watched:
    """A denoiser that keeps what it sees and says.

    Attributes:
        times: t of each evaluation.
        states: x_t (n, *event) of each.
        means: E[x_0 | x_t] of each.
    """

    denoiser: Denoiser
    process: Process
    times: list[float] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    means: list[Tensor] = field(default_factory=list)

    def __call__(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The denoiser's mean."""
        x_0 = self.denoiser(x_t, alpha, sigma)
        self.times.append(float(self.process.time(2 * (alpha / sigma).double().log())))
        self.states.append(x_t)
        self.means.append(x_0)
        return x_0

    def nearest(self, times: Tensor) -> list[int]:
        """The evaluation nearest to each time."""
        seen = torch.tensor(self.times, dtype=torch.float64)
        return [int((seen - t).abs().argmin()) for t in times]


def standardised(model: Conditional, rows: Batch) -> Tensor:
    """Rows of the target as the model sees them, (n, *event)."""
    return model.pipeline.target(rows[model.target[0]].double())[0]


def first_noise(process: Process, shape: tuple[int, ...], seed: int) -> Tensor:
    """x_T, where nothing is known of x_0."""
    alpha, sigma = process.at(torch.tensor(process.sigma_max, dtype=torch.float64))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return float((alpha**2 + sigma**2).sqrt()) * noise


def forward(process: Process, x_0: Tensor, times: Tensor, seed: int) -> Tensor:
    """x_t of one Markov chain at growing times (k,), (k, n, *event)."""
    generator = torch.Generator().manual_seed(seed)
    alpha, sigma = process.alpha(times).to(x_0), process.sigma(times).to(x_0)
    before, noise, x = x_0.new_ones(()), x_0.new_zeros(()), x_0
    chain = []
    for a, s in zip(alpha, sigma):
        ratio = a / before
        step = (s**2 - ratio**2 * noise**2).clamp(min=0).sqrt()
        x = ratio * x + step * torch.randn(x.shape, generator=generator)
        chain.append(x)
        before, noise = a, s
    return torch.stack(chain)


@torch.no_grad()
def solve(
    denoiser: Denoiser, process: Process, x_T: Tensor, name: str, evaluations: int, seed: int = 0
) -> Tensor:
    """x_0 of x_T by a solver of `simgen.models.solvers`, with a number of evaluations."""
    solver = SOLVERS[name]
    steps = evaluations // (solver.evaluations or 1)
    return solver(denoiser, process, x_T, steps, torch.Generator().manual_seed(seed))
