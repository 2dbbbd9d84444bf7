r"""Where a hierarchy of latents starts: a stationary Gaussian chain, with its exact posterior.

.. math::
    z_{t+1} = \rho z_t + \sqrt{1 - \rho^2}\, \epsilon, \qquad
    z_t = \rho z_{t+1} + \sqrt{1 - \rho^2}\, \epsilon'

are the same joint distribution where z_1 ~ N(0, I), as in a diffusion. Where x says
z_1 ~ N(m, s^2), it says z_t ~ N(r_t m, v_t), r_t = rho^{t-1}, v_t = 1 - r_t^2 (1 - s^2), and

.. math::
    q(z_t \mid z_{t+1}, x) = \mathcal{N}\Bigl( \frac1P \Bigl[ \frac{r_t m}{v_t}
        + \frac{\rho z_{t+1}}{1 - \rho^2} \Bigr], \frac1P \Bigr), \qquad
    P = \frac1{v_t} + \frac{\rho^2}{1 - \rho^2} .

Numbers of z_t beyond the length of z_{t+1} have rho = 0.
"""

from __future__ import annotations

__all__ = ["link_start", "top_down_start"]

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

_LINK = 0.7  # rho


def link_start(out: int, size: int) -> tuple[Tensor, Tensor]:
    """Weight (out, size) and bias (2 out,) of a neighbour (size,) given which z (out,) follows."""
    linked = _linked(out, size)
    return _diagonal(linked, out, size), _spread(1 - linked**2)


def top_down_start(
    latents: tuple[int, ...], spread: Tensor, features: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Weight and bias of every q(z_t | z_{t+1}, x), t from 1 to T.

    Arguments:
        latents: Lengths of z_1 ... z_T.
        spread: Deviations s of z_1 given x, (l_1,).
        features: Numbers that stand before z_{t+1} in the input, of which the first are m.
    """
    to_first = torch.ones_like(spread)  # r_t
    for here, above in zip(latents, (*latents[1:], 0)):
        first = min(len(to_first), here)
        to_first = pad(to_first[:first], (0, here - first))
        noise = pad(spread[:first], (0, here - first), value=1.0)
        alone = 1 - to_first**2 * (1 - noise**2)  # v_t
        linked = _linked(here, above).to(spread)
        precision = 1 / alone + linked**2 / (1 - linked**2)
        from_x = _diagonal(to_first / alone / precision, here, features)
        from_above = _diagonal(linked / (1 - linked**2) / precision, here, above)
        yield torch.cat([from_x, from_above], 1), _spread(1 / precision)
        to_first = to_first * linked


def _linked(here: int, above: int) -> Tensor:
    """rho of each number of z_t, (here,)."""
    return (torch.arange(here) < above).float() * _LINK


def _diagonal(values: Tensor, rows: int, columns: int) -> Tensor:
    """A matrix (rows, columns) with these values on its diagonal, as far as it goes."""
    out = values.new_zeros(rows, columns)
    out.diagonal().copy_(values[: min(rows, columns)])
    return out


def _spread(variance: Tensor) -> Tensor:
    """A bias for means 0 and these variances."""
    return torch.cat([torch.zeros_like(variance), 0.5 * variance.log()])
