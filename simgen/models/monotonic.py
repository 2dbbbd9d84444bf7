r"""Monotonic networks as univariate functions: a mixture of sigmoids, and an integral.

.. math::
    f(x) = \sigma^{-1}\Bigl( \sum_j w_j \, \sigma(a_j x + b_j) \Bigr), \qquad
    f(x) = m + \int_0^x e^{v(u; h)} \, \mathrm{d}u

Both are onto the real line: the first lies between its lines a_j x + b_j, the second has slopes
between fixed bounds. So the root of f(x) = y always has a bracket, and is found by Newton's
method kept inside it.

References:
    | Neural Autoregressive Flows (Huang et al., 2018), eq. 8
    | https://arxiv.org/abs/1804.00779
    | Unconstrained Monotonic Neural Networks (Wehenkel & Louppe, 2019), eqs. 1 and 9
    | https://arxiv.org/abs/1908.05164
"""

from __future__ import annotations

__all__ = ["Integral", "Sigmoids", "invert"]

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .univariate import Univariate

_STEEP = math.log(1e3)  # largest |log a| of a sigmoid
_SLOPE = 5.0  # largest |log f'| of an integral
_RANGE = 10.0  # beyond it an integral goes on as a line
_ITERATIONS = 200

Curve = Callable[[Tensor], tuple[Tensor, Tensor]]


def invert(curve: Curve, y: Tensor, low: Tensor, high: Tensor, x: Tensor) -> Tensor:
    """x where an increasing curve is y: Newton's method, or half the bracket where that leaves it
    or converges slowly. Each number is found by itself.

    Arguments:
        curve: Maps x (m,) to f(x) and log f'(x).
        y: Values (m,).
        low: Where the bracket of each root begins (m,).
        high: Where it ends (m,).
        x: A guess inside it (m,).

    Raises:
        ValueError: If a root is not inside its bracket, or not found.

    References:
        | Numerical Recipes (Press et al., 2007), section 9.4, rtsafe
    """
    with torch.no_grad():
        tolerance = 4 * torch.finfo(y.dtype).eps
        low, high = low.clone(), high.clone()
        slack = 1e-3 * (1 + y.abs())
        inside = (curve(low)[0] <= y + slack) & (curve(high)[0] >= y - slack)
        if not bool(inside.all()):
            raise ValueError(f"{int((~inside).sum())} of {len(y)} values have no inverse")
        step = high - low
        done = torch.zeros_like(y, dtype=torch.bool)
        for _ in range(_ITERATIONS):
            value, log_slope = curve(x)
            excess = value - y
            done = done | (excess.abs() <= tolerance * (1 + y.abs()))  # all that rounding leaves
            low, high = torch.where(excess < 0, x, low), torch.where(excess < 0, high, x)
            newton = excess * (-log_slope).exp()
            good = (x - newton > low) & (x - newton < high) & (2 * newton.abs() < step.abs())
            move = torch.where(good, newton, x - 0.5 * (low + high))
            x, step = torch.where(done, x, x - move), torch.where(done, step, move)
            scale = tolerance * x.abs().clamp(min=1)
            done = done | (move.abs() <= scale) | (high - low <= scale)
            if bool(done.all()):
                return x
    raise ValueError(f"{int((~done).sum())} of {len(y)} inverses did not converge")


class _Monotonic(Univariate):
    """A function whose inverse is found by iteration."""

    def bracket(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """An interval (m,), (m,) that holds the root, and a guess."""
        raise NotImplementedError

    def inverse(self, y: Tensor, phi: Tensor) -> Tensor:
        """x (*shape) of y (*shape)."""
        shape = y.shape
        y, phi = y.reshape(-1), phi.expand(-1, *shape).reshape(len(phi), -1)
        x = invert(lambda v: self(v, phi), y, *self.bracket(y, phi))
        value, log_slope = self(x, phi)  # a last step, through which gradients are exact
        return (x - (value - y) * (-log_slope.detach()).exp()).view(shape)


class Sigmoids(_Monotonic):
    """The inverse sigmoid of a mixture of sigmoids, close to the identity at the start.

    Arguments:
        count: Sigmoids K.
    """

    def __init__(self, count: int) -> None:
        super().__init__(3 * count)
        self.start[2 * count :] = torch.linspace(-0.5, 0.5, count)  # alike, they would stay alike

    def _lines(self, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights, log-slopes and shifts, (K, m) each."""
        weight, slope, shift = phi.view(3, -1, *phi.shape[1:]).unbind(0)
        return weight.log_softmax(0), slope / (1 + (slope / _STEEP).abs()), shift

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """y (m,) and log dy/dx (m,)."""
        log_w, log_a, b = self._lines(phi)
        u = torch.addcmul(b, log_a.exp(), x)
        below, above = nn.functional.logsigmoid(u), nn.functional.logsigmoid(-u)
        left, right = (log_w + below).logsumexp(0), (log_w + above).logsumexp(0)
        slope = (log_w + log_a + below + above).logsumexp(0)
        return left - right, slope - left - right

    def bracket(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f(x) lies between the lowest and the highest of its lines."""
        _, log_a, b = self._lines(phi)
        roots = (y - b) * (-log_a).exp()
        low, high = roots.aminmax(dim=0)
        margin = 1e-4 * (1 + torch.maximum(low.abs(), high.abs()))
        return low - margin, high + margin, 0.5 * (low + high)


class Integral(_Monotonic):
    """The integral of a positive network, by Gauss-Legendre quadrature on [0, x]; a line beyond
    |x| = 10. The network is shared; a signal of each variable steers it.

    Arguments:
        signal: Numbers in the signal h.
        hidden: Widths of the integrand's network.
        nodes: Points of the quadrature.
    """

    nodes: Tensor
    weights: Tensor

    def __init__(
        self, signal: int = 16, hidden: Sequence[int] = (32, 32), nodes: int = 32
    ) -> None:
        super().__init__(signal + 1)
        points, weights = np.polynomial.legendre.leggauss(nodes)
        self.register_buffer("nodes", torch.tensor((points + 1) / 2))  # float64
        self.register_buffer("weights", torch.tensor(weights / 2))
        first, *rest = hidden
        self.position, self.signal = nn.Linear(1, first), nn.Linear(signal, first, bias=False)
        widths = [first, *rest]
        layers: list[nn.Module] = [nn.Tanh()]
        for a, b in zip(widths, rest):
            layers += [nn.Linear(a, b), nn.Tanh()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def _log_slope(self, u: Tensor, signal: Tensor) -> Tensor:
        """v (m, q) at points u (m, q), steered by signals (m, first)."""
        h = self.layers(self.position(u[..., None]) + signal[:, None])
        return _SLOPE * torch.tanh(h.squeeze(-1) / _SLOPE)

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """y (m,) and log dy/dx (m,)."""
        signal = self.signal(phi[:-1].t())
        u = x.clamp(-_RANGE, _RANGE)
        points = torch.cat((u[:, None] * self.nodes.to(u), u[:, None]), -1)
        log_g = self._log_slope(points, signal)
        area = u * (log_g[:, :-1].exp() @ self.weights.to(u))
        end = log_g[:, -1]
        return phi[-1] + area + (x - u) * end.exp(), end

    def bracket(self, y: Tensor, phi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """No slope is below e^-5."""
        rise = y - phi[-1]
        reach = rise.abs() * math.exp(_SLOPE) + 1e-3
        return -reach, reach, rise
