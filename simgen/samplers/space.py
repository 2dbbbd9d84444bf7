r"""Coordinates u in R^d of a prior, in which chains and particles move.

.. math::
    x = T(u), \qquad p(u) = N(u; 0, I) \quad \text{or} \quad
    p(u) = p\bigl(T(u)\bigr) \left| \frac{\partial T}{\partial u} \right|

A prior that transports noise (flow, VAE, probability flow, Gaussian) lives in its noise; one with
a density behind the bijection to its support. Several unknowns, each given those before it, live
in the product.
"""

from __future__ import annotations

__all__ = ["Space", "joint_space", "space"]

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, biject_to

from ..prior import Prior
from ..randomness import seeded

_NORMAL = math.log(2 * math.pi)


@dataclass(frozen=True)
class Space:
    """Coordinates of the unknowns.

    Arguments:
        size: d.
        log_prior: log p(u) (n,) of u (n, d).
        unknowns: The unknowns by name, rows (n, *event), of u (n, d).
        draw: n draws (n, d) of the prior, from a generator.
        white: Whether p(u) is N(0, I).
        dtype: In which u is kept.
    """

    size: int
    log_prior: Callable[[Tensor], Tensor]
    unknowns: Callable[[Tensor], dict[str, Tensor]]
    draw: Callable[[int, torch.Generator], Tensor]
    white: bool
    dtype: torch.dtype = torch.float64


def space(prior: Any, name: str = "x") -> Space:
    """The coordinates of one prior.

    Raises:
        TypeError: If it is no distribution.
        ValueError: If it is a batch, discrete, or can neither transport noise nor give a density.
    """
    if not isinstance(prior, Distribution) and not hasattr(prior, "transport"):
        raise TypeError(f"a prior is a torch Distribution; got {type(prior).__name__}")
    if math.prod(prior.batch_shape) != 1:
        raise ValueError(
            f"the prior is a batch of shape {tuple(prior.batch_shape)}: give one distribution"
        )
    if not isinstance(prior, Prior) and getattr(prior, "noise_shape", None) is not None:
        return _transported(prior, name)
    return _bijected(prior, name)


def _transported(prior: Any, name: str) -> Space:
    shape, event = torch.Size(prior.noise_shape), torch.Size(prior.event_shape)
    batch = torch.Size(prior.batch_shape)
    single = getattr(prior, "dtype", None) != torch.float64

    def unknowns(u: Tensor) -> dict[str, Tensor]:
        noise = u.view(len(u), *batch, *shape)
        found = prior.transport(noise.float() if single else noise)
        return {name: found.view(len(u), *event)}

    return Space(shape.numel(), _white, unknowns, _noise(shape.numel()), True)


def _bijected(prior: Any, name: str) -> Space:
    event = torch.Size(prior.event_shape) or torch.Size((1,))
    scalar = not prior.event_shape
    if getattr(prior.support, "is_discrete", False):
        raise ValueError("a prior is continuous; this one is discrete")
    if isinstance(prior, Prior):
        bijection: Any = prior.bijection
    else:
        bijection = biject_to(prior.support)
    size = event.numel()

    def shaped(u: Tensor) -> Tensor:
        return u.view(len(u)) if scalar else u.view(len(u), *event)

    def log_prior(u: Tensor) -> Tensor:
        inner = shaped(u)
        x = bijection(inner)
        slope = bijection.log_abs_det_jacobian(inner, x)
        return prior.log_prob(x) + slope.reshape(len(u), -1).sum(-1)

    def draw(n: int, generator: torch.Generator) -> Tensor:
        with seeded(generator):
            x = prior.sample((n,)).double()
        return bijection.inv(x).reshape(n, size)

    def unknowns(u: Tensor) -> dict[str, Tensor]:
        return {name: bijection(shaped(u)).view(len(u), *event)}

    return Space(size, log_prior, unknowns, draw, False)


def joint_space(priors: Mapping[str, Any]) -> Space:
    """The coordinates of several unknowns, in ancestral order: distributions, and conditionals of
    unknowns before them.

    Raises:
        TypeError: If one is neither a distribution nor a conditional.
        ValueError: If one is given what does not come before it, or cannot be transported.
    """
    sizes: dict[str, int] = {}
    makers: dict[str, Callable[[dict[str, Tensor]], Any]] = {}
    known: list[str] = []
    example: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for name, prior in priors.items():
        if hasattr(prior, "expression") and callable(prior):
            given = tuple(prior.given)
            if missing := [k for k in given if k not in known]:
                raise ValueError(
                    f"{name!r} is given {missing[0]!r}, which does not come before it: name the "
                    "unknowns in ancestral order"
                )
            if not given:
                fixed = space(prior(), name)
                makers[name] = lambda found, fixed=fixed: fixed  # type: ignore[misc]
                sizes[name] = fixed.size
            else:
                one = prior(**{k: example[k][0] for k in given})
                sizes[name] = torch.Size(one.noise_shape).numel()
                makers[name] = _conditioned(prior, given, name)
        else:
            fixed = space(prior, name)
            makers[name] = lambda found, fixed=fixed: fixed  # type: ignore[misc]
            sizes[name] = fixed.size
        part = makers[name](example)
        example |= part.unknowns(part.draw(2, generator))
        known.append(name)
    splits = list(sizes.values())

    def walk(u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        total = u.new_zeros(len(u))
        found: dict[str, Tensor] = {}
        for make, part in zip(makers.values(), u.split(splits, -1)):
            here = make(found)
            total = total + here.log_prior(part).to(u)
            found |= here.unknowns(part)
        return total, found

    def draw(n: int, generator: torch.Generator) -> Tensor:
        parts: list[Tensor] = []
        found: dict[str, Tensor] = {}
        for make in makers.values():
            here = make(found)
            parts.append(here.draw(n, generator).double())
            found |= here.unknowns(parts[-1])
        return torch.cat(parts, -1)

    white = all(make(example).white for make in makers.values())
    return Space(sum(splits), lambda u: walk(u)[0], lambda u: walk(u)[1], draw, white)


def _conditioned(
    conditional: Any, given: tuple[str, ...], name: str
) -> Callable[[dict[str, Tensor]], Space]:
    """A conditional's coordinates, given rows of what comes before: one noise for each row."""

    def make(found: dict[str, Tensor]) -> Space:
        q = conditional(**{k: found[k] for k in given})
        if q.noise_shape is None:
            raise ValueError(f"{name!r} is an ensemble, which has no transport: give one member")
        shape = torch.Size(q.noise_shape)

        def unknowns(u: Tensor) -> dict[str, Tensor]:
            return {name: q.transport(u.float().view(len(u), *shape))}

        return Space(shape.numel(), _white, unknowns, _noise(shape.numel()), True)

    return make


def _white(u: Tensor) -> Tensor:
    return -0.5 * (u.square() + _NORMAL).sum(-1)


def _noise(size: int) -> Callable[[int, torch.Generator], Tensor]:
    def draw(n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, size, generator=generator, dtype=torch.float64)

    return draw
