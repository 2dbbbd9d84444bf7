"""The network of a diffusion model, chosen and sized by its target and what is given."""

from __future__ import annotations

__all__ = ["backbone"]

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..field import Field
from ..networks.film import FiLMMLP
from ..networks.tokens import TokenTransformer
from ..networks.unet import UNet


def backbone(settings: Any, target: Field, given: Mapping[str, Field]) -> nn.Module:
    """network(x (n, *event), time (n,), context (n, c) | None, map (n, C', *spatial) | None).

    Arguments:
        settings: A `Diffusion`.
        target: Field of x.
        given: Fields "context" and "map", or none.

    Raises:
        ValueError: If the network that is asked for does not take the target's layout.
    """
    kind = settings.network
    vector = target.layout == "vector"
    if kind == "auto":
        kind = "mlp" if vector else "unet"
    if vector != (kind in ("mlp", "tokens")) or target.layout not in ("vector", "image"):
        raise ValueError(
            f"network {kind!r} does not model a target of layout {target.layout!r}: vectors take "
            "mlp or tokens, images unet"
        )
    context = given["context"].size if "context" in given else 0
    if "map" in given and vector:
        raise ValueError("a vector is not given a map: embed it to a vector")
    if kind == "mlp":
        width = settings.hidden or 128
        return FiLMMLP(target.size, context, width, settings.blocks or 4)
    if kind == "tokens":
        width = settings.hidden or 48
        return TokenTransformer(target.size, context, width, settings.blocks or 5)
    channels, *space = target.shape
    maps = given["map"].shape[0] if "map" in given else 0
    width = settings.hidden or 32
    depth = max(1, min(4, min(space).bit_length() - 2))  # the coarsest grid is four cells or more
    widths = tuple(width * min(2**i, 4) for i in range(depth))
    return UNet(
        channels,
        context,
        maps,
        len(space),
        widths,
        settings.blocks or 1,
        periodic=settings.periodic,
    )
