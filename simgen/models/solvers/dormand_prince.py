r"""The probability flow by Dormand and Prince's adaptive method of order five.

.. math::
    \frac{dw}{d\ell} = \frac{s^2\, w - \sqrt{s^2 + r^2}\, D}{s^2 + r^2}, \qquad
    w = \frac{x_t / \alpha}{\sqrt{s^2 + r^2}}, \quad \ell = \log r = \log \frac{\sigma}{\alpha}

in which every scale of the data takes about as long, and noise stays of order one. Each row
keeps the step that its own largest error allows.

References:
    | A Family of Embedded Runge-Kutta Formulae (Dormand & Prince, 1980), table 2
    | https://doi.org/10.1016/0771-050X(80)90013-3
"""

from __future__ import annotations

__all__ = ["solve"]

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..ode import dormand_prince
from ..probability_flow import velocity
from ..process import Process
from .base import Noise


def solve(
    denoiser: Denoiser,
    process: Process,
    x_T: Tensor,
    steps: int,
    generator: Noise = None,
    tolerance: float | None = None,
) -> Tensor:
    """Six evaluations a step, as many steps as the error of each asks for; deterministic.

    Arguments:
        denoiser: As everywhere.
        process: As everywhere.
        x_T: As everywhere.
        steps: What the tolerance follows unless said: 1 / steps^3, with which the number of steps
            taken grows somewhat slower than `steps`.
        generator: Unused.
        tolerance: Error of one step, absolute and relative, in units of w.
    """
    tolerance = steps**-3.0 if tolerance is None else tolerance
    ends = torch.tensor([process.sigma_max, process.sigma_min], dtype=torch.float64)
    alpha, sigma = (v.to(x_T) for v in process.at(ends))
    scale = x_T.new_tensor(process.scale)
    sizes = [a * (scale**2 + (b / a) ** 2).sqrt() for a, b in zip(alpha, sigma)]

    def slope(ell: Tensor, w: Tensor) -> Tensor:
        return velocity(denoiser, process, w.view_as(x_T), ell, scale).flatten(1)

    first, last = ends.log().tolist()
    w = dormand_prince(slope, (x_T / sizes[0]).flatten(1), first, last, tolerance, tolerance)
    return denoiser(sizes[1] * w.view_as(x_T), alpha[1], sigma[1])
