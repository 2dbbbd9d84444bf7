r"""A residual network on variables some of which are given: one network for every conditional.

.. math::
    y = (1 - m) \odot f\bigl((1 - m) \odot x, \; t, \; (m \odot c, \, m, \, g(m \odot c, m))\bigr)

m says which variables are given, c are their values, x those of the others. f is steered by what
is given and by g, which is computed once for all x that share it.
"""

from __future__ import annotations

__all__ = ["MaskedMLP"]

import torch
from torch import Tensor

from .base import Configured
from .film import FiLMMLP
from .mlp import MLP


class MaskedMLP(Configured):
    """Residual blocks told what is given: x (..., k), t (...), c and m (..., k) → (..., k). It
    starts at zero.

    Leading shapes broadcast: x (s, n, k) with c and m (n, k) encodes what is given n times.

    Arguments:
        features: Number of variables k.
        width: Width of the residual stream, and of the encoder's layers.
        blocks: Number of residual blocks.
        encoding: Features of the encoder g.
    """

    def __init__(
        self, features: int, width: int = 128, blocks: int = 4, encoding: int = 32
    ) -> None:
        super().__init__()
        self.encoder = MLP(2 * features, encoding, (width,) * 3)
        self.body = FiLMMLP(features, 2 * features + encoding, width, blocks)

    def forward(self, x: Tensor, time: Tensor, clean: Tensor, given: Tensor) -> Tensor:
        """Applies the network; what stands in x where a variable is given does not matter, nor
        what stands in c where it is not. The output is zero where given.
        """
        known = torch.cat([torch.where(given, clean, 0.0), given.to(x.dtype)], -1)
        context = torch.cat([known, self.encoder(known)], -1)
        return self.body(torch.where(given, 0.0, x), time, context).masked_fill(given, 0.0)
