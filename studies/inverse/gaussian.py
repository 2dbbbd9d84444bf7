r"""Gate 1: a Gaussian prior of every kind through a linear instrument of every kind.

.. math::
    x \sim N(m, C), \quad y = A x + N(0, \sigma^2 I) \quad \Rightarrow \quad
    \Lambda = C^{-1} + A^\top A / \sigma^2, \qquad
    x \mid y \sim N\bigl(m + \Lambda^{-1} A^\top (y - A m) / \sigma^2, \; \Lambda^{-1}\bigr)

in information form, which shares nothing with what is tested. Beyond 256 numbers, draws are
compared in 16 random directions of the space in which the exact posterior is white.
"""

from __future__ import annotations

__all__ = ["COVARIANCES", "METHODS", "OPERATORS", "SIZES", "Task", "measure"]

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import simgen
from simgen.answers.posterior import ApproximateWarning
from simgen.operators import Blur, Downsample, Mask, Matrix, Radon, gaussian_psf

from .measure import kl_floor, kl_of_white

SIZES = (4, 8, 16, 32)  # pixels along a side
STEPS = {4: 16, 8: 16, 16: 4, 32: 4}
METHODS = ("closed-form", "ancestral", "smc", "moment-matching")
_WHOLE, _PROJECTIONS = 256, 16
_SEED = 0


def _dense(side: int, generator: torch.Generator) -> Any:
    """An exponential correlation on a grid that does not close on itself."""
    axis = torch.arange(side).double()
    place = torch.cartesian_prod(axis, axis)
    distance = torch.cdist(place, place)
    return simgen.DenseCovariance((-distance / (0.3 * side)).exp() + 0.01 * torch.eye(side**2))


def _diagonal(side: int, generator: torch.Generator) -> Any:
    """Variances between 0.1 and 10."""
    u = torch.rand(side**2, generator=generator, dtype=torch.float64)
    return simgen.DiagonalCovariance(10 ** (2 * u - 1))


def _fourier(side: int, generator: torch.Generator) -> Any:
    """A red spectrum, k^-3 beyond the first mode."""
    k = torch.fft.fftfreq(side, 1 / side, dtype=torch.float64)
    spectrum = (1 + k[:, None] ** 2 + k**2) ** -1.5
    return simgen.FourierCovariance(spectrum / spectrum.mean())


def _low_rank(side: int, generator: torch.Generator) -> Any:
    """Eight directions above small variances."""
    factor = torch.randn(side**2, 8, generator=generator, dtype=torch.float64)
    u = torch.rand(side**2, generator=generator, dtype=torch.float64)
    return simgen.LowRankCovariance(0.02 + 0.1 * u, factor / 2)


