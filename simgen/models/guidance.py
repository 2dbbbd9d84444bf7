r"""Guidance: a denoiser made of a denoiser and of what else is known; itself a denoiser.

.. math::
    \nabla \log p(x_t \mid y) = \nabla \log p(x_t) + \nabla \log p(y \mid x_t)
    \quad \Leftrightarrow \quad
    \mathbb{E}[x_0 \mid x_t, y] = \mathbb{E}[x_0 \mid x_t]
        + \frac{\sigma_t^2}{\alpha_t} \nabla \log p(y \mid x_t)

so that every solver draws from the guided distribution without knowing of it.

References:
    | Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol, 2021), eq. 10, algorithm 1
    | https://arxiv.org/abs/2105.05233
    | Classifier-Free Diffusion Guidance (Ho & Salimans, 2022), eq. 6
    | https://arxiv.org/abs/2207.12598
"""

from __future__ import annotations

__all__ = ["ClassifierFree", "ClassifierGuided", "Inpainting"]

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..krylov import conjugate_gradients
from .denoiser import Denoiser, level


@dataclass(frozen=True)
class ClassifierFree:
    r"""Guidance by what the model itself makes of the condition.

    .. math::
        D_w = D(x_t) + w \bigl( D(x_t \mid y) - D(x_t) \bigr)

    A weight of 1 is the conditional model, more of it sharpens; Ho & Salimans count from there.

    Arguments:
        conditional: E[x_0 | x_t, y].
        unconditional: E[x_0 | x_t].
        weight: w.
    """

    conditional: Denoiser
    unconditional: Denoiser
    weight: float

    def __call__(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The guided mean (n, *event)."""
        blind = self.unconditional(x_t, alpha, sigma)
        return blind + self.weight * (self.conditional(x_t, alpha, sigma) - blind)


@dataclass(frozen=True)
class ClassifierGuided:
    """Guidance by a model of p(y | x_t), known or learned (`NoisyClassifier`).

    Arguments:
        denoiser: E[x_0 | x_t].
        log_p: log p(y | x_t) (n,) of x_t (n, *event), alpha and sigma.
        weight: Power of p(y | x_t); 1 is Bayes' rule.
    """

    denoiser: Denoiser
    log_p: Callable[[Tensor, Tensor, Tensor], Tensor]
    weight: float = 1.0

    def __call__(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The guided mean (n, *event)."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.log_p(x, alpha, sigma).sum(), x)
        step = level(self.weight * sigma**2 / alpha, x_t)
        return self.denoiser(x_t, alpha, sigma) + step * slope


@dataclass(frozen=True)
class Inpainting:
    r"""The mean given that some entries of x_0 are known, with the model's own covariance.

    .. math::
        \mathbb{E}[x_0 \mid x_t, x_{0,k}] \approx D + C_{\cdot k} (C_{kk} + s^2 I)^{-1}
            (y_k - D_k), \qquad
        C = \mathrm{Cov}[x_0 \mid x_t]
            = \frac{\sigma_t^2}{\alpha_t} \frac{\partial D}{\partial x_t}

    exact where x_0 given x_t is Gaussian. The system is solved by conjugate gradients, one
    vector product each; C is never formed.

    Arguments:
        denoiser: E[x_0 | x_t].
        observed: Known values, (*event) or (n, *event); what it holds elsewhere does not matter.
        mask: Where they are known, of the same shape.
        sd: Standard deviation s of the noise on them.
        iterations: Of the conjugate gradients; as many as known numbers are exact.

    References:
        | Learning Diffusion Priors from Observations by Expectation Maximization (Rozet et al.,
        | 2024), section 4.2, https://arxiv.org/abs/2405.13712
    """

    denoiser: Denoiser
    observed: Tensor
    mask: Tensor
    sd: float = 0.0
    iterations: int = 10

    def __call__(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The mean given the known entries (n, *event)."""
        mask = self.mask.to(x_t).expand_as(x_t)
        known = self.observed.to(x_t).expand_as(x_t)
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            mean = self.denoiser(x, alpha, sigma)

        def covariance(v: Tensor) -> Tensor:
            (product,) = torch.autograd.grad(mean, x, v, retain_graph=True)
            return level(sigma**2 / alpha, x_t) * product

        def system(v: Tensor) -> Tensor:
            rows = v.view_as(x_t)
            return (mask * covariance(rows) + self.sd**2 * rows).flatten(1)

        found = mean.detach()
        tolerance = torch.finfo(x_t.dtype).eps ** 0.5
        right = (mask * (known - found)).flatten(1)
        weights = conjugate_gradients(system, right, tolerance, self.iterations)
        found = found + covariance(weights.view_as(x_t))
        return torch.where(mask.bool(), known, found) if self.sd == 0 else found
