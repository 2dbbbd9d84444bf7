r"""Flow: normalizing flows, an invertible map from the target to a simple base density.

.. math::
    \log p(z \mid c) = \log p_0\bigl(f(z; c) \mid c\bigr)
        + \log \left| \det \frac{\partial f(z; c)}{\partial z} \right|

f is a chain of masked transformations: autoregressive (each variable given all before it; one
pass for the density, one pass a variable to draw) or coupling (half the variables given the
other half; two passes either way).
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
from .spline import MaskedSpline

Given = tuple[Tensor | None, Tensor | None]
"""What a model is given: a context vector (n, c), and a context map on the target's grid."""

_KINDS = ("auto", "spline", "affine", "coupling", "spline-coupling")


@dataclass(frozen=True)
class Flow:
    """A conditional normalizing flow.

    Arguments:
        transform: "spline" (autoregressive rational-quadratic splines, NSF), "affine"
            (autoregressive, MAF), "coupling" (affine coupling, RealNVP), "spline-coupling",
            which "auto" takes: it draws fastest at equal accuracy.
        transforms: How many are chained; 5 up to 6 variables, then 3, unless said.
        hidden: Widths of the network of each transformation; (128, 128) up to 6 variables, then
            (64, 64).
        bins: Pieces of a spline.
        permute: Whether variables stand in another random order in each transformation.
        linear: Whether an affine map, its shift linear in the context, comes first: the base
            density is then a linear-Gaussian model of the target, as good as least squares makes
            it.

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
    linear: bool = True

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


class MaskedAffine(nn.Module):
    """zuko's masked affine transformation: y_i = x_i exp(s_i) + m_i, s and m of the variables
    before i.

    Arguments:
        features: Number of variables d.
        context: Length of the context vector.
        passes: Groups of variables: d for autoregressive, 2 for coupling.
        order: The order of the variables.
        hidden: Widths of the network.
    """

    def __init__(
        self,
        features: int,
        context: int,
        passes: int | None,
        order: Tensor,
        hidden: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.lazy = zuko.flows.MaskedAutoregressiveTransform(
            features, context, passes=passes, order=order, hidden_features=hidden
        )
        if hasattr(self.lazy, "hyper"):  # one variable given nothing has no network
            nn.init.zeros_(self.lazy.hyper[-1].weight)
            nn.init.zeros_(self.lazy.hyper[-1].bias)

    def call_and_ladj(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """y (n, d) and log |det dy/dx| (n,) of x (n, d) given contexts (n, c)."""
        return self.lazy(c).call_and_ladj(x)

    def inverse(self, y: Tensor, c: Tensor | None) -> Tensor:
        """x (s, n, d) of y (s, n, d) given contexts (n, c)."""
        return self.lazy(c).inv(y)


def _order(features: int, i: int, permute: bool) -> Tensor:
    """The order of the variables in transformation i: every second one turns the one before it
    round.
    """
    order = torch.arange(features)
    if permute:
        generator = torch.Generator().manual_seed(i // 2)
        order = torch.randperm(features, generator=generator)
    return features - 1 - order if i % 2 else order


class LinearGaussian(nn.Module):
    r"""An affine map whose shift is linear in the context: y = L (z - A c - b), L lower
    triangular.

    Started from least squares on training rows, with L the inverse Cholesky factor of the
    residuals' covariance, it makes a linear-Gaussian problem exact before training, and leaves
    to the transformations what is not.

    Arguments:
        features: Number of variables k.
        context: Length of the context vector c.
    """

    def __init__(self, features: int, context: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(context, features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.lower = nn.Parameter(torch.zeros(features, features))
        self.log_diagonal = nn.Parameter(torch.zeros(features))

    @torch.no_grad()
    def initialise(self, z: Tensor, context: Tensor) -> None:
        """Solves the regression of z (n, k) on contexts (n, c)."""
        z, c = z.double(), context.double()
        n = len(z)
        mean_z, mean_c = z.mean(0), c.mean(0)
        gram = (c - mean_c).T @ (c - mean_c) / n
        ridge = 1e-6 * gram.diagonal().mean().clamp(min=1e-12)
        eye = torch.eye(len(gram), dtype=c.dtype, device=c.device)
        weight = torch.linalg.solve(gram + ridge * eye, (c - mean_c).T @ (z - mean_z) / n)
        residual = z - mean_z - (c - mean_c) @ weight
        covariance = residual.T @ residual / n
        eye = torch.eye(len(covariance), dtype=c.dtype, device=c.device)
        factor = torch.linalg.cholesky(covariance + 1e-6 * eye)
        inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
        self.weight.copy_(weight)
        self.bias.copy_(mean_z - mean_c @ weight)
        self.log_diagonal.copy_(inverse.diagonal().log())
        self.lower.copy_(inverse.tril(-1))

    def _matrix(self) -> Tensor:
        return self.lower.tril(-1) + torch.diag(self.log_diagonal.exp())

    def call_and_ladj(self, x: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """y (n, k) and log |det| of x (n, k) given contexts (n, c)."""
        assert c is not None
        shift = torch.addmm(self.bias, c, self.weight)
        return (x - shift) @ self._matrix().t(), self.log_diagonal.sum()

    def inverse(self, y: Tensor, c: Tensor | None) -> Tensor:
        """x (s, n, k) of y (s, n, k) given contexts (n, c)."""
        assert c is not None
        inverse = torch.linalg.inv(self._matrix())
        return y @ inverse.t() + torch.addmm(self.bias, c, self.weight)


class FlowModule(nn.Module):
    """The network of a `Flow` over `features` variables, given `context` numbers."""

    density = "exact"

    def __init__(self, settings: Flow, features: int, context: int) -> None:
        super().__init__()
        self.features = features
        kind, count, hidden = _defaults(settings, features)
        passes = 2 if kind.endswith("coupling") else None
        layers: list[nn.Module] = []
        if settings.linear and context:
            layers.append(LinearGaussian(features, context))
        for i in range(count):
            order = _order(features, i, settings.permute)
            if kind.startswith("spline"):
                layers.append(
                    MaskedSpline(features, context, settings.bins, passes, order, hidden)
                )
            else:
                layers.append(MaskedAffine(features, context, passes, order, hidden))
        self.layers: Any = nn.ModuleList(layers)

    def initialise(self, target: Tensor, given: Given) -> None:
        """Starts the linear layer, where there is one, from training rows."""
        if isinstance(self.layers[0], LinearGaussian) and given[0] is not None:
            self.layers[0].initialise(target, given[0])

    def loss(self, target: Tensor, given: Given) -> Tensor:
        """-log p(target | given) of each row, in nats: target (n, k) → (n,)."""
        return -self.log_prob(target, given[0])

    def distribution(self, given: Given) -> FlowDistribution:
        """The distribution over z given a context vector (*batch, c)."""
        return FlowDistribution(self, given[0])

    def log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        """log p(z | context), shape (n,), of z (n, k)."""
        total = z.new_zeros(z.shape[:-1])
        for layer in self.layers:
            z, ladj = layer.call_and_ladj(z, context)
            total = total + ladj
        return total - 0.5 * (z.square().sum(-1) + self.features * math.log(2 * math.pi))

    def transport(self, noise: Tensor, context: Tensor | None) -> Tensor:
        """Maps standard normal noise (s, n, k) to draws of z given contexts (n, c)."""
        for layer in reversed(self.layers):
            noise = layer.inverse(noise, context)
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
        flat, context = self._flat(value)
        return self.module.log_prob(flat, context).view(value.shape[:-1])

    def transport(self, noise: Tensor) -> Tensor:
        """Maps noise (..., k) ~ N(0, I) to draws."""
        batch = self.batch_shape
        if self.context is None or noise.shape[noise.dim() - 1 - len(batch) : -1] != batch:
            flat, context = self._flat(noise)
            return self.module.transport(flat[None], context).view(noise.shape)
        n, k = max(batch.numel(), 1), noise.shape[-1]
        context = self.context.reshape(n, -1)
        return self.module.transport(noise.reshape(-1, n, k), context).view(noise.shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws (*sample_shape, *batch, k)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        parameter = next(self.module.parameters())
        return self.transport(torch.randn(shape, device=parameter.device))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def _flat(self, value: Tensor) -> tuple[Tensor, Tensor | None]:
        flat = value.reshape(-1, value.shape[-1])
        if self.context is None:
            return flat, None
        context = self.context.expand(*value.shape[:-1], -1)
        return flat, context.reshape(-1, context.shape[-1])


def _defaults(settings: Flow, features: int) -> tuple[str, int, tuple[int, ...]]:
    """Kind, number and widths: what is not said follows the number of variables."""
    kind = "spline-coupling" if settings.transform == "auto" else settings.transform
    few = features <= 6
    transforms = settings.transforms or (5 if few else 3)
    return kind, transforms, settings.hidden or ((128, 128) if few else (64, 64))
