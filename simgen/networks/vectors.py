r"""An encoder of vectors: linear summaries found in closed form, and a network's features.

.. math::
    h(x) = \bigl([x,] \; s, \; f([x,] s)\bigr), \qquad s = W^\top x

W holds the canonical directions of x: those linear combinations that correlate most with
polynomials of the target. Where the columns of x are strongly correlated, as binned data with a
common offset are, standardising each of them leaves the informative combinations tiny, and the
rest is noise to fit; the directions are found before any training. Whether x itself is passed on
is tested: if what is left of it beside s neither moves nor changes its second moments with the
target, by polynomials and waves of it, s is all there is to know, and a network that sees the rest
can only fit noise. Parameters, which have no noise, are never left out.

References:
    | Relations Between Two Sets of Variates (Hotelling, 1936)
    | https://doi.org/10.1093/biomet/28.3-4.321
    | Random Features for Large-Scale Kernel Machines (Rahimi & Recht, 2007), section 3
"""

from __future__ import annotations

__all__ = ["VectorEncoder", "canonical_directions", "still_depends"]

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .base import Configured

_MONOMIALS = 6  # target columns up to which all monomials of degree three are used
_ROWS = 20_000
_PRODUCTS = 64  # columns up to which products are tested, beyond it squares alone
_WAVES, _LENGTHS = 8, (1.0, 0.3)  # at each length, in standard deviations of the target


def _whitened(x: Tensor, floor: float = 1e-9) -> tuple[Tensor, Tensor]:
    """x (n, p) of zero mean with unit covariance (n, r), and the matrix (p, r) that does it."""
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    keep = values > floor * values[-1]
    matrix = vectors[:, keep] / values[keep].sqrt()
    return x @ matrix, matrix


def _polynomials(u: Tensor) -> Tensor:
    """Monomials of the target (n, d) up to degree three, whitened; of many variables fewer mixed
    ones.
    """
    w = ((u - u.mean(0)) / u.std(0).clamp(min=1e-9)).clamp(-4, 4)
    d = w.shape[1]
    i, j = torch.triu_indices(d, d)
    if d <= _MONOMIALS:
        squares = w[:, i] * w[:, j]
        cubes = [w[:, k : k + 1] * squares[:, i >= k] for k in range(d)]
        features = torch.cat([w, squares, *cubes], -1)
    else:
        squares = w[:, i] * w[:, j] if d <= 20 else w**2
        features = torch.cat([w, squares, w**3], -1)
    return _whitened(features - features.mean(0), 1e-6)[0]


def canonical_directions(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    r"""Directions of x that correlate with polynomials of u beyond chance, and what whitens the
    rest.

    Of r independent columns and k independent polynomials the largest squared sample correlation
    is about (sqrt(r) + sqrt(k))^2 / n: directions below it are noise.

    Arguments:
        x: Rows (n, p).
        u: Target rows (n, d).

    Returns:
        W (p, k), each direction of unit variance, and the whitened rest of x, (n, r - k),
        uncorrelated with it.
    """
    white, matrix = _whitened(x - x.mean(0))
    basis = _polynomials(u)
    left, correlation, _ = torch.linalg.svd(white.T @ basis / len(x))
    edge = (white.shape[1] ** 0.5 + basis.shape[1] ** 0.5) ** 2 / len(x)
    kept = int((correlation.square() > edge).sum())
    return matrix @ left[:, :kept], white @ left[:, kept:]


def _waves(u: Tensor) -> Tensor:
    """Polynomials of the target (n, d) and random waves of it, whitened."""
    w = ((u - u.mean(0)) / u.std(0).clamp(min=1e-9)).clamp(-4, 4)
    generator = torch.Generator().manual_seed(0)
    ways = torch.randn(w.shape[1], len(_LENGTHS) * _WAVES, generator=generator).to(w)
    phase = w @ (ways / torch.tensor(_LENGTHS).to(w).repeat_interleave(_WAVES))
    features = torch.cat([_polynomials(u), phase.cos(), phase.sin()], -1)
    return _whitened(features - features.mean(0), 1e-6)[0]


def still_depends(rest: Tensor, u: Tensor) -> bool:
    r"""Whether the rest (n, q), its squares or products vary with u (n, d), beyond chance by five
    deviations.

    Under independence, n times the sum of squared correlations of p moments with k functions of u
    has mean p k and variance about 2 p k.
    """
    n, q = rest.shape
    if q == 0:
        return False
    if q <= _PRODUCTS:
        i, j = torch.triu_indices(q, q)
        moments = rest[:, i] * rest[:, j]
    else:
        moments = rest.square()
    moments = torch.cat([rest, moments], -1)
    moments = (moments - moments.mean(0)) / moments.std(0).clamp(min=1e-9)
    basis = _waves(u)
    correlation = moments.T @ basis / n
    cells = correlation.numel()
    return bool(n * correlation.square().sum() > cells + 5 * (2 * cells) ** 0.5)


class VectorEncoder(Configured):
    """Features of a vector for the many small networks of a flow: (n, features) → (n, size).

    Arguments:
        features: Columns of x.
        out: Features that the network adds.
        hidden: Widths of its layers.
        directions: Canonical directions; found by `initialise`.
        keep: Whether x itself is passed on; decided by `initialise`.
        whole: Whether it is wherever something of it is left beside the directions.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        features: int,
        out: int = 32,
        hidden: Sequence[int] = (128, 128, 128),
        directions: int = 0,
        keep: bool = True,
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.features, self.out, self.hidden = features, out, tuple(hidden)
        self.keep, self.whole = keep, whole
        self.register_buffer("weight", torch.zeros(features, directions, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(directions, dtype=torch.float64))
        widths = [features * keep + directions, *hidden]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        last = nn.Linear(widths[-1], out)
        nn.init.zeros_(last.weight)  # at the start the features are the linear ones alone
        nn.init.zeros_(last.bias)
        self.net = nn.Sequential(*layers, last)

    @torch.no_grad()
    def initialise(self, x: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Finds the directions on training rows x (n, features), target (n, targets); new
        weights for the rest.
        """
        x, u = x[:_ROWS].double(), target[:_ROWS].double()
        weight, rest = canonical_directions(x, u)
        found, left = weight.shape[1], rest.shape[1] > 0
        keep = found == 0 or (left and (self.whole or still_depends(rest, u)))
        self.__init__(self.features, self.out, self.hidden, found, keep, self.whole)  # type: ignore[misc]
        self.weight.copy_(weight)
        self.bias.copy_(-x.mean(0) @ weight)

    def forward(self, x: Tensor) -> Tensor:
        """Encodes x (n, features)."""
        known = (x.double() @ self.weight + self.bias).to(x.dtype)
        if self.keep:
            known = torch.cat([x, known], -1)
        return torch.cat([known, self.net(known)], -1)
