r"""Rational-quadratic splines with a closed-form backward pass, and the masked transformation
made of them.

Between knots (x_k, y_k) and (x_{k+1}, y_{k+1}) with slopes d_k, d_{k+1}, s = (y_{k+1} - y_k) /
(x_{k+1} - x_k), t = (x - x_k) / (x_{k+1} - x_k):

.. math::
    y = y_k + (y_{k+1} - y_k) \frac{s t^2 + d_k t (1 - t)}{s + (d_k + d_{k+1} - 2 s) t (1 - t)}

A spline is a chain of small elementwise operations, most of the time of a flow. Here values of
one parameter stand side by side in memory, as the last layer writes them, and the gradient is
one formula instead of the tape of forty.

References:
    | Neural Spline Flows (Durkan et al., 2019), eqs. 4, 5, 24
    | https://arxiv.org/abs/1906.04032
"""

from __future__ import annotations

__all__ = ["MaskedSpline", "rational_quadratic", "rational_quadratic_inverse"]

import functools
from collections.abc import Sequence
from typing import Any

import torch
import zuko
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

BOUND = 5.0  # outside [-5, 5] the spline is the identity
SMALLEST = 1e-3  # least width and height of a bin, as a share of the whole


@functools.lru_cache(maxsize=32)
def _tables(bins: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Matrix and offset that turn shares of bins into knots, and the bins' numbers."""
    j = torch.arange(bins + 1, dtype=torch.float64)
    below = (j[:, None] > j[:-1]).double() * (2 * BOUND * (1 - bins * SMALLEST))
    offset = BOUND * (2 * SMALLEST * j - 1)
    number = torch.arange(bins, device=device)[:, None]
    return below.to(device, dtype), offset.to(device, dtype)[:, None], number


def _locate(v: Tensor, phi: Tensor, side: int) -> tuple[Tensor, ...]:
    """The bin of v (*shape) along x (side 0) or y (side 1), with its knots, from phi (3K - 1,
    *shape).

    Axes of phi may be one where those of v are not: what many values share is computed once.
    """
    bins = (len(phi) + 1) // 3
    below, offset, _ = _tables(bins, phi.dtype, phi.device)
    share = torch.softmax(phi[: 2 * bins].view(2, bins, *phi.shape[1:]), 1)
    knots = torch.matmul(below, share.flatten(2)).add_(offset).view(2, bins + 1, *phi.shape[1:])
    inside = v.abs() < BOUND
    v = v.clamp(-BOUND, BOUND)
    k = (knots[side, 1:bins] <= v).sum(0)
    both = k.expand(2, 1, *k.shape)
    x0, y0 = knots.expand(2, -1, *k.shape).gather(1, both).squeeze(1).unbind(0)
    scale = 2 * BOUND * (1 - bins * SMALLEST)
    size = share.expand(2, -1, *k.shape).gather(1, both).squeeze(1)
    width, height = size.mul_(scale).add_(2 * BOUND * SMALLEST).unbind(0)
    slopes = torch.cat((zero := torch.zeros_like(phi[:1]), phi[2 * bins :], zero))
    slopes = slopes.expand(-1, *k.shape).gather(0, torch.stack((k, k + 1)))
    return share, inside, v, k, x0, y0, width, height, slopes.exp_()


class _Forward(torch.autograd.Function):
    """y and log dy/dx of x (m,) with parameters phi (3K - 1, m)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
        share, inside, v, k, x0, y0, width, height, slopes = _locate(x, phi, 0)
        d0, d1 = slopes.unbind(0)
        s = height / width
        t = (v - x0) / width
        r = 1 - t
        u = t * r
        denominator = torch.addcmul(s, d0 + d1 - 2 * s, u)
        rise = torch.addcmul(d0 * u, s * t, t).div_(denominator)
        q = (2 * s * u).addcmul_(d0 * r, r).addcmul_(d1 * t, t)
        y = torch.addcmul(y0, height, rise)
        ladj = ((s / denominator).square_() * q).log_()
        ctx.save_for_backward(
            inside, k, share, t, u, s, denominator, rise, q, width, height, slopes
        )
        return torch.where(inside, y, x), torch.where(inside, ladj, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_ladj: Tensor) -> tuple[Tensor, Tensor]:
        inside, k, share, t, u, s, denominator, rise, q, width, height, slopes = ctx.saved_tensors
        bins = share.shape[1]
        number = _tables(bins, t.dtype, t.device)[2]
        d0, d1 = slopes.unbind(0)
        g_y, g_l = grad_y * inside, grad_ladj * inside
        g_rise = g_y * height / denominator
        g_q = g_l / q
        g_den = -(g_rise * rise) - 2 * g_l / denominator
        r = 1 - t
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
        scale = 2 * BOUND * (1 - bins * SMALLEST)
        before = torch.stack((-g_x, g_y)).mul_(scale)
        at_x = -(g_x * t + g_s_width * s)
        at = torch.stack((at_x, torch.addcmul(g_s_width, g_y, rise))).mul_(scale)
        is_before, is_at = (number < k).to(t.dtype), (number == k).to(t.dtype)
        out = t.new_empty(3 * bins - 1, t.shape[0])
        shares = torch.mul(is_before, before[:, None], out=out[: 2 * bins].view(2, bins, -1))
        shares.addcmul_(is_at, at[:, None]).mul_(share)
        shares.addcmul_(share, shares.sum(1, keepdim=True), value=-1)  # through the softmax
        torch.mul(is_at[1:], g_slopes[0], out=out[2 * bins :]).addcmul_(is_at[:-1], g_slopes[1])
        return torch.where(inside, g_x, grad_y), out


def rational_quadratic(x: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """The spline and the logarithm of its slope.

    Arguments:
        x: Values (m,).
        phi: Unconstrained widths (K), heights (K) and inner log-slopes (K - 1), shape (3K - 1, m).

    Returns:
        y (m,) and log dy/dx (m,).
    """
    return _Forward.apply(x, phi)  # type: ignore[no-any-return]


def rational_quadratic_inverse(y: Tensor, phi: Tensor) -> Tensor:
    """The inverse spline of y (*shape), by the root of a quadratic (Durkan et al., eq. 29)."""
    _, inside, v, _, x0, y0, width, height, slopes = _locate(y, phi, 1)
    d0, d1 = slopes.unbind(0)
    s = height / width
    rise = v - y0
    bend = rise * (d0 + d1 - 2 * s)
    a = height * (s - d0) + bend
    b = height * d0 - bend
    c = -s * rise
    t = 2 * c / (-b - (b * b - 4 * a * c).clamp(min=0).sqrt())
    return torch.where(inside, x0 + t * width, y)


class MaskedSpline(zuko.flows.MaskedAutoregressiveTransform):
    """zuko's masked autoregressive transformation with these splines.

    It differs from zuko's own in two ways that only concern speed: the last layer writes all
    values of a parameter side by side, and drawing computes, at each pass, the variables of that
    pass alone, by the hidden units that they depend on alone, and once a context where they
    depend on nothing else.

    Arguments:
        features: Number of variables d.
        context: Length of the context vector.
        bins: Pieces of each spline.
        passes: Groups of variables: d for autoregressive, 2 for coupling.
        order: The order of the variables.
        hidden: Widths of the network.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> MaskedSpline:
        """A module of this class."""
        return nn.Module.__new__(cls)  # zuko's own turns into another class for one variable

    def __init__(
        self,
        features: int,
        context: int,
        bins: int,
        passes: int | None,
        order: Tensor,
        hidden: Sequence[int],
    ) -> None:
        # one variable given nothing still needs a network: it sees a constant
        self_contained = features == 1 and context == 0
        super().__init__(
            features,
            1 if self_contained else context,
            passes=passes,
            order=order,
            shapes=[(3 * bins - 1,)],
            hidden_features=tuple(hidden),
            activation=nn.ReLU,
        )
        self.features, self.self_contained = features, self_contained
        last = self.hyper[-1]
        mask = last.mask.view(features, self.total, -1).transpose(0, 1)
        last.mask.copy_(mask.reshape(features * self.total, -1).clone())
        nn.init.zeros_(last.weight)  # the identity: what comes before it is the first answer
        nn.init.zeros_(last.bias)

        # the pass at which a unit can be computed: 0 where it depends on the context alone
        level = torch.cat([self.order + 1, torch.zeros(context or int(self_contained))]).long()
        self.levels = [level]
        for layer in list(self.hyper)[::2][:-1]:
            level = torch.where(layer.mask, level, 0).amax(1)
            self.levels.append(level)

    def call_and_ladj(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """y (n, d) and log |det dy/dx| (n,) of x (n, d) given contexts (n, c)."""
        *layers, last = self.hyper
        h = self._input(x, c)
        for layer in layers:
            h = layer(h)
        phi = torch.addmm(last.bias[:, None], last.mask * last.weight, h.t())
        n = len(x)
        y, ladj = rational_quadratic(x.t().reshape(-1), phi.view(self.total, -1))
        return y.view(self.features, n).t(), ladj.view(self.features, n).sum(0)

    def _input(self, x: Tensor, c: Tensor | None) -> Tensor:
        if self.self_contained:
            c = torch.ones_like(x[..., :1])
        return x if c is None else torch.cat((x, c.expand(*x.shape[:-1], -1)), -1)

    def inverse(self, y: Tensor, c: Tensor | None) -> Tensor:
        """x (s, n, d) of y (s, n, d) given contexts (n, c)."""
        s, n, d = y.shape
        linear = list(self.hyper)[::2]
        weights = [layer.mask * layer.weight for layer in linear]
        columns: list[Tensor] = [torch.zeros((), dtype=y.dtype, device=y.device)] * d
        for group in range(int(self.order.max()) + 1):
            lead = s if group else 1  # the first group is the same for all draws of a context
            known = [v.expand(lead, n) if v.dim() == 0 else v for v in columns]
            h = self._input(torch.stack(known, -1), c).view(lead * n, -1)
            members = (self.order == group).nonzero().squeeze(-1)
            units = [(level <= group).nonzero().squeeze(-1) for level in self.levels]
            h = h[:, units[0]]
            for i, layer in enumerate(linear[:-1]):
                out, enter = units[i + 1], units[i]
                h = torch.addmm(layer.bias[out], h, weights[i][out][:, enter].t()).relu_()
            shape = (self.total, d, -1)
            weight = weights[-1].view(shape)[:, members].flatten(0, 1)[:, units[-1]]
            bias = linear[-1].bias.view(shape)[:, members].flatten(0, 1)
            phi = torch.addmm(bias, weight, h.t())
            value = y[..., members].movedim(-1, 0)
            phi = phi.view(self.total, len(members), lead, n)
            for member, v in zip(members.tolist(), rational_quadratic_inverse(value, phi)):
                columns[member] = v
        return torch.stack(columns, -1)
