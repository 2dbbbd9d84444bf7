r"""Kolmogorov flow: two-dimensional turbulence in a periodic box, stirred by a sinusoidal force.

.. math::
    \partial_t w + u \cdot \nabla w = \frac{1}{Re} \nabla^2 w - \mu w - k_f A \cos(k_f y), \qquad
    w = \partial_x v - \partial_y u, \quad \nabla \cdot (u, v) = 0

on [0, 2 pi)^2, of the velocity (u, v); the force is A sin(k_f y) along x. In Fourier space,

.. math::
    \hat u = \frac{i k_y \hat w}{k^2}, \quad \hat v = -\frac{i k_x \hat w}{k^2}, \qquad
    \widehat{u \cdot \nabla w} = (k_y^2 - k_x^2)\, \widehat{u v}
        + k_x k_y\, \widehat{(u^2 - v^2)},

four transforms. Only |k_x|, |k_y| < N/3 are kept (the two-thirds rule): products have no aliases
there, and but for viscosity, drag and force energy and enstrophy are conserved. Steps are those
of the classical fourth-order Runge-Kutta rule for :math:`e^{t (k^2 / Re + \mu)} \hat w`, so that
the linear terms are exact. Of an image, x runs along the last axis. A chaotic flow: float64.

References:
    | Machine learning accelerated computational fluid dynamics (Kochkov et al., 2021)
    | https://arxiv.org/abs/2102.01010, section 2 (force and drag)
    | Technical Improvements for Direct Numerical Simulation of Homogeneous Three-Dimensional
      Turbulence (Basdevant, 1983), Journal of Computational Physics 50, 209 (four transforms)
"""

from __future__ import annotations

__all__ = ["KolmogorovFlow"]

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

from simgen import Field, Simulator

if TYPE_CHECKING:
    from simgen import Prior

CHUNK = 8
"""Flows in memory at once: as many as fit a cache."""


