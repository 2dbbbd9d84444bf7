r"""A covariance that all particles share, averaged over the prior from the denoiser's derivative.

.. math::
    \bar V(\sigma) = \mathbb{E}_{x_t} \mathrm{Cov}[x_0 \mid x_t]
        = \sigma^2\, \mathbb{E}_{x_t} \frac{\partial D(x_t)}{\partial x_t}, \qquad
    x_t = x_0 + \sigma \epsilon

One backward pass of d rows: row i, at a draw of its own, gives row i of the derivative. Of a
Gaussian prior, whose derivative is everywhere the same, it is exact; and it costs the same for one
observation as for a thousand.

References:
    | Learning Diffusion Priors from Observations by Expectation Maximization (Rozet et al., 2024),
    | eq. 20, https://arxiv.org/abs/2405.13712
"""

from __future__ import annotations

__all__ = ["Averaged", "reconstruct"]

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from simgen.covariance import Spectral
from simgen.samplers.ancestral import ancestral
from simgen.samplers.denoising import Network
from simgen.samplers.problem import Problem

_ROWS = 256


class Averaged(Network):
    """A distribution that denoises, with the averaged covariance.

    Arguments:
        distribution: The distribution.
        seed: Of the draws that it is averaged over.
    """

    def __init__(self, distribution: Any, seed: int = 0) -> None:
        super().__init__(distribution, 2**30)
        self.seed = seed
        self._found: dict[float, Spectral] = {}

    @cached_property
    def _draws(self) -> Tensor:
        """As many draws (d, d) of the prior as it has numbers."""
        return self.draw(self.size, torch.Generator().manual_seed(self.seed))

    def moments(self, x_t: Tensor, sigma: float) -> tuple[Tensor, Spectral]:
        """E[x_0 | x_t] (n, d), and the covariance."""
        with torch.no_grad():
            return self.mean(x_t, sigma), self.averaged(sigma)

    def averaged(self, sigma: float) -> Spectral:
        """The covariance at a noise level, found once."""
        if sigma not in self._found:
            generator = torch.Generator().manual_seed(self.seed + 1)
            noise = torch.randn(self.size, self.size, generator=generator, dtype=self.dtype)
            rows = [
                self._slopes(part, (self._draws + sigma * noise)[part], sigma)
                for part in torch.arange(self.size).split(_ROWS)
            ]
            slope = torch.cat(rows)
            values, vectors = torch.linalg.eigh(sigma**2 * (slope + slope.mT) / 2)
            floor = 1e-6 * float(values[-1])
            self._found[sigma] = Spectral(
                values.clamp(min=floor), lambda v: v @ vectors, lambda v: v @ vectors.mT
            )
        return self._found[sigma]

    def _slopes(self, which: Tensor, x_t: Tensor, sigma: float) -> Tensor:
        """Rows `which` of the denoiser's derivative, each at a row of x_t."""
        with torch.enable_grad():
            x_t = x_t.requires_grad_()
            mean = self.mean(x_t, sigma)
            chosen = mean.gather(1, which[:, None]).sum()
            return torch.autograd.grad(chosen, x_t)[0]


def reconstruct(
    prior: Averaged, matrix: Tensor, y: Tensor, n: int, steps: int, seed: int
) -> Tensor:
    """Draws (n, k, *event) of p(x | y) by the ancestral sampler, of k observations in one run:
    each row has a y of its own.

    Arguments:
        prior: Whose own space is linear in x.
        matrix: The instrument (m, d), in units of its noise.
        y: What was observed (k, m), in the same units.
        n: Draws of each.
        steps: Noise levels.
        seed: Of the draws.
    """
    zero = torch.zeros(1, prior.size, dtype=torch.float64)
    origin = prior.physical(zero).double().flatten(1)
    unit = prior.physical(zero + 1).double().flatten(1) - origin
    own = matrix * unit
    rows = (y - origin @ matrix.mT).repeat(n, 1)
    problem = Problem(prior, lambda z: z @ own.mT, rows, 0.0, own)
    z = ancestral(problem, len(rows), steps, torch.Generator().manual_seed(seed))
    x = prior.physical(z)
    return x.view(n, len(y), *x.shape[1:])
