r"""Preprocessing: between a field's physical values and the standardised numbers of a network.

.. math::
    z = \frac{b^{-1}(y) - \mu}{s}, \qquad
    \log p(y) = \log p(z) - \sum_i \log s_i - \log \left| \frac{\partial b(u)}{\partial u} \right|

Every rule is found on training rows alone and recorded with the model: the support's bijection
where one is declared, asinh or log where values have infinite variance or span decades, mean and
deviation of what results. A constant column is left out. Whole numbers are dequantised by uniform
noise on their cell [k, k + 1); so is a point mass at zero, on a cell (-1, 0] of its own below the
logarithms of what is positive:

.. math::
    P(y = 0) = \int_{-1}^0 p(y)\, dy

Densities are then with respect to Lebesgue measure on what is positive, and to counting on whole
numbers and zeros. Of an image, whose cells are too many for an average over points in them, the
mean of the logarithm stands for that of the density: a lower bound.
"""

from __future__ import annotations

__all__ = ["Standardise", "Target", "column_rule", "flagged"]

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .bijection import Columns, interval_rule
from .field import Field

_IDENTITY = {"kind": "affine", "loc": 0.0, "scale": 1.0}
_CELL_POINTS = 32


def column_rule(values: Tensor, discrete: bool = False) -> dict[str, Any]:
    """The rule that brings one unbounded column to a scale on which mean and deviation mean
    something.

    Positive values over more than two decades, counts with a long tail, and columns whose
    deviation is ruled by a few outliers (noise of infinite variance) go through asinh, which is
    linear inside its scale and a logarithm beyond; all others stay as they are.

    Arguments:
        values: The training values of the column, shape (n,).
        discrete: Whether they are whole numbers.
    """
    values = values.double()
    if len(values) > 100_000:
        values = values[:: len(values) // 100_000 + 1]
    points = torch.tensor([0.01, 0.25, 0.5, 0.75, 0.99], dtype=torch.float64)
    q01, q25, q50, q75, q99 = torch.quantile(values, points.to(values.device)).tolist()
    low, width, deviation = float(values.min()), (q75 - q25) / 1.349, float(values.std())
    if discrete and low >= 0 and q99 > 20 * (q50 + 1):
        return {"kind": "sinh", "loc": 0.0, "scale": 1.0}
    if low > 0 and q99 > 100 * q01:
        return {"kind": "sinh", "loc": 0.0, "scale": q01}
    if width > 0 and (deviation > 3 * width or not math.isfinite(deviation)):
        return {"kind": "sinh", "loc": q50, "scale": width}
    return dict(_IDENTITY)


def hurdle_rule(values: Tensor) -> dict[str, Any]:
    """The rule of a column of zeros and positive values (n,): the cell of zeros is as wide as two
    deviations of the logarithms of the rest, so that neither side is a spike beside the other.

    Raises:
        ValueError: If a value is negative.
    """
    values = values.double()
    if bool((values < 0).any()):
        raise ValueError(
            f"a field with zeros=True has zeros and positive values; found {float(values.min())}"
        )
    positive = values[values > 0]
    if len(positive) < 2:
        return {"kind": "hurdle", "scale": 1.0, "width": 1.0}
    scale = float(positive.sort().values[len(positive) // 100])
    spread = float(torch.log1p(positive / scale).std())
    return {"kind": "hurdle", "scale": scale, "width": max(2 * spread, 1.0)}


def _moments(u: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (f,) of rows (n, f), NaN left out; deviation zero where rounding is all
    there is.
    """
    if bool(u.isnan().any()):
        loc = u.nanmean(0).nan_to_num()
        scale = (u - loc).square().nanmean(0).sqrt().nan_to_num()
    else:
        loc, scale = u.mean(0), u.std(0, correction=0)
    noise = 1e-6 * (u.nan_to_num().abs().amax(0) + 1e-30)
    return loc, torch.where(scale > noise, scale, torch.zeros_like(scale))


def flagged(field: Field) -> Field:
    """A field that may be missing in part, as networks see it: values, and behind them as many
    columns that say what was observed.
    """
    if field.layout == "image":
        return Field((2 * field.shape[0], *field.shape[1:]), "image")
    return Field((*field.shape[:-1], 2 * field.columns), field.layout)


class Standardise(nn.Module):
    """The given side of one field: per column (vector), per feature (set, series), or per
    channel (image).

    Arguments:
        field: The field.
        rules: One rule a column; found by `fit_`.
        partial: Whether NaN may stand for what was not observed. It becomes zero, and as many
            columns follow that are one where something was observed, else zero.
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        field: Field,
        rules: Sequence[dict[str, Any]] | None = None,
        partial: bool = False,
    ) -> None:
        super().__init__()
        self.field, self.partial = field, partial
        self.rules = [dict(r) for r in rules or [_IDENTITY] * field.columns]
        self.bijection = Columns(self.rules)
        self.plain = all(rule == _IDENTITY for rule in self.rules)
        self.register_buffer("loc", torch.zeros(field.columns, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(field.columns, dtype=torch.float64))

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds the module, buffers aside."""
        about = {"field": self.field.to_dict(), "rules": self.rules}
        return {**about, "partial": True} if self.partial else about

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row, standardised."""
        return flagged(self.field).shape if self.partial else self.field.shape or (1,)

    def fit_(self, values: Tensor, mask: Tensor | None = None) -> Standardise:
        """Finds rules and moments on training values (n, *shape); padding is skipped by mask (n,
        K).
        """
        columns = self._columns_last(values.double())
        columns = columns.reshape(-1, self.field.columns) if mask is None else columns[mask]
        each = [column[~column.isnan()] for column in columns.T]
        rules = [column_rule(v, self.field.discrete) if len(v) else dict(_IDENTITY) for v in each]
        self.__init__(self.field, rules, self.partial)  # type: ignore[misc]
        loc, scale = _moments(columns if self.plain else self.bijection.inv(columns))
        self.loc, self.scale = loc, scale
        return self

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Standardised values (*batch, *shape), float32; constant columns and padding are zero."""
        columns = self._columns_last(values.double())
        missing = columns.isnan() if self.partial else None
        columns = columns if missing is None else columns.nan_to_num()
        u = columns if self.plain else self.bijection.inv(columns)
        constant = self.scale == 0
        z = (u - self.loc) / torch.where(constant, torch.ones_like(self.scale), self.scale)
        z = torch.where(constant, torch.zeros_like(z), z).float()
        if missing is not None:
            z = torch.cat([z.masked_fill(missing, 0.0), (~missing).to(z)], -1)
        if mask is not None:
            z = z * mask[..., None]
        if self.field.layout == "image":
            return z.movedim(-1, -len(self.field.shape))
        return z

    def hide(self, z: Tensor, observed: Tensor) -> Tensor:
        """Standardised rows (n, *) as if only some entries (n, *field shape) were observed."""
        axis = 1 if self.field.layout == "image" else -1
        observed = observed if self.field.shape else observed[:, None]
        return z.masked_fill(~torch.cat([observed, observed], axis), 0.0)

    def values(self, z: Tensor) -> Tensor:
        """Of standardised rows, the values alone."""
        if not self.partial:
            return z
        return z.narrow(1 if self.field.layout == "image" else -1, 0, self.field.columns)

    def _columns_last(self, values: Tensor) -> Tensor:
        if not self.field.shape:
            return values[..., None]
        if self.field.layout == "image":
            return values.movedim(-len(self.field.shape), -1)
        return values


class Target(nn.Module):
    """The modelled side: columns y (n, d) in physical units ↔ z (n, k) of a network, with its
    log-determinant. Of an image the columns are channels, (n, d, *grid) ↔ (n, k, *grid).

    Arguments:
        rules: One rule a column (d).
        discrete: Which columns are whole numbers.
        axes: Axes of the grid, behind that of the columns.
    """

    loc: Tensor
    scale: Tensor
    constant: Tensor

    def __init__(
        self, rules: Sequence[dict[str, Any]], discrete: Sequence[bool], axes: int = 0
    ) -> None:
        super().__init__()
        self.rules, self.discrete = [dict(r) for r in rules], [bool(v) for v in discrete]
        self.axes = axes
        self.zeros = [rule["kind"] == "hurdle" for rule in self.rules]
        self.bijection = Columns(self.rules)
        d = len(self.rules)
        self.register_buffer("loc", torch.zeros(d, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(d, dtype=torch.float64))
        self.register_buffer("constant", torch.full((d,), math.nan, dtype=torch.float64))

    @property
    def config(self) -> dict[str, Any]:
        """What rebuilds the module, buffers aside."""
        return {"rules": self.rules, "discrete": self.discrete, "axes": self.axes}

    @property
    def keep(self) -> Tensor:
        """Indices of the columns that vary (k,)."""
        return self.constant.isnan().nonzero().squeeze(-1)

    @property
    def cells(self) -> bool:
        """Whether some values stand for a cell."""
        return any(self.discrete) or any(self.zeros)

    @property
    def bounded(self) -> bool:
        """Whether the average over cells is a lower bound."""
        return self.cells and self.axes > 0

    @property
    def features(self) -> int:
        """How many columns are modelled."""
        return len(self.keep)

    @classmethod
    def fitted(
        cls,
        values: Tensor,
        rules: Sequence[dict[str, Any] | None],
        discrete: Sequence[bool],
        axes: int = 0,
    ) -> Target:
        """Finds what is not given on training rows.

        Arguments:
            values: Training rows (n, d), or (n, d, *grid).
            rules: The bijection of each column where its support is known, else None; a "hurdle"
                finds its numbers here.
            discrete: Which columns are whole numbers.
            axes: Axes of the grid.
        """
        columns = values.double().movedim(1, -1).reshape(-1, values.shape[1])
        found = [
            hurdle_rule(column)
            if rule is not None and rule["kind"] == "hurdle"
            else rule or column_rule(column, whole)
            for column, rule, whole in zip(columns.T, rules, discrete)
        ]
        target = cls(found, discrete, axes)
        same = (columns == columns[:1]).all(0)
        target.constant = torch.where(same, columns[0], torch.full_like(columns[0], math.nan))
        u = target.bijection.inv(target.centred(columns))
        loc, scale = u.mean(0), u.std(0, correction=0)
        angle = torch.tensor([rule["kind"] == "circular" for rule in found], device=loc.device)
        loc, scale = loc.masked_fill(angle, 0.0), scale.masked_fill(angle, 1.0)
        target.loc = loc
        target.scale = torch.where(same | (scale <= 0), torch.ones_like(scale), scale)
        return target

    def subset(self, columns: Sequence[int]) -> Target:
        """The preprocessing of some columns."""
        part = Target([self.rules[i] for i in columns], [self.discrete[i] for i in columns])
        index = torch.tensor(list(columns), device=self.loc.device)
        part.loc, part.scale = self.loc[index].clone(), self.scale[index].clone()
        part.constant = self.constant[index].clone()
        return part

    def _last(self, y: Tensor) -> Tensor:
        """Columns as the last axis."""
        return y.movedim(-1 - self.axes, -1) if self.axes else y

    def _first(self, y: Tensor) -> Tensor:
        """Columns before the grid."""
        return y.movedim(-1, -1 - self.axes) if self.axes else y

    def centred(self, y: Tensor) -> Tensor:
        """Whole numbers and zeros at the middle of their cell."""
        return y + 0.5 * (y.new_tensor(self.discrete) - (y == 0) * y.new_tensor(self.zeros))

    def cell(self, y: Tensor) -> Tensor:
        """The side of each value's cell, y (..., d, *grid): 1 above a whole number, -1 below a
        zero, 0 of a number that stands for itself.
        """
        whole, zeros = (
            torch.tensor(which, dtype=torch.float64, device=y.device).view(-1, *[1] * self.axes)
            for which in (self.discrete, self.zeros)
        )
        return whole - (y == 0) * zeros

    def valid(self, y: Tensor) -> Tensor:
        """Whether whole numbers are whole and no value is below zero where zeros are (..., d,
        *grid).
        """
        whole, zeros = (
            torch.tensor(which, device=y.device).view(-1, *[1] * self.axes)
            for which in (self.discrete, self.zeros)
        )
        return ((y == y.floor()) | ~whole) & ((y >= 0) | ~zeros)

    def dequantise(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """y (n, d) or (n, d, *grid) anywhere in its cell."""
        if not self.cells:
            return y
        noise = torch.rand(y.shape, generator=generator, device=y.device, dtype=torch.float64)
        return y.double() + noise * self.cell(y)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """z (..., k, *grid) float32 and log |dz / dy| (...) float64 of y (..., d, *grid); -inf
        outside the support.
        """
        y = self._last(y.double())
        u = self.bijection.inv(y)
        varies = self.constant.isnan()
        ladj = -self._log_slopes(u, y)
        same = varies | (y == self.constant) | (y.float() == self.constant.float())
        valid = self.bijection.contains(y) & same.all(-1)
        ladj = torch.where(valid, ladj, torch.full_like(ladj, -math.inf))
        if self.axes:
            ladj = ladj.flatten(-self.axes).sum(-1)
        z = ((u - self.loc) / self.scale)[..., self.keep]
        return self._first(z.float()), ladj

    def _log_slopes(self, u: Tensor, y: Tensor) -> Tensor:
        """log |dy / dz| of the columns that vary, summed."""
        if self.features == len(self.rules):
            total = self.bijection.log_abs_det_jacobian(u, y)
        else:
            part = Columns([self.rules[i] for i in self.keep.tolist()])
            total = part.log_abs_det_jacobian(u[..., self.keep], y[..., self.keep])
        return total + self.scale[self.keep].log().sum()

    def inverse(self, z: Tensor, rounded: bool = True) -> Tensor:
        """y (..., d, *grid), float64, of z (..., k, *grid).

        Whole numbers are rounded down; where zeros are, what is below zero is a zero.
        """
        z = self._last(z)
        u = self.loc.expand(*z.shape[:-1], -1).clone()
        u[..., self.keep] = z.double() * self.scale[self.keep] + self.loc[self.keep]
        y = self.bijection(u)
        y = torch.where(self.constant.isnan(), y, self.constant)
        if rounded and any(self.discrete):
            y = torch.where(y.new_tensor(self.discrete).bool(), y.floor(), y)
        if rounded and any(self.zeros):
            y = torch.where(y.new_tensor(self.zeros).bool(), y.clamp(min=0), y)
        return self._first(y)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Least and largest value of each column, (d, *1)."""
        low, high = self.bijection.low, self.bijection.high
        # whole numbers fill half-open cells: their bounds are themselves attained
        low = torch.where(low.new_tensor(self.discrete).bool(), low - 1, low)
        low = torch.where(low.new_tensor(self.zeros).bool(), torch.full_like(low, -1.0), low)
        shape = (-1, *[1] * self.axes)
        return low.view(shape).to(self.loc.device), high.view(shape).to(self.loc.device)

    def cell_points(self, y: Tensor) -> Tensor:
        """Fixed points (m, ..., d, *grid) in the unit cells of each row, over which densities
        average.
        """
        event = y.shape[y.dim() - 1 - self.axes :]
        points = torch.quasirandom.SobolEngine(math.prod(event), scramble=True, seed=0)
        cells = points.draw(_CELL_POINTS).view(_CELL_POINTS, *event).double().to(y.device)
        lead = [1] * (y.dim() - len(event))
        return y.double() + cells.view(_CELL_POINTS, *lead, *event) * self.cell(y)


def field_rules(field: Field) -> list[dict[str, Any] | None]:
    """The bijection rules that a field's declared support gives its columns."""
    d = field.columns if field.layout == "image" else field.size
    if field.zeros:
        return [{"kind": "hurdle"}] * d
    if field.support is None:
        return [None] * d
    bounds = [b if isinstance(b, tuple) else (b,) * d for b in field.support]
    shift = 1.0 if field.discrete else 0.0  # whole numbers fill cells [k, k + 1)
    return [
        None
        if low is None and high is None
        else interval_rule(low, None if high is None else high + shift)
        for low, high in zip(*bounds)
    ]
