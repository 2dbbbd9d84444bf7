r"""Layer: one bijection of a flow, from the target towards the base.

.. math::
    y = f(x; c), \qquad \log \left| \det \frac{\partial y}{\partial x} \right|, \qquad
    x = f^{-1}(y; c)
"""

from __future__ import annotations

__all__ = ["Layer", "Part"]

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import Given


class Layer(nn.Module):
    """A bijection, given context vectors and maps of n rows.

    Attributes:
        shares: Whether x may have s n rows, of which row i is given row i mod n: what many x share
            is then computed once.
    """

    shares = False

    def call_and_ladj(self, x: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """y (n, *event) and log |det dy/dx| (n,) of x (n, *event), given n rows."""
        raise NotImplementedError

    def inverse(self, y: Tensor, given: Given) -> Tensor:
        """x (s, n, *event) of y (s, n, *event), given n rows."""
        raise NotImplementedError

    def training_call(self, x: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """What training calls; an estimate without bias is enough."""
        return self.call_and_ladj(x, given)

    def initialise(self, x: Tensor, given: Given) -> None:
        """Starts from training rows (n, *event), where there is a start in closed form."""


class Part(Layer):
    """A layer on some of the variables; the others, angles, pass it by.

    Arguments:
        layer: The layer of the variables.
        members: Which they are.
        features: How many variables there are in all.
    """

    index: Tensor
    back: Tensor

    def __init__(self, layer: Layer, members: Sequence[int], features: int) -> None:
        super().__init__()
        self.layer, self.size = layer, len(members)
        index = torch.tensor([*members, *(i for i in range(features) if i not in members)])
        self.register_buffer("index", index)
        self.register_buffer("back", index.argsort())

    def initialise(self, x: Tensor, given: Given) -> None:
        """Starts the layer from its variables of x (n, d)."""
        self.layer.initialise(x[:, self.index[: self.size]], given)

    def call_and_ladj(self, x: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """y (n, d) and log |det| (n,) of x (n, d)."""
        mine, rest = x[:, self.index].tensor_split([self.size], -1)
        y, ladj = self.layer.call_and_ladj(mine, given)
        return torch.cat((y, rest), -1)[:, self.back], ladj

    def inverse(self, y: Tensor, given: Given) -> Tensor:
        """x (s, n, d) of y (s, n, d)."""
        mine, rest = y[..., self.index].tensor_split([self.size], -1)
        return torch.cat((self.layer.inverse(mine, given), rest), -1)[..., self.back]
