r"""Flow: normalizing flows, an invertible map from the target to a simple base density.

.. math::
    \log p(z \mid c) = \log p_0\bigl(f(z; c) \mid c\bigr)
        + \log \left| \det \frac{\partial f(z; c)}{\partial z} \right|

f is a chain of masked transformations: autoregressive (each variable given all before it; one pass for the density,
one pass a variable to draw) or coupling (half the variables given the other half; two passes either way).
"""

from __future__ import annotations

__all__ = ["Flow", "FlowModule"]

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import zuko
from torch import Tensor, nn
from torch.distributions import Distribution

from ..field import Field

Given = tuple[Tensor | None, Tensor | None]
"""What a model is given: a context vector (n, c), and a context map on the target's grid."""

_KINDS = ("auto", "spline", "affine", "coupling", "spline-coupling")


@dataclass(frozen=True)
class Flow:
    """A conditional normalizing flow.

    Arguments:
        transform: "spline" (autoregressive rational-quadratic splines, NSF), "affine" (autoregressive, MAF),
            "coupling" (affine coupling, RealNVP), "spline-coupling"; "auto" chooses by the number of variables.
        transforms: How many are chained.
        hidden: Widths of the network of each transformation.
        bins: Pieces of a spline.
        permute: Whether variables stand in another random order in each transformation.
        conditional_base: Whether mean and deviation of the base density depend on the context.

    References:
        | Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032
        | Masked Autoregressive Flow (Papamakarios et al., 2017), https://arxiv.org/abs/1705.07057
        | Density estimation using Real NVP (Dinh et al., 2017), https://arxiv.org/abs/1605.08803
    """

    transform: str = "auto"
    transforms: int | None = None
    hidden: tuple[int, ...] | None = None
    bins: int = 8
    permute: bool = True
    conditional_base: bool = False

    def __post_init__(self) -> None:
        if self.transform not in _KINDS:
            raise ValueError(
                f"transform must be one of {', '.join(_KINDS)}; got {self.transform!r}"
            )
        if self.transforms is not None and self.transforms < 1:
            raise ValueError(f"transforms must be at least 1; got {self.transforms}")
        if self.bins < 2:
            raise ValueError(f"bins must be at least 2; got {self.bins}")
        if self.hidden is not None:
            object.__setattr__(self, "hidden", tuple(int(h) for h in self.hidden))

    def build(self, target: Field, given: Mapping[str, Field]) -> FlowModule:
        """The network for a target vector and context vectors.

        Raises:
            ValueError: If the target is no vector.
        """
        if target.layout != "vector":
            raise ValueError(f"Flow models vectors; the target has layout {target.layout!r}")
        return FlowModule(self, target.size, sum(f.size for f in given.values()))


class _Base(nn.Module):
    """A diagonal normal base density whose mean and deviation depend on the context."""

    def __init__(self, features: int, context: int) -> None:
        super().__init__()
        self.net = zuko.nn.MLP(context, 2 * features, (32,), activation=nn.SiLU)
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        loc, log_scale = self.net(context).chunk(2, -1)
        return loc, log_scale / (1 + log_scale.abs() / 4)


class FlowModule(nn.Module):
    """The network of a `Flow` over `features` variables, given `context` numbers."""

    density = "exact"

    def __init__(self, settings: Flow, features: int, context: int) -> None:
        super().__init__()
        self.features = features
        kind, count, hidden = _defaults(settings, features)
        shapes: list[tuple[int, ...]] = [(), ()]
        univariate: Any = zuko.transforms.MonotonicAffineTransform
        if kind.startswith("spline"):
            univariate = zuko.transforms.MonotonicRQSTransform
            shapes = [(settings.bins,), (settings.bins,), (settings.bins - 1,)]
        layers = []
        for i in range(count):
            order = torch.randperm(features) if settings.permute else torch.arange(features)
            if i % 2 and not settings.permute:
                order = order.flip(0)
            layers.append(
                zuko.flows.MaskedAutoregressiveTransform(
                    features,
                    context,
                    passes=2 if kind.endswith("coupling") else None,
                    order=order,
                    univariate=univariate,
                    shapes=shapes,
                    hidden_features=hidden,
                    activation=nn.SiLU,
                )
            )
        self.layers = nn.ModuleList(layers)
        self.base = _Base(features, context) if settings.conditional_base and context else None

    def loss(self, target: Tensor, given: Given) -> Tensor:
        """-log p(target | given) of each row, in nats: target (n, k) → (n,)."""
        return -self.log_prob(target, given[0])

    def distribution(self, given: Given) -> FlowDistribution:
        """The distribution over z given a context vector (*batch, c)."""
        return FlowDistribution(self, given[0])

    def log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        """log p(z | context), shape (n,)."""
        total = z.new_zeros(z.shape[:-1])
        for layer in self.layers:
            z, ladj = layer(context).call_and_ladj(z)
            total = total + ladj
        if self.base is not None:
            loc, log_scale = self.base(context)
            z = (z - loc) * torch.exp(-log_scale)
            total = total - log_scale.sum(-1)
        return total - 0.5 * (z.square().sum(-1) + self.features * math.log(2 * math.pi))

    def transport(self, noise: Tensor, context: Tensor | None) -> Tensor:
        """Maps standard normal noise (n, k) to draws of z."""
        if self.base is not None:
            loc, log_scale = self.base(context)
            noise = noise * log_scale.exp() + loc
        for layer in reversed(self.layers):
            noise = layer(context).inv(noise)
        return noise


class FlowDistribution(Distribution):
    """What a flow makes of a context: exact density, and transport from N(0, I)."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    density = "exact"

    def __init__(self, module: FlowModule, context: Tensor | None) -> None:
        batch = torch.Size() if context is None else context.shape[:-1]
        super().__init__(batch, torch.Size((module.features,)), validate_args=False)
        self.module, self.context = module, context

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z), shape (...)."""
        return self.module.log_prob(value, self._context(value))

    def transport(self, noise: Tensor) -> Tensor:
        """Maps noise (..., k) ~ N(0, I) to draws."""
        return self.module.transport(noise, self._context(noise))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws (*sample_shape, *batch, k)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        parameter = next(self.module.parameters())
        return self.transport(torch.randn(shape, device=parameter.device))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def _context(self, value: Tensor) -> Tensor | None:
        if self.context is None:
            return None
        return self.context.expand(*value.shape[:-1], -1)


def _defaults(settings: Flow, features: int) -> tuple[str, int, tuple[int, ...]]:
    """Kind, number and widths: what is not said follows the number of variables."""
    kind = settings.transform
    if kind == "auto":
        kind = "spline" if features <= 2 else "spline-coupling"
    transforms = settings.transforms or (5 if features <= 2 else 8)
    hidden = settings.hidden or (128,) * (3 if features <= 2 else 2)
    return kind, transforms, hidden
