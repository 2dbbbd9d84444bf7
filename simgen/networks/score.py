r"""A summary network that estimates the score at a reference point.

.. math::
    s(x) = \frac{f\bigl(h(x), u\bigr) - a}{b}, \qquad u = u(\vartheta_\mathrm{ref}), \qquad
    f(c) = W c + g(c, W c)

h encodes x where it is no vector, f is a regression on what is known of x and theta, a and b
bring its values to mean zero and deviation one.
"""

from __future__ import annotations

__all__ = ["Regression", "ScoreSummary"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Configured, build
from .mlp import MLP

_RIDGE = 1e-6


class Regression(Configured):
    """A linear map, and a network on its input and output: (n, features) → (n, out).

    Arguments:
        features: Size of the input vector.
        out: Size of the output vector.
        hidden: Widths of the network.
    """

    def __init__(self, features: int, out: int, hidden: Sequence[int] = (128, 128)) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(features, out)
        self.net = MLP(features + out, out, hidden)
        last: Any = self.net.layers[-1]
        torch.nn.init.zeros_(last.weight)  # at the start the linear regression alone
        torch.nn.init.zeros_(last.bias)

    @torch.no_grad()
    def initialise(self, x: Tensor, target: Tensor) -> None:
        """Least squares of target rows (n, out) on x (n, features)."""
        x, y = x.double(), target.double()
        centred, mean = x - x.mean(0), y.mean(0)
        gram = centred.T @ centred / len(x)
        ridge = _RIDGE * gram.diagonal().mean().clamp(min=1e-12)
        ridge = ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weight = torch.linalg.solve(gram + ridge, centred.T @ (y - mean) / len(x)).T
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(mean - weight @ x.mean(0))

    def forward(self, x: Tensor) -> Tensor:
        """Applies both."""
        y = self.linear(x)
        return y + self.net(torch.cat([x, y], -1))


class ScoreSummary(Configured):
    """The score at a reference point, as an embedding: x → (n, out).

    Arguments:
        regression: Configuration of a `Regression` on what is known of x, then theta.
        encoder: Configuration of the network that encodes x; None where x is a vector.
        parameters: Length of theta.

    Attributes:
        reference: Standardised theta at which the score is (parameters,).
        preprocessing: Of x, as the network was trained with it, one module; `fit` takes it over.
    """

    reference: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(
        self, regression: dict[str, Any], encoder: dict[str, Any] | None, parameters: int
    ) -> None:
        super().__init__()
        self.regression = build(regression)
        self.encoder = None if encoder is None else build(encoder)
        self.preprocessing: tuple[torch.nn.Module, ...] = ()  # a tuple: no weights of ours
        out = regression["out"]
        self.register_buffer("reference", torch.zeros(parameters))
        self.register_buffer("loc", torch.zeros(out))
        self.register_buffer("scale", torch.ones(out))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The summary of standardised x (n, *event), of which mask elements are there."""
        if self.encoder is not None:
            x = self.encoder(x) if mask is None else self.encoder(x, mask)
        u = self.reference.expand(len(x), -1)
        return (self.regression(torch.cat([x.flatten(1), u], -1)) - self.loc) / self.scale
