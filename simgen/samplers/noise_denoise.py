r"""Metropolis–Hastings that proposes by adding noise and taking it away again.

.. math::
    x_\sigma = x_0 + \sigma \epsilon, \qquad x_0' \sim p(x_0 \mid x_\sigma), \qquad
    \text{accept with } \min\!\left( 1, \frac{p(y \mid x_0')}{p(y \mid x_0)} \right)

Noising and denoising together leave the prior as it is, so that of Metropolis' ratio only the
likelihood remains. No gradient, no matrix, no density of the prior: any instrument that can be
evaluated will do. Exact for a perfect denoiser, as the steps down get finer. Small noise keeps
what fits, large noise leaps to other modes: each move takes one of a ladder of levels, each as
often as it makes the draws move, which is learned while warming up and then kept.

References:
    | The "diffusion waltz" of Takao et al. (2026)
    | Monte Carlo Sampling Methods Using Markov Chains (Hastings, 1970), section 2
    | https://doi.org/10.1093/biomet/57.1.97
"""

from __future__ import annotations

__all__ = ["noise_denoise", "redraw"]

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .chains import Chains
from .levels import DenoisingPrior, levels
from .smc import systematic
from .tempered import differences, next_power

_LADDER = 12  # noise levels of moves
_LEAST = 0.02  # each level's least share of the moves
_EFFECTIVE, _BETWEEN, _MOST = 0.7, 4, 300  # chains, moves between powers, powers
_MEMORY = 0.8  # of what was learned at the power before
_TURNS = 2  # moves of other unknowns in turn


def redraw(
    prior: DenoisingPrior, x: Tensor, grid: Sequence[float], generator: torch.Generator
) -> Tensor:
    """x_0 (n, d) given x_sigma (n, d), by steps down a grid of noise levels from sigma to zero."""
    for high, low in itertools.pairwise(grid):
        mean, V = prior.moments(x, high)
        noise, fresh = (
            torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            for _ in range(2)
        )
        tau = (low / high) ** 2
        x_0 = mean + V.root(noise)
        x = (1 - tau) * x_0 + tau * x + low * math.sqrt(1 - tau) * fresh
    return x


def noise_denoise(
    prior: DenoisingPrior,
    log_likelihood: Callable[[Tensor], Tensor],
    start: Tensor,
    draws: int,
    warmup: int,
    generator: torch.Generator,
    steps: int,
    blocks: int = 1,
    log_prior: Callable[[Tensor], Tensor] | None = None,
) -> Chains:
    """Chains of the posterior.

    Arguments:
        prior: The denoiser.
        log_likelihood: log p(y | x_0) (n,) of rows (n, d).
        start: Draws of the prior (chains, d). The likelihood is switched on by powers, and chains
            that it leaves behind are drawn again from the others; from then on they are alone.
        draws: Moves kept of each chain, of a block.
        warmup: Moves before, with the whole likelihood.
        generator: Of all random numbers.
        steps: Noise levels from the prior's largest scale to zero; more of them make noising and
            denoising leave the prior more nearly as it is.
        blocks: At most; no more than it takes for the chains to have converged.
        log_prior: Of other unknowns, log p(u) (n,) of their coordinates (n, k), which then lead
            the rows of start: (chains, k + d). They move in turn with x_0, along differences
            between other chains.

    Raises:
        ValueError: If no chain finds a finite likelihood, or one so sharp that it cannot be
            switched on.
    """
    walk = _Walk(prior, log_likelihood, start, steps, generator, log_prior)
    walk.temper()
    for _ in range(warmup):
        walk.move(learn=True)
    kept: list[Tensor] = []
    values: list[Tensor] = []
    accepted = 0.0
    for _ in range(blocks):
        for _ in range(draws):
            accepted += walk.move()
            kept.append(walk.x)
            values.append(walk.value)
        every = torch.stack(kept, 1), torch.stack(values, 1)
        found = Chains(*every, accepted / len(kept), 0, prior.evaluations, walk.calls)
        if found.problem is None:
            break
    return found