def _angles(side: int) -> Tensor:
    return torch.linspace(0, math.pi, side // 2 + 2, dtype=torch.float64)[:-1]


def _mask(side: int, generator: torch.Generator) -> Mask:
    return Mask(torch.rand(side, side, generator=generator) < 0.3)


def _matrix(side: int, generator: torch.Generator) -> Matrix:
    d = side**2
    return Matrix(torch.randn(d // 4, d, generator=generator, dtype=torch.float64) / side)


COVARIANCES: dict[str, Callable[[int, torch.Generator], Any]] = {
    "dense": _dense,
    "diagonal": _diagonal,
    "Fourier": _fourier,
    "low rank": _low_rank,
}
OPERATORS: dict[str, Callable[[int, torch.Generator], Any]] = {
    "matrix": _matrix,
    "mask": _mask,
    "blur": lambda side, generator: Blur(gaussian_psf(1.0, 5).double()),
    "downsample": lambda side, generator: Downsample(2),
    "Radon": lambda side, generator: Radon(side, _angles(side)),
}


@dataclass(frozen=True)
class Task:
    """A prior, an instrument, and what was observed.

    Arguments:
        prior: Of images (side, side).
        operator: Of rows of images.
        sigma: The noise, a tenth of what the instrument's numbers vary by.
        y: What was observed.
        steps: Noise levels for methods that have them.
    """

    prior: simgen.GaussianPrior
    operator: Any
    sigma: float
    y: Tensor
    steps: int

    @classmethod
    def of(cls, covariance: str, operator: str, side: int) -> Task:
        """By the names of kinds."""
        generator = torch.Generator().manual_seed(_SEED)
        mean = torch.randn(side, side, generator=generator, dtype=torch.float64)
        prior = simgen.GaussianPrior(mean, COVARIANCES[covariance](side, generator))
        A = OPERATORS[operator](side, generator)
        torch.manual_seed(_SEED)
        signal = A(prior.sample((64,)))
        sigma = 0.1 * float(signal.var(0).mean().sqrt())
        y = signal[0] + sigma * torch.randn(signal[0].shape, dtype=torch.float64)
        return cls(prior, A, sigma, y, STEPS[side])

    @property
    def size(self) -> int:
        """Numbers of x."""
        return self.prior.event_shape.numel()

    @property
    def draws(self) -> int:
        """How many draws are compared: 32 d for whole covariances."""
        return max(32 * self.size, 4096) if self.size <= _WHOLE else 1024

    @cached_property
    def matrix(self) -> Tensor:
        """The instrument's matrix (m, d)."""
        unit = torch.eye(self.size, dtype=torch.float64).view(-1, *self.prior.event_shape)
        return self.operator(unit).flatten(1).mT

    @cached_property
    def exact(self) -> tuple[Tensor, Tensor]:
        """The posterior's mean (d,), and the Cholesky factor of its inverse covariance."""
        A, mean = self.matrix, self.prior.mean.flatten()
        inverse = torch.linalg.inv(self.prior.covariance) + A.mT @ A / self.sigma**2
        factor = torch.linalg.cholesky((inverse + inverse.mT) / 2)
        right = A.mT @ (self.y.flatten() - A @ mean) / self.sigma**2
        return mean + torch.cholesky_solve(right[:, None], factor)[:, 0], factor

    @cached_property
    def log_evidence(self) -> float:
        """log p(y)."""
        A, m = self.matrix, self.y.numel()
        total = A @ self.prior.covariance @ A.mT + self.sigma**2 * torch.eye(m)
        law = MultivariateNormal(A @ self.prior.mean.flatten(), total, validate_args=False)
        return float(law.log_prob(self.y.flatten()))

    def white(self, x: Tensor) -> Tensor:
        """Draws (n, side, side) in coordinates where the posterior is N(0, I): (n, d), or 16
        random directions of them.
        """
        mean, factor = self.exact
        white = (x.double().flatten(1) - mean) @ factor
        if self.size <= _WHOLE:
            return white
        generator = torch.Generator().manual_seed(_SEED)
        shape = (self.size, _PROJECTIONS)
        axes = torch.randn(shape, generator=generator, dtype=torch.float64)
        return white @ torch.linalg.qr(axes).Q


def measure(task: Task, method: str) -> dict[str, float]:
    """KL of a method's draws from the exact posterior, beside its floor; and its evidence."""
    likelihood = simgen.GaussianLikelihood(task.operator, task.sigma)
    options: dict[str, Any] = {"method": method, "seed": _SEED}
    if method != "closed-form":
        options |= {"steps": task.steps}
    if method == "smc":
        options |= {"particles": task.draws}
    start = time.process_time()
    posterior = simgen.infer(task.prior, likelihood, task.y, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximateWarning)
        white = task.white(posterior.sample(task.draws))
    found = {"kl": kl_of_white(white), "floor": kl_floor(*white.shape)}
    found |= {"seconds": round(time.process_time() - start, 2), "steps": options.get("steps", 0)}
    if method in ("closed-form", "smc"):
        evidence = posterior.log_evidence()
        found |= {"nats": float(evidence) - task.log_evidence, "error": evidence.error}
    return found
