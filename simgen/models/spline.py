r"""Rational-quadratic splines with a closed-form backward pass, on an interval or on a circle.

Between knots (x_k, y_k) and (x_{k+1}, y_{k+1}) with slopes d_k, d_{k+1}, s = (y_{k+1} - y_k) /
(x_{k+1} - x_k), t = (x - x_k) / (x_{k+1} - x_k):

.. math::
    y = y_k + (y_{k+1} - y_k) \frac{s t^2 + d_k t (1 - t)}{s + (d_k + d_{k+1} - 2 s) t (1 - t)}

On an interval the outer slopes are one, and the spline is the identity outside; on a circle the
two outer slopes are one number. A spline is a chain of small elementwise operations, most of the
time of a flow. Here values of one parameter stand side by side in memory, as the last layer
writes them, and the gradient is one formula instead of the tape of forty.

References:
    | Neural Spline Flows (Durkan et al., 2019), eqs. 4, 5, 24
    | https://arxiv.org/abs/1906.04032
    | Normalizing Flows on Tori and Spheres (Rezende et al., 2020), section 2.1.2
    | https://arxiv.org/abs/2002.02428
"""

from __future__ import annotations

__all__ = ["BOUND", "Spline", "rational_quadratic", "rational_quadratic_inverse"]

import functools
import inspect
from typing import Any

import torch
from torch import Tensor

from .univariate import Univariate

BOUND = 5.0  # outside [-5, 5] the spline is the identity
SMALLEST = 1e-3  # least width and height of a bin, as a share of the whole


