r"""Ordinary differential equations dx/dt = f(t, x), every row of a batch by itself.

.. math::
    k_i = f\Bigl(t + c_i h, \; x + h \sum_{j < i} a_{ij} k_j\Bigr), \qquad
    x(t + h) \approx x + h \sum_i b_i k_i, \qquad
    e = h \sum_i (b_i - \hat b_i) k_i

Dormand and Prince's pair of orders five and four, in equal steps with the error e beside the
answer, or with an error control, where each row has its own time and its own step, so that no
row's answer depends on the batch that it stands in; and the classical method of order four. All
are differentiable.

References:
    | A family of embedded Runge-Kutta formulae (Dormand & Prince, 1980), table 2
    | https://doi.org/10.1016/0771-050X(80)90013-3
    | Solving Ordinary Differential Equations I (Hairer, Norsett & Wanner, 1993), section II.4
    | https://doi.org/10.1007/978-3-540-78862-1
"""

from __future__ import annotations

__all__ = ["dormand_prince", "equal_steps", "runge_kutta"]

from collections.abc import Callable

import torch
from torch import Tensor

Field = Callable[[Tensor, Tensor], Tensor]

# nodes and rows of the tableau; the last row is the solution of order five
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_ROWS = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# order five less order four
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def runge_kutta(f: Field, x: Tensor, start: float, end: float, steps: int) -> Tensor:
    """x at the end, of x (m, k) at the start, in equal steps of order four.

    Arguments:
        f: Maps times (m,) and states (m, k) to their derivatives (m, k).
        x: States (m, k).
        start: Time of x.
        end: Time of the answer.
        steps: Their number.
    """
    h = (end - start) / steps
    for i in range(steps):
        t = x.new_full((len(x),), start + i * h)
        k1 = f(t, x)
        k2 = f(t + h / 2, x + h / 2 * k1)
        k3 = f(t + h / 2, x + h / 2 * k2)
        k4 = f(t + h, x + h * k3)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def equal_steps(
    f: Field, x: Tensor, start: float, end: float, steps: int
) -> tuple[Tensor, Tensor]:
    """x at the end, of x (m, k) at the start, and the sum of the sizes of all errors (m,).

    Arguments:
        f: Maps times (m,) and states (m, k) to their derivatives (m, k).
        x: States (m, k).
        start: Time of x.
        end: Time of the answer.
        steps: Their number.
    """
    h = x.new_full((len(x),), (end - start) / steps)
    t, total = x.new_full((len(x),), start), x.new_zeros(len(x))
    slope = f(t, x)
    for _ in range(steps):
        x, slope, error = _step(f, t, x, h, slope)
        t, total = t + h, total + error.abs().sum(-1)
    return x, total


def _step(
    f: Field, t: Tensor, x: Tensor, h: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The state after steps h (m,), its slope and its error."""
    slopes, end = [slope], x
    for node, row in zip(_NODES, _ROWS):
        end = x + h[:, None] * sum(a * k for a, k in zip(row, slopes) if a)
        slopes.append(f(t + node * h, end))
    return end, slopes[-1], h[:, None] * sum(a * k for a, k in zip(_ERROR, slopes) if a)


def dormand_prince(
    f: Field,
    x: Tensor,
    start: float,
    end: float,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    largest: int = 10_000,
) -> Tensor:
    """x at the end, of x (m, k) at the start; the steps of each row follow its error.

    Arguments:
        f: Maps times (m,) and states (m, k) to their derivatives (m, k).
        x: States (m, k).
        start: Time of x.
        end: Time of the answer.
        rtol: Error that a step may make, relative to the state.
        atol: The same, absolute.
        largest: Number of steps at which to give up.

    Raises:
        ValueError: If a row is not done by then, or is not finite.
    """
    t = x.new_full((len(x),), start)
    h = x.new_full((len(x),), 0.05 * (end - start))
    forward = 1.0 if end > start else -1.0
    first = f(t, x)
    for _ in range(largest):
        left = forward * (end - t)
        h = forward * torch.minimum(h.abs(), left)
        proposal, slope, error = _step(f, t, x, h, first)
        with torch.no_grad():
            scale = atol + rtol * torch.maximum(x.abs(), proposal.abs())
            worst = (error / scale).abs().amax(-1)
            if not bool(worst.isfinite().all()):
                raise ValueError("an ordinary differential equation left the finite numbers")
            accept = worst <= 1
            factor = (0.9 * worst.clamp(min=1e-8) ** -0.2).clamp(0.2, 5.0)
            last = accept & (h.abs() >= left)
        x = torch.where(accept[:, None], proposal, x)
        first = torch.where(accept[:, None], slope, first)
        t = torch.where(last, torch.full_like(t, end), torch.where(accept, t + h, t))
        h = torch.where(h == 0, h, h * factor)
        if bool((t == end).all()):
            return x
    raise ValueError(f"an ordinary differential equation is not solved after {largest} steps")
