r"""The network of a diffusion model: its loss, its draws, and its density.

With weighting="likelihood" the loss is a bound on -log p in nats:

.. math::
    -\log p(x_0 \mid c) \le \frac12 \int_{\lambda_{\min}}^{\lambda_{\max}} e^\lambda\,
        \mathbb{E}_\epsilon |x_0 - D|^2\, d\lambda
    + \mathrm{KL}\bigl(q(x_T \mid x_0) \,\|\, p(x_T)\bigr)
    - \mathbb{E} \log p(x_0 \mid x_{t=0}), \qquad \lambda = -2 \log r

Draws follow a solver from noise to data; the density is that of the probability flow.

References:
    | Variational Diffusion Models (Kingma et al., 2021), eqs. 11, 17-18
    | https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

__all__ = ["FINEST", "LARGEST", "DiffusionModule"]

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..field import Field
from .base import Given, ModelDistribution
from .denoiser import Denoiser, coefficients
from .denoising import DenoisingNetwork
from .guidance import ClassifierFree
from .noise_levels import NoiseLevels, stratified
from .probability_flow import EXACT, log_prob, rademacher
from .process import Process
from .solvers import SOLVERS

FINEST, LARGEST = 1e-3, 80.0
"""Noise levels in use, in units of the data's smallest and largest standard deviation."""
_MODE = 20.0  # and of the largest mode of a map, whose sd may be many times a pixel's
_SEVERAL = 4  # noise levels a row, where a network is small


