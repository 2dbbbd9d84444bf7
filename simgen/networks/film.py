r"""A residual network on vectors that time and context steer feature by feature (FiLM).

.. math::
    h \leftarrow h + W_2 \, \mathrm{SiLU}\bigl(W_1 [(1 + \gamma_i) \odot \mathrm{norm}(h)
        + \beta_i]\bigr), \qquad (\gamma_1, \beta_1, \gamma_2, \beta_2, \dots) = V e(t, c)

Scales and shifts of all blocks come from one embedding e(t, c) in one matrix product. The last
layer starts at zero, so that the network starts as the constant zero.

References:
    | FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2018), eq. 2
    | https://arxiv.org/abs/1709.07871
"""

from __future__ import annotations

__all__ = ["FiLMMLP", "Steering"]

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from .base import Configured
from .embedding_time import SinusoidalEmbedding


class Steering(nn.Module):
    """Embedding of time and context, two layers: t (...,), c (..., context) → (..., width).

    Arguments:
        context: Length of the context vector; 0 for none.
        width: Size of the embedding.
        time: Features of the time.
    """

    def __init__(self, context: int, width: int, time: int = 64) -> None:
        super().__init__()
        self.context = context
        self.time = SinusoidalEmbedding(time)
        self.first = nn.Linear(time + context, width)
        self.second = nn.Linear(width, width)

    def forward(self, time: Tensor, context: Tensor | None = None) -> Tensor:
        """Embeds times and contexts whose leading shapes broadcast."""
        features = self.time(time)
        if self.context:
            assert context is not None
            lead = torch.broadcast_shapes(time.shape, context.shape[:-1])
            features = torch.cat([features.expand(*lead, -1), context.expand(*lead, -1)], -1)
        return silu(self.second(silu(self.first(features))))


class FiLMMLP(Configured):
    """Residual blocks steered by time and context: x (n, k), t (n,), c (n, context) → (n, k).

    Leading shapes broadcast: x (s, n, k) with t () and c (n, context) does the work of what time
    and context say n times, not s n times.

    Arguments:
        features: Length k of the vector.
        context: Length of the context vector; 0 for none.
        width: Width of the residual stream.
        blocks: Number of residual blocks.
        steering: Width of the embedding of time and context.
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        width: int = 256,
        blocks: int = 4,
        steering: int = 128,
    ) -> None:
        super().__init__()
        self.width = width
        self.first = nn.Linear(features, width)
        self.given = nn.Linear(context, width, bias=False) if context else None
        self.steering = Steering(context, steering)
        self.film = nn.Linear(steering, 2 * blocks * width)
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.last = nn.Linear(width, features)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor | None = None,
        grid: Tensor | None = None,
    ) -> Tensor:
        """Applies the blocks to x (..., k) at times (...) given contexts (..., c); a vector has no
        grid, which is there for the sake of a common signature.
        """
        steer = self.film(self.steering(time, context)).chunk(2 * len(self.inner), -1)
        h = self.first(x)
        if self.given is not None:
            h = h + self.given(context)
        for i, (inner, outer) in enumerate(zip(self.inner, self.outer)):
            normed = layer_norm(h, (self.width,))
            h = h + outer(silu(inner(torch.addcmul(steer[2 * i + 1], normed, 1 + steer[2 * i]))))
        return self.last(layer_norm(h, (self.width,)))
