r"""A long series from short windows: the denoiser of a Markov chain, of denoisers of its windows.

.. math::
    p(x_{1:L}) = \prod_w p(x_w) \Big/ \prod_s p(x_s)

of windows w that overlap in the states s. Each denoiser gives what its window says of x_0 beside
the noise on it, to second order about x_t: with delta = E[x_0 | x_t] - x_t and
J = Cov[x_0 | x_t] / sigma^2,

.. math::
    P = I + \sum_w (J_w^{-1} - I) - \sum_s (J_s^{-1} - I), \qquad
    h = \sum_w J_w^{-1} \delta_w - \sum_s J_s^{-1} \delta_s, \qquad
    x_0 \mid x_t \approx N\bigl(x_t + P^{-1} h,\; \sigma^2 P^{-1}\bigr)

Exact for Gaussian chains at any noise level, whatever the windows, as long as the overlap holds
the chain's memory; and for any chain as the noise falls. To take the middle of each window as if
there were nothing beyond it is exact for neither.

References:
    | Score-based Data Assimilation (Rozet & Louppe, 2023), eqs. 13-15 and algorithm 2
    | https://arxiv.org/abs/2306.10574
    | Probabilistic Graphical Models (Koller & Friedman, 2009), eq. 10.6: a calibrated clique tree
"""

from __future__ import annotations

__all__ = ["Windows"]

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from .levels import Levels
from .noise_denoise import redraw
from .tridiagonal import ChainCovariance, Tridiagonal
from .window import Window

_RATIO, _CHUNK = 1.5, 512  # of a draw: factor between noise levels at most, rows at once
_BELOW, _ABOVE = 1.0, 1.0  # noise levels beside the smallest and the largest deviation