class DiffusionModule(nn.Module):
    """The network of a `Diffusion`, and the noise levels in use.

    Arguments:
        settings: A `Diffusion`.
        target: Field of the target.
        given: Fields "context" and "map", or none.

    Attributes:
        noise_shape: A stochastic solver's noise is part of what `transport` takes.
    """

    density = "ode"
    scales: Tensor

    def __init__(self, settings: Any, target: Field, given: Mapping[str, Field]) -> None:
        super().__init__()
        self.settings = settings
        self.network = DenoisingNetwork(settings, target, given)
        self.event_shape = self.network.event_shape
        self.solver = SOLVERS[settings.solver]
        draws = self.solver.draws * settings.steps
        self.noise_shape = (
            torch.Size((1 + draws, *self.event_shape)) if draws else self.event_shape
        )
        small = target.layout == "vector" and settings.network != "tokens"
        self.levels = settings.levels or (_SEVERAL if small else 1)
        # sigma_min, sigma_max and scale of the process
        self.register_buffer("scales", torch.tensor([FINEST, LARGEST, 1.0]).double())

    @torch.no_grad()
    def initialise(self, target: Tensor, given: Given) -> None:
        """The frame by least squares, and noise levels that reach from below the finest scale of
        training rows (n, *event) to above the largest.
        """
        frame = self.network.frame
        smallest = typical = largest = 1.0
        if frame is None:
            largest = max(1.0, _largest_sd(target) * _MODE / LARGEST)
        else:
            frame.initialise(target, None if self.settings.drop else given[0])
            sd = frame.variance.sqrt()
            smallest, largest = float(sd.min()), float(sd.max())
            typical = float(sd.log().mean().exp())
        low, high = max(FINEST * smallest, 1e-6), LARGEST * largest
        self.scales.copy_(torch.tensor([low, high, typical]))

    @property
    def process(self) -> Process:
        """The forward process, with the noise levels in use."""
        return self.settings.range(*self.scales.tolist())

    def loss(self, target: Tensor, given: Given) -> Tensor:
        """The weighted squared error of each row (n,), averaged over its noise levels: target (n,
        *event).
        """
        settings, network = self.settings, self.network
        if settings.drop and self.training:
            off = torch.rand(len(target), device=target.device) < settings.drop
            given = network.without(given, off)
        noise = self.noise
        ell = noise.quantile(stratified(len(target), self.levels, target.device))
        alpha, sigma, u, u_t = self.noisy(target, given, ell)
        error = self.error(alpha, sigma, u, u_t, given)
        if settings.weighting == "likelihood":
            _, b = network.coefficients(alpha, sigma)
            square = (alpha / sigma / b * error).square().flatten(2).sum(2)
            middle = square * (-noise.log_density(ell)).exp().to(square)
            return middle.mean(0) + self._ends(u, noise.process)
        if settings.weighting is not None:
            _, b = network.coefficients(alpha, sigma)
            _, wanted = coefficients(settings.weighting, alpha, sigma, network.variance)
            error = error * (wanted / b)
        return error.square().flatten(2).mean(2).mean(0)

    @property
    def noise(self) -> NoiseLevels:
        """The noise levels of training."""
        s = self.settings
        kind = s.noise or ("uniform" if s.weighting == "likelihood" else "logistic")
        return NoiseLevels(self.process, kind, s.noise_location, s.noise_spread)

    def noisy(
        self, target: Tensor, given: Given, ell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """alpha and sigma (s, n, ...), and in the frame u_0 (n, *event) and u_t (s, n, *event), of
        the target (n, *event) at log noise levels (s, n).
        """
        network = self.network
        alpha, sigma = (network.row(v.to(target)) for v in self.process.at(ell.exp()))
        u = network.into(target, target.new_ones(()), network.mean(given))
        eps = torch.randn(len(ell), *u.shape, dtype=u.dtype, device=u.device)
        return alpha, sigma, u, alpha * u + sigma * eps

    def error(self, alpha: Tensor, sigma: Tensor, u: Tensor, u_t: Tensor, given: Given) -> Tensor:
        """The error (s, n, *event) of what the network predicts."""
        a, b = self.network.coefficients(alpha, sigma)
        return self.network.predict(u_t, alpha, sigma, given) - (a * u_t + b * u)

    def denoiser(self, given: Given, rows: int) -> Denoiser:
        """E[x_0 | x_t] of x_t (s n, *event), guided as the settings say.

        Arguments:
            given: n rows, or nothing.
            rows: n; row i of x_t belongs to row i mod n of what is given.
        """
        network, mean = self.network, self.network.mean(given)
        inner = self._denoiser(given, rows)

        def denoise(x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
            shape, a = (-1, rows, *self.event_shape), self._rows(alpha, rows)
            u = network.into(x_t.view(shape), a, mean).reshape(x_t.shape)
            u_0 = inner(u, alpha, sigma).view(shape)
            return network.back(u_0, x_t.new_ones(()), mean).view_as(x_t)

        return denoise

    def denoise(self, x_t: Tensor, alpha: Tensor, sigma: Tensor, given: Given) -> Tensor:
        """E[x_0 | x_t] (n, *event) of x_t (n, *event); alpha and sigma () or (n,)."""
        return self.denoiser(given, len(x_t))(x_t, alpha, sigma)

    def transport(self, noise: Tensor, given: Given) -> Tensor:
        """Maps noise (s, n, *noise_shape) ~ N(0, I) to draws (s, n, *event)."""
        (s, n), process = noise.shape[:2], self.process
        later = None
        if self.noise_shape != self.event_shape:
            later = iter(noise[:, :, 1:].flatten(0, 1).unbind(1))
            noise = noise[:, :, 0]
        u_T = (self._spread(process).to(noise) * noise).flatten(0, 1)
        if self.network.frame is not None:
            process = replace(process, scale=tuple(self.network.frame.variance.sqrt().tolist()))
        u_0 = self.solver(self._denoiser(given, n), process, u_T, self.settings.steps, later)
        u_0 = u_0.view(s, n, *self.event_shape)
        return self.network.back(u_0, u_0.new_ones(()), self.network.mean(given))

    def log_prob(self, z: Tensor, given: Given) -> Tensor:
        """log p(z | given) (n,) of z (n, *event), by the probability flow: the density of what a
        deterministic solver draws.
        """
        size = self.event_shape.numel()
        probes = None
        if size > EXACT:
            probes = rademacher(self.settings.probes, self.event_shape)
        process, spread = self.process, self._spread(self.process).to(z)

        def base(u_T: Tensor) -> Tensor:
            terms = (u_T / spread).square() + 2 * spread.log() + math.log(2 * math.pi)
            return -0.5 * terms.flatten(1).sum(1)

        u = self.network.into(z, z.new_ones(()), self.network.mean(given))
        variance = torch.as_tensor(self.network.variance).to(u)
        return log_prob(
            self._denoiser(given, len(z)),
            process,
            u,
            probes=probes,
            base=base,
            scale=variance.sqrt(),
        )

    def distribution(self, given: Given) -> ModelDistribution:
        """The distribution over z given n rows."""
        return ModelDistribution(self, given)

    def _denoiser(self, given: Given, rows: int) -> Denoiser:
        """E[u_0 | u_t] in the frame, (s n, *event), guided."""

        def bound(given: Given) -> Denoiser:
            def denoise(u_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
                u = u_t.view(-1, rows, *self.event_shape)
                levels = self._rows(alpha, rows), self._rows(sigma, rows)
                return self.network(u, *levels, given).view_as(u_t)

            return denoise

        if self.settings.guidance == 1:
            return bound(given)
        off = torch.ones(rows, dtype=torch.bool, device=self.scales.device)
        blind = bound(self.network.without(given, off))
        return ClassifierFree(bound(given), blind, self.settings.guidance)

    def _rows(self, value: Tensor, rows: int) -> Tensor:
        return self.network.row(value.view(-1, rows) if value.dim() else value)

    def _spread(self, process: Process) -> Tensor:
        """Standard deviation of u_T, (k,) or ()."""
        alpha, sigma = process.at(torch.tensor(process.sigma_max, dtype=torch.float64))
        return (alpha**2 * self.network.variance + sigma**2).sqrt()

    def _ends(self, u: Tensor, process: Process) -> Tensor:
        """The bound's terms at the two ends of the noise levels (n,), of u (n, *event)."""
        alpha, sigma = process.at(torch.tensor(process.sigma_max, dtype=torch.float64))
        total = self._spread(process).to(u).square()
        a, s = alpha.to(u), sigma.to(u)
        kl = ((a * u).square() + s**2) / total - 1 + (total / s**2).log()
        first = math.log(2 * math.pi * process.sigma_min**2) + 1
        return 0.5 * (kl + first).flatten(1).sum(1)


def _largest_sd(x: Tensor, rows: int = 512) -> float:
    """Standard deviation along the largest principal axis of x (n, *event), by some rows."""
    flat = x[:rows].flatten(1).double()
    flat = flat - flat.mean(0)
    values = torch.linalg.eigvalsh(flat @ flat.T / len(flat))
    return float(values[-1].clamp(min=0).sqrt())
