r"""Denoisers: one function E[x_0 | x_t], five ways to predict it, and what weighs their errors.

Of x_t = alpha x_0 + sigma eps a network may predict any combination a x_t + b x_0:

.. math::
    \begin{aligned}
    x_0 &: & a &= 0 & b &= 1 \\
    \epsilon = (x_t - \alpha x_0) / \sigma &: & a &= 1 / \sigma & b &= -\alpha / \sigma \\
    \nabla \log p(x_t \mid x_0) = -\epsilon / \sigma &: & a &= -1 / \sigma^2
        & b &= \alpha / \sigma^2 \\
    v = \alpha \epsilon - \sigma x_0 &: & a &= \alpha / \sigma
        & b &= -(\alpha^2 + \sigma^2) / \sigma \\
    u = \epsilon - x_0 &: & a &= 1 / \sigma & b &= -(\alpha + \sigma) / \sigma \\
    F &: & a &= -c_\mathrm{skip} / c_\mathrm{out} & b &= 1 / c_\mathrm{out}
    \end{aligned}

All are linear in x_0, so that the best prediction of each, E[a x_t + b x_0 | x_t], is the same
denoiser D, and the squared error of each is b^2 |x_0 - D|^2: the choice of a prediction is a
choice of weights. For the score this is Tweedie's formula, and its loss denoising score matching.

References:
    | A Connection Between Score Matching and Denoising Autoencoders (Vincent, 2011), eq. 11
    | https://www.iro.umontreal.ca/~vincentp/Publications/smdae_techreport.pdf
    | Tweedie's Formula and Selection Bias (Efron, 2011), eq. 2.8
    | https://efron.ckirby.su.domains/papers/2011TweediesFormula.pdf
    | Progressive Distillation for Fast Sampling (Salimans & Ho, 2022), section 4 and appendix D
    | https://arxiv.org/abs/2202.00512
"""

from __future__ import annotations

__all__ = [
    "PREDICTIONS",
    "Denoiser",
    "coefficients",
    "level",
    "preconditioning",
    "score",
    "to_prediction",
    "to_x0",
]

from collections.abc import Callable

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps x_t (n, *event), alpha and sigma, each () or (n,), to E[x_0 | x_t] (n, *event)."""

PREDICTIONS = ("x0", "eps", "score", "v", "flow", "edm")
"""What a network may predict."""


def level(value: Tensor, x: Tensor) -> Tensor:
    """A number, or one a row (n,), shaped to multiply x (n, *event)."""
    return value if value.dim() == 0 else value.view(-1, *[1] * (x.dim() - 1))


def preconditioning(
    alpha: Tensor, sigma: Tensor, variance: Tensor | float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    r"""c_in, c_skip and c_out: for x_0 of a given variance s^2, the linear part of the denoiser,
    and scales that give the network inputs and targets of unit variance.

    .. math::
        D = c_\mathrm{skip} x_t + c_\mathrm{out} F(c_\mathrm{in} x_t), \quad
        c_\mathrm{in} = \frac{1}{\sqrt{\alpha^2 s^2 + \sigma^2}}, \quad
        c_\mathrm{skip} = \frac{\alpha s^2}{\alpha^2 s^2 + \sigma^2}, \quad
        c_\mathrm{out} = \frac{s \sigma}{\sqrt{\alpha^2 s^2 + \sigma^2}}

    With s = 1 and alpha^2 + sigma^2 = 1, F predicts -v.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
        | eq. 7 and appendix B.6 (alpha = 1), https://arxiv.org/abs/2206.00364
    """
    variance = torch.as_tensor(variance, dtype=alpha.dtype, device=alpha.device)
    total = alpha**2 * variance + sigma**2
    return total.rsqrt(), alpha * variance / total, (variance / total).sqrt() * sigma


def coefficients(
    kind: str, alpha: Tensor, sigma: Tensor, variance: Tensor | float = 1.0
) -> tuple[Tensor, Tensor]:
    """(a, b) of the prediction a x_t + b x_0.

    Arguments:
        kind: One of `PREDICTIONS`.
        alpha: Shaped to multiply x.
        sigma: Likewise.
        variance: Of x_0, for "edm".

    Raises:
        ValueError: If there is no such prediction.
    """
    if kind == "x0":
        return torch.zeros_like(alpha), torch.ones_like(alpha)
    if kind == "eps":
        return 1 / sigma, -alpha / sigma
    if kind == "score":
        return -1 / sigma**2, alpha / sigma**2
    if kind == "v":
        return alpha / sigma, -(alpha**2 + sigma**2) / sigma
    if kind == "flow":
        return 1 / sigma, -(alpha + sigma) / sigma
    if kind == "edm":
        _, skip, out = preconditioning(alpha, sigma, variance)
        return -skip / out, 1 / out
    raise ValueError(f"a prediction is one of {', '.join(PREDICTIONS)}; got {kind!r}")


def to_x0(kind: str, prediction: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0 | x_t] (n, *event) from the prediction (n, *event); Tweedie's formula for "score"."""
    a, b = coefficients(kind, level(alpha, x_t), level(sigma, x_t))
    return (prediction - a * x_t) / b


def to_prediction(kind: str, x_0: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The prediction (n, *event) that says E[x_0 | x_t] = x_0 (n, *event)."""
    a, b = coefficients(kind, level(alpha, x_t), level(sigma, x_t))
    return a * x_t + b * x_0


def score(denoised: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The score of log p(x_t), (alpha E[x_0 | x_t] - x_t) / sigma^2."""
    return to_prediction("score", denoised, x_t, alpha, sigma)
