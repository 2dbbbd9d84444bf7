r"""What every family's network offers, and the torch Distribution made of it.

.. math::
    z = T(\epsilon; c), \quad \epsilon \sim \mathcal{N}(0, I), \qquad \log q(z \mid c)

A family builds a module; the module says how its density is known and what it can do
(`log_prob`, `transport`, `denoise`); `ModelDistribution` binds it to what is given.
"""

from __future__ import annotations

__all__ = ["Given", "ModelDistribution"]

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .elbo import Elbo

Given = tuple[Tensor | None, Tensor | None]
"""What a model is given: a context vector (n, c), and a context map on the target's grid."""


class ModelDistribution(Distribution):
    """A family's module given n rows: density, transport and denoiser, by what the module has.

    Arguments:
        module: With event_shape, noise_shape, density, and the methods of its capabilities.
        given: Context vectors and maps of n rows each, or (None, None).

    Attributes:
        density: "exact", "bound", "ode" or None.
        batch_shape: (n,), or () where nothing is given.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, module: Any, given: Given = (None, None)) -> None:
        rows = next((len(g) for g in given if g is not None), None)
        batch = torch.Size() if rows is None else torch.Size((rows,))
        super().__init__(batch, module.event_shape, validate_args=False)
        self.module, self.given = module, given
        self.density = module.density
        self.noise_shape = torch.Size(module.noise_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(value | given), shape (...,), of values (..., *batch, *event)."""
        if self.density is None:
            raise NotImplementedError(f"{type(self.module).__name__} has no density")
        shared = getattr(self.module, "shares", False)
        flat, given, lead = self._flat(value, len(self.event_shape), shared)
        return self.module.log_prob(flat, given).view(lead)

    def elbo(self, value: Tensor, draws: int) -> Elbo:
        """The evidence lower bound of values (..., *batch, *event), and its parts, each (...)."""
        flat, given, lead = self._flat(value, len(self.event_shape))
        found = self.module.elbo(flat, given, draws)
        return Elbo(found.reconstruction.view(lead), found.kl.view(lead))

    def transport(self, noise: Tensor) -> Tensor:
        """Maps noise (..., *batch, *noise_shape) ~ N(0, I) to draws (..., *batch, *event)."""
        axes = len(self.noise_shape)
        lead = noise.shape[: noise.dim() - axes]
        if self.batch_shape:
            stacked = noise.reshape(-1, *self.batch_shape, *self.noise_shape)
        else:
            stacked = noise.reshape(1, -1, *self.noise_shape)
        drawn = self.module.transport(stacked, self.given)
        return drawn.reshape(*lead, *self.event_shape)

    def denoise(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[z | x_t] of x_t = alpha z + sigma eps, (..., *batch, *event)."""
        flat, given, lead = self._flat(x_t, len(self.event_shape))
        alpha, sigma = (
            torch.as_tensor(v, dtype=x_t.dtype, device=x_t.device).expand(lead).reshape(-1)
            for v in (alpha, sigma)
        )
        return self.module.denoise(flat, alpha, sigma, given).view_as(x_t)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws (*sample_shape, *batch, *event)."""
        shape = (*torch.Size(sample_shape), *self.batch_shape, *self.noise_shape)
        parameter = next(self.module.parameters())
        return self.transport(torch.randn(shape, device=parameter.device))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def _flat(
        self, value: Tensor, axes: int, shared: bool = False
    ) -> tuple[Tensor, Given, torch.Size]:
        """Rows (m, *event), what is given for each of them, or once for all with `shared`, and
        the leading shape.
        """
        lead = value.shape[: value.dim() - axes]
        flat = value.reshape(-1, *value.shape[value.dim() - axes :])
        if shared and len(flat):
            return flat, self.given, lead
        context, grid = (
            None if g is None else g.expand(*lead, *g.shape[1:]).reshape(-1, *g.shape[1:])
            for g in self.given
        )
        return flat, (context, grid), lead
