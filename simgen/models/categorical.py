r"""Categorical: probabilities of K classes, a column each that is one or zero.

.. math::
    p(k \mid c) = \operatorname{softmax}_k\, f(c), \qquad
    \min_f\; -\bigl\langle \log p(k \mid c) \bigr\rangle

The optimum is the probability of the class given what is given, under the shares of the classes
in training. A row that is no single one among zeros has density zero.

References:
    | Amortized Bayesian model comparison with evidential deep learning (Radev et al., 2021)
    | https://arxiv.org/abs/2004.10629
"""

from __future__ import annotations

__all__ = ["Categorical", "CategoricalModule"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..field import Field
from ..networks import MLP
from .base import Given, ModelDistribution


@dataclass(frozen=True)
class Categorical:
    """Probabilities of classes by a perceptron of the context.

    Arguments:
        hidden: Its widths.
    """

    hidden: tuple[int, ...] = (128, 128)

    affine = True  # columns of ones and zeros are shifted and scaled, and no more

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(int(h) for h in self.hidden))

    def build(self, target: Field, given: Mapping[str, Field]) -> CategoricalModule:
        """The network.

        Raises:
            ValueError: If the target is no vector of two columns or more, or a map is given.
        """
        if target.layout != "vector" or target.size < 2:
            raise ValueError(
                f"Categorical models a vector, one column a class; got shape {target.shape}"
            )
        if "map" in given:
            raise ValueError("Categorical takes no map: embed it")
        context = given["context"].size if "context" in given else 0
        return CategoricalModule(target.size, context, self.hidden)


class CategoricalModule(nn.Module):
    """The network of `Categorical`.

    Arguments:
        classes: K.
        context: Length of the context vector.
        hidden: Widths of the perceptron.

    Attributes:
        codes: Each class as the standardised row (K, K) that stands for it.
    """

    codes: Tensor
    density = "exact"

    def __init__(self, classes: int, context: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.event_shape, self.noise_shape = torch.Size((classes,)), torch.Size((1,))
        self.register_buffer("codes", torch.eye(classes))
        self.network = MLP(context, classes, hidden) if context else None
        self.bias = nn.Parameter(torch.zeros(classes))

    @torch.no_grad()
    def initialise(self, target: Tensor, given: Given) -> None:
        """Finds the codes, and starts from the shares of the classes.

        Raises:
            ValueError: If the rows are no single one among zeros, or a class is missing.
        """
        rows, counts = torch.unique(target, dim=0, return_counts=True)
        classes = rows.argmax(-1)
        if len(rows) != len(self.codes) or len(classes.unique()) != len(rows):
            raise ValueError(
                f"Categorical models one column a class, {len(self.codes)} of them, each row a "
                f"single 1 among 0; found {len(rows)} different rows"
            )
        self.codes[classes] = rows
        self.bias[classes] = (counts / counts.sum()).log().to(self.bias)
        if self.network is not None:
            last: Any = self.network.layers[-1]
            last.weight.zero_()
            last.bias.zero_()

    def log_probabilities(self, given: Given) -> Tensor:
        """log p(k | c) (n, K); of nothing given (1, K)."""
        if self.network is None or given[0] is None:
            return self.bias.log_softmax(-1)[None]
        return (self.network(given[0]) + self.bias).log_softmax(-1)

    def log_prob(self, z: Tensor, given: Given) -> Tensor:
        """log p(z | given) (n,) of rows z (n, K): of a class per volume of its columns, so that it
        is the class's probability in physical units.
        """
        codes = self.codes.to(z)
        spacing = codes.amax(0) - codes.amin(0)
        distance, k = ((z[:, None] - codes) / spacing).abs().amax(-1).min(-1)
        known = self.log_probabilities(given).expand(len(z), -1).gather(1, k[:, None])[:, 0]
        density = known.to(z) - spacing.log().sum()
        return torch.where(distance < 1e-3, density, -torch.inf)

    def loss(self, target: Tensor, given: Given) -> Tensor:
        """-log p(target | given) of each row (n,), in nats."""
        return -self.log_prob(target, given)

    def transport(self, noise: Tensor, given: Given) -> Tensor:
        """Codes (s, n, K) of classes drawn by noise (s, n, 1)."""
        edges = self.log_probabilities(given).exp().cumsum(-1)
        k = (torch.special.ndtr(noise) > edges).sum(-1).clamp(max=len(self.codes) - 1)
        return self.codes[k]

    def distribution(self, given: Given) -> ModelDistribution:
        """The distribution over z given n rows, or nothing."""
        return ModelDistribution(self, given)
