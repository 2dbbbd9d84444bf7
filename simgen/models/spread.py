r"""The spread layer: an affine map whose scale follows the context, where one scale will not do.

.. math::
    y_i = e^{-s_i(c)} \, \bigl( z_i - a_i \cdot c - b_i \bigr), \qquad s_i(c) = S_i \cdot c + t_i,
    \qquad \log \left| \det \frac{\partial y}{\partial z} \right| = -\sum_i s_i(c)

Regression with a log-linear deviation, in closed form but for a few steps of Fisher scoring. It is
there for columns that need it: those of which held-out rows are much likelier than with one
deviation for all, as where sets of one event and of thousands are given, and posteriors are
thirty times narrower for these. Of other columns it is the identity. Training leaves it alone:
where a posterior is narrow, one step of an optimiser is many deviations of it; what comes after
sees the target in units of its deviation.
"""

from __future__ import annotations

__all__ = ["Spread"]

import torch
from torch import Tensor

from .base import Given
from .layer import Layer

_GAIN = 0.25  # nats a row from which on a column has a deviation that varies
_ROWS = 8_192
_STEPS = 8  # of Fisher scoring
_OUTLIER = 9.0  # a squared residual, in deviations, that counts as no more
_MARGIN = 0.25  # of s, beyond what training rows have


class Spread(Layer):
    """Log-linear deviation about a linear mean, of those columns that have one.

    Arguments:
        features: Number of variables k.
        context: Length of the context vector c.

    References:
        | Estimating regression models with multiplicative heteroscedasticity (Harvey, 1976)
        | https://doi.org/10.2307/1913974
    """

    mean: Tensor
    log_scale: Tensor
    varies: Tensor
    limits: Tensor

    def __init__(self, features: int, context: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(context + 1, features))
        self.register_buffer("log_scale", torch.zeros(context + 1, features))
        self.register_buffer("varies", torch.zeros(features))
        self.register_buffer("limits", torch.zeros(2, features))

    @torch.no_grad()
    def initialise(self, x: Tensor, given: Given) -> None:
        """Fits columns of z (n, k) to contexts (n, c), and keeps what half of the rows say of the
        other half.
        """
        if given[0] is None:
            return
        z, c = x[:_ROWS].double(), given[0][:_ROWS].double()
        c = torch.cat([c, torch.ones_like(c[:, :1])], -1)
        some = (_gain(c, z, 0) > 0).nonzero()[:, 0]  # at a glance
        if len(some):
            some = some[_gain(c, z[:, some]) > _GAIN]
        if not len(some):
            return
        mean, log_scale = _fit(c, z[:, some])
        s = c @ log_scale
        self.varies[some] = 1.0
        self.limits[:, some] = torch.stack([s.amin(0) - _MARGIN, s.amax(0) + _MARGIN]).to(
            self.limits
        )
        self.mean[:, some] = mean.to(self.mean)
        self.log_scale[:, some] = log_scale.to(self.mean)

    def _at(self, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and s (n, k); zero of columns that do not vary."""
        assert c is not None
        c = torch.cat([c, torch.ones_like(c[:, :1])], -1)
        mean, s = c @ self.mean, c @ self.log_scale
        low, high = self.limits
        return self.varies * mean, self.varies * torch.minimum(torch.maximum(s, low), high)

    def call_and_ladj(self, x: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """y (n, k) and log |det| (n,) of x (n, k)."""
        mean, s = self._at(given[0])
        return (x - mean) * torch.exp(-s), -s.sum(-1)

    def inverse(self, y: Tensor, given: Given) -> Tensor:
        """x (s, n, k) of y (s, n, k)."""
        mean, s = self._at(given[0])
        return y * torch.exp(s) + mean


def _solve(c: Tensor, z: Tensor, weight: Tensor | None = None) -> Tensor:
    """Least squares of each column of z (n, k) on c (n, p), (p, k); with weights (n, k)."""
    if weight is None:
        return torch.linalg.solve(_ridged(c.T @ c), c.T @ z)
    columns = [
        torch.linalg.solve(_ridged((c.T * w) @ c), (c.T * w) @ v)
        for w, v in zip(weight.T, z.T, strict=True)
    ]
    return torch.stack(columns, -1)


def _ridged(gram: Tensor) -> Tensor:
    ridge = 1e-6 * gram.diagonal().mean().clamp(min=1e-12)
    return gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


def _fit(c: Tensor, z: Tensor, steps: int = _STEPS) -> tuple[Tensor, Tensor]:
    """Mean and log-scale (p, k) that are likeliest, of columns z (n, k) given c (n, p)."""
    mean = _solve(c, z)
    residual = z - c @ mean
    log_scale = _solve(c, residual.abs().clamp(min=1e-9).log() + 0.635)  # -E log |N(0, 1)|
    for _ in range(steps):
        s = c @ log_scale
        mean = _solve(c, z, torch.exp(-2 * s))
        square = ((z - c @ mean) * torch.exp(-s)).square().clamp(max=_OUTLIER)
        log_scale = log_scale + _solve(c, (square - 1) / 2)
    return mean, log_scale


def _gain(c: Tensor, z: Tensor, steps: int = _STEPS) -> Tensor:
    """Nats a row that a log-linear deviation is worth, of each column (k,): on odd rows, fitted to
    even ones.
    """
    (c, c_new), (z, z_new) = (c[::2], c[1::2]), (z[::2], z[1::2])
    if len(c) < 4 * c.shape[1]:
        return z.new_zeros(z.shape[1])
    plain = _solve(c, z)
    scale = (z - c @ plain).square().mean(0).sqrt().clamp(min=1e-9)
    before = ((z_new - c_new @ plain) / scale).square() / 2 + scale.log()
    mean, log_scale = _fit(c, z, steps)
    s = c_new @ log_scale
    after = ((z_new - c_new @ mean) * torch.exp(-s)).square() / 2 + s
    return (before - after).mean(0).nan_to_num(-torch.inf)
