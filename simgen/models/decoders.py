r"""The last step of a decoder: p(x | z, c) of a network's output, Gaussian, spline or Bernoulli.

.. math::
    p(x \mid z, c) = \prod_i \mathcal{N}\bigl(x_i; \mu_i(z, c), \sigma_i^2\bigr)
    \qquad \text{or} \qquad
    \prod_i \mathcal{N}(\epsilon_i; 0, 1) \frac{\partial \epsilon_i}{\partial x_i}, \quad
    \epsilon_i = s_i\Bigl(\frac{x_i - \mu_i}{\sigma_i}; \phi_i(z, c)\Bigr) \\
    \text{or} \qquad \prod_i \pi_i(z, c)^{b_i} \bigl(1 - \pi_i(z, c)\bigr)^{1 - b_i}

sigma is one number, one an entry, or a network's output; it has a floor, without which a model
of data on a thin set puts density without bound on it. A spline s_i makes of a Gaussian any
density of one number: skewed, of two peaks, or with the cell of zeros of a point mass. All draw x
as a function of standard normal noise.

References:
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014), appendix C
    | https://arxiv.org/abs/1312.6114
    | Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032
"""

from __future__ import annotations

__all__ = ["DECODERS", "BernoulliHead", "GaussianHead", "SplineHead", "decoder_head"]

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import logsigmoid

from .spline import rational_quadratic, rational_quadratic_inverse

DECODERS = ("gaussian", "spline", "bernoulli")
VARIANCES = ("scalar", "dimension", "network")
_START = -1.0  # logarithm of the first standard deviation, of data with one near 1
_BINS, _PARTS = 8, 64  # of a spline; of the integral of its mean
_LOG_ROOT = 0.5 * math.log(2 * math.pi)


