r"""Continuous flows: the map is the solution of a differential equation.

.. math::
    y = x + \int_0^1 v(t, x_t; c) \, \mathrm{d}t, \qquad
    \log \left| \det \frac{\partial y}{\partial x} \right|
        = \int_0^1 \operatorname{tr} \frac{\partial v}{\partial x_t} \, \mathrm{d}t

The trace is sum_p e_p^T (dv/dx) e_p over probes e_p: the unit vectors, then it is exact, or
random signs with the mean taken (Hutchinson's estimate). Derivatives along the probes go forward
through the network beside its values.

References:
    | Neural Ordinary Differential Equations (Chen et al., 2018), theorem 1, eq. 8
    | https://arxiv.org/abs/1806.07366
    | FFJORD (Grathwohl et al., 2019), eqs. 4 and 7
    | https://arxiv.org/abs/1810.01367
    | Riemannian Continuous Normalizing Flows (Mathieu & Nickel, 2020), for angles
    | https://arxiv.org/abs/2006.10605
"""

from __future__ import annotations

__all__ = ["EXACT", "Continuous"]

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .base import Given
from .circular import wrap
from .layer import Layer
from .ode import dormand_prince, equal_steps

EXACT = 16  # variables up to which the trace is exact
_PROBES = 8  # random probes of more variables; one in training
_FREQUENCIES = 3


class Continuous(Layer):
    """The flow of a velocity network over unit time.

    Training solves it in equal steps, and charges their estimated error to the density: a field
    too wild for the steps could otherwise feign any density. Densities and draws are solved with
    an error control of their own for each row.

    Arguments:
        features: Number of variables d.
        context: Length of the context vector.
        hidden: Widths of the velocity's network.
        periodic: Variables that are angles: the network sees their cosine and sine.
        steps: Steps of the training loss, of six evaluations each.
        tolerance: Relative and absolute error of a step otherwise.
    """

    probes: Tensor
    angle: Tensor

    def __init__(
        self,
        features: int,
        context: int,
        hidden: Sequence[int],
        periodic: Sequence[int] = (),
        steps: int = 5,
        tolerance: float = 1e-6,
    ) -> None:
        super().__init__()
        self.features, self.steps, self.tolerance = features, steps, tolerance
        self.periodic = list(periodic)
        first, *rest = hidden
        self.state = nn.Linear(features + len(self.periodic), first, bias=False)
        self.time = nn.Linear(2 * _FREQUENCIES, first)
        self.context = nn.Linear(context, first, bias=False) if context else None
        widths = [first, *rest, features]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]
        angle = torch.zeros(features, dtype=torch.bool)
        angle[self.periodic] = True
        self.register_buffer("angle", angle)
        self.register_buffer("probes", _signs_or_units(features))

    def call_and_ladj(self, x: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """y (n, d) and log |det dy/dx| (n,) of x (n, d), to the tolerance."""
        probes = self.probes[:, None].expand(-1, len(x), -1)
        return self._solve(x, given, probes.to(x.dtype), adaptive=True)

    def training_call(self, x: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """The same in equal steps, less their error; with one fresh probe a row of more than 16
        variables.
        """
        if self.features <= EXACT:
            probes = self.probes[:, None].expand(-1, len(x), -1)
        else:
            probes = torch.randn_like(x)[None].sign()
        return self._solve(x, given, probes.to(x.dtype), adaptive=False)

    def inverse(self, y: Tensor, given: Given) -> Tensor:
        """x (s, n, d) of y (s, n, d)."""
        s, n, d = y.shape
        known = None if self.context is None else self.context(given[0]).repeat(s, 1)
        none = y.new_zeros(0, s * n, d)

        def velocity(t: Tensor, state: Tensor) -> Tensor:
            return self._velocity(t, state, known, none)[0]

        x = dormand_prince(velocity, y.reshape(-1, d), 1.0, 0.0, self.tolerance, self.tolerance)
        return self._wrapped(x).view(s, n, d)

    def _solve(
        self, x: Tensor, given: Given, probes: Tensor, adaptive: bool
    ) -> tuple[Tensor, Tensor]:
        known = None if self.context is None else self.context(given[0])

        def field(t: Tensor, state: Tensor) -> Tensor:
            v, trace = self._velocity(t, state[:, :-1], known, probes)
            return torch.cat((v, trace[:, None]), -1)

        state = torch.cat((x, torch.zeros_like(x[:, :1])), -1)
        if adaptive:
            state = dormand_prince(field, state, 0.0, 1.0, self.tolerance, self.tolerance)
        else:
            state, error = equal_steps(field, state, 0.0, 1.0, self.steps)
            state = torch.cat((state[:, :-1], (state[:, -1] - error)[:, None]), -1)
        return self._wrapped(state[:, :-1]), state[:, -1]

    def _velocity(
        self, t: Tensor, x: Tensor, known: Tensor | None, probes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """v (m, d) and the trace of its Jacobian (m,), along probes (p, m, d)."""
        phase = t[:, None] * math.pi * torch.arange(1, _FREQUENCIES + 1, device=t.device)
        h = self.time(torch.cat((phase.cos(), phase.sin()), -1))
        if known is not None:
            h = h + known
        seen, along = self._encoded(x, probes)
        h, along = h + self.state(seen), self.state(along)
        for layer in self.layers:
            gate = torch.sigmoid(h)
            along = along * (gate * (1 + h * (1 - gate)))  # of SiLU
            h, along = layer(h * gate), nn.functional.linear(along, layer.weight)  # type: ignore[arg-type]
        trace = (along * probes).sum((0, -1))
        return h, trace if self.features <= EXACT else trace / max(len(probes), 1)

    def _encoded(self, x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
        """What the network sees of x (m, d), and its derivative along the probes."""
        if not self.periodic:
            return x, probes
        cos, sin = x.cos(), x.sin()
        seen = torch.where(self.angle, cos, x)
        along = torch.where(self.angle, -sin * probes, probes)
        return (
            torch.cat((seen, sin[:, self.periodic]), -1),
            torch.cat((along, (cos * probes)[..., self.periodic]), -1),
        )

    def _wrapped(self, x: Tensor) -> Tensor:
        return torch.where(self.angle, wrap(x), x) if self.periodic else x


def _signs_or_units(features: int) -> Tensor:
    """Unit vectors (d, d), or fixed random signs (8, d) of many variables."""
    if features <= EXACT:
        return torch.eye(features)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(_PROBES, features, generator=generator).sign()
