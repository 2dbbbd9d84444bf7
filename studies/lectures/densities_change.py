r"""What a map of the plane does to the standard normal density, in numbers.

.. math::
    p(x) = p(z) \left| \det J_g(z) \right|^{-1}, \quad x = g(z), \qquad
    \int p(x) \, dx = 1, \qquad
    \mathrm{area}\bigl(g(S)\bigr) = \int_S \left| \det J_g(z) \right| dz

Held against the density that the model itself gives: J by automatic differentiation, the integral
by the midpoint rule, the area of an image also by its outline.

References:
    | Normalizing Flows for Probabilistic Modeling and Inference (Papamakarios et al., 2021)
    | https://arxiv.org/abs/1912.02762, eqs. 3, 5, 6
"""

from __future__ import annotations

__all__ = ["SQUARE", "Change", "centres", "change", "jacobian"]

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

SQUARE = 2.5  # the square [-2.5, 2.5]^2 of the base space is S
WINDOW = ((-6.0, 6.0), (-20.0, 20.0))  # of x_1 and x_2: what lies outside is below 1e-5


@dataclass(frozen=True)
class Change:
    """What a map does to the base density, in numbers.

    Attributes:
        integral: Of p(x) over the window; one.
        identity: Largest |log p(x) - log p(z) + log |det J|| on the grid, J by differentiation.
        triangle: Largest |dx_1 / dz_2| there; zero.
        volume: Integral of |det J| over the square of the base space.
        area: Of the square's image, by its outline.
        log_likelihood: Held-out, in nats, and its standard error.
        gap: Of the held-out log-likelihood to that of the true density, in nats.
    """

    integral: float
    identity: float
    triangle: float
    volume: float
    area: float
    log_likelihood: float
    error: float
    gap: float


def centres(box: tuple[tuple[float, float], ...], counts: tuple[int, int]) -> Tensor:
    """Cell centres (n_1, n_2, 2) of a box."""
    axes = [
        low + (high - low) * (torch.arange(n, dtype=torch.float64) + 0.5) / n
        for (low, high), n in zip(box, counts)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).float()


def jacobian(q: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    """x (..., 2) of z (..., 2), and dx_i / dz_j (..., 2, 2), by automatic differentiation."""
    z = z.detach().requires_grad_()
    x = q.transport(z)
    rows = [torch.autograd.grad(x[..., i].sum(), z, retain_graph=True)[0] for i in range(2)]
    return x.detach(), torch.stack(rows, -2)


def outline(n: int = 4_000) -> Tensor:
    """Points (n, 2) round the square of the base space."""
    t = torch.arange(n) * 4 / n
    legs = torch.stack((t, t - 1), -1).remainder(4)  # a corner each whole number
    legs = torch.where(legs < 2, legs.clamp(max=1), 3 - legs.clamp(min=2)).clamp(0, 1)
    return SQUARE * (2 * legs - 1)


def polygon_area(points: Array) -> float:
    """Of a polygon (n, 2), by the shoelace formula."""
    x, y = points.astype(float).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def integral(q: Any, counts: tuple[int, int] = (600, 1200)) -> float:
    """Of p(x) over the window, by the midpoint rule."""
    (a, b), (c, d) = WINDOW
    density = q.log_prob(centres(WINDOW, counts)).double().exp()
    return float(density.mean()) * (b - a) * (d - c)


def change(q: Any, held_out: Array, exact: Array) -> Change:
    """Measures a distribution with a transport of two numbers of noise.

    Arguments:
        q: The distribution.
        held_out: Rows of the true density (n, 2).
        exact: log p of these rows (n,).
    """
    z = centres(((-SQUARE, SQUARE),) * 2, (250, 4_000))  # fine where the branches part
    x, slopes = jacobian(q, z)
    log_det = torch.linalg.det(slopes.double()).abs().log()
    base = -0.5 * z.double().square().sum(-1) - math.log(2 * math.pi)
    with torch.no_grad():
        image = q.transport(outline()).numpy()
        log_q = q.log_prob(torch.from_numpy(held_out).float()).double().numpy()
        identity = (q.log_prob(x).double() - base + log_det).abs().max()
    return Change(
        integral=integral(q),
        identity=float(identity),
        triangle=float(slopes[..., 0, 1].abs().max()),
        volume=float(log_det.exp().mean()) * (2 * SQUARE) ** 2,
        area=polygon_area(image),
        log_likelihood=float(log_q.mean()),
        error=float(log_q.std() / math.sqrt(len(log_q))),
        gap=float((exact - log_q).mean()),
    )
