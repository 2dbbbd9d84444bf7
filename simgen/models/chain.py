r"""The discrete diffusion chain: marginals, tractable posterior, losses and the variational bound.

.. math::
    q(x_t \mid x_{t-1}) = N(\sqrt{\alpha_t}\, x_{t-1}, (1 - \alpha_t) I), \qquad
    q(x_t \mid x_0) = N(\sqrt{\bar\alpha_t}\, x_0, (1 - \bar\alpha_t) I), \qquad
    \bar\alpha_t = \prod_{i \le t} \alpha_i

.. math::
    q(x_{t-1} \mid x_t, x_0) = N(\mu_q(x_t, x_0), \sigma_t^2 I), \quad
    \mu_q = \frac{\sqrt{\alpha_t} (1 - \bar\alpha_{t-1}) x_t
        + \sqrt{\bar\alpha_{t-1}} (1 - \alpha_t) x_0}{1 - \bar\alpha_t}, \quad
    \sigma_t^2 = \frac{(1 - \alpha_t)(1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t}

.. math::
    \log p(x_0) \ge
    \underbrace{\mathbb{E}_{q(x_1 \mid x_0)} \log p(x_0 \mid x_1)}_{L_0}
    - \sum_{t=2}^T \underbrace{\mathbb{E}_{q(x_t \mid x_0)} \mathrm{KL}\bigl(
        q(x_{t-1} \mid x_t, x_0) \,\|\, p(x_{t-1} \mid x_t)\bigr)}_{L_{t-1}}
    - \underbrace{\mathrm{KL}\bigl(q(x_T \mid x_0) \,\|\, p(x_T)\bigr)}_{L_T}

with p(x_{t-1} | x_t) = N(mu_q(x_t, D(x_t)), sigma_t^2 I) for a denoiser D, p(x_T) = N(0, I), and
p(x_0 | x_1) = N(D(x_1), (1 - alpha_1) I): the posterior's own variance is zero at t = 1. Times
count from 1 to T.

References:
    | Denoising Diffusion Probabilistic Models (Ho et al., 2020), eqs. 2-8
    | https://arxiv.org/abs/2006.11239
    | Understanding Diffusion Models: A Unified Perspective (Luo, 2022), eqs. 58, 84, 99, 130, 148
    | https://arxiv.org/abs/2208.11970
"""

from __future__ import annotations

