r"""What a conditional returns when called: p(target | given) as a torch Distribution.

.. math::
    q(y \mid x) = \frac1K \sum_{k=1}^K q_k\bigl(t(y) \mid c_k(x)\bigr)
        \left| \frac{\partial t}{\partial y} \right|

t is the target's preprocessing, c_k(x) what head k's model is given; K is one but for ensembles.
Draws and densities are in physical units; rows go through the networks in chunks.
"""

from __future__ import annotations

__all__ = ["ConditionalDistribution"]

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from .bijection import inside
from .fitting.pipeline import Pipeline
from .models.base import Given
from .models.elbo import Elbo
from .randomness import seeded

CHUNK = 4_096  # rows of a vector that a network sees at once: stays in the cache, bounds memory
_PIXELS = 1 << 18  # numbers of an image that a network sees at once


class ConditionalDistribution(Distribution):
    """p(target | given) for a batch of given values, in physical units.

    Attributes:
        names, labels, units: Of the target's columns.
        density: How log_prob is known: "exact", "bound", "ode" or None.
        noise_shape: Shape of one draw's noise, which `transport` maps; None for an ensemble.
        conditional, observed: What was called, and with which given values by name.
    """

    conditional: Any = None
    observed: Mapping[str, Any] | None = None
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self,
        pipeline: Pipeline,
        given: Sequence[Given],
        batch_shape: torch.Size,
        columns: Mapping[str, tuple[str, ...]],
        device: torch.device,
    ) -> None:
        super().__init__(batch_shape, pipeline.event_shape, validate_args=False)
        self._pipeline, self._given, self._device = pipeline, list(given), device
        self._heads = list(pipeline.heads)
        self._columns = columns
        self.names, self.labels, self.units = (columns[k] for k in ("names", "labels", "units"))
        known = [head.model.density for head in self._heads]
        self.density = _weakest([*known, "bound" if pipeline.target.bounded else "exact"])

    @property
    def support(self) -> Any:  # type: ignore[override]
        """The support of one draw, as a torch constraint."""
        target = self._pipeline.target
        if not target.axes and not any(target.zeros):
            return target.bijection.codomain
        low, high = target.bounds()
        zeros = low.new_tensor(target.zeros).bool().view_as(low)
        low = torch.where(zeros, torch.zeros_like(low), low)
        if bool((low.isinf() & high.isinf()).all()):
            return constraints.independent(constraints.real, 1 + target.axes)
        return constraints.independent(constraints.interval(low, high), 1 + target.axes)

    @property
    def noise_shape(self) -> torch.Size | None:
        """Shape of the noise of one draw."""
        if len(self._heads) > 1:
            return None
        events = self.event_shape[:1] if self._pipeline.iid else ()
        return torch.Size((*events, *self._heads[0].model.noise_shape))

    @property
    def members(self) -> list[ConditionalDistribution]:
        """Each member of an ensemble on its own; itself for a single model."""
        return [self._part(i) for i in range(len(self._heads))]

    def _part(self, i: int) -> ConditionalDistribution:
        """The distribution that head i makes."""
        part = copy.copy(self)
        part._heads, part._given = [self._heads[i]], [self._given[i]]
        bounded = "bound" if self._pipeline.target.bounded else "exact"
        part.density = _weakest([self._heads[i].model.density, bounded])
        return part

    def sample(self, sample_shape: Any = (), seed: int | None = None) -> Tensor:
        """Draws (*sample_shape, *batch_shape, *event_shape), inside the support; repeatable with
        a seed. A draw from an ensemble picks a member.
        """
        shape = torch.Size([sample_shape] if isinstance(sample_shape, int) else sample_shape)
        device = self._pipeline.device
        generator = torch.Generator(device)
        generator.manual_seed(int(torch.randint(2**62, ())) if seed is None else seed)
        lead = torch.Size((*shape, *self.batch_shape))
        with torch.no_grad():
            if len(self._heads) == 1:
                return self._physical(self._draw(0, lead, generator))
            member = torch.randint(len(self._heads), lead, generator=generator, device=device)
            row = torch.arange(self.batch_shape.numel(), device=device)
            row = row.view(self.batch_shape).expand(lead)
            draws = []
            for i in range(len(self._heads)):
                part = self._part(i)
                chosen = row[member == i]
                part._given = [_rows(self._given[i], chosen)]
                part._batch_shape = chosen.shape
                draws.append(part._draw(0, chosen.shape, generator))
            order = torch.argsort(torch.argsort(member.flatten(), stable=True))
            z = torch.cat(draws)[order]
            return self._physical(z.reshape(*lead, *z.shape[1:]))

    def transport(self, noise: Tensor) -> Tensor:
        """Maps noise ~ N(0, I), (..., *batch_shape, *noise_shape), to draws in physical units;
        differentiable.

        Raises:
            NotImplementedError: If it is an ensemble: a mixture is no map of one noise.
        """
        if self.noise_shape is None:
            raise NotImplementedError("an ensemble has no transport; each of its members has")
        noise = noise.to(self._pipeline.device)
        lead = noise.shape[: noise.dim() - len(self.noise_shape)]
        return self._physical(self._transported(0, noise, lead))

    def log_prob(self, value: Any) -> Tensor:
        """log p(value | given), value (..., *event_shape) broadcast against the batch; -inf
        outside the support.

        Of a set of independent events, the sum over the events of value (..., events, features).

        Raises:
            ValueError: If the value has another shape.
            NotImplementedError: If the family has no density.
        """
        if self.density is None:
            model = self._heads[0].model
            why = getattr(model, "undecided", f"{type(model).__name__} has no density")
            raise NotImplementedError(f"{why}: it can only draw")
        value = torch.as_tensor(value)
        dtype = value.dtype if value.dtype == torch.float64 else torch.float32
        y = self._expanded(value)
        extra = 1 if self._pipeline.iid else 0
        event = self.event_shape[extra:]
        target = self._pipeline.target
        if not target.cells:
            total = self._log_density(y)
        else:
            total = self._log_density(target.cell_points(y))
            if target.bounded:
                total = total.mean(0)
            else:
                total = total.logsumexp(0) - math.log(len(total))
            valid = target.valid(y).flatten(y.dim() - len(event)).all(-1)
            total = torch.where(valid, total, torch.full_like(total, -math.inf))
        return total.sum(-1).to(self._device, dtype) if extra else total.to(self._device, dtype)

    def elbo(self, value: Any, draws: int = 16, seed: int = 0) -> Elbo:
        """The evidence lower bound of a VAE, in physical units, and its parts: the reconstruction
        and the divergence of the encoder from the prior of the latent variables, each (...).
        `log_prob` is the tighter bound of importance weighting.

        Arguments:
            value: (..., *event_shape), broadcast against the batch.
            draws: Draws of the latent variables that are averaged over.
            seed: Of these draws.

        Raises:
            ValueError: If the value has another shape.
            NotImplementedError: If the model is no VAE, an ensemble, of a set, or of whole
                numbers.
        """
        model, target = self._heads[0].model, self._pipeline.target
        plain = len(self._heads) == 1 and not self._pipeline.iid and not target.cells
        if not plain or not hasattr(model, "elbo"):
            raise NotImplementedError(f"{type(model).__name__} of this target has no ELBO")
        z, ladj = target(self._expanded(torch.as_tensor(value)))

        def parts(q: Any, z: Tensor) -> Tensor:
            found = q.elbo(z, draws)
            return torch.stack([found.reconstruction, found.kl], -1)

        with seeded(seed):
            both = self._chunks(0, parts, z, ladj.shape, torch.Size((2,))).double()
        return Elbo(both[..., 0] + ladj, both[..., 1])

    def denoise(self, z_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[z | z_t] of z_t = alpha z + sigma eps, both (..., *batch_shape, *modelled shape): in
        the model's own standardised space, where a diffusion lives (`to_physical` leads out).

        Raises:
            NotImplementedError: If the family is no diffusion model.
        """
        model = self._heads[0].model
        if len(self._heads) > 1 or not hasattr(model, "denoise"):
            raise NotImplementedError(f"{type(model).__name__} has no denoiser")
        z_t = z_t.to(self._pipeline.device)
        shape = self._pipeline.modelled_shape
        lead = z_t.shape[: z_t.dim() - len(shape)]
        return self._chunks(0, lambda q, z: q.denoise(z, alpha, sigma), z_t, lead, shape)

    @property
    def modelled_shape(self) -> torch.Size:
        """Shape of what the model itself draws, in its own standardised space."""
        return self._pipeline.modelled_shape

    @property
    def process(self) -> Any:
        """The forward process of a diffusion model, with the noise levels in use; else None."""
        model = self._heads[0].model
        return getattr(model, "process", None) if len(self._heads) == 1 else None

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self._pipeline.device

    def modelled_sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws (*sample_shape, *batch_shape, *modelled shape) in the model's own space."""
        shape = torch.Size([sample_shape] if isinstance(sample_shape, int) else sample_shape)
        generator = torch.Generator(self.device)
        generator.manual_seed(int(torch.randint(2**62, ())))
        with torch.no_grad():
            return self._draw(0, torch.Size((*shape, *self.batch_shape)), generator)

    def to_physical(self, z: Tensor) -> Tensor:
        """Physical units of z in the model's own space; differentiable."""
        return self._physical(z)

    def _draw(self, i: int, lead: torch.Size, generator: torch.Generator) -> Tensor:
        """Draws of head i in the model's own space, of shape lead + event."""
        events = self.event_shape[:1] if self._pipeline.iid else ()
        shape = (*lead, *events, *self._heads[i].model.noise_shape)
        noise = torch.randn(shape, generator=generator, device=self._pipeline.device)
        return self._transported(i, noise, lead)

    def _transported(self, i: int, noise: Tensor, lead: torch.Size) -> Tensor:
        shape = self._pipeline.modelled_shape
        return self._chunks(i, lambda q, z: q.transport(z), noise, lead, shape)

    def _physical(self, z: Tensor) -> Tensor:
        target = self._pipeline.target
        return inside(target.inverse(z).float(), *target.bounds()).to(self._device)

    def _expanded(self, value: Tensor) -> Tensor:
        """Values (..., *event_shape) in double precision, broadcast against the batch; of sets,
        with any number of events.
        """
        y = value.to(self._pipeline.device).double()
        event = self.event_shape[1 if self._pipeline.iid else 0 :]
        axes = len(self.event_shape)
        if y.dim() < axes or y.shape[y.dim() - len(event) :] != event:
            wanted = ", ".join(map(str, self.event_shape))
            raise ValueError(f"value must be (..., {wanted}); got {tuple(value.shape)}")
        batch = torch.broadcast_shapes(y.shape[: y.dim() - axes], self.batch_shape)
        return y.expand(*batch, *y.shape[y.dim() - axes :])

    def _log_density(self, y: Tensor) -> Tensor:
        """Log-densities (...) of y (..., *event), of sets (..., events)."""
        z, ladj = self._pipeline.target(y)
        shape = self._pipeline.modelled_shape
        valid = ladj > -math.inf
        z = torch.where(valid.view(*valid.shape, *[1] * len(shape)), z, torch.zeros_like(z))
        lead = z.shape[: z.dim() - len(shape) - (1 if self._pipeline.iid else 0)]
        parts = [
            self._chunks(i, lambda q, z: q.log_prob(z), z, lead, torch.Size()).double()
            for i in range(len(self._heads))
        ]
        density = torch.stack(parts).logsumexp(0) - math.log(len(parts))
        return density + ladj

    def _chunks(
        self, i: int, apply: Any, z: Tensor, lead: torch.Size, shape: torch.Size
    ) -> Tensor:
        """Applies a function of (distribution of head i given n contexts, z (s, n, *event)) chunk
        by chunk.

        Arguments:
            i: The head.
            apply: The function; it returns (s, n, *shape).
            z: Values of shape lead, then events of a set, then the event.
            lead: Leading shape, which ends with the batch shape.
            shape: What the function returns for each.
        """
        n = self.batch_shape.numel()
        event = z.shape[len(lead) :]
        count = torch.Size()
        if self._pipeline.iid:  # events of a set are draws of the same context
            count, event = event[:1], event[1:]
            z = z.movedim(len(lead), 0)
        if z.numel() == 0:
            return z.new_zeros(*lead, *count, *shape)
        z = z.reshape(-1, n, *event)
        most = max(1, _PIXELS // math.prod(event)) if len(event) > 1 else CHUNK
        most = 4 * CHUNK if event == (1,) else most
        draws = min(len(z), most)  # all of a context side by side: they share what it makes
        contexts = max(1, most // draws)
        model = self._heads[i].model
        rows = []
        for start in range(0, n, contexts):
            part = slice(start, start + contexts)
            given = self._given[i]
            distribution = model.distribution((_cut(given[0], part), _cut(given[1], part)))
            parts = [apply(distribution, v) for v in z[:, part].split(draws)]
            rows.append(torch.cat(parts))
        out = torch.cat(rows, 1).reshape(torch.Size((*count, *lead, *shape)))
        return out.movedim(0, len(lead)) if count else out

    def expand(self, batch_shape: Any, _instance: Any = None) -> ConditionalDistribution:
        """The same distribution for a larger batch."""
        shape = torch.Size(batch_shape)
        row = torch.arange(self.batch_shape.numel()).view(self.batch_shape).expand(shape)
        larger = copy.copy(self)
        larger._batch_shape = shape
        larger._given = [_rows(given, row.flatten()) for given in self._given]
        return larger

    def __repr__(self) -> str:
        return (
            f"p({self._pipeline.expression}) over {', '.join(self.names)}; "
            f"batch {tuple(self.batch_shape)}, event {tuple(self.event_shape)}"
        )


def _rows(given: Given, index: Tensor) -> Given:
    """Rows of what is given."""
    context, grid = (None if g is None else g[index.to(g.device)] for g in given)
    return context, grid


def _cut(value: Tensor | None, part: slice) -> Tensor | None:
    return None if value is None else value[part]


def _weakest(densities: Sequence[str | None]) -> str | None:
    """How a mixture's density is known: as that of its least known member."""
    if None in densities:
        return None
    return next((d for d in ("bound", "ode") if d in densities), "exact")
