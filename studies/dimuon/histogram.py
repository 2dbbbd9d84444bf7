r"""A set of numbers as its histogram: counts in bins, made Gaussian, and a vector's encoder.

.. math::
    h(x) = f\Bigl( \sqrt{n_1 + \tfrac38}, \dots, \sqrt{n_B + \tfrac38} \Bigr), \qquad
    n_b = \#\{ i : q_{b-1} \le x_i < q_b \}

with the edges q at quantiles of all training numbers, so that all bins fill alike: narrow where
there are many, and next to nothing is lost.

References:
    | The Transformation of Poisson, Binomial and Negative-Binomial Data (Anscombe, 1948)
    | https://doi.org/10.1093/biomet/35.3-4.246
"""

from __future__ import annotations

__all__ = ["Histogram"]

import torch
from torch import Tensor, nn

from simgen.networks import VectorEncoder


class Histogram(nn.Module):
    """Encodes sets (n, k, 1) of numbers as (n, size).

    Arguments:
        bins: Bins of equal content over the training rows.
        out: Features that the network adds to the linear summaries.
    """

    edges: Tensor

    def __init__(self, bins: int = 100, out: int = 32) -> None:
        super().__init__()
        self.bins = bins
        self.register_buffer("edges", torch.linspace(-2.0, 2.0, bins - 1))
        self.encoder = VectorEncoder(bins, out)

    @torch.no_grad()
    def initialise(self, x: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Sets the edges of the bins, and the encoder's closed form, from training rows."""
        ordered = x.flatten().sort().values
        places = torch.arange(1, self.bins, device=x.device) * len(ordered) // self.bins
        self.edges.copy_(ordered[places])
        self.encoder.initialise(self.counts(x), target)

    def counts(self, x: Tensor) -> Tensor:
        """The transformed counts (n, bins) of sets (n, k, 1)."""
        b = torch.bucketize(x[..., 0].contiguous(), self.edges, right=True)
        n = torch.zeros(len(x), self.bins, dtype=x.dtype, device=x.device)
        return (n.scatter_add_(1, b, torch.ones_like(x[..., 0])) + 3 / 8).sqrt()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encodes complete sets x (n, k, 1)."""
        return self.encoder(self.counts(x))
