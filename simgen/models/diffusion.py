r"""Diffusion: a denoiser learned at every noise level, followed back from noise to data.

.. math::
    \min_\phi \; \mathbb{E}_{(x_0, c)}\, \mathbb{E}_{r, \epsilon}\; w(r)\,
        \bigl| x_0 - D_\phi(\alpha x_0 + \sigma \epsilon, \alpha, \sigma; c) \bigr|^2,
    \qquad r = \sigma / \alpha

The forward process, what the network predicts, the weights, the network and the solver are chosen
independently of each other. With weighting="likelihood" the loss is a bound on -log p in nats:

.. math::
    -\log p(x_0 \mid c) \le \frac12 \int_{\lambda_{\min}}^{\lambda_{\max}} e^\lambda\,
        \mathbb{E}_\epsilon |x_0 - D|^2\, d\lambda
    + \mathrm{KL}\bigl(q(x_T \mid x_0) \,\|\, p(x_T)\bigr)
    - \mathbb{E} \log p(x_0 \mid x_{t=0}), \qquad \lambda = -2 \log r

References:
    | Denoising Diffusion Probabilistic Models (Ho et al., 2020), https://arxiv.org/abs/2006.11239
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | https://arxiv.org/abs/2206.00364
    | Variational Diffusion Models (Kingma et al., 2021), eqs. 11, 17-18
    | https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

__all__ = ["Diffusion", "DiffusionModule"]

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..field import Field
from ..schedule import Schedule, default_schedule
from .base import Given, ModelDistribution
from .denoiser import PREDICTIONS, Denoiser, coefficients
from .denoising import DenoisingNetwork
from .guidance import ClassifierFree
from .noise_levels import NOISES, NoiseLevels, stratified
from .probability_flow import EXACT, log_prob, rademacher
from .process import PROCESSES, Process
from .solvers import SOLVERS

_FINEST, _LARGEST = (
    1e-3,
    80.0,
)  # noise levels in use, in units of the data's smallest and largest sd
_MODE = 20.0  # and of the largest mode of a map, whose sd may be many times a pixel's
_SEVERAL = 4  # noise levels a row, where a network is small


@dataclass(frozen=True)
class Diffusion:
    """A diffusion model of vectors or images, given vectors, maps, or nothing.

    Arguments:
        process: "vp-linear", "vp-cosine", "ve", "edm" or "straight" (flow matching).
        parameterisation: What the network predicts: "x0", "eps", "score", "v", "flow", or "edm",
            the rest that an optimal linear denoiser leaves.
        weighting: Whose squared error is minimised: one of the above, or "likelihood", a bound
            in nats; that of the network's own output unless said.
        noise: Noise levels in training: "logistic" in their logarithm, "uniform" in it, or
            "time", uniform in the process's time; unless said, "uniform" where the weighting is
            "likelihood", else "logistic".
        noise_location: Centre of the logistic distribution of log(sigma / alpha), in units of
            the data's standard deviation.
        noise_spread: Its spread.
        levels: Noise levels a row and step; 4 for an MLP, else 1, unless said.
        network: "auto" ("mlp" for vectors, "unet" for images), "tokens" for vectors, or your own
            module, called as network(x, time, context, map).
        hidden: Width of the network.
        blocks: Its residual blocks: of an MLP, of each level of a U-Net, of a transformer.
        periodic: Whether images close on themselves.
        solver: How draws are made: "adams", "dpm++", "heun", "ddim", "dopri5", or with noise in
            each step "ddpm", "euler-maruyama", "predictor-corrector", "langevin".
        steps: Of the solver.
        drop: Probability with which what is given is withheld in training, for guidance.
        guidance: Weight of what is given in draws: 1 is as trained, more sharpens; it needs drop.
        linear: Whether vectors are centred by least squares in the context and turned to the
            principal axes of what is left.
        sigma_min: Smallest ratio sigma / alpha; by the data unless said.
        sigma_max: Largest, likewise.
        probes: Vectors for the divergence in log_prob, for more than 16 numbers.
    """

    process: str = "vp-cosine"
    parameterisation: str = "edm"
    weighting: str | None = None
    noise: str | None = None
    noise_location: float = -1.0
    noise_spread: float = 1.0
    levels: int | None = None
    network: Any = "auto"
    hidden: int | None = None
    blocks: int | None = None
    periodic: bool = False
    solver: str = "adams"
    steps: int = 16
    drop: float = 0.0
    guidance: float = 1.0
    linear: bool = True
    sigma_min: float | None = None
    sigma_max: float | None = None
    probes: int = 4

    def __post_init__(self) -> None:
        choices = {
            "process": tuple(PROCESSES),
            "parameterisation": PREDICTIONS,
            "weighting": (None, "likelihood", *PREDICTIONS),
            "noise": (None, *NOISES),
            "solver": tuple(SOLVERS),
        }
        for name, values in choices.items():
            if getattr(self, name) not in values:
                known = ", ".join(v for v in values if v)
                raise ValueError(f"{name} must be one of {known}; got {getattr(self, name)!r}")
        if isinstance(self.network, str) and self.network not in ("auto", "mlp", "unet", "tokens"):
            raise ValueError(
                f"network must be auto, mlp, unet, tokens or a module; got {self.network!r}"
            )
        for name, low in (
            ("steps", 2),
            ("probes", 1),
            ("levels", 1),
            ("hidden", 1),
            ("blocks", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"{name} must be at least {low}; got {value}")
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop must be in [0, 1); got {self.drop}")
        if self.guidance != 1 and self.drop == 0:
            raise ValueError("guidance needs a model trained with drop > 0")
        if not self.noise_spread > 0:
            raise ValueError(f"noise_spread must be positive; got {self.noise_spread}")
        self.range()

    def range(self, low: float = _FINEST, high: float = _LARGEST, scale: float = 1.0) -> Process:
        """The process from the noise levels said, or else from low, to the one said, or high."""
        low = low if self.sigma_min is None else self.sigma_min
        high = high if self.sigma_max is None else self.sigma_max
        return PROCESSES[self.process](low, high, scale)

    def schedule(self, rows: int, columns: int, vectors: bool) -> Schedule:
        """Of vectors: the default, half as long up to two columns, at half its rate; of the
        tokens of a transformer 5,000 steps at 9,000 rows.
        """
        plan = default_schedule(rows, columns, vectors)
        if self.network == "tokens":
            steps = 5_000 * max(rows / 9_000, 0.25) ** 0.5
            epochs = max(10, min(400, round(steps * plan.batch_size / max(rows, 1))))
            return replace(plan, learning_rate=1e-3, max_epochs=epochs, weight_decay=0.1)
        epochs = max(10, round(0.3 * plan.max_epochs)) if columns <= 2 else plan.max_epochs
        rate = 0.5 * plan.learning_rate if vectors else plan.learning_rate
        return replace(plan, learning_rate=rate, max_epochs=epochs)

    def build(self, target: Field, given: Mapping[str, Field]) -> DiffusionModule:
        """The network for a target, and context vectors and maps. Tokens of several fields, given
        nothing, make a joint model.

        Raises:
            ValueError: If the network does not fit the target.
        """
        if self.network == "tokens" and not given and len(set(target.names or ())) > 1:
            from .joint import JointModule

            return JointModule(self, target, given)
        return DiffusionModule(self, target, given)


class DiffusionModule(nn.Module):
    """The network of a `Diffusion`, and the noise levels in use.

    Arguments:
        settings: The family's.
        target: Field of the target.
        given: Fields "context" and "map", or none.

    Attributes:
        noise_shape: A stochastic solver's noise is part of what `transport` takes.
    """

    density = "ode"
    scales: Tensor

    def __init__(self, settings: Diffusion, target: Field, given: Mapping[str, Field]) -> None:
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
        self.register_buffer("scales", torch.tensor([_FINEST, _LARGEST, 1.0]).double())

    @torch.no_grad()
    def initialise(self, target: Tensor, given: Given) -> None:
        """The frame by least squares, and noise levels that reach from below the finest scale of
        training rows (n, *event) to above the largest.
        """
        frame = self.network.frame
        smallest = typical = largest = 1.0
        if frame is None:
            largest = max(1.0, _largest_sd(target) * _MODE / _LARGEST)
        else:
            frame.initialise(target, None if self.settings.drop else given[0])
            sd = frame.variance.sqrt()
            smallest, largest = float(sd.min()), float(sd.max())
            typical = float(sd.log().mean().exp())
        low, high = max(_FINEST * smallest, 1e-6), _LARGEST * largest
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
