r"""Maximisation of many functions at once: quasi-Newton steps uphill.

.. math::
    u \leftarrow u + \lambda B \nabla \ell(u), \qquad
    B \leftarrow (I - \rho s y^\top) B (I - \rho y s^\top) + \rho s s^\top, \quad
    \rho = \frac{1}{s^\top y}

with s the step, y the fall of the gradient along it (BFGS). All rows go through the network
together; each has its own step length, halved and more until the function rises.

References:
    | Numerical Optimization (Nocedal & Wright, 2006), eqs. 6.17 and 6.20
    | https://doi.org/10.1007/978-0-387-40065-5
"""

from __future__ import annotations

__all__ = ["ascend", "climb"]

import torch
from torch import Tensor

from .surface import Surface

STEPS = 80
TOLERANCE = 1e-6  # nats that one more step would gain
_ARMIJO, _SHORTER, _FAILURES, _LONGEST = 1e-4, 0.3, 7, 1.5


def ascend(
    surface: Surface,
    candidates: Tensor,
    row: Tensor,
    free: Tensor | None = None,
    keep: int = 3,
    steps: int = STEPS,
) -> tuple[Tensor, Tensor]:
    """The highest point found from candidates, for each row.

    Arguments:
        surface: What to climb.
        candidates: Starting points (n, k, d).
        row: Their observations' numbers (n,).
        free: Which coordinates (d,) move; all unless said.
        keep: From how many candidates, the best ones, to climb.
        steps: The most steps.

    Returns:
        Points (n, d) and values (n,).
    """
    n, k, d = candidates.shape
    values = surface.value(candidates.reshape(-1, d), row.repeat_interleave(k)).view(n, k)
    keep = min(keep, k)
    first = values.topk(keep, 1).indices
    u = candidates.gather(1, first[..., None].expand(n, keep, d)).reshape(-1, d)
    if free is None or bool(free.any()):
        u, value = climb(surface, u, row.repeat_interleave(keep), free, steps)
    else:
        value = values.gather(1, first).reshape(-1)
    best = value.view(n, keep).argmax(1)
    at = torch.arange(n)
    return u.view(n, keep, d)[at, best], value.view(n, keep)[at, best]


def climb(
    surface: Surface, u: Tensor, row: Tensor, free: Tensor | None = None, steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """Climbs from each u (n, d) to a maximum nearby. Arguments as of `ascend`.

    Returns:
        Points (n, d) and values (n,), never lower than where they began.
    """
    n, d = u.shape
    mask = torch.ones(d, dtype=u.dtype) if free is None else free.to(u.dtype)
    u = u.clone()
    value, slope = surface.slope(u, row)
    slope = slope * mask
    identity = torch.eye(d, dtype=u.dtype)
    B = identity.expand(n, d, d).clone()
    fresh, failures = torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.long)
    length = torch.ones(n, dtype=u.dtype)
    active = value.isfinite()
    for _ in range(steps):
        gain = torch.einsum("ni,nij,nj->n", slope, B, slope)
        active = active & (0.5 * gain > TOLERANCE) & (failures < _FAILURES)
        i = active.nonzero()[:, 0]
        if not len(i):
            break
        step = torch.einsum("nij,nj->ni", B[i], slope[i])
        longest = torch.where(fresh[i], 0.3, _LONGEST)  # nothing is known of the scale at first
        step = step * (longest / step.norm(dim=1)).clamp(max=1)[:, None] * length[i][:, None]
        there, there_slope = surface.slope(u[i] + step, row[i])
        there_slope = there_slope * mask
        rise = (step * slope[i]).sum(1)
        up = there >= value[i] + _ARMIJO * rise
        j, s, y = i[up], step[up], (slope[i] - there_slope)[up]
        B[j] = _update(B[j], s, y, fresh[j], identity)
        u[j] += s
        value[j], slope[j] = there[up], there_slope[up]
        fresh[j] = False
        length[i] = torch.where(up, 1.0, length[i] * _SHORTER)
        failures[i] = torch.where(up, 0, failures[i] + 1)
    return u, value


def _update(B: Tensor, s: Tensor, y: Tensor, fresh: Tensor, identity: Tensor) -> Tensor:
    """BFGS, of the rows where the gradient falls along the step."""
    sy = (s * y).sum(1)
    good = sy > 1e-12
    rho = torch.where(good, 1 / sy.clamp(min=1e-12), torch.zeros_like(sy))[:, None, None]
    scale = (sy / y.square().sum(1).clamp(min=1e-30)).clamp(1e-8, 1e4)
    start = torch.where(fresh[:, None, None], scale[:, None, None] * identity, B)
    left = identity - rho * s[:, :, None] * y[:, None, :]
    new = left @ start @ left.mT + rho * s[:, :, None] * s[:, None, :]
    # where it bends the wrong way, twice the step is tried next
    return torch.where(good[:, None, None], new, 2 * B)
