r"""Masked transformations: each variable through a univariate function of its own, given others.

.. math::
    y_i = f_i\bigl(x_i; \phi_i(x_{<i}, c)\bigr), \qquad
    \log \left| \det \frac{\partial y}{\partial x} \right| = \sum_i \log f_i'(x_i)

Autoregressive (each variable given all before it; one pass for the density, one a group to draw)
or coupling (half of the variables given the context, the others given them too; two passes).

References:
    | MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015)
    | https://arxiv.org/abs/1502.03509
    | Masked Autoregressive Flow (Papamakarios et al., 2017), eqs. 3-5
    | https://arxiv.org/abs/1705.07057
"""

from __future__ import annotations

__all__ = ["MaskedTransform", "variable_order"]

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from zuko.nn import MaskedMLP

from .base import Given
from .layer import Layer
from .univariate import Univariate


def variable_order(features: int, i: int, permute: bool) -> Tensor:
    """The order of the variables in transformation i: every second one turns the one before it
    round.
    """
    order = torch.arange(features)
    if permute:
        generator = torch.Generator().manual_seed(i // 2)
        order = torch.randperm(features, generator=generator)
    return features - 1 - order if i % 2 else order


class MaskedTransform(Layer):
    """A masked network that gives each variable the parameters of its univariate function.

    The last layer writes all values of one parameter side by side. Drawing computes, at each
    pass, the variables of that pass alone, by the hidden units that they depend on alone, and
    once a context where they depend on nothing else.

    Arguments:
        univariate: The function of each variable; a function that several share is one object.
        context: Length of the context vector.
        order: The order of the variables (features,).
        passes: Groups of variables: None for autoregressive, 2 for coupling.
        hidden: Widths of the network.
        periodic: Variables that are angles: others see their cosine and sine.
    """

    group: Tensor
    back: Tensor

    def __init__(
        self,
        univariate: Sequence[Univariate],
        context: int,
        order: Tensor,
        passes: int | None,
        hidden: Sequence[int],
        periodic: Sequence[int] = (),
    ) -> None:
        super().__init__()
        features = len(univariate)
        self.periodic = list(periodic)
        self.constant = features == 1 and context == 0  # a network needs some input
        passes = min(passes or features, features)
        self.register_buffer("group", order // math.ceil(features / passes))
        kinds = list(dict.fromkeys(univariate))
        self.univariate: Any = nn.ModuleList(kinds)
        self.members = [[i for i, u in enumerate(univariate) if u is kind] for kind in kinds]
        back = torch.tensor([i for rows in self.members for i in rows]).argsort()
        self.register_buffer("back", back)

        # columns of the input: variables (cosines of angles), sines of angles, context
        seen = self.group[:, None] > torch.cat((self.group, self.group[self.periodic]))
        always = context + self.constant
        seen = torch.cat((seen, torch.ones(features, always, dtype=torch.bool)), 1)
        kinds_and_members = list(zip(kinds, self.members))
        self.hyper = MaskedMLP(
            torch.cat([seen[rows].repeat(kind.total, 1) for kind, rows in kinds_and_members]),
            tuple(hidden),
        )
        start = [kind.start.repeat_interleave(len(rows)) for kind, rows in kinds_and_members]
        with torch.no_grad():  # the identity: what comes before it is the first answer
            self.hyper[-1].weight.zero_()
            self.hyper[-1].bias.copy_(torch.cat(start))

        # the pass at which a unit can be computed: 0 where it depends on the context alone
        level = torch.cat((self.group, self.group[self.periodic])) + 1
        level = torch.cat((level, level.new_zeros(always)))
        levels = [level]
        for layer in list(self.hyper)[::2][:-1]:
            level = torch.where(layer.mask, level, 0).amax(1)
            levels.append(level)
        count = int(self.group.max()) + 1
        self.shares = count == 1  # no variable depends on another
        self.units = [[(v <= g).nonzero().squeeze(-1) for v in levels] for g in range(count)]
        group = self.group.tolist()
        self.local = [
            [[j for j, i in enumerate(rows) if group[i] == g] for rows in self.members]
            for g in range(count)
        ]

    def call_and_ladj(self, x: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """y (n, d) and log |det dy/dx| (n,) of x (n, d)."""
        return self._call(x, given, not torch.is_grad_enabled())

    def training_call(self, x: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """The same, by what vmap knows."""
        return self._call(x, given, False)

    def _call(self, x: Tensor, given: Given, broadcast: bool) -> tuple[Tensor, Tensor]:
        # units first and rows last throughout, as the splines want them
        rows = len(x) if not self.shares else 1 if given[0] is None else len(given[0])
        phi = self._input(x[:rows], given[0]).t()
        for i, layer in enumerate(list(self.hyper)[::2]):
            h = phi.relu() if i else phi
            phi = torch.addmm(layer.bias[:, None], layer.mask * layer.weight, h)
        columns = x.t()
        if len(self.members) == 1:
            y, ladj = self._moved(0, columns, phi, broadcast)
            return y.t(), ladj.sum(0)
        sizes = [u.total * len(rows) for u, rows in zip(self.univariate, self.members)]
        parts = [
            self._moved(i, columns[rows], part, broadcast)
            for i, (rows, part) in enumerate(zip(self.members, phi.split(sizes)))
        ]
        y = torch.cat([p[0] for p in parts])[self.back]
        return y.t(), torch.cat([p[1] for p in parts]).sum(0)

    def _moved(self, i: int, x: Tensor, phi: Tensor, broadcast: bool) -> tuple[Tensor, Tensor]:
        """The kind i of univariate functions, of its variables x (k, s n) and phi (total k, n)."""
        univariate, (k, rows), n = self.univariate[i], x.shape, phi.shape[1]
        if n < rows and univariate.broadcasts and broadcast:
            y, ladj = univariate(x.reshape(k, -1, n), phi.view(univariate.total, k, 1, n))
        else:
            phi = phi if n == rows else phi.repeat(1, rows // n)
            y, ladj = univariate(x.reshape(-1), phi.reshape(univariate.total, -1))
        return y.reshape(k, rows), ladj.reshape(k, rows)

    def _input(self, x: Tensor, c: Tensor | None) -> Tensor:
        """What the network sees of x (..., n, d) and c (n, c)."""
        if self.periodic:
            angles = x[..., self.periodic]
            x = x.clone()
            x[..., self.periodic] = angles.cos()
            x = torch.cat((x, angles.sin()), -1)
        if self.constant:
            c = torch.ones_like(x[..., :1])
        return x if c is None else torch.cat((x, c.expand(*x.shape[:-1], -1)), -1)

    def inverse(self, y: Tensor, given: Given) -> Tensor:
        """x (s, n, d) of y (s, n, d)."""
        s, n, d = y.shape
        linear = list(self.hyper)[::2]
        weights = [layer.mask * layer.weight for layer in linear]
        columns: list[Tensor] = [torch.zeros((), dtype=y.dtype, device=y.device)] * d
        for g, units in enumerate(self.units):
            lead = s if g else 1  # the first group is the same for all draws of a context
            known = [v.expand(lead, n) if v.dim() == 0 else v for v in columns]
            h = self._input(torch.stack(known, -1), given[0]).view(lead * n, -1)[:, units[0]]
            for i, layer in enumerate(linear[:-1]):
                out, enter = units[i + 1], units[i]
                h = torch.addmm(layer.bias[out], h, weights[i][out][:, enter].t()).relu_()
            at = 0
            for univariate, rows, local in zip(self.univariate, self.members, self.local[g]):
                total, end = univariate.total, at + univariate.total * len(rows)
                weight = weights[-1][at:end].view(total, len(rows), -1)[:, local]
                weight = weight.flatten(0, 1)[:, units[-1]]
                bias = linear[-1].bias[at:end].view(total, -1)[:, local].flatten()
                at = end
                if not local:
                    continue
                phi = torch.addmm(bias[:, None], weight, h.t()).view(total, len(local), lead, n)
                index = [rows[j] for j in local]
                values = univariate.inverse(y[..., index].movedim(-1, 0), phi)
                for i, value in zip(index, values):
                    columns[i] = value
        return torch.stack(columns, -1)
