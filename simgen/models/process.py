r"""Forward processes: how data turn into noise.

.. math::
    x_t = \alpha(t) x_0 + \sigma(t) \epsilon, \quad t \in [0, 1], \qquad
    \lambda(t) = \log \frac{\alpha^2(t)}{\sigma^2(t)}

is the marginal of the stochastic differential equation

.. math::
    dx = f(t)\, x\, dt + g(t)\, dw, \qquad f = \frac{d \log \alpha}{dt}, \qquad
    g^2 = \frac{d \sigma^2}{dt} - 2 f \sigma^2

A process is two functions of time; models and solvers see nothing else of it. Noise levels are
counted by the ratio sigma / alpha, of which a process uses the range [sigma_min, sigma_max]: it
must reach from below the data's finest scale to above its largest.

References:
    | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2021)
    | https://arxiv.org/abs/2011.13456, eqs. 5, 29-33
    | Variational Diffusion Models (Kingma et al., 2021), eqs. 1-2
    | https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

__all__ = [
    "EDM",
    "PROCESSES",
    "Process",
    "Straight",
    "VPCosine",
    "VPLinear",
    "VarianceExploding",
]

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus


@dataclass(frozen=True)
class Process(ABC):
    """alpha(t), sigma(t), and what follows from them.

    Arguments:
        sigma_min: Smallest ratio sigma / alpha in use.
        sigma_max: Largest.
        scale: The data's standard deviation, or one of each entry along the last axis: solvers
            are most careful about it, and it makes none wrong.
    """

    sigma_min: float = 1e-3
    sigma_max: float = 80.0
    scale: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.typical < math.inf:
            raise ValueError(f"a process needs scale > 0; got {self.scale}")
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                "a process needs 0 < sigma_min < sigma_max; "
                f"got {self.sigma_min} and {self.sigma_max}"
            )

    @property
    def typical(self) -> float:
        """The scale, or the geometric mean of several; 0 where one is not positive."""
        scales = (self.scale,) if isinstance(self.scale, (int, float)) else self.scale
        if min(scales) <= 0:
            return 0.0
        return math.exp(sum(math.log(s) for s in scales) / len(scales))

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """What is left of the data, (...)."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise, (...)."""

    @abstractmethod
    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`."""

    @abstractmethod
    def drift(self, t: Tensor) -> Tensor:
        """The rate f(t)."""

    @abstractmethod
    def diffusion(self, t: Tensor) -> Tensor:
        """The coefficient g(t)."""

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t) = log alpha^2 / sigma^2."""
        return 2 * (self.alpha(t) / self.sigma(t)).log()

    def at(self, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma where sigma / alpha is the ratio (...)."""
        t = self.time(-2 * ratio.log())
        return self.alpha(t), self.sigma(t)


@dataclass(frozen=True)
class _VariancePreserving(Process):
    """alpha^2 + sigma^2 = 1; f = -beta / 2 and g^2 = beta."""

    @abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """The rate at which the signal's power is lost."""

    def drift(self, t: Tensor) -> Tensor:
        """The rate f(t)."""
        return -self.beta(t) / 2

    def diffusion(self, t: Tensor) -> Tensor:
        """The coefficient g(t)."""
        return self.beta(t).sqrt()


@dataclass(frozen=True)
class VPLinear(_VariancePreserving):
    r"""Variance preserving with a linear rate, the limit of Ho et al.'s chain.

    .. math::
        \beta(t) = \beta_0 + t (\beta_1 - \beta_0), \qquad
        \log \alpha(t) = -\tfrac14 t^2 (\beta_1 - \beta_0) - \tfrac12 t \beta_0

    References:
        | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al.,
        | 2021), eq. 33, https://arxiv.org/abs/2011.13456
    """

    beta_0: float = 0.1
    beta_1: float = 20.0

    def beta(self, t: Tensor) -> Tensor:
        """The rate (...) at times t (...)."""
        return self.beta_0 + t * (self.beta_1 - self.beta_0)

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -t * (t * (self.beta_1 - self.beta_0) / 4 + self.beta_0 / 2)

    def alpha(self, t: Tensor) -> Tensor:
        """What is left of the data."""
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise."""
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`."""
        lost = 2 * softplus(-log_snr)  # -4 log alpha
        root = (self.beta_0**2 + (self.beta_1 - self.beta_0) * lost).sqrt()
        return lost / (self.beta_0 + root)


@dataclass(frozen=True)
class VPCosine(_VariancePreserving):
    r"""Variance preserving along a quarter of a circle.

    .. math::
        \alpha(t) = \frac{\cos a(t)}{\cos a(0)}, \qquad
        a(t) = \frac\pi2\, \frac{t + s}{1 + s}

    References:
        | Improved Denoising Diffusion Probabilistic Models (Nichol & Dhariwal, 2021), eq. 17
        | https://arxiv.org/abs/2102.09672
    """

    offset: float = 0.008

    @property
    def _first(self) -> float:
        return math.pi / 2 * self.offset / (1 + self.offset)

    def _angle(self, t: Tensor) -> Tensor:
        return self._first + math.pi / 2 * t / (1 + self.offset)

    def alpha(self, t: Tensor) -> Tensor:
        """What is left of the data."""
        return self._angle(t).cos() / math.cos(self._first)

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise."""
        # 1 - alpha^2 without the cancellation
        rest = math.pi / 2 * t / (1 + self.offset)
        return (rest.sin() * (rest + 2 * self._first).sin()).sqrt() / math.cos(self._first)

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`."""
        signal = math.cos(self._first) ** 2 * log_snr.sigmoid()
        noise = math.sin(self._first) ** 2 + math.cos(self._first) ** 2 * (-log_snr).sigmoid()
        angle = torch.atan2(noise.sqrt(), signal.sqrt())
        return (angle - self._first) * (1 + self.offset) * 2 / math.pi

    def beta(self, t: Tensor) -> Tensor:
        """The rate (...) at times t (...), -2 d log alpha / dt."""
        return math.pi / (1 + self.offset) * self._angle(t).tan()


@dataclass(frozen=True)
class _Exploding(Process):
    """alpha = 1: f = 0 and g^2 = d sigma^2 / dt."""

    def alpha(self, t: Tensor) -> Tensor:
        """What is left of the data."""
        return torch.ones_like(t)

    def drift(self, t: Tensor) -> Tensor:
        """The rate f(t)."""
        return torch.zeros_like(t)


@dataclass(frozen=True)
class VarianceExploding(_Exploding):
    r"""Noise added in geometric steps: sigma(t) = sigma_min (sigma_max / sigma_min)^t.

    References:
        | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al.,
        | 2021), eq. 31, https://arxiv.org/abs/2011.13456
    """

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise."""
        return self.sigma_min * (t * math.log(self.sigma_max / self.sigma_min)).exp()

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`."""
        log_min, log_max = math.log(self.sigma_min), math.log(self.sigma_max)
        return (-log_snr / 2 - log_min) / (log_max - log_min)

    def diffusion(self, t: Tensor) -> Tensor:
        """The coefficient g(t)."""
        return self.sigma(t) * math.sqrt(2 * math.log(self.sigma_max / self.sigma_min))


@dataclass(frozen=True)
class EDM(_Exploding):
    r"""Noise added so that equal times are equal parts of sigma^(1/rho).

    .. math::
        \sigma(t) = \bigl( \sigma_{\min}^{1/\rho}
            + t (\sigma_{\max}^{1/\rho} - \sigma_{\min}^{1/\rho}) \bigr)^\rho

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
        | eq. 5, https://arxiv.org/abs/2206.00364
    """

    rho: float = 7.0

    @property
    def _ends(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise."""
        low, high = self._ends
        return (low + t * (high - low)) ** self.rho

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`."""
        low, high = self._ends
        return ((-log_snr / (2 * self.rho)).exp() - low) / (high - low)

    def diffusion(self, t: Tensor) -> Tensor:
        """The coefficient g(t)."""
        low, high = self._ends
        root = low + t * (high - low)
        return (2 * self.rho * (high - low) * root ** (2 * self.rho - 1)).sqrt()


@dataclass(frozen=True)
class Straight(Process):
    r"""Straight paths from data to noise, as flow matching has them.

    .. math::
        x_t = (1 - t)\, x_0 + t\, \epsilon

    References:
        | Flow Matching for Generative Modeling (Lipman et al., 2023), eq. 22
        | https://arxiv.org/abs/2210.02747
    """

    def alpha(self, t: Tensor) -> Tensor:
        """What is left of the data."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise."""
        return t

    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr`."""
        return (-log_snr / 2).sigmoid()

    def drift(self, t: Tensor) -> Tensor:
        """The rate f(t)."""
        return -1 / (1 - t)

    def diffusion(self, t: Tensor) -> Tensor:
        """The coefficient g(t)."""
        return (2 * t / (1 - t)).sqrt()


PROCESSES: dict[str, Any] = {
    "vp-linear": VPLinear,
    "vp-cosine": VPCosine,
    "ve": VarianceExploding,
    "edm": EDM,
    "straight": Straight,
}
"""Processes by name."""