class KolmogorovFlow(Simulator):
    r"""The vorticity x (1, N, N) of a stirred flow, theta = (reynolds, amplitude).

    Priors: Re in [20, 200], A in [0.5, 1.5], uniform. A flow starts from `z_initial` (1, N, N), a
    Gaussian random field that knows no theta,

    .. math:: \langle |\hat w_k|^2 \rangle \propto k^2 e^{-k^2 / 32}, \qquad
        \langle w^2 \rangle = 4,

    and x is what has become of it after so many steps: a function of z_initial and theta. `step`
    is a torch function and differentiates by the vorticity and by theta.

    Arguments:
        pixels: Pixels N along a side, even.
        dt: The step in time; the fastest flows move by about a pixel in a default step.
        steps: Steps from the start to x; the default ones are 20 units of time, twice 1 / mu.
        drag: mu, which takes energy from the largest scales.
        wavenumber: k_f, the periods of the force.
        fixed: (reynolds, amplitude), where they are not to be inferred: the simulator is then
            unconditional, a prior of images.

    Raises:
        ValueError: If an option is out of range.

    Examples:
        >>> simulator = KolmogorovFlow(pixels=16, steps=10)
        >>> simulator([[40.0, 1.0], [80.0, 1.0]], seed=0)["x"].shape
        (2, 1, 16, 16)
    """

    parameters = ("reynolds", "amplitude")

    def __init__(
        self,
        pixels: int = 64,
        dt: float = 0.025,
        steps: int = 800,
        drag: float = 0.1,
        wavenumber: int = 4,
        fixed: Sequence[float] | None = None,
    ) -> None:
        if pixels < 8 or pixels % 2:
            raise ValueError(f"pixels must be even, 8 or more; got {pixels}")
        if not 0 < dt < math.inf or steps < 1 or not 0 <= drag < math.inf:
            raise ValueError(
                "dt and steps must be positive and drag not negative; "
                f"got dt={dt}, steps={steps}, drag={drag}"
            )
        if not 1 <= wavenumber < pixels / 3:
            raise ValueError(f"wavenumber must be 1 or more, below pixels / 3; got {wavenumber}")
        if fixed is not None and len(fixed) != 2:
            raise ValueError(f"fixed must be (reynolds, amplitude); got {fixed}")
        self.pixels, self.dt, self.steps = int(pixels), float(dt), int(steps)
        self.drag, self.wavenumber = float(drag), int(wavenumber)
        self.fixed = None if fixed is None else [float(value) for value in fixed]
        image = Field((1, self.pixels, self.pixels), layout="image")
        self.fields = {"x": image, "z_initial": image}

        k_y = torch.fft.fftfreq(self.pixels, 1 / self.pixels, dtype=torch.float64)[:, None]
        k_x = torch.fft.rfftfreq(self.pixels, 1 / self.pixels, dtype=torch.float64)
        self.k_2 = k_x**2 + k_y**2
        self.kept = (k_x < pixels / 3) & (k_y.abs() < pixels / 3) & (self.k_2 > 0)
        over_k_2 = torch.where(self.kept, 1 / self.k_2.clamp(min=1), 0.0)
        self._to_velocity = torch.stack((1j * k_y * over_k_2, -1j * k_x * over_k_2))
        kept = self.kept.double()
        self._from_products = torch.stack(((k_x**2 - k_y**2) * kept, -k_x * k_y * kept))
        y = torch.arange(self.pixels, dtype=torch.float64) * (2 * math.pi / self.pixels)
        curl = -self.wavenumber * torch.cos(self.wavenumber * y)
        self._force = torch.fft.rfft2(curl[:, None].expand(self._size)) * kept

    @cached_property
    def prior(self) -> Prior | None:  # type: ignore[override]
        """The prior over theta; None where it is fixed."""
        from torch.distributions import Uniform

        from simgen import Prior

        if self.fixed is not None:
            return None
        return Prior(
            reynolds=Uniform(20.0, 200.0), amplitude=Uniform(0.5, 1.5), labels=("$Re$", "$A$")
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return self.parameters if self.fixed is None else ()

    def step(self, vorticity: Tensor, theta: Tensor | None = None, steps: int = 1) -> Tensor:
        """The vorticity some steps later; differentiable in both arguments.

        Arguments:
            vorticity: Shape (..., N, N), float64.
            theta: (..., 2), that broadcast against the vorticity's leading axes: Re, which may be
                infinite, and A. The fixed ones unless said.
            steps: How many steps.
        """
        w = torch.fft.rfft2(vorticity) * self.kept
        return torch.fft.irfft2(self._advance(w, self._theta(theta), steps), s=self._size)

    def tendency(self, vorticity: Tensor, theta: Tensor | None = None) -> Tensor:
        """The time derivative of the vorticity (..., N, N); arguments as of `step`."""
        decay, force = self._terms(self._theta(theta))
        w = torch.fft.rfft2(vorticity) * self.kept
        return torch.fft.irfft2(self._nonlinear(w) + force - decay * w, s=self._size)

    def velocity(self, vorticity: Tensor) -> Tensor:
        """The velocity (..., 2, N, N): u along x, the last axis, and v along y."""
        return self._velocity(torch.fft.rfft2(vorticity) * self.kept)

    @property
    def _size(self) -> tuple[int, int]:
        return self.pixels, self.pixels

    def _theta(self, theta: Tensor | None) -> Tensor:
        if theta is not None:
            return theta
        if self.fixed is None:
            raise ValueError("theta is not fixed: give it")
        return torch.tensor(self.fixed, dtype=torch.float64)

    def _terms(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Decay rate and force of each mode, for theta (..., 2)."""
        reynolds, amplitude = theta[..., None, None].unbind(-3)
        return self.k_2 / reynolds + self.drag, amplitude * self._force

    def _velocity(self, w: Tensor) -> Tensor:
        return torch.fft.irfft2(w[..., None, :, :] * self._to_velocity, s=self._size)

    def _nonlinear(self, w: Tensor) -> Tensor:
        """Minus the advection, mode by mode."""
        u, v = self._velocity(w).unbind(-3)
        products = torch.fft.rfft2(torch.stack((u * v, (u - v) * (u + v)), -3))
        return (products * self._from_products).sum(-3)

    def _advance(self, w: Tensor, theta: Tensor, steps: int) -> Tensor:
        """Runge-Kutta steps of the modes w, with an integrating factor."""
        decay, force = self._terms(theta)
        half, dt = torch.exp(-decay * self.dt / 2), self.dt

        def slope(w: Tensor) -> Tensor:
            return self._nonlinear(w) + force

        for _ in range(steps):
            k_1 = slope(w)
            decayed = half * w
            k_2 = slope(decayed + dt / 2 * half * k_1)
            k_3 = slope(decayed + dt / 2 * k_2)
            k_4 = slope(half * (decayed + dt * k_3))
            w = half * (decayed + dt / 6 * (half * k_1 + 2 * (k_2 + k_3))) + dt / 6 * k_4
        return w

    def _initial(self, n: int, rng: np.random.Generator) -> Tensor:
        """Modes of n random fields of variance 4."""
        white = torch.fft.rfft2(torch.from_numpy(rng.standard_normal((n, *self._size))))
        power = torch.where(self.kept, self.k_2 * torch.exp(-self.k_2 / 32), 0.0)
        doubled = torch.full((self.pixels // 2 + 1,), 2.0, dtype=torch.float64)
        doubled[[0, -1]] = 1.0
        variance = (power * doubled).sum() / self.pixels**2
        return white * torch.sqrt(4 * power / variance)

    @torch.no_grad()
    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws x and z_initial for theta (n, 2), or for n rows (n, 0) where theta is fixed."""
        rows = np.ascontiguousarray(theta, dtype=float)
        if self.fixed is not None:
            rows = np.tile(self.fixed, (len(rows), 1))
        start = self._initial(len(rows), rng)
        end = torch.empty_like(start)
        for i in range(0, len(rows), CHUNK):
            part = slice(i, i + CHUNK)
            end[part] = self._advance(start[part], torch.tensor(rows[part]), self.steps)
        images = {"x": end, "z_initial": start}
        return {k: torch.fft.irfft2(w, s=self._size)[:, None].numpy() for k, w in images.items()}
