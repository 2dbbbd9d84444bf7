r"""Joint: one diffusion model of all variables, from which every conditional can be had.

.. math::
    \min_\phi \; \mathbb{E}_{z_0, m, r, \epsilon} \; \frac{1}{|\bar m|}
        \Bigl| \bar m \odot \bigl( F(z_0) - F_\phi(m \odot z_0 + \bar m \odot z_t, r, m)
        \bigr) \Bigr|^2

m says which variables are given, clean, and is drawn anew for each row and noise level: all fields
but the first, nothing, whole fields, parts of them, or any variables. So trained, the network
denoises p(z_a | z_b) for every choice of a and b.

References:
    | All-in-one simulation-based inference (Gloeckler et al., 2024), eq. 6 and section 3.2
    | https://arxiv.org/abs/2404.09636
"""

from __future__ import annotations

__all__ = ["ConditionedModule", "JointModule", "JointNetwork"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from ..field import Field
from ..fitting.schedule import Schedule, default_schedule
from ..networks.masked_mlp import MaskedMLP
from .backbone import backbone
from .base import Given, ModelDistribution
from .denoiser import preconditioning
from .denoising import DenoisingNetwork
from .diffusion import Diffusion
from .diffusion_module import DiffusionModule
from .noise_levels import stratified
from .probability_flow import EXACT, log_prob, rademacher

_FIRST, _THIN = 0.5, 0.2  # shares: first field asked for, given all others; given parts of them
_NOTHING, _FIELDS, _PARTS = 0.1, 0.4, 0.3  # of the others; the rest has any variables given
_RATE, _DECAY = 2e-3, 1.0


class JointNetwork(DenoisingNetwork):
    """A denoiser that is told which variables are given: the context vector is the target itself,
    (n, k) or (s, n, k), NaN where it is not given.
    """

    turns = False  # what is given must stay a variable

    def body(self, settings: Any, target: Field, given: Mapping[str, Field]) -> nn.Module:
        """A residual network on all variables; with tokens, a transformer beside it."""
        width, blocks = settings.hidden, settings.blocks
        if settings.network != "tokens":
            return MaskedMLP(target.size, width or 128, blocks or 4)
        return nn.ModuleList([MaskedMLP(target.size), backbone(settings, target, given)])

    def mean(self, given: Given) -> Tensor:
        """Where the frame is centred, (k,)."""
        return super().mean((None, None))

    def predict(self, u: Tensor, alpha: Tensor, sigma: Tensor, given: Given) -> Tensor:
        """The network's output for u_t (s, n, k)."""
        values = given[0]
        if values is None:
            values = u.new_full(u.shape[1:], math.nan)
        known = ~values.isnan()
        scale, _, _ = preconditioning(alpha, sigma, self.variance)
        clean = self._given(values) * torch.as_tensor(self.variance, device=u.device).rsqrt()
        time = (sigma / alpha).log() / 4
        time = time.flatten(2)[..., 0] if time.dim() else time
        if isinstance(self.network, MaskedMLP):
            return self.network(scale * u, time, clean, known)
        residual, tokens = self.network
        known = known.expand_as(u)
        x = torch.where(known, clean, scale * u).flatten(0, 1)
        marked, time = known.flatten(0, 1), time.expand(u.shape[:2])
        beside = residual(scale * u, time, clean, known)
        return tokens(x, time.flatten(), None, None, marked).view_as(u) + beside

    def forward(self, u: Tensor, alpha: Tensor, sigma: Tensor, given: Given) -> Tensor:
        """E[u_0 | u_t, what is given] of u_t (s, n, k)."""
        u_0 = super().forward(u, alpha, sigma, given)
        values = given[0]
        return u_0 if values is None else torch.where(values.isnan(), u_0, self._given(values))

    def _given(self, values: Tensor) -> Tensor:
        return self.into(values.nan_to_num(), values.new_ones(()), self.mean((None, None)))


class JointModule(DiffusionModule):
    """A diffusion model of a vector whose network is told which variables are given.

    Arguments:
        settings: A `Diffusion` of network "auto", "mlp" or "tokens".
        target: Field of the vector; its names are those of the fields that columns belong to.
        given: Nothing.
    """

    groups: Tensor

    def __init__(self, settings: Diffusion, target: Field, given: Mapping[str, Field]) -> None:
        super().__init__(settings, target, given)
        self.network = JointNetwork(settings, target, given)
        names = target.names or tuple(str(i) for i in range(target.size))
        numbers = [i for i, (_, same) in enumerate(groupby(names)) for _ in same]
        self.register_buffer("groups", torch.tensor(numbers))

    def schedule(self, rows: int) -> Schedule:
        """5,000 steps at 9,000 rows, growing as the root of their number: every conditional has to
        be learned.
        """
        plan = default_schedule(rows, self.event_shape[0])
        steps = 5_000 * max(rows / 9_000, 0.25) ** 0.5
        epochs = max(10, min(400, round(steps * plan.batch_size / max(rows, 1))))
        return replace(plan, learning_rate=_RATE, max_epochs=epochs, weight_decay=_DECAY)

    def masks(self, rows: int) -> Tensor:
        """Which variables are given (rows, k); one at least is not. The field that is named first
        is asked for most often.
        """
        k, fields = self.event_shape[0], int(self.groups.max()) + 1
        device = self.groups.device
        whole = torch.rand(rows, fields, device=device) < 0.5
        single = torch.rand(rows, k, device=device) < torch.rand(rows, 1, device=device)
        kind = torch.rand(rows, 1, device=device)
        first = torch.rand(rows, 1, device=device)
        # of whole fields, some are given and some are not
        turned = torch.randint(fields, (rows, 1), device=device)
        other = (turned + 1 + torch.randint(max(fields - 1, 1), (rows, 1), device=device)) % fields
        whole = whole.scatter(1, turned, False)
        if fields > 1:
            whole = whole.scatter(1, other, True)
        mask = whole[:, self.groups]
        mask = torch.where(kind < _NOTHING + _FIELDS, mask, mask & single)
        mask = torch.where(kind < _NOTHING + _FIELDS + _PARTS, mask, single)
        mask = mask & (kind >= _NOTHING)
        others = (self.groups > 0) & (single | (first >= _FIRST * _THIN))
        mask = torch.where(first < _FIRST, others, mask)
        free = torch.randint(k, (rows, 1), device=device)
        return mask.scatter(1, free, mask.gather(1, free) & ~mask.all(1, keepdim=True))

    def loss(self, target: Tensor, given: Given) -> Tensor:
        """The mean squared error of the variables that are not given, of each row (n,)."""
        ell = self.noise.quantile(stratified(len(target), self.levels, target.device))
        alpha, sigma, u, u_t = self.noisy(target, given, ell)
        mask = self.masks(self.levels * len(target)).view(u_t.shape)
        values = torch.where(mask, target, math.nan)
        square = self.error(alpha, sigma, u, u_t, (values, None)).square() * ~mask
        return (square.sum(2) / (~mask).sum(2)).mean(0)

    def condition(self, target: Sequence[int], given: Sequence[int]) -> ConditionedModule:
        """The model of some variables given others.

        Arguments:
            target: Their columns.
            given: Columns of what is given.
        """
        return ConditionedModule(self, target, given)


class ConditionedModule(nn.Module):
    """Some variables of a joint model given others; the rest is drawn along and left out.

    The context vector (n, g) holds the given variables; NaN in it says that one was not observed.

    Arguments:
        joint: The joint model.
        target: Columns that are asked for.
        given: Columns of the context vector.
    """

    def __init__(self, joint: JointModule, target: Sequence[int], given: Sequence[int]) -> None:
        super().__init__()
        self.joint, self.target, self.given = joint, list(target), list(given)
        self.event_shape = torch.Size((len(self.target),))
        self.noise_shape = joint.noise_shape
        whole = len({*self.target, *self.given}) == joint.event_shape[0]
        self.density = joint.density if whole else None
        self.undecided = "a joint model has densities of all variables that are not given together"

    def transport(self, noise: Tensor, given: Given) -> Tensor:
        """Maps noise (s, n, *noise_shape) to draws (s, n, t)."""
        values = self._values(given[0], noise.shape[1], noise)
        return self.joint.transport(noise, (values, None))[..., self.target]

    def log_prob(self, z: Tensor, given: Given) -> Tensor:
        """log p(z | given) (n,) of z (n, t), by the probability flow.

        Raises:
            ValueError: If a given variable was not observed: the rest would have to be integrated
                over it.
        """
        n, t = z.shape
        values = self._values(given[0], n, z)
        if values[:, self.given].isnan().any():
            raise ValueError("log_prob needs every given variable: NaN can only be drawn around")
        joint, process = self.joint, self.joint.process
        whole = joint._denoiser((values, None), n)

        def denoise(u_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
            full = torch.zeros_like(values)
            full[:, self.target] = u_t
            return whole(full, alpha, sigma)[:, self.target]

        def part(value: Tensor | float) -> Tensor:
            return torch.as_tensor(value).to(z).expand(joint.event_shape)[self.target]

        spread = part(joint._spread(process))

        def base(u_T: Tensor) -> Tensor:
            terms = (u_T / spread).square() + 2 * spread.log() + math.log(2 * math.pi)
            return -0.5 * terms.sum(1)

        u = z - part(joint.network.mean((None, None)))
        probes = rademacher(joint.settings.probes, self.event_shape) if t > EXACT else None
        scale = part(joint.network.variance).sqrt()
        return log_prob(denoise, process, u, probes=probes, base=base, scale=scale)

    def distribution(self, given: Given) -> ModelDistribution:
        """The distribution over the target given n rows."""
        return ModelDistribution(self, given)

    def _values(self, context: Tensor | None, rows: int, like: Tensor) -> Tensor:
        values: Any = like.new_full((rows, *self.joint.event_shape), math.nan)
        if context is not None:
            values[:, self.given] = context
        return values
