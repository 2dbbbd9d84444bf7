r"""What a short window of a series says of itself: a learned denoiser, to second order.

.. math::
    \delta = \mathbb{E}[x_0 \mid x_t] - x_t, \qquad
    J = \frac{\mathrm{Cov}[x_0 \mid x_t]}{\sigma^2}
      = \frac{\partial\, \mathbb{E}[x_0 \mid x_t]}{\partial x_t}

Beside the noise's own precision, J^-1 - I is what the window knows, and J^-1 delta pulls it. Of an
exact denoiser J is symmetric. A learned one predicts each principal axis with an error in
proportion to that axis's scale, so of J_ij and J_ji the row of the smaller axis counts; and no
window is left with less variance than its thinnest axis, or more than the noise's.
"""

from __future__ import annotations

__all__ = ["Window"]

from typing import Any

import torch
from torch import Tensor

from ..randomness import seeded

_DRAWS = 2048  # for the axes
_FLOOR = 0.25  # of the least variance that a window may be left with


class Window:
    """Windows of some consecutive states.

    Arguments:
        distribution: Of one window, a vector of its states one after the other.
        size: Numbers of a state.

    Attributes:
        states: How many a window holds.
        location, scale: Of each number of a state, (size,).
    """

    def __init__(self, distribution: Any, size: int) -> None:
        self.distribution = distribution
        d = torch.Size(getattr(distribution, "modelled_shape", distribution.event_shape)).numel()
        if d % size:
            raise ValueError(f"a window of {d} numbers is not one of whole states of {size}")
        self.states, self.size = d // size, size
        self.process = getattr(distribution, "process", None)
        self.inside = torch.float32 if self.process is not None else torch.float64
        self.shift, self.unit = torch.zeros(d).double(), torch.ones(d).double()
        if hasattr(distribution, "to_physical"):
            ends = distribution.to_physical(torch.stack([torch.zeros(d), torch.ones(d)])).double()
            self.shift, self.unit = ends[0], ends[1] - ends[0]
        shape = (self.states, size)
        self.location = self.shift.view(shape).mean(0)
        self.scale = self.unit.view(shape).log().mean(0).exp()
        with torch.no_grad(), seeded(0):
            draw = getattr(distribution, "modelled_sample", distribution.sample)
            x = draw((_DRAWS,)).reshape(_DRAWS, d).double()
        values, self.axes = torch.linalg.eigh(torch.cov(x.mT))
        self.variance = values.clamp(min=1e-12 * float(values[-1]))

    def moments(self, x_t: Tensor, sigma: float, like: Window) -> tuple[Tensor, Tensor]:
        """J^-1 (n, d, d) and J^-1 delta (n, d) of windows x_t (n, d) with noise sigma, both in
        units of another part's scale.
        """
        location, scale = (v.repeat(self.states) for v in (like.location, like.scale))
        ratio = scale / self.unit
        z = (x_t * scale + location - self.shift) / self.unit
        level = sigma * float(ratio.log().mean().exp())
        mean, J = self._denoised(z, level)
        values, vectors = torch.linalg.eigh(J)
        least = _FLOOR * self.variance[0] / (self.variance[0] + level**2)
        inverse = (vectors / values.clamp(float(least), 1.0)[:, None, :]) @ vectors.mT
        return inverse, (inverse @ ((mean - z) / ratio)[..., None])[..., 0]

    def _denoised(self, z: Tensor, level: float) -> tuple[Tensor, Tensor]:
        """E[z_0 | z_t] (n, d) and its derivative (n, d, d) along the window's principal axes,
        symmetric, turned back.
        """
        alpha, sigma = torch.ones(()), torch.tensor(level)
        if self.process is not None:
            at = self.process.at(torch.tensor(level, dtype=torch.float64))
            alpha, sigma = (v.float() for v in at)
        axes = self.axes.to(self.inside)
        with torch.enable_grad():
            u = (z.to(self.inside) @ axes).requires_grad_()
            mean = self.distribution.denoise(alpha.to(u) * (u @ axes.mT), alpha.to(u), sigma.to(u))
            along = mean @ axes
            d = u.shape[1]
            rows = [
                torch.autograd.grad(along[:, i].sum(), u, retain_graph=i + 1 < d)[0]
                for i in range(d)
            ]
        J = torch.stack(rows, 1).double()
        # an error in a row is as large as its axis: of J_ij and J_ji the smaller axis knows best
        share = 1 / (self.variance / (self.variance + level**2))
        share = share[:, None] / (share[:, None] + share)
        J = share * J + share.mT * J.mT
        return mean.detach().double(), self.axes @ J @ self.axes.mT
