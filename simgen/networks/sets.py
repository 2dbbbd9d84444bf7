r"""A permutation-invariant encoder of sets, of any number of elements.

.. math::
    h = \bigl( s(x),\; \log v,\; \ell,\; \rho(s, \log v, \ell) \bigr), \qquad
    s_j = \frac{K}{K + \kappa_j} \, \frac{\bar\phi_j - m_j}{\sqrt{B_j}}, \qquad
    \kappa_j = \frac{W_j}{B_j}, \qquad \ell = \log(K + \kappa)

The mean of K elements is that of infinitely many, which varies by B from set to set, and noise of
variance W / K, with W the variance within a set: s is its best linear estimate (a credibility, or
James-Stein, estimate), for one element as for thousands. Means of the elements, and logarithms of
their variances v in the set, go along as they are: no layer saturates on their way, and no step of
an optimiser moves them, where the posterior of a thousand events is as narrow as a thirtieth of
the prior. Its deviation falls as one over the root of K + kappa: the logarithm is a straight line
in the number that goes along as well.
"""

from __future__ import annotations

__all__ = ["SetEncoder"]

import torch
from torch import Tensor, nn

from .base import Configured
from .mlp import ResMLP

_ROWS, _ELEMENTS = 2_048, 1 << 19  # of training rows, to start from
_LEAST = 0.05  # of the variance of means: less of it between sets is not told from none
_PRODUCTS, _SQUARES = 4, 16  # features up to which products of two, or squares, go along
_OUTLIER = 4.0  # of a standardised feature, in products