__all__ = ["Bound", "Chain"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .denoiser import Denoiser, level, to_prediction
from .process import Process


@dataclass(frozen=True)
class Bound:
    """Terms of the variational bound in nats: L_0 (n,), L_1 ... L_{T-1} (n, T - 1), L_T (n,)."""

    first: Tensor
    middle: Tensor
    last: Tensor

    @property
    def total(self) -> Tensor:
        """L_0 - sum L_{t-1} - L_T (n,), at most log p(x_0) in expectation."""
        return self.first - self.middle.sum(1) - self.last


@dataclass(frozen=True)
class Chain:
    """A chain of T Gaussian steps.

    Arguments:
        alphas: alpha_1 ... alpha_T, each in (0, 1), float64.
    """

    alphas: Tensor

    @classmethod
    def linear(cls, steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Chain:
        """Ho et al.'s chain: 1 - alpha_t rises linearly."""
        return cls(1 - torch.linspace(first, last, steps, dtype=torch.float64))

    @classmethod
    def of(cls, process: Process, steps: int) -> Chain:
        """The chain whose marginals are a variance-preserving process's at t / T."""
        t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        alpha_bar = process.alpha(t).square()
        if not torch.allclose(alpha_bar + process.sigma(t).square(), torch.ones_like(t)):
            raise ValueError(f"the chain preserves variance; {type(process).__name__} does not")
        return cls((alpha_bar[1:] / alpha_bar[:-1]).clamp(min=1e-3))

    def __len__(self) -> int:
        return len(self.alphas)

    def alpha_bar(self, t: Tensor) -> Tensor:
        """The share of the data's power left at times t (n,) in {0 ... T}."""
        one = self.alphas.new_ones(1)
        return torch.cat([one, self.alphas.cumprod(0)])[t]

    def marginal(self, x_0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n, *event) and variance (n,) of x_t given x_0 (n, *event) at times t (n,)."""
        share = self.alpha_bar(t)
        return level(share.sqrt().to(x_0), x_0) * x_0, (1 - share).to(x_0)

    def posterior(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n, *event) and variance (n,) of x_{t-1} given x_t and x_0."""
        alpha, now, before = self.alphas[t - 1], self.alpha_bar(t), self.alpha_bar(t - 1)
        of_noisy = alpha.sqrt() * (1 - before) / (1 - now)
        of_clean = before.sqrt() * (1 - alpha) / (1 - now)
        mean = level(of_noisy.to(x_t), x_t) * x_t + level(of_clean.to(x_t), x_t) * x_0
        return mean, ((1 - alpha) * (1 - before) / (1 - now)).to(x_t)

    def weight(self, kind: str, t: Tensor) -> Tensor:
        r"""What makes a squared error the divergence L_{t-1}, (n,), t >= 2.

        .. math::
            \begin{aligned}
            x_0 &: \frac{1}{2 \sigma_t^2}
                \frac{\bar\alpha_{t-1} (1 - \alpha_t)^2}{(1 - \bar\alpha_t)^2} \\
            \epsilon &: \frac{1}{2 \sigma_t^2}
                \frac{(1 - \alpha_t)^2}{(1 - \bar\alpha_t) \alpha_t} \\
            \nabla \log p &: \frac{1}{2 \sigma_t^2} \frac{(1 - \alpha_t)^2}{\alpha_t}
            \end{aligned}

        Raises:
            ValueError: If the error is none of "x0", "eps" and "score".
        """
        alpha, now, before = self.alphas[t - 1], self.alpha_bar(t), self.alpha_bar(t - 1)
        variance = (1 - alpha) * (1 - before) / (1 - now)
        shares = {
            "x0": before * (1 - alpha) ** 2 / (1 - now) ** 2,
            "eps": (1 - alpha) ** 2 / ((1 - now) * alpha),
            "score": (1 - alpha) ** 2 / alpha,
        }
        if kind not in shares:
            raise ValueError(f"a loss of the chain is x0, eps or score; got {kind!r}")
        return shares[kind] / (2 * variance)

    def loss(
        self,
        denoiser: Denoiser,
        x_0: Tensor,
        kind: str = "eps",
        weighted: bool = True,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""One term of the sum over {2 ... T} drawn uniformly, for each row, (n,).

        .. math::
            \mathcal{L}(x_0) = \mathbb{E}_{t \sim U\{2 \dots T\}}\,
                \mathbb{E}_{q(x_t \mid x_0)}\, w_t\, |y_t - \hat y_t|^2

        T - 1 times the weighted loss is sum L_{t-1} in expectation, whichever error it is written
        in.

        Arguments:
            denoiser: What gives E[x_0 | x_t].
            x_0: Rows (n, *event).
            kind: The error: "x0", "eps" or "score".
            weighted: Whether w_t is the divergence's weight, or 1 (Ho et al.'s simple loss).
            generator: Of times and noise.
        """
        n = len(x_0)
        t = torch.randint(2, len(self) + 1, (n,), generator=generator)
        x_t, alpha, sigma = self._noisy(x_0, t, generator)
        found = to_prediction(kind, denoiser(x_t, alpha, sigma), x_t, alpha, sigma)
        true = to_prediction(kind, x_0, x_t, alpha, sigma)
        error = (found - true).square().reshape(n, -1).sum(1)
        return self.weight(kind, t).to(error) * error if weighted else error

    def bound(
        self, denoiser: Denoiser, x_0: Tensor, generator: torch.Generator | None = None
    ) -> Bound:
        """The terms of the bound for x_0 (n, *event), one draw of x_t for each."""
        n, size, middle = len(x_0), x_0[0].numel(), []
        for step in range(2, len(self) + 1):
            t = torch.full((n,), step)
            x_t, alpha, sigma = self._noisy(x_0, t, generator)
            error = (x_0 - denoiser(x_t, alpha, sigma)).square().reshape(n, -1).sum(1)
            middle.append(self.weight("x0", t).to(error) * error)
        t = torch.ones(n, dtype=torch.int64)
        x_t, alpha, sigma = self._noisy(x_0, t, generator)
        variance = 1 - float(self.alphas[0])
        error = (x_0 - denoiser(x_t, alpha, sigma)).square().reshape(n, -1).sum(1)
        first = -0.5 * (error / variance + size * math.log(2 * math.pi * variance))
        share = float(self.alpha_bar(torch.tensor(len(self))))
        square = share * x_0.square().reshape(n, -1).sum(1)
        last = 0.5 * (square - size * share - size * math.log1p(-share))
        return Bound(first, torch.stack(middle, 1), last)

    def _noisy(
        self, x_0: Tensor, t: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A draw of x_t, with alpha and sigma (n,)."""
        mean, variance = self.marginal(x_0, t)
        sigma = variance.sqrt()
        eps = torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype)
        return mean + level(sigma, x_0) * eps.to(x_0), (1 - variance).sqrt(), sigma
