r"""From noise to data by steps that know the covariance of what is left unknown.

.. math::
    x_0 \sim N(\hat x, V)\text{ given } y, \qquad
    x_s = (1 - \tau) x_0 + \tau x_t + \sigma_s \sqrt{1 - \tau}\, \epsilon, \qquad
    \tau = \sigma_s^2 / \sigma_t^2

Where x_0 given x_t is Gaussian, this is p(x_s | x_t, y) itself, so that for a Gaussian prior and
linear data any number of steps is exact, one included: the first step comes from infinite noise,
where x_0 has the prior's own mean and covariance. A step by the mean alone loses V, and is
right only in the limit of many. Otherwise the answer is as good as a Gaussian is for x_0 given
x_t: `smc` weighs what is wrong.

Where all rows share one V, averaged over the prior, the last steps are made again and again by
each row's own: x_0 is noised to where that is known, x_t ~ N(x_0, sigma^2 I), and restored. This
is a Gibbs sampler of (x_0, x_t) given y, right wherever x_0 given x_t is Gaussian at low noise,
and forgets what steps by the shared V have got wrong at these scales.

References:
    | Denoising Diffusion Probabilistic Models (Ho et al., 2020), eqs. 6-7
    | https://arxiv.org/abs/2006.11239
    | Learning Diffusion Priors from Observations by Expectation Maximization (Rozet et al., 2024),
    | eqs. 17-20, https://arxiv.org/abs/2405.13712
"""

from __future__ import annotations

__all__ = ["ancestral", "bridge", "start"]

import math

import torch
from torch import Tensor

from .levels import levels
from .own_twist import OwnTwist, own_levels
from .problem import Problem, Twist, twist

_STEPS_A_SWEEP = 3  # the more steps, the more often the last are made again


def ancestral(problem: Problem, n: int, steps: int, generator: torch.Generator) -> Tensor:
    """n draws (n, d), approximate where x_0 given x_t is not Gaussian."""
    x = start(problem, n)
    for high, low in levels(problem.prior, steps):
        x = bridge(twist(problem, x, min(high, problem.prior.farthest)), x, high, low, generator)
    own = own_levels(problem)
    for _ in range(math.ceil(steps / _STEPS_A_SWEEP) if own else 0):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x = x + own[0][0] * noise
        for high, low in own:
            x = bridge(OwnTwist(problem, x, high), x, high, low, generator)
    return x


def start(problem: Problem, n: int) -> Tensor:
    """n rows at infinite noise: where the denoiser gives the prior's mean back."""
    prior = problem.prior
    x = torch.zeros(1, prior.size, dtype=prior.dtype, device=prior.device)
    for _ in range(3):
        x = prior.mean(x, prior.farthest).detach()
    return x.expand(n, -1)


def bridge(
    known: Twist | OwnTwist,
    x_t: Tensor,
    sigma_t: float,
    sigma_s: float,
    generator: torch.Generator,
    led: Tensor | None = None,
) -> Tensor:
    """A draw of x_s (n, d) given x_t (n, d) and y; of rows that are not led, (n,), given x_t."""
    noise, error, fresh = (
        torch.randn(shape, generator=generator, dtype=x_t.dtype, device=x_t.device)
        for shape in (x_t.shape, known.residual.shape, x_t.shape)
    )
    tau = (sigma_s / sigma_t) ** 2
    x_0 = known.draw(noise, error, led)
    return (1 - tau) * x_0 + tau * x_t + sigma_s * math.sqrt(1 - tau) * fresh
