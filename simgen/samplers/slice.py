r"""Slice sampling: draws without gradients and with nothing to tune.

.. math::
    y \sim \mathcal{U}\bigl(0, p(x)\bigr), \qquad x' \sim \mathcal{U}\{x' : p(x') > y\}

along one coordinate after another (`slice_sample`, by sbi), or, where the prior is N(0, I), on
ellipses :math:`x' = x \cos\phi + \nu \sin\phi,\ \nu \sim \mathcal{N}(0, I)`, where only the
likelihood counts (`elliptical_slice`).

References:
    | Slice sampling (Neal, 2003), https://doi.org/10.1214/aos/1056562461
    | Elliptical slice sampling (Murray, Adams & MacKay, 2010), https://arxiv.org/abs/1001.0175
"""

from __future__ import annotations

__all__ = ["elliptical_slice", "slice_sample"]

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .chains import Chains

_MOST = 1_000  # calls for each coordinate of each draw, before the target counts as improper


class _Counted:
    """A log-density of rows (m, d), checked and counted; NaN counts as impossible."""

    def __init__(self, log_prob: Callable[[Tensor], Tensor], start: Tensor) -> None:
        if start.dim() != 2 or not start.is_floating_point():
            raise ValueError(
                f"start must be floating (chains, d); got {start.dtype} {tuple(start.shape)}"
            )
        self.log_prob, self.calls, self.rows = log_prob, 0, 0
        self.first = self(start)
        lost = int((self.first == -math.inf).sum())
        if lost:
            raise ValueError(f"{lost} of {len(start)} chains start where the density is zero")

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        value = self.log_prob(x)
        if value.shape != x.shape[:1]:
            raise ValueError(
                f"of {tuple(x.shape)} the log-density must be {(len(x),)}; got "
                f"{tuple(value.shape)}"
            )
        self.calls += 1
        self.rows += len(x)
        return torch.where(value.isnan(), -math.inf, value)


def slice_sample(
    log_prob: Callable[[Tensor], Tensor],
    start: Tensor,
    draws: int,
    *,
    warmup: int = 50,
    seed: int = 0,
) -> Chains:
    """Coordinate-wise slice sampling with stepping out, many chains at once, by sbi.

    Arguments:
        log_prob: Maps (chains, d) to log-densities (chains,), up to a constant; -inf allowed.
        start: (chains, d), where the density is positive.
        draws: How many to keep of each chain.
        warmup: Draws that are thrown away, over which each chain finds its bracket widths.
        seed: Of all random numbers.

    Raises:
        ValueError: If a chain starts at zero density, or log_prob returns another shape.
        RuntimeError: If brackets grow without end: the density does not fall off.
    """
    from sbi.samplers.mcmc import SliceSamplerVectorized

    target = _Counted(log_prob, start)
    most = _MOST * start.shape[1] * (draws + warmup)

    def of_numpy(x: np.ndarray) -> np.ndarray:
        if target.calls > most:
            raise RuntimeError("the slices have no end: is the density proper?")
        return target(torch.as_tensor(x).to(start)).double().cpu().numpy()

    spread = start.double().std(0) if len(start) > 1 else torch.zeros(start.shape[1])
    sampler = SliceSamplerVectorized(
        of_numpy,
        start.detach().double().cpu().numpy(),
        num_chains=len(start),
        tuning=warmup,
        verbose=False,
        init_width=torch.where(spread > 0, spread, 1.0).cpu().numpy(),
    )
    sampler.rng = np.random.RandomState(seed)  # in place of NumPy's global one
    kept = torch.as_tensor(sampler.run(draws)).to(start)
    density = torch.stack([target(x) for x in kept.unbind(1)], 1)
    return Chains(kept, density, 1.0, 0, target.rows, target.calls)


def elliptical_slice(
    log_likelihood: Callable[[Tensor], Tensor],
    start: Tensor,
    draws: int,
    *,
    warmup: int = 100,
    seed: int = 0,
) -> Chains:
    """Elliptical slice sampling of N(x; 0, I) times a likelihood, many chains at once.

    Exact whatever the likelihood; it mixes slowly where the likelihood is much narrower than the
    prior in many directions.

    Arguments:
        log_likelihood: Maps (m, d) to (m,), m at most the number of chains; -inf allowed.
        start: (chains, d), where the likelihood is positive.
        draws: How many to keep of each chain.
        warmup: Draws that are thrown away.
        seed: Of all random numbers.

    Returns:
        Chains whose log_prob is log N(x; 0, I) + log_likelihood(x).

    Raises:
        ValueError: If a chain starts at zero likelihood, or log_likelihood returns another shape.
    """
    target = _Counted(log_likelihood, start)
    generator = torch.Generator(start.device).manual_seed(seed)
    x, value = start.detach(), target.first
    kept, densities = [], []
    for i in range(warmup + draws):
        x, value = _turn(target, x, value, generator)
        if i >= warmup:
            kept.append(x)
            normal = -0.5 * (x.square() + math.log(2 * math.pi)).sum(-1)
            densities.append(value + normal)
    return Chains(
        torch.stack(kept, 1), torch.stack(densities, 1), 1.0, 0, target.rows, target.calls
    )


def _turn(
    target: _Counted, x: Tensor, value: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One transition of each chain from x (chains, d) of log-likelihood value (chains,)."""

    def uniform(n: int) -> Tensor:
        return torch.rand(n, generator=generator, dtype=x.dtype, device=x.device)

    nu = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    level = value + uniform(len(x)).log()
    angle = 2 * math.pi * uniform(len(x))
    low, high = angle - 2 * math.pi, angle.clone()
    new, reached = x.clone(), value.clone()
    left = torch.arange(len(x), device=x.device)  # chains that still look for a point
    while len(left):
        phi = angle[left, None]
        tried = x[left] * phi.cos() + nu[left] * phi.sin()
        found = target(tried)
        done = (found >= level[left]) | (angle[left].abs() < 1e-12)  # at last, where it was
        new[left[done]], reached[left[done]] = tried[done], found[done]
        left = left[~done]
        negative = angle[left] < 0
        low[left] = torch.where(negative, angle[left], low[left])
        high[left] = torch.where(negative, high[left], angle[left])
        angle[left] = low[left] + (high[left] - low[left]) * uniform(len(left))
    return new, reached
