r"""The network of a flow: layers from the target to a simple base density.

.. math::
    \log p(z \mid c) = \log p_0\bigl(f(z; c)\bigr)
        + \log \left| \det \frac{\partial f(z; c)}{\partial z} \right|, \qquad
    z = f^{-1}(\epsilon; c), \quad \epsilon \sim p_0

p_0 is the standard normal; of angles it is the uniform density on the circle, of which standard
normal noise e makes 2 pi Phi(e) - pi.

References:
    | Normalizing Flows for Probabilistic Modeling and Inference (Papamakarios et al., 2021), eq. 5
    | https://arxiv.org/abs/1912.02762
"""

from __future__ import annotations

__all__ = ["FlowModule"]

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Given, ModelDistribution
from .continuous import Continuous
from .layer import Layer

_ROWS, _ROWS_OF_IMAGES = 100_000, 4_096  # training rows that a start is found on


class FlowModule(nn.Module):
    """A chain of layers and its base.

    Arguments:
        layers: From the target to the base.
        event_shape: Of the target.
        angles: Variables that are angles.

    Attributes:
        density: "exact", or "ode" of a continuous flow.
        shares: Whether fewer rows may be given than there are z, as `Layer.shares` says.
    """

    angle: Tensor

    def __init__(
        self, layers: Sequence[Layer], event_shape: Sequence[int], angles: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.event_shape = self.noise_shape = torch.Size(event_shape)
        self.layers: Any = nn.ModuleList(layers)
        self.shares = len(self.event_shape) == 1
        self.density = "ode" if any(isinstance(v, Continuous) for v in layers) else "exact"
        self.angles = list(angles)
        angle = torch.zeros(self.event_shape, dtype=torch.bool)
        angle[self.angles] = True
        self.register_buffer("angle", angle)

    @torch.no_grad()
    def initialise(self, target: Tensor, given: Given) -> None:
        """Starts the layers that have a start in closed form from training rows."""
        rows = _ROWS if len(self.event_shape) == 1 else _ROWS_OF_IMAGES
        given = tuple(None if g is None else g[:rows] for g in given)  # type: ignore[assignment]
        target = target[:rows]
        for i, layer in enumerate(self.layers):
            layer.initialise(target, given)
            if i + 1 < len(self.layers):
                target, _ = layer.training_call(target, given)

    def loss(self, target: Tensor, given: Given) -> Tensor:
        """-log p(target | given) of each row (n,), in nats."""
        return -self._log_prob(target, given, [v.training_call for v in self.layers])

    def log_prob(self, z: Tensor, given: Given) -> Tensor:
        """log p(z | given), shape (n,), of z (n, *event), given n rows; of a vector also as many
        times as many z, of which row i is given row i mod n.
        """
        return self._log_prob(z, given, [v.call_and_ladj for v in self.layers])

    def _log_prob(self, z: Tensor, given: Given, calls: Sequence[Any]) -> Tensor:
        total, whole = z.new_zeros(len(z)), given
        if given[0] is not None and len(given[0]) < len(z):
            whole = (given[0].repeat(len(z) // len(given[0]), 1), given[1])
        for layer, call in zip(self.layers, calls):
            z, ladj = call(z, given if layer.shares else whole)
            total = total + ladj
        normal = -0.5 * (z.square() + math.log(2 * math.pi))
        if self.angles:
            normal = torch.where(self.angle, -math.log(2 * math.pi), normal)
        return total + normal.flatten(1).sum(-1)

    def transport(self, noise: Tensor, given: Given) -> Tensor:
        """Maps standard normal noise (s, n, *event) to draws of z, given n rows."""
        if self.angles:
            turned = 2 * math.pi * torch.special.ndtr(noise) - math.pi
            noise = torch.where(self.angle, turned, noise)
        for layer in reversed(self.layers):
            noise = layer.inverse(noise, given)
        return noise

    def distribution(self, given: Given) -> ModelDistribution:
        """The distribution over z given n rows, or nothing."""
        return ModelDistribution(self, given)
