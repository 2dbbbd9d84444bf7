r"""Joint: one diffusion model of all variables, from which every conditional can be had.

.. math::
    \min_\phi \; \mathbb{E}_{z_0, m, r, \epsilon} \; \frac{1}{|\bar m|}
        \Bigl| \bar m \odot \bigl( F(z_0) - F_\phi(m \odot z_0 + \bar m \odot z_t, r, m)
        \bigr) \Bigr|^2

m says which variables are given, clean, and is drawn anew for each row and noise level: nothing,
whole fields, or any variables. So trained, the network denoises p(z_a | z_b) for every choice of
a and b.

References:
    | All-in-one simulation-based inference (Gloeckler et al., 2024), eq. 6 and section 3.2
    | https://arxiv.org/abs/2404.09636
"""

from __future__ import annotations

__all__ = ["ConditionedModule", "JointModule"]

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from ..field import Field
from .base import Given, ModelDistribution
from .denoiser import Denoiser
from .diffusion import Diffusion, DiffusionModule
from .noise_levels import NoiseLevels, stratified
from .probability_flow import EXACT, log_prob, rademacher

_NOTHING, _FIELDS = 0.15, 0.55  # shares of rows: the rest has any variables given


class JointModule(DiffusionModule):
    """A diffusion model of a vector whose network is told which variables are given.

    The context vector of the methods below is the target itself, NaN where it is not given.

    Arguments:
        settings: A `Diffusion` with network="tokens".
        target: Field of the vector; its names are those of the fields that columns belong to.
        given: Nothing.
    """

    groups: Tensor

    def __init__(self, settings: Diffusion, target: Field, given: Mapping[str, Field]) -> None:
        super().__init__(settings, target, given)
        names = target.names or tuple(str(i) for i in range(target.size))
        numbers = [i for i, (_, same) in enumerate(groupby(names)) for _ in same]
        self.register_buffer("groups", torch.tensor(numbers))

    def masks(self, rows: int) -> Tensor:
        """Which variables are given (rows, k); one at least is not."""
        k, fields = self.event_shape[0], int(self.groups.max()) + 1
        device = self.groups.device
        whole = torch.rand(rows, fields, device=device) < 0.5
        single = torch.rand(rows, k, device=device) < torch.rand(rows, 1, device=device)
        kind = torch.rand(rows, 1, device=device)
        # of whole fields, some are given and some are not
        turned = torch.randint(fields, (rows, 1), device=device)
        other = (turned + 1 + torch.randint(max(fields - 1, 1), (rows, 1), device=device)) % fields
        whole = whole.scatter(1, turned, False)
        if fields > 1:
            whole = whole.scatter(1, other, True)
        mask = torch.where(kind < _NOTHING + _FIELDS, whole[:, self.groups], single)
        mask = mask & (kind >= _NOTHING)
        free = torch.randint(k, (rows, 1), device=device)
        return mask.scatter(1, free, mask.gather(1, free) & ~mask.all(1, keepdim=True))

    def loss(self, target: Tensor, given: Given) -> Tensor:
        """The mean squared error of the variables that are not given, of each row (n,)."""
        settings, n = self.settings, len(target)
        process = self.process
        location = settings.noise_location + float(self.scales[2])
        noise = NoiseLevels(process, settings.noise, location, settings.noise_scale)
        log_ratio = noise.quantile(stratified(n, self.levels, target.device).t())
        alpha, sigma = (self._row(v.to(target)) for v in process.at(log_ratio.exp()))
        mask = self.masks(self.levels * n).view(self.levels, n, -1)
        values = torch.where(mask, target, math.nan)
        u = self._into(target, target.new_ones(()), self._mean(given))
        u_t = alpha * u + sigma * torch.randn(self.levels, *target.shape, device=target.device)
        found = self._predict(u_t, alpha, sigma, (values, None))
        a, b = self._coefficients(alpha, sigma)
        square = (found - (a * u_t + b * u)).square() * ~mask
        return (square.sum(2) / (~mask).sum(2)).mean(0)

    def condition(self, target: Sequence[int], given: Sequence[int]) -> ConditionedModule:
        """The model of some variables given others.

        Arguments:
            target: Their columns.
            given: Columns of what is given.
        """
        return ConditionedModule(self, target, given)

    def _predict(self, u: Tensor, alpha: Tensor, sigma: Tensor, given: Given) -> Tensor:
        values = given[0]
        if values is None:
            return super()._predict(u, alpha, sigma, given)
        sd = torch.as_tensor(self._variance(), device=u.device).sqrt()
        known = ~values.isnan()
        clean = self._into(values.nan_to_num(), u.new_ones(()), self._mean(given)) / sd
        scale = (alpha**2 * self._variance() + sigma**2).rsqrt()
        x = torch.where(known, clean, scale * u)
        time = (sigma / alpha).log() / 4
        time = (time if time.dim() == 0 else time.flatten(2)[..., 0]).expand(u.shape[:2])
        flat = (v.expand_as(u).flatten(0, 1) for v in (x, known))
        x, known = flat
        return self.network(x, time.flatten(), None, None, known).view_as(u)

    def _bound(self, given: Given, rows: int) -> Denoiser:
        denoiser = super()._bound(given, rows)
        values = given[0]
        if values is None:
            return denoiser

        def denoise(x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
            x_0 = denoiser(x_t, alpha, sigma).view(-1, rows, *self.event_shape)
            return torch.where(values.isnan(), x_0, values).view_as(x_t)

        return denoise


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
        whole = joint.denoiser((values, None), n)

        def denoise(x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
            full = torch.zeros_like(values)
            full[:, self.target] = x_t
            return whole(full, alpha, sigma)[:, self.target]

        bias, variance = (v[self.target] for v in (joint._mean((None, None)), joint._variance()))

        def base(x_T: Tensor) -> Tensor:
            alpha, sigma = joint._last(process, x_T)
            total = alpha**2 * variance + sigma**2
            terms = (x_T - alpha * bias).square() / total + total.log()
            return -0.5 * (terms.sum(1) + t * math.log(2 * math.pi))

        probes = rademacher(joint.settings.probes, self.event_shape) if t > EXACT else None
        return log_prob(denoise, process, z, probes=probes, base=base)

    def distribution(self, given: Given) -> ModelDistribution:
        """The distribution over the target given n rows."""
        return ModelDistribution(self, given)

    def _values(self, context: Tensor | None, rows: int, like: Tensor) -> Tensor:
        values: Any = like.new_full((rows, *self.joint.event_shape), math.nan)
        if context is not None:
            values[:, self.given] = context
        return values
