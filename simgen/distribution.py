r"""What a conditional returns when called: p(target | given) as a torch Distribution.

.. math::
    q(y \mid x) = q_z\bigl(t(y) \mid c(x)\bigr) \left| \frac{\partial t}{\partial y} \right|

t is the target's preprocessing, c(x) the context that the pipeline made of what is given. Draws
and densities are in physical units; rows go through the network in chunks.
"""

from __future__ import annotations

__all__ = ["ConditionalDistribution"]

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .bijection import inside
from .pipeline import Pipeline

CHUNK = 4_096  # rows a network sees at once: stays in the cache, bounds memory


class ConditionalDistribution(Distribution):
    """p(target | given) for a batch of given values, in physical units.

    Attributes:
        names, labels, units: Of the target's columns.
        density: How log_prob is known: "exact", "bound", "ode" or None.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self,
        pipeline: Pipeline,
        context: Tensor | None,
        batch_shape: torch.Size,
        columns: Mapping[str, tuple[str, ...]],
        device: torch.device,
    ) -> None:
        super().__init__(batch_shape, pipeline.event_shape, validate_args=False)
        self._pipeline, self._context, self._device = pipeline, context, device
        self._columns = columns
        self.names, self.labels, self.units = (columns[k] for k in ("names", "labels", "units"))
        assert pipeline.model is not None
        self.density = pipeline.model.density

    @property
    def support(self) -> Any:  # type: ignore[override]
        """The support of one draw, as a torch constraint."""
        return self._pipeline.target.bijection.codomain

    def sample(self, sample_shape: Any = (), seed: int | None = None) -> Tensor:
        """Draws (*sample_shape, *batch_shape, *event_shape), inside the support; repeatable with
        a seed.
        """
        shape = torch.Size([sample_shape] if isinstance(sample_shape, int) else sample_shape)
        pipeline = self._pipeline
        lead = (*shape, *self.batch_shape, *self.event_shape[:-1])
        generator = torch.Generator(pipeline.device)
        if seed is None:
            generator.manual_seed(int(torch.randint(2**62, ())))
        else:
            generator.manual_seed(seed)
        k = pipeline.target.features
        noise = torch.randn(*lead, k, generator=generator, device=pipeline.device)
        with torch.no_grad():
            return self.transport(noise)

    def transport(self, noise: Tensor) -> Tensor:
        """Maps noise ~ N(0, I), (..., *batch_shape, k), to draws in physical units;
        differentiable.
        """
        target = self._pipeline.target
        noise = noise.to(self._pipeline.device)
        z = self._rows(lambda z, q: q.transport(z), noise)
        y = target.inverse(z).float()
        return inside(y, *self._bounds()).to(self._device)

    def log_prob(self, value: Any) -> Tensor:
        """log p(value | given), value (..., *event_shape) broadcast against the batch; -inf
        outside the support.

        Of a set of independent events, the sum over the events of value (..., events, features).
        """
        value = torch.as_tensor(value)
        dtype = value.dtype if value.dtype == torch.float64 else torch.float32
        y = value.to(self._pipeline.device).double()
        columns = self._pipeline.columns
        if y.dim() < len(self.event_shape) or y.shape[-1] != columns:
            wanted = ", ".join(map(str, self.event_shape))
            raise ValueError(f"value must be (..., {wanted}); got {tuple(value.shape)}")
        extra = len(self.event_shape) - 1
        batch = torch.broadcast_shapes(y.shape[: y.dim() - extra - 1], self.batch_shape)
        y = y.expand(*batch, *y.shape[y.dim() - extra - 1 :])
        target = self._pipeline.target
        if not any(target.discrete):
            total = self._log_density(y)
        else:
            total = target.cell_points(y)
            total = self._log_density(total).logsumexp(0) - math.log(len(total))
            whole = (y == y.floor()) | ~y.new_tensor(target.discrete).bool()
            total = torch.where(whole.all(-1), total, torch.full_like(total, -math.inf))
        return total.sum(-1).to(self._device, dtype) if extra else total.to(self._device, dtype)

    def _log_density(self, y: Tensor) -> Tensor:
        z, ladj = self._pipeline.target(y)
        valid = ladj > -math.inf
        z = torch.where(valid[..., None], z, torch.zeros_like(z))
        density = self._rows(lambda z, q: q.log_prob(z), z)
        return density.double() + ladj

    def _bounds(self) -> tuple[Tensor, Tensor]:
        bijection = self._pipeline.target.bijection
        device = self._pipeline.device
        low, high = bijection.low.to(device), bijection.high.to(device)
        discrete = low.new_tensor(self._pipeline.target.discrete).bool()
        # whole numbers fill half-open cells: their bounds are themselves attained
        return torch.where(discrete, low - 1, low), high

    def _rows(self, apply: Any, z: Tensor) -> Tensor:
        """Applies a function of (z (s, n, k), distribution of the model given n contexts) chunk
        by chunk.
        """
        model = self._pipeline.model
        assert model is not None
        n = math.prod(self.batch_shape)
        if len(self.event_shape) > 1:  # events of a set are draws of the same context
            z = z.movedim(-2, 0)
        shape = z.shape[:-1]
        z = z.reshape(-1, n, z.shape[-1])
        contexts = min(n, CHUNK)
        draws = max(1, CHUNK // max(contexts, 1))
        rows = []
        for i in range(0, n, max(contexts, 1)):
            context = None if self._context is None else self._context[i : i + contexts]
            distribution = model.distribution((context, None))
            parts = [apply(v, distribution) for v in z[:, i : i + contexts].split(draws)]
            rows.append(torch.cat(parts))
        out = torch.cat(rows, 1) if rows else z.new_zeros(*z.shape[:-1], *z.shape[-1:])
        out = out.reshape(torch.Size((*shape, *out.shape[2:])))
        if len(self.event_shape) > 1:
            out = out.movedim(0, len(shape) - 1)
        return out

    def expand(self, batch_shape: Any, _instance: Any = None) -> ConditionalDistribution:
        """The same distribution for a larger batch."""
        shape = torch.Size(batch_shape)
        context = self._context
        if context is not None:
            context = context.reshape(*self.batch_shape, -1).expand(*shape, -1)
            context = context.reshape(-1, context.shape[-1])
        return ConditionalDistribution(self._pipeline, context, shape, self._columns, self._device)

    def __repr__(self) -> str:
        return (
            f"p({self._pipeline.expression}) over {', '.join(self.names)}; "
            f"batch {tuple(self.batch_shape)}, event {tuple(self.event_shape)}"
        )
