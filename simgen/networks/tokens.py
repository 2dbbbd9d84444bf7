r"""A transformer over variables: one token each, of its identity, its value, and what is given.

.. math::
    e_i = a_i + b_i\, x_i, \quad h_i = e_i + W \, \mathrm{SiLU}(e_i) + g_i\, m_i, \qquad
    h \leftarrow h + \mathrm{attention}(h), \quad h \leftarrow h + \mathrm{MLP}(h), \qquad
    y_i = (1 - m_i) \, o_i \cdot h_i

a, b, g and o belong to the variable, m says which values are given. Which variables are asked for
and which are known may change from row to row: one network learns every conditional of a joint
distribution.

References:
    | All-in-one simulation-based inference (Gloeckler et al., 2024), section 3
    | https://arxiv.org/abs/2404.09636
"""

from __future__ import annotations

__all__ = ["TokenTransformer"]

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from .attention import SelfAttention
from .base import Configured
from .film import Steering


class _Layer(nn.Module):
    """Attention and MLP, each after a normalisation that time and context scale and shift."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.attention = SelfAttention(width, heads)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, h: Tensor, film: Tensor, mask: Tensor | None) -> Tensor:
        scale_1, shift_1, scale_2, shift_2 = film.unsqueeze(-2).chunk(4, -1)
        seen = torch.addcmul(shift_1, layer_norm(h, (self.width,)), 1 + scale_1)
        h = h + self.attention(seen, mask)
        seen = torch.addcmul(shift_2, layer_norm(h, (self.width,)), 1 + scale_2)
        return h + self.outer(silu(self.inner(seen)))


class TokenTransformer(Configured):
    """A transformer whose tokens are variables: x (n, k), t (n,), c (n, context) → (n, k). It
    starts at zero.

    Arguments:
        features: Number of variables k.
        context: Length of the context vector; 0 for none.
        width: Features of a token.
        layers: Number of layers.
        heads: Heads of the attention.
        steering: Width of the embedding of time and context.
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        width: int = 48,
        layers: int = 4,
        heads: int = 4,
        steering: int = 128,
    ) -> None:
        super().__init__()
        self.width = width
        self.identity = nn.Parameter(torch.randn(features, width))
        self.value = nn.Parameter(torch.randn(features, width))
        self.known = nn.Parameter(torch.randn(features, width))
        self.embed = nn.Linear(width, width)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.steering = Steering(context, steering)
        self.film = nn.Linear(steering, 4 * layers * width)
        self.last = nn.Parameter(torch.zeros(features, width))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor | None = None,
        grid: Tensor | None = None,
        given: Tensor | None = None,
        missing: Tensor | None = None,
    ) -> Tensor:
        """Applies the layers.

        Arguments:
            x: Values (n, k); clean where given.
            time: Times (n,) of the values that are not given.
            context: Context vectors (n, c).
            grid: None; for the sake of a common signature.
            given: Which values are given, (n, k); none unless said.
            missing: Which variables no other may see, (n, k): the rest is then modelled without
                them. None unless said.

        Returns:
            (n, k), zero where given or missing.
        """
        h = torch.addcmul(self.identity, x[..., None], self.value)
        h = h + self.embed(silu(h))
        if given is not None:
            h = h + given[..., None] * self.known
        mask = None
        if missing is not None:
            # each token sees itself: no row of the softmax is empty
            alone = torch.eye(x.shape[-1], dtype=torch.bool, device=x.device)
            mask = ~missing[:, None, :] | alone
        films = self.film(self.steering(time, context)).chunk(len(self.layers), -1)
        for layer, film in zip(self.layers, films):
            h = layer(h, film, mask)
        y = (layer_norm(h, (self.width,)) * self.last).sum(-1) + self.bias
        for off in (given, missing):
            if off is not None:
                y = y.masked_fill(off, 0.0)
        return y