class Spline(Univariate):
    """A spline of K bins on [-5, 5], the identity outside and where all parameters are zero.

    Arguments:
        bins: K.
    """

    broadcasts = True

    def __init__(self, bins: int) -> None:
        super().__init__(3 * bins - 1)

    def forward(self, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        """y (m,) and log dy/dx (m,) of x (m,) and phi (3K - 1, m)."""
        return rational_quadratic(x, phi)

    def inverse(self, y: Tensor, phi: Tensor) -> Tensor:
        """x (*shape) of y (*shape)."""
        return rational_quadratic_inverse(y, phi)


def rational_quadratic(
    x: Tensor, phi: Tensor, bound: float = BOUND, circular: bool = False
) -> tuple[Tensor, Tensor]:
    """The spline and the logarithm of its slope.

    Arguments:
        x: Values (m,); without gradients of any shape, and axes of phi may be one where those of
            x are not.
        phi: Unconstrained widths (K), heights (K) and log-slopes, shape (3K - 1, m): of the inner
            knots; on a circle (3K, m): of all knots but the last, which is the first.
        bound: The spline lives on [-bound, bound].
        circular: Whether the two ends are one point.

    Returns:
        y (m,) and log dy/dx (m,).
    """
    if phi.shape[1:] != x.shape:  # without a gradient
        y, ladj, *_ = _Spline.forward(x, phi, bound, circular)
    else:
        y, ladj, *_ = _Spline.apply(x, phi, bound, circular)  # type: ignore[misc]
    return y, ladj


def rational_quadratic_inverse(
    y: Tensor, phi: Tensor, bound: float = BOUND, circular: bool = False
) -> Tensor:
    """The inverse spline of y (*shape), by the root of a quadratic (Durkan et al., eq. 29).

    Axes of phi (3K - 1 or 3K, *shape) may be one where those of y are not.
    """
    _, inside, v, _, x0, y0, size, slopes = _locate(y, phi, 1, bound, circular)
    width, height = size.unbind(0)
    d0, d1 = slopes.unbind(0)
    s = height / width
    rise = v - y0
    bend = rise * (d0 + d1 - 2 * s)
    a = height * (s - d0) + bend
    b = height * d0 - bend
    c = -s * rise
    t = 2 * c / (-b - (b * b - 4 * a * c).clamp(min=0).sqrt())
    return torch.where(inside, x0 + t * width, y)


@functools.lru_cache(maxsize=32)
def _tables(
    bins: int, bound: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Matrix and offset that turn shares of bins into knots, and the bins' numbers."""
    j = torch.arange(bins + 1, dtype=torch.float64)
    below = (j[:, None] > j[:-1]).double() * (2 * bound * (1 - bins * SMALLEST))
    offset = bound * (2 * SMALLEST * j - 1)
    number = torch.arange(bins, device=device)[:, None]
    return below.to(device, dtype), offset.to(device, dtype)[:, None], number


def _locate(v: Tensor, phi: Tensor, side: int, bound: float, circular: bool) -> tuple[Tensor, ...]:
    """The bin of v (*shape) along x (side 0) or y (side 1), with its knots.

    Axes of phi may be one where those of v are not: what many values share is computed once.
    """
    bins = (len(phi) + 1) // 3
    below, offset, _ = _tables(bins, bound, phi.dtype, phi.device)
    share = torch.softmax(phi[: 2 * bins].view(2, bins, *phi.shape[1:]), 1)
    knots = torch.matmul(below, share.flatten(2)).add_(offset).view(2, bins + 1, *phi.shape[1:])
    inside = v.abs() < bound
    v = v.clamp(-bound, bound)
    k = (knots[side, 1:bins] <= v).sum(0)
    both = k.expand(2, 1, *k.shape)
    x0, y0 = knots.expand(2, -1, *k.shape).gather(1, both).squeeze(1).unbind(0)
    scale = 2 * bound * (1 - bins * SMALLEST)
    size = share.expand(2, -1, *k.shape).gather(1, both).squeeze(1)
    size = size.mul_(scale).add_(2 * bound * SMALLEST)
    inner = phi[2 * bins :]
    first = inner[:1] if circular else torch.zeros_like(phi[:1])
    slopes = torch.cat((inner, first) if circular else (first, inner, first))
    slopes = slopes.expand(-1, *k.shape).gather(0, torch.stack((k, k + 1)))
    return share, inside, v, k, x0, y0, size, slopes.exp_()


def _terms(t: Tensor, width: Tensor, height: Tensor, d0: Tensor, d1: Tensor) -> tuple[Tensor, ...]:
    """s, 1 - t, t (1 - t), the denominator, the share of the height, and the slope's numerator."""
    s, r = height / width, 1 - t
    u = t * r
    denominator = torch.addcmul(s, d0 + d1 - 2 * s, u)
    rise = torch.addcmul(d0 * u, s * t, t).div_(denominator)
    q = (2 * s * u).addcmul_(d0 * r, r).addcmul_(d1 * t, t)
    return s, r, u, denominator, rise, q


def _fold(values: tuple[Tensor, ...], axes: tuple[int | None, ...], size: int) -> list[Tensor]:
    """Each tensor (..., m) with a batch axis somewhere, or none, as (..., size * m)."""
    folded = []
    for value, axis in zip(values, axes):
        last = value.dim() - (axis is not None)
        lead = value if axis is not None else value.expand(size, *value.shape)
        folded.append(lead.movedim(axis or 0, last - 1).flatten(last - 1))
    return folded


def _unfold(values: tuple[Tensor, ...], size: int) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The inverse of `_fold`, with the position of the batch axis."""
    return (
        tuple(v.unflatten(-1, (size, -1)) for v in values),
        tuple(v.dim() - 1 for v in values),
    )


def _gradient(
    grad_y: Tensor,
    grad_ladj: Tensor,
    inside: Tensor,
    k: Tensor,
    share: Tensor,
    t: Tensor,
    size: Tensor,
    slopes: Tensor,
    bound: float,
    circular: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to x (m,) and phi (..., m)."""
    bins = share.shape[1]
    number = _tables(bins, bound, t.dtype, t.device)[2]
    (width, height), (d0, d1) = size.unbind(0), slopes.unbind(0)
    s, r, u, denominator, rise, q = _terms(t, width, height, d0, d1)
    g_y, g_l = grad_y * inside, grad_ladj * inside
    g_rise = g_y * height / denominator
    g_q = g_l / q
    g_den = -(g_rise * rise) - 2 * g_l / denominator
    turn, tt = r - t, t * t
    g_t = (
        g_rise * (2 * s * t + d0 * turn)
        + g_den * ((d0 + d1 - 2 * s) * turn)
        + 2 * g_q * (s * turn - d0 * r + d1 * t)
    )
    g_s = g_rise * tt + g_den * (1 - 2 * u) + 2 * (g_q * u + g_l / s)
    g_u = g_den * u
    g_slopes = torch.stack((g_rise * u + g_u + g_q * r * r, g_u + g_q * tt)).mul_(slopes)
    g_x = g_t / width
    g_s_width = g_s / width
    # a knot sums the shares below it: dL/dshare_j is one number for j < k, another at k
    scale = 2 * bound * (1 - bins * SMALLEST)
    before = torch.stack((-g_x, g_y)).mul_(scale)
    at_x = -(g_x * t + g_s_width * s)
    at = torch.stack((at_x, torch.addcmul(g_s_width, g_y, rise))).mul_(scale)
    is_before, is_at = (number < k).to(t.dtype), (number == k).to(t.dtype)
    out = t.new_empty(3 * bins - 1 + circular, t.shape[0])
    shares = torch.mul(is_before, before[:, None], out=out[: 2 * bins].view(2, bins, -1))
    shares.addcmul_(is_at, at[:, None]).mul_(share)
    shares.addcmul_(share, shares.sum(1, keepdim=True), value=-1)  # through the softmax
    left, right = (is_at, is_at.roll(1, 0)) if circular else (is_at[1:], is_at[:-1])
    torch.mul(left, g_slopes[0], out=out[2 * bins :]).addcmul_(right, g_slopes[1])
    return torch.where(inside, g_x, grad_y), out


class _Spline(torch.autograd.Function):
    """y and log dy/dx of x (m,) with parameters phi (..., m), and what the gradient needs."""

    @staticmethod
    def forward(x: Tensor, phi: Tensor, bound: float, circular: bool) -> tuple[Tensor, ...]:
        share, inside, v, k, x0, y0, size, slopes = _locate(x, phi, 0, bound, circular)
        (width, height), (d0, d1) = size.unbind(0), slopes.unbind(0)
        t = (v - x0) / width
        s, _, _, denominator, rise, q = _terms(t, width, height, d0, d1)
        y = torch.where(inside, torch.addcmul(y0, height, rise), x)
        ladj = torch.where(inside, ((s / denominator).square_() * q).log_(), 0.0)
        return y, ladj, inside, k, share, t, size, slopes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.bound, ctx.circular = inputs[2:]
        ctx.set_materialize_grads(False)  # zeros for all that only the gradient needs
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*inputs[:2], *output[2:])

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, grad_ladj: Tensor, *_: Any) -> tuple[Any, ...]:  # type: ignore[override]
        x, phi, *saved = ctx.saved_tensors
        grad_y, grad_ladj = (torch.zeros_like(x) if g is None else g for g in (grad_y, grad_ladj))
        arguments = (grad_y, grad_ladj, *saved, ctx.bound, ctx.circular)
        if torch.is_grad_enabled():  # x and phi take no part, but a second derivative finds them
            return *_Gradient.apply(x, phi[0], *arguments), None, None  # type: ignore[misc]
        return *_gradient(*arguments), None, None

    @staticmethod
    def vmap(  # type: ignore[override]
        info: Any, axes: tuple[Any, ...], x: Tensor, phi: Tensor, *settings: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        folded = _fold((x, phi), axes[:2], info.batch_size)
        return _unfold(_Spline.apply(*folded, *settings), info.batch_size)  # type: ignore[arg-type]


class _Gradient(torch.autograd.Function):
    """Gradients with respect to x and phi; differentiable no further."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        return _gradient(*arguments[2:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:  # type: ignore[override]
        raise NotImplementedError("a spline's gradient is not differentiable again")

    @staticmethod
    def vmap(  # type: ignore[override]
        info: Any, axes: tuple[Any, ...], *arguments: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        folded = _fold(arguments[:-2], axes[:-2], info.batch_size)
        return _unfold(_Gradient.apply(*folded, *arguments[-2:]), info.batch_size)  # type: ignore[arg-type]


# read at every call, and slow to find out
_Spline.forward.__signature__ = inspect.signature(_Spline.forward)  # type: ignore[attr-defined]
