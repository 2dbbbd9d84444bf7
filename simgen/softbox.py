r"""A box with soft edges: R onto (0, 1), nearly linear inside, by the CDF of a uniform number with
a little logistic noise.

.. math::
    F(u) = P(U + \tau \epsilon \le u)
         = \frac{\tau}{2} \left[ \zeta\Bigl(\frac{u + 1}{\tau}\Bigr)
           - \zeta\Bigl(\frac{u - 1}{\tau}\Bigr) \right], \qquad
    \zeta(a) = \log(1 + e^a),

U uniform on (-1, 1). With h = F(u) and s = 2 h / tau the inverse is

.. math::
    u = 2 h - 1 + \tau \left[ \log(1 - e^{-s}) - \log(1 - e^{s - 2 / \tau}) \right].

With tau large it is the logistic function; with tau small a posterior keeps the shape that it has
in physical units, wherever in the box it stands, and only the edges are stretched to infinity.
Both sides are computed from the nearer end of the box, so that no digits are lost there.
"""

from __future__ import annotations

__all__ = ["soft_cdf", "soft_inverse", "soft_log_slope"]

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def soft_cdf(u: Tensor, edge: Tensor) -> tuple[Tensor, Tensor]:
    """The distance of F(u) from the nearer end of (0, 1), at most 1/2, and whether that end is 0.

    Arguments:
        u: Values (...), float64.
        edge: tau, which is positive, in half-widths of the box.
    """
    below = u <= 0
    m = torch.where(below, u, -u)
    # log(1 + e^a) = -log sigmoid(-a)
    return edge / 2 * (logsigmoid((1 - m) / edge) - logsigmoid(-(m + 1) / edge)), below


def soft_log_slope(u: Tensor, edge: Tensor) -> Tensor:
    """log dF/du of u (...)."""
    m = torch.where(u <= 0, u, -u)
    a, b = logsigmoid((m + 1) / edge), logsigmoid((m - 1) / edge)
    return a - math.log(2) + torch.log1p(-torch.exp(b - a))


def soft_inverse(distance: Tensor, below: Tensor, edge: Tensor) -> Tensor:
    """u of a distance from the nearer end of (0, 1), in (0, 1/2]."""
    s = 2 * distance.clamp(min=torch.finfo(torch.float64).tiny) / edge
    bend = torch.log(-torch.expm1(-s)) - torch.log1p(-torch.exp(s - 2 / edge))
    u = 2 * distance - 1 + edge * bend
    return torch.where(below, u, -u)
