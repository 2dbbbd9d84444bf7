r"""The posterior of the true dynamics: filtering forwards, drawing backwards.

.. math::
    w_i^j \propto p(y_i \mid x_i^j), \qquad
    x_i \mid x_{i+1}, y \;\sim\; \sum_j \frac{w_i^j\, p(x_{i+1} \mid x_i^j)}
        {\sum_k w_i^k\, p(x_{i+1} \mid x_i^k)}\, \delta_{x_i^j}

The bootstrap filter's particles share few ancestors; what is drawn backwards does not. The density
of a step is known, and so are both log-densities that draws are judged by.

References:
    | Monte Carlo Smoothing for Nonlinear Time Series (Godsill, Doucet & West, 2004), algorithm 1
    | https://doi.org/10.1198/016214504000000151
"""

from __future__ import annotations

__all__ = ["smooth"]

import math
from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor], Tensor]
_CHUNK = 32  # draws whose weights stay in the cache


def smooth(
    step: Step,
    variance: float,
    start: Tensor,
    log_likelihood: Callable[[int, Tensor], Tensor | None],
    length: int,
    draws: int,
    generator: torch.Generator,
) -> tuple[Tensor, float]:
    """Draws (draws, length, k) of the states given all that was seen, and log p(y).

    Arguments:
        step: One step without noise, (n, k) to (n, k).
        variance: Of the noise of a step, of each number.
        start: Draws (particles, k) of the first state.
        log_likelihood: log p(y_i | x_i) (n,) of i and states (n, k); None where nothing is seen.
        length: How many states.
        draws: How many trajectories.
        generator: Of all random numbers.
    """
    x, n = start, len(start)
    states: list[Tensor] = []
    moved: list[Tensor] = []
    weights: list[Tensor] = []
    evidence = 0.0
    for i in range(length):
        if i:
            noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x = moved[-1][_systematic(weights[-1], n, generator)] + math.sqrt(variance) * noise
        value = log_likelihood(i, x)
        log_w = x.new_zeros(n) if value is None else value
        evidence += float(log_w.logsumexp(0)) - math.log(n)
        states.append(x)
        weights.append(log_w.log_softmax(0))
        moved.append(step(x))
    path = [states[-1][torch.multinomial(weights[-1].exp(), draws, True, generator=generator)]]
    for i in range(length - 2, -1, -1):
        pick = _backward(path[-1], moved[i], weights[i], variance, generator)
        path.append(states[i][pick])
    return torch.stack(path[::-1], 1), evidence


def _backward(
    after: Tensor, moved: Tensor, log_w: Tensor, variance: float, generator: torch.Generator
) -> Tensor:
    """Which particles (draws,) the states after (draws, k) come from."""
    centre, sd = moved.mean(0), math.sqrt(variance)
    a, b = ((v - centre).div(sd).float() for v in (after, moved))
    base = (log_w - 0.5 * b.double().square().sum(1)).float()
    u = torch.rand(len(a), 1, generator=generator)
    pick = []
    for rows, level in zip(a.split(_CHUNK), u.split(_CHUNK)):
        log_p = torch.addmm(base, rows, b.mT)
        edges = log_p.sub_(log_p.amax(1, keepdim=True)).exp_().cumsum(1)
        pick.append(torch.searchsorted(edges, level * edges[:, -1:])[:, 0])
    return torch.cat(pick).clamp(max=len(moved) - 1)


def _systematic(log_w: Tensor, n: int, generator: torch.Generator) -> Tensor:
    u = torch.rand((), generator=generator, dtype=torch.float64)
    edges = log_w.double().exp().cumsum(0)
    places = (torch.arange(n) + u) / n * edges[-1]
    return torch.searchsorted(edges, places).clamp(max=len(log_w) - 1)