class Windows(Distribution):
    """The distribution of a series of which short windows have been learned.

    Draws and `infer` ask for it as for any other denoising distribution. In its own space each
    number of a state has the location and scale that the windows' model gave it.

    Arguments:
        window: The distribution of a window: `simgen.fit("x", ...)()` of rows (states * size,),
            a state after the other, or any with `denoise`.
        overlap: That of the states which two windows share, (states * size,).
        length: States of the series; the windows and their overlaps have to make it whole.
        size: Numbers of a state.

    Raises:
        ValueError: If window, overlap and length do not fit together.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.independent(constraints.real, 2)
    density = None

    def __init__(self, window: Any, overlap: Any, length: int, size: int) -> None:
        self.window, self.overlap = Window(window, size), Window(overlap, size)
        self.length, self.state = length, size
        m, o = self.window.states, self.overlap.states
        self.stride = m - o
        if 2 * o > m:
            raise ValueError(f"windows of {m} states cannot overlap in {o}: at most in half")
        if length < m or (length - m) % self.stride:
            raise ValueError(
                f"windows of {m} states that overlap in {o} make series of {m} + j * "
                f"{self.stride} states; got {length}"
            )
        super().__init__(torch.Size(), torch.Size((length, size)), validate_args=False)
        self.process, self.device = self.window.process, torch.device("cpu")
        self.dtype, self.inside = torch.float64, self.window.inside
        self.size = length * size
        sd = self.window.variance.sqrt()
        self.smallest = _BELOW * float(sd[0])
        self.largest = _ABOVE * float(sd[-1]) * math.sqrt(length / m)
        self.farthest = 1e2 * self.largest
        if self.process is not None:
            self.farthest = min(self.farthest, float(self.process.sigma_max))
        self.evaluations = 0

    @property
    def modelled_shape(self) -> torch.Size:
        """Of a draw in its own space."""
        return torch.Size((self.length, self.state))

    def physical(self, z: Tensor) -> Tensor:
        """x (n, length, size) in physical units of rows z (n, d)."""
        return self.to_physical(z.view(len(z), *self.event_shape))

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws (n, d) in its own space."""
        seed = int(torch.randint(2**62, (), generator=generator))
        return self.modelled_sample((n,), seed).flatten(1)

    def to_physical(self, z: Tensor) -> Tensor:
        """Physical units of z (..., length, size) in its own space."""
        return z * self.window.scale.to(z) + self.window.location.to(z)

    def sample(self, sample_shape: Any = (), seed: int | None = None) -> Tensor:
        """Draws (*sample_shape, length, size) in physical units; repeatable with a seed."""
        return self.to_physical(self.modelled_sample(sample_shape, seed))

    def modelled_sample(self, sample_shape: Any = (), seed: int | None = None) -> Tensor:
        """Draws (*sample_shape, length, size) in its own space."""
        shape = torch.Size([sample_shape] if isinstance(sample_shape, int) else sample_shape)
        seed = int(torch.randint(2**62, ())) if seed is None else seed
        generator = torch.Generator().manual_seed(seed)
        n, parts = shape.numel(), []
        start = torch.zeros(1, self.size, dtype=torch.float64)
        for _ in range(3):  # to the fixed point: the mean
            start, V = self.moments(start, self.farthest)
        folds = math.log(self.largest / self.smallest) / math.log(_RATIO)
        grid = Levels.even(self).choose(math.ceil(folds) + 1)
        for rows in torch.arange(n).split(_CHUNK):
            first, fresh = (
                torch.randn(len(rows), self.size, generator=generator, dtype=torch.float64)
                for _ in range(2)
            )
            x = start + V.root(first[:, None])[:, 0] + self.largest * fresh
            parts.append(redraw(self, x, [*grid, 0.0], generator))
        x = torch.cat(parts)
        return x.to(self.dtype).view(*shape, *self.event_shape)

    def mean(self, x_t: Tensor, sigma: float) -> Tensor:  # type: ignore[override]
        """E[x_0 | x_t] (n, d)."""
        return self.moments(x_t, sigma)[0]

    def denoise(self, x_t: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """E[x_0 | x_t] (..., length, size) of x_t = alpha x_0 + sigma eps, in its own space."""
        a, s = float(alpha), float(sigma)
        rows = (x_t / a).reshape(-1, self.size)
        return self.moments(rows.double(), s / a)[0].to(x_t).view(x_t.shape)

    def moments(self, x_t: Tensor, sigma: float) -> tuple[Tensor, ChainCovariance]:
        """E[x_0 | x_t] (n, d) and Cov[x_0 | x_t], of x_t = x_0 + sigma eps."""
        P, h = self.information(x_t, sigma)
        return x_t + P.solve(h), ChainCovariance(sigma**2, P)

    def information(self, x_t: Tensor, sigma: float) -> tuple[Tridiagonal, Tensor]:
        """P and h (n, d) of x_t (n, d)."""
        self.evaluations += len(x_t)
        x = x_t.detach().double()
        P, h = self._joined(*self._said(self.window, x, 0, sigma))
        if self.length == self.window.states:
            return P, h
        inverse, pull = self._said(self.overlap, x, self.stride, sigma)
        d, k = self.overlap.states * self.state, self.stride * self.state
        diagonal, less = P.diagonal.clone(), h.clone()
        diagonal[1:-1, :, :d, :d] -= inverse - torch.eye(d).to(inverse)
        for j, part in enumerate(pull, 1):
            less[:, j * k : j * k + d] -= part
        found = Tridiagonal(diagonal, P.below, self.size)
        if not bool(found.failed.any()):
            return found, less
        # rows that a learned Jacobian has made less than positive count overlaps twice
        diagonal[:, found.failed] = P.diagonal[:, found.failed]
        less[found.failed] = h[found.failed]
        return Tridiagonal(diagonal, P.below, self.size), less

    def _joined(self, inverse: Tensor, pull: Tensor) -> tuple[Tridiagonal, Tensor]:
        """The sum over windows, of (windows, n, ...) each."""
        k, (count, n, d) = self.stride * self.state, pull.shape
        told = inverse - torch.eye(d).to(inverse)
        diagonal = torch.eye(k).to(inverse).repeat(count + 1, n, 1, 1)
        diagonal[:-1] += told[..., :k, :k]
        diagonal[1:, :, : d - k, : d - k] += told[..., k:, k:]
        below = inverse.new_zeros(count, n, k, k)
        below[:, :, : d - k] = told[..., k:, :k]
        h = inverse.new_zeros(n, self.size)
        for j in range(count):
            h[:, j * k : j * k + d] += pull[j]
        return Tridiagonal(diagonal, below, self.size), h

    def _said(self, part: Window, x: Tensor, first: int, sigma: float) -> tuple[Tensor, Tensor]:
        """What windows of x (n, d) say, from a state on: (windows, n, ...)."""
        k, d = self.state, part.states * self.state
        last = self.length - self.window.states + 1
        rows = torch.stack([x[:, i * k : i * k + d] for i in range(first, last, self.stride)])
        inverse, pull = part.moments(rows.flatten(0, 1), sigma, self.window)
        return inverse.view(*rows.shape, d), pull.view(rows.shape)