class _Walk:
    """Chains that noise and denoise.

    Attributes:
        x: Where they are (n, k + d).
        value: Their log-likelihoods (n,).
        calls: Of the likelihood.
    """

    def __init__(
        self,
        prior: DenoisingPrior,
        log_likelihood: Callable[[Tensor], Tensor],
        start: Tensor,
        steps: int,
        generator: torch.Generator,
        log_prior: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.prior, self.log_likelihood = prior, log_likelihood
        self.generator, self.calls, self.power = generator, 0, 1.0
        self.size = self.tried = self.moved = torch.ones(_LADDER, dtype=torch.float64)
        self.log_prior, self.others = log_prior, start.shape[-1] - prior.size
        self.x, self.value = start, self._value(start)
        self.grid = [high for high, _ in levels(prior, steps + 1)[1:]] + [0.0]
        self.rungs = torch.linspace(len(self.grid) - 2, 0, _LADDER).round().int().tolist()
        self._forget()

    def temper(self) -> None:
        """Switches the likelihood on."""
        self.power, n = 0.0, len(self.x)
        if not bool((self.value > -math.inf).any()):
            raise ValueError(
                "no draw of the prior has a finite likelihood: is the observation possible?"
            )
        for _ in range(_MOST):
            new = next_power(self.value, self.power, _EFFECTIVE)
            log_w = ((new - self.power) * self.value).log_softmax(0)
            keep = systematic(log_w, n, self.generator)
            self.x, self.value, self.power = self.x[keep], self.value[keep], new
            if new == 1:
                break
            self.tried, self.moved = self.tried * _MEMORY, self.moved * _MEMORY
            for _ in range(_BETWEEN):
                self.move(learn=True)
        else:
            raise ValueError(
                f"{_MOST} steps have switched on no more than the power {self.power:.1g} of the "
                "likelihood: the observation is far from what the prior predicts, or its noise is "
                "too small for moves that do not see the instrument"
            )
        self._forget()

    def move(self, learn: bool = False) -> float:
        """One move of all chains; the share that was accepted."""
        x, generator = self.x, self.generator
        shares = (1 - _LADDER * _LEAST) * self.size / self.size.sum() + _LEAST
        k = int(torch.multinomial(shares, 1, generator=generator))
        u, x_0 = x[:, : self.others], x[:, self.others :]
        noise = torch.randn(x_0.shape, generator=generator, dtype=x.dtype, device=x.device)
        grid = self.grid[self.rungs[k] :]
        new = torch.cat((u, redraw(self.prior, x_0 + grid[0] * noise, grid, generator)), -1)
        found = self._value(new)
        uniform = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
        gain = torch.where(found == self.value, 0.0, self.power * (found - self.value))
        go = uniform.log() < gain
        if learn:
            jump = torch.where(go, (new - x).square().sum(-1), 0.0)
            self.tried[k] += 1
            self.moved[k] += float(jump.mean())
            size = (self.moved + 1e-12) / self.tried.clamp(min=1e-6)
            self.size = torch.where(self.tried < 1, size.max(), size)
        self.x = torch.where(go[:, None], new, x)
        self.value = torch.where(go, found, self.value)
        if self.others:
            for _ in range(_TURNS):
                self._turn()
        return float(go.double().mean())

    def _turn(self) -> None:
        """Moves the other unknowns of each half of the chains along differences of the other."""
        assert self.log_prior is not None
        n, k = len(self.x), self.others
        scale = 2.38 / math.sqrt(2 * k)
        order = torch.randperm(n, generator=self.generator, device=self.x.device)
        for mine, theirs in (order.split((n + 1) // 2), order.split((n + 1) // 2)[::-1]):
            u = self.x[:, :k]
            step = differences(u[theirs][None], len(mine), scale, self.generator)[0]
            new = torch.cat((u[mine] + step, self.x[mine, k:]), -1)
            found = self._value(new)
            uniform = torch.rand(
                len(mine), generator=self.generator, dtype=u.dtype, device=u.device
            )
            gain = torch.where(
                found == self.value[mine], 0.0, self.power * (found - self.value[mine])
            )
            gain = gain + self.log_prior(new[:, :k]) - self.log_prior(u[mine])
            go = uniform.log() < gain
            self.x = self.x.index_copy(0, mine, torch.where(go[:, None], new, self.x[mine]))
            self.value = self.value.index_copy(0, mine, torch.where(go, found, self.value[mine]))

    def _forget(self) -> None:
        """Every level as good as another."""
        self.size = torch.ones(_LADDER, dtype=torch.float64)
        self.tried, self.moved = torch.zeros(_LADDER).double(), torch.zeros(_LADDER).double()

    def _value(self, x: Tensor) -> Tensor:
        """Log-likelihoods; NaN counts as impossible."""
        self.calls += 1
        value = self.log_likelihood(x).double()
        return torch.where(value.isnan(), -math.inf, value)