class SetEncoder(Configured):
    """Deep set: a network on each element, the mean over elements, a network on the mean.

    Means of the elements go along, logarithms of their variances, and their number: (n, K,
    features) → (n, size). Means are shrunk towards that of all sets by how much so many elements
    can say. The network sees products of two features as well.

    Arguments:
        features: Features of one element.
        out: Features that the networks add.
        width: Width of the element network and of its pooled output.
        blocks: Hidden layers of the element network.

    References:
        | Deep Sets (Zaheer et al., 2017), theorem 2
        | https://arxiv.org/abs/1703.06114
        | Experience rating and credibility (Bühlmann, 1967)
        | https://doi.org/10.1017/S0515036100008989
    """

    loc: Tensor
    log_scale: Tensor
    kappa: Tensor
    number: Tensor
    variance: Tensor

    def __init__(self, features: int, out: int = 32, width: int = 64, blocks: int = 2) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(features, width), nn.SiLU()]
        for _ in range(blocks - 1):
            layers += [nn.Linear(width, width), nn.SiLU()]
        self.element = nn.Sequential(*layers, nn.Linear(width, width))
        pairs = torch.triu_indices(features, features) if features <= _PRODUCTS else None
        if pairs is None:
            pairs = torch.arange(features if features <= _SQUARES else 0).expand(2, -1)
        self.pairs = pairs.tolist()
        left, right = self.pairs
        self.features = features
        self.own = [i for i, (a, b) in enumerate(zip(left, right)) if a == b]  # squares
        self.moments = features + len(left)
        pooled = self.moments + width
        total = pooled + len(self.own) + 1
        self.register_buffer("loc", torch.zeros(pooled))
        self.register_buffer("log_scale", torch.zeros(pooled))
        self.register_buffer("kappa", torch.ones(pooled))
        # kappa of the number, centre and scale of its logarithm
        self.register_buffer("number", torch.tensor([1.0, 0.0, 5.0]))
        # of each feature: its variance within sets, and the scale of the logarithm of a set's
        self.register_buffer("variance", torch.ones(2, len(self.own)))
        self.linear = nn.Linear(total, out)
        self.head = ResMLP(total, out, width=width, blocks=1)
        for parameter in (*self.linear.parameters(), *self.head.last[1].parameters()):
            nn.init.zeros_(parameter)  # it starts from the moments alone

    @torch.no_grad()
    def initialise(self, x: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Finds centre, scale and kappa of the pooled elements from training rows, by the method
        of moments.
        """
        rows = slice(max(64, min(_ROWS, _ELEMENTS // x.shape[1])))
        mean, square, count = self._pool(x[rows], None if mask is None else mask[rows], True)
        some = count[:, 0] > 0
        mean, square, count = (v[some].double() for v in (mean, square, count))
        within = (count * (square - mean**2)).sum(0).clamp(min=0) / (count - 1).sum().clamp(min=1)
        weight = torch.ones_like(mean)
        for _ in range(3):
            loc = (weight * mean).sum(0) / weight.sum(0)
            total = (weight * (mean - loc) ** 2).sum(0) / weight.sum(0)
            noise = (weight * within / count).sum(0) / weight.sum(0)
            between = torch.maximum(total - noise, _LEAST * total).clamp(min=1e-12)
            kappa = (within / between).clamp(min=1e-6)
            weight = count / (count + kappa)
        self.loc.copy_(loc)
        self.log_scale.copy_(between.log() / 2)
        self.kappa.copy_(kappa)
        self.variance[0] = within[: len(self.own)].clamp(min=1e-12)
        spread = self.log_variance(mean.to(x), count.to(x)).std(0)
        self.variance[1] = torch.where(spread > 1e-3, spread, 1.0)
        middle = kappa[: self.moments].quantile(0.5)
        number = (count + middle).log()
        if len(number) > 1 and float(number.std()) > 0.1:  # of sets of one size it says nothing
            self.number.copy_(torch.stack([middle, number.mean(), number.std()]))

    def _pool(self, x: Tensor, mask: Tensor | None, squares: bool = False) -> tuple[Tensor, ...]:
        """Mean over the elements that are there (n, p), mean of squares where asked for, and their
        number (n, 1).
        """
        if mask is None:
            count = torch.full((len(x), 1), x.shape[1], dtype=x.dtype, device=x.device)
            h = self._features(x)
            return (h.mean(1), h.square().mean(1), count) if squares else (h.mean(1), count)
        count = mask.sum(1, keepdim=True).to(x.dtype)
        rows, places = mask.nonzero(as_tuple=True)  # padding costs nothing
        h = self._features(x[rows, places])

        def mean(h: Tensor) -> Tensor:
            return h.new_zeros(len(mask), h.shape[-1]).index_add(0, rows, h) / count.clamp(min=1)

        return (mean(h), mean(h.square()), count) if squares else (mean(h), count)

    def _features(self, x: Tensor) -> Tensor:
        """Of elements (..., features): themselves, products of two, and what the network makes."""
        bounded = x.clamp(-_OUTLIER, _OUTLIER)
        left, right = self.pairs
        return torch.cat([x, bounded[..., left] * bounded[..., right], self.element(x)], -1)

    def shrunk(self, mean: Tensor, count: Tensor) -> Tensor:
        """s of means (n, p) of so many elements (n, 1), in deviations between sets."""
        return (mean - self.loc) * count / (count + self.kappa) * torch.exp(-self.log_scale)

    def log_variance(self, mean: Tensor, count: Tensor) -> Tensor:
        """Logarithms of features' variances in each set (n, squares), with one element more of the
        usual variance, shrunk as squares are.
        """
        square = [self.features + i for i in self.own]
        within, scale = self.variance
        here = (mean[:, square] - mean[:, : len(square)].square()).clamp(min=0)
        value = ((count * here + within) / (count + 1)).log() - within.log()
        return value * count / (count + self.kappa[square]) / scale

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encodes sets x (n, K, features), of which mask (n, K) elements are there, as (n,
        size).
        """
        mean, count = self._pool(x, mask)
        s, log_variance = self.shrunk(mean, count), self.log_variance(mean, count)
        kappa, centre, scale = self.number
        number = ((count + kappa).log() - centre) / scale
        h = torch.cat([s, log_variance, number], -1)
        known = torch.cat([s[:, : self.features], log_variance, number], -1)
        return torch.cat([known, self.linear(h) + self.head(h)], -1)