class GaussianHead(nn.Module):
    """N(mean, sigma^2), sigma = floor + exp(...).

    Arguments:
        event: Shape of x.
        variance: "scalar", "dimension" (one a number of x), or "network" (a function of z and c).
        floor: The smallest sigma.

    Attributes:
        outputs: What the network gives for each number of x.
    """

    log_scale: Tensor

    def __init__(self, event: torch.Size, variance: str = "network", floor: float = 1e-3) -> None:
        super().__init__()
        self.floor = floor
        self.outputs = 2 if variance == "network" else 1
        start = torch.full(tuple(event) if variance == "dimension" else (), _START)
        if variance == "network":  # the network's output is relative to a constant
            self.register_buffer("log_scale", start)
        else:
            self.log_scale = nn.Parameter(start)

    def distribution(self, raw: Tensor) -> Normal:
        """p(x | z, c) of the network's output (n, outputs, *event)."""
        log_scale = self.log_scale
        if self.outputs == 2:
            log_scale = log_scale + raw[:, 1]
        return Normal(raw[:, 0], self.floor + log_scale.clamp(max=4).exp(), validate_args=False)

    def log_prob(self, x: Tensor, raw: Tensor) -> Tensor:
        """log p(x | z, c), (n,), of x (n, *event)."""
        return self.distribution(raw).log_prob(x).flatten(1).sum(1)

    def draw(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Draws (n, *event) of the network's output and noise (n, *event)."""
        p = self.distribution(raw)
        return p.loc + p.scale * noise

    def mean(self, raw: Tensor) -> Tensor:
        """E[x | z, c], (n, *event)."""
        return raw[:, 0]

    @torch.no_grad()
    def start(self, sigma: float) -> None:
        """Sets the first sigma."""
        self.log_scale.fill_(math.log(max(sigma - self.floor, 1e-2 * self.floor, 1e-6)))

    def initialise(self, x: Tensor) -> None:
        """Nothing to be found in rows x."""


class SplineHead(GaussianHead):
    """A Gaussian bent by a rational-quadratic spline of eight bins, all of the network's output.

    It is the Gaussian itself where the network says nothing of the spline.

    Arguments:
        event: Shape of x.
        floor: The smallest sigma.
    """

    def __init__(self, event: torch.Size, floor: float = 1e-3) -> None:
        super().__init__(event, "network", floor)
        self.outputs = 2 + 3 * _BINS - 1

    def distribution(self, raw: Tensor) -> Normal:
        """What the spline bends, of the network's output (n, outputs, *event)."""
        scale = self.floor + (self.log_scale + raw[:, 1]).clamp(max=4).exp()
        return Normal(raw[:, 0], scale, validate_args=False)

    def log_prob(self, x: Tensor, raw: Tensor) -> Tensor:
        """log p(x | z, c), (n,), of x (n, *event)."""
        p = self.distribution(raw)
        u = ((x - p.loc) / p.scale).flatten()
        y, ladj = rational_quadratic(u, _parameters(raw).flatten(1))
        total = ladj - 0.5 * y * y - _LOG_ROOT - p.scale.log().flatten()
        return total.view(len(x), -1).sum(1)

    def draw(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Draws (n, *event) of the network's output and noise (n, *event)."""
        p = self.distribution(raw)
        return p.loc + p.scale * rational_quadratic_inverse(noise, _parameters(raw))

    def mean(self, raw: Tensor) -> Tensor:
        """E[x | z, c], (n, *event), by the middles of equally probable parts."""
        share = (torch.arange(_PARTS, dtype=raw.dtype, device=raw.device) + 0.5) / _PARTS
        phi = _parameters(raw)
        p, total = self.distribution(raw), torch.zeros_like(raw[:, 0])
        for noise in torch.special.ndtri(share):
            total = total + rational_quadratic_inverse(noise.expand_as(p.loc), phi)
        return p.loc + p.scale * total / _PARTS


def _parameters(raw: Tensor) -> Tensor:
    """The splines' parameters, values of one side by side, (3 K - 1, n, *event)."""
    return raw[:, 2:].movedim(1, 0).contiguous()


class BernoulliHead(nn.Module):
    """Two values an entry, the upper one with probability sigmoid(...).

    Of entries that only ever take two values, log_prob is a probability; of others, as whole
    numbers spread over unit cells are, each half of the range is a cell with one value, over
    which a density is constant. The values are those of training rows, the same for all of a
    channel, or of a vector's column.

    Arguments:
        event: Shape of x.
    """

    outputs = 1
    low: Tensor
    high: Tensor
    log_width: Tensor

    def __init__(self, event: torch.Size) -> None:
        super().__init__()
        shape = (event[0], *[1] * (len(event) - 1))
        self.register_buffer("low", torch.zeros(shape))
        self.register_buffer("high", torch.ones(shape))
        self.register_buffer("log_width", torch.zeros(shape))

    def log_prob(self, x: Tensor, raw: Tensor) -> Tensor:
        """log p(x | z, c), (n,), of x (n, *event)."""
        sign = torch.where(2 * x > self.low + self.high, 1.0, -1.0).to(raw.dtype)
        return (logsigmoid(sign * raw[:, 0]) - self.log_width).flatten(1).sum(1)

    def draw(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Draws (n, *event): the upper value where Phi(noise) < sigmoid(raw)."""
        upper = torch.special.log_ndtr(noise) < logsigmoid(raw[:, 0])
        return torch.where(upper, self.high, self.low)

    def mean(self, raw: Tensor) -> Tensor:
        """E[x | z, c], (n, *event)."""
        return self.low + (self.high - self.low) * raw[:, 0].sigmoid()

    def start(self, sigma: float) -> None:
        """There is no sigma."""

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Finds the two values in training rows x (n, *event)."""
        for i, column in enumerate(x.movedim(1, 0).flatten(1)):
            low, high = column.min(), column.max()
            middle = (low + high) / 2
            two = bool(((column == low) | (column == high)).all())
            self.low[i] = low if two else (low + middle) / 2
            self.high[i] = high if two else (high + middle) / 2
            self.log_width[i] = 0.0 if two else (middle - low).log()


def decoder_head(kind: str, event: torch.Size, variance: str, floor: float) -> Any:
    """The head by name: "gaussian", "spline" or "bernoulli"."""
    if kind == "bernoulli":
        return BernoulliHead(event)
    return SplineHead(event, floor) if kind == "spline" else GaussianHead(event, variance, floor)
