r"""A network that denoises: its frame, what it predicts, and what it is told.

.. math::
    u_t = U^\top (x_t - \alpha (A c + b)), \qquad
    \mathbb{E}[u_0 \mid u_t] = \frac{1}{b} \Bigl(
        N_\phi\bigl(c_\mathrm{in} u_t, \tfrac14 \log \tfrac{\sigma}{\alpha}, c\bigr) - a u_t \Bigr)

with (a, b) of the prediction (`coefficients`). Tensors are (s, n, *event): s noise levels or draws
of each of n rows, which share what is given.
"""

from __future__ import annotations

__all__ = ["DenoisingNetwork"]

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..field import Field
from ..networks.film import FiLMMLP
from .backbone import backbone
from .base import Given
from .denoiser import coefficients, preconditioning
from .frame import Frame


class DenoisingNetwork(nn.Module):
    """E[u_0 | u_t] by a network.

    Arguments:
        settings: A `Diffusion`.
        target: Field of x.
        given: Fields "context" and "map", or none.
    """

    turns = True  # the axes of a vector

    def __init__(self, settings: Any, target: Field, given: Mapping[str, Field]) -> None:
        super().__init__()
        self.kind = settings.parameterisation
        self.event_shape = torch.Size(target.shape if target.shape else (1,))
        self.network: Any = self.body(settings, target, given)
        context = given["context"].size if "context" in given else 0
        self.frame = None
        if target.layout == "vector" and settings.linear:
            rotate = self.turns and settings.network != "tokens"  # a token is a variable
            # where what is given may be withheld, the frame holds without it
            self.frame = Frame(target.size, 0 if settings.drop else context, rotate)
        self.null = nn.ParameterDict()
        if settings.drop and context:
            self.null["context"] = nn.Parameter(torch.zeros(context))
        if settings.drop and "map" in given:
            channels, *space = given["map"].shape
            self.null["map"] = nn.Parameter(torch.zeros(channels, *[1] * len(space)))

    def body(self, settings: Any, target: Field, given: Mapping[str, Field]) -> nn.Module:
        """The network itself."""
        if isinstance(settings.network, nn.Module):
            return copy.deepcopy(settings.network)
        return backbone(settings, target, given)

    @property
    def variance(self) -> Tensor | float:
        """Of u_0, (k,), or 1."""
        return 1.0 if self.frame is None else self.frame.variance

    def mean(self, given: Given) -> Tensor:
        """Where the frame is centred: (n, k), (k,), or a zero."""
        if self.frame is None:
            return torch.zeros(())
        return self.frame.mean(given[0])

    def into(self, x: Tensor, alpha: Tensor, mean: Tensor) -> Tensor:
        """u_t of x_t (..., n, *event), alpha shaped to multiply it."""
        return x if self.frame is None else self.frame.into(x, alpha, mean)

    def back(self, u: Tensor, alpha: Tensor, mean: Tensor) -> Tensor:
        """x_t of u_t, the inverse of `into`."""
        return u if self.frame is None else self.frame.back(u, alpha, mean)

    def row(self, value: Tensor) -> Tensor:
        """A number, or numbers (s, n), shaped to multiply (s, n, *event)."""
        return value.reshape(*value.shape, *[1] * len(self.event_shape)) if value.dim() else value

    def predict(self, u: Tensor, alpha: Tensor, sigma: Tensor, given: Given) -> Tensor:
        """The network's output for u_t (s, n, *event); alpha and sigma () or as `row` gives."""
        scale, _, _ = preconditioning(alpha, sigma, self.variance)
        time = (sigma / alpha).log() / 4
        time = time.flatten(2)[..., 0] if time.dim() else time
        if isinstance(self.network, FiLMMLP):  # does once what draws share
            return self.network(scale * u, time, given[0])
        s, n = u.shape[:2]
        context, grid = (None if g is None else g.expand(s, *g.shape).flatten(0, 1) for g in given)
        time = time.expand(s, n).flatten()
        return self.network((scale * u).flatten(0, 1), time, context, grid).view_as(u)

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) of the output a u_t + b u_0."""
        a, b = coefficients(self.kind, alpha, sigma, self.variance)
        # a score grows as 1 / sigma, which the network is spared
        return (sigma * a, sigma * b) if self.kind == "score" else (a, b)

    def forward(self, u: Tensor, alpha: Tensor, sigma: Tensor, given: Given) -> Tensor:
        """E[u_0 | u_t] of u_t (s, n, *event)."""
        a, b = self.coefficients(alpha, sigma)
        return (self.predict(u, alpha, sigma, given) - a * u) / b

    def without(self, given: Given, off: Tensor) -> Given:
        """What is given, with the null token in rows where `off` (n,) is true."""
        parts = []
        for name, value in zip(("context", "map"), given):
            if value is not None:
                where = off.view(-1, *[1] * (value.dim() - 1))
                value = torch.where(where, self.null[name].to(value), value)
            parts.append(value)
        return parts[0], parts[1]
