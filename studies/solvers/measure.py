r"""What is measured of a solver: distances of its draws from exact ones.

.. math::
    \mathrm{SW} = \mathbb{E}_{|a| = 1} \int_0^1 \bigl| Q_{a \cdot x}(u) - Q_{a \cdot y}(u) \bigr|
        du, \qquad
    \Delta = \mathbb{E} |x_0 - x_0^*|

SW compares a solver's draws x with exact ones y, by the quantiles Q of projections; that of as
many exact draws is its floor. Delta compares the draws of a deterministic solver one by one with
those of the exact flow x_0^* from the same noise: what SW can't see below its floor.
"""

from __future__ import annotations

__all__ = ["Problem", "Reading", "crescents", "measure", "mixture"]

from dataclasses import dataclass

import torch
from torch import Tensor

from simgen.gaussian import MixturePrior
from simgen.models.denoiser import Denoiser
from simgen.models.process import Process
from simgen.models.solvers import SOLVERS

PROJECTIONS = 64


def crescents() -> MixturePrior:
    """Two crescents in the plane, thirty times longer than wide: 20 components."""
    angle = torch.linspace(-1.4, 1.4, 10, dtype=torch.float64)
    one = torch.stack([0.6 * angle.cos(), 0.6 * angle.sin()], -1)
    shift = torch.tensor([0.5, 0.5], dtype=torch.float64)
    means = torch.cat([one + shift, -one - shift])
    covariances = (0.05**2 * torch.eye(2).double()).expand(20, 2, 2)
    return MixturePrior(torch.ones(20), means, covariances)


def mixture(d: int = 10, k: int = 8) -> MixturePrior:
    """Eight components of different shapes in ten dimensions."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(k, d, generator=generator, dtype=torch.float64)
    roots = torch.randn(k, d, d, generator=generator, dtype=torch.float64) * 0.2 / d**0.5
    covariances = roots @ roots.mT + 0.03**2 * torch.eye(d, dtype=torch.float64)
    return MixturePrior(torch.ones(k), means, covariances)


@dataclass(frozen=True)
class Problem:
    """Noise to start from, and exact draws to compare with.

    Arguments:
        prior: The exact distribution.
        process: The forward process.
        x_T: Exact draws of p(x_T), (n, d): nothing but the solver is measured.
        axes: Directions of projection, (d, projections).
        quantiles: Of the projections of many exact draws, (n, projections).
    """

    prior: MixturePrior
    process: Process
    x_T: Tensor
    axes: Tensor
    quantiles: Tensor

    @classmethod
    def of(cls, prior: MixturePrior, process: Process, draws: int, seed: int) -> Problem:
        """With a number of draws; the exact ones are fifty times as many."""
        torch.manual_seed(seed)
        x_0 = prior.sample((draws,))
        alpha, sigma = process.at(torch.tensor(process.sigma_max, dtype=torch.float64))
        x_T = alpha * x_0 + sigma * torch.randn_like(x_0)
        axes = torch.randn(x_0.shape[1], PROJECTIONS, dtype=torch.float64)
        axes = axes / axes.norm(dim=0)
        projected = (prior.sample((50 * draws,)) @ axes).sort(0).values
        return cls(prior, process, x_T, axes, projected[25::50])

    def distance(self, x: Tensor) -> float:
        """SW of draws x (n, d)."""
        projected = (x.double() @ self.axes).sort(0).values
        return float((projected - self.quantiles).abs().mean())

    def floor(self, sets: int = 10) -> float:
        """SW of exact draws, averaged over sets."""
        distances = [self.distance(self.prior.sample((len(self.x_T),))) for _ in range(sets)]
        return sum(distances) / sets


@dataclass(frozen=True)
class Reading:
    """Evaluations of the denoiser, SW, and Delta (None for a stochastic solver)."""

    evaluations: int
    distance: float
    displacement: float | None


def measure(
    problem: Problem, denoiser: Denoiser, name: str, evaluations: int, exact: Tensor, seed: int
) -> Reading:
    """A solver at a number of evaluations.

    Arguments:
        problem: The problem.
        denoiser: Exact or learned.
        name: Of the solver.
        evaluations: At most so many; of the adaptive solver, the steps its tolerance follows.
        exact: The exact flow's draws from the same noise, (n, d).
        seed: Of the solver's noise.
    """
    solver, count = SOLVERS[name], 0

    def counted(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return denoiser(x, alpha, sigma)

    steps = evaluations // (solver.evaluations or 1)
    with torch.no_grad():
        x_0 = solver(
            counted, problem.process, problem.x_T, steps, torch.Generator().manual_seed(seed)
        )
    moved = None if solver.draws else float((x_0 - exact).norm(dim=1).mean())
    return Reading(count, problem.distance(x_0), moved)
