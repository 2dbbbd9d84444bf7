r"""Bijections between R^d and a support, column by column, exact in float64.

Each column maps u in R to theta by one of

.. math::
    \text{affine}: a + b u, \quad
    \text{interval}: a + (b - a)\,\Phi(u), \quad
    \text{soft}: a + (b - a)\,F_\tau(u), \quad
    \text{above}: a + e^{m + s u}, \quad
    \text{below}: b - e^{-u}, \quad
    \text{sinh}: a + b \sinh u, \quad
    \text{hurdle}: u / g \; (u < 0), \; b (e^u - 1) \; (u \ge 0), \\
    \text{exponential}: -\log \Phi(-u) / \lambda, \quad
    \text{circular}: a + (b - a) \left( \frac{u}{2 \pi} + \frac12 \bmod 1 \right), \quad
    \text{cdf}: F^{-1}(\Phi(u)),

so that a factor of a prior with a known CDF becomes N(0, 1); F_tau is that of `softbox`. Float64
throughout: in float32 a sigmoid puts draws on the bound, with a log-determinant wrong by units.
"""

from __future__ import annotations

__all__ = ["Columns", "inside"]

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributions as D
from torch import Tensor
from torch.distributions import constraints
from torch.special import log_ndtr, ndtr, ndtri

from .softbox import soft_cdf, soft_inverse, soft_log_slope

_LIMIT = 8.0  # beyond it 1 - Phi(u) has no digits left in float64
_LOG_2PI = math.log(2 * math.pi)


def inside(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Moves what rounding has put on an open bound to the next number inside, in the value's own
    type.
    """
    dtype = value.dtype
    low_, high_ = low.to(value), high.to(value)
    infinity = torch.tensor(math.inf, dtype=dtype, device=value.device)
    # the bound itself may round outwards: step until strictly inside
    first = torch.where(low_ > low, low_, torch.nextafter(low_, infinity))
    last = torch.where(high_ < high, high_, torch.nextafter(high_, -infinity))
    return torch.minimum(torch.maximum(value, first), last)


def _normal_log_prob(u: Tensor) -> Tensor:
    return -0.5 * u * u - 0.5 * _LOG_2PI


class Columns(D.Transform):
    """A bijection R^d → support with one rule a column, which JSON can hold.

    Arguments:
        rules: One dict a column, {"kind": ..., parameters}: see the module. "cdf" names a torch
            family and its parameters. Columns of one kind (and family) are evaluated together.
    """

    bijective = True

    def __init__(self, rules: Sequence[dict[str, Any]]) -> None:
        super().__init__(cache_size=0)
        self.rules = [dict(rule) for rule in rules]
        groups: dict[str, list[int]] = {}
        for i, rule in enumerate(self.rules):
            groups.setdefault(f"{rule['kind']}:{rule.get('family', '')}", []).append(i)
        self._groups = []
        for key, index in groups.items():
            kind, family = key.split(":")
            names = [k for k in self.rules[index[0]] if k not in ("kind", "family")]
            values = {
                k: torch.tensor([self.rules[i][k] for i in index], dtype=torch.float64)
                for k in names
            }
            self._groups.append((kind, family, torch.tensor(index), values))
        bounds = [_bounds(rule) for rule in self.rules]
        self.low = torch.tensor([b[0] for b in bounds], dtype=torch.float64)
        self.high = torch.tensor([b[1] for b in bounds], dtype=torch.float64)

    @property
    def domain(self) -> Any:  # type: ignore[override]
        """R^d."""
        return constraints.real_vector

    @property
    def codomain(self) -> Any:  # type: ignore[override]
        """The support."""
        return support_constraint(self.low, self.high)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Columns) and self.rules == other.rules

    __hash__ = None  # type: ignore[assignment]

    def _call(self, u: Tensor) -> Tensor:
        u = u.double()
        theta = torch.empty_like(u)
        for kind, family, index, p in self._groups:
            p = {k: v.to(u.device) for k, v in p.items()}
            index = index.to(u.device)
            theta[..., index] = _forward(kind, family, u[..., index], p)
        return inside(theta, self.low.to(u.device), self.high.to(u.device))

    def _inverse(self, theta: Tensor) -> Tensor:
        theta = theta.double()
        u = torch.empty_like(theta)
        for kind, family, index, p in self._groups:
            p = {k: v.to(theta.device) for k, v in p.items()}
            index = index.to(theta.device)
            u[..., index] = _backward(kind, family, theta[..., index], p)
        return u

    def log_abs_det_jacobian(self, u: Tensor, theta: Tensor) -> Tensor:
        """Log |d theta / d u|, shape (...)."""
        u, theta = u.double(), theta.double()
        total = torch.zeros(u.shape[:-1], dtype=torch.float64, device=u.device)
        for kind, family, index, p in self._groups:
            p = {k: v.to(u.device) for k, v in p.items()}
            index = index.to(u.device)
            total = total + _log_slope(kind, family, u[..., index], theta[..., index], p).sum(-1)
        return total

    def contains(self, theta: Tensor) -> Tensor:
        """Whether each row lies in the support, shape (...)."""
        theta = theta.double()
        low, high = self.low.to(theta.device), self.high.to(theta.device)
        return ((theta >= low) & (theta <= high)).all(-1)


def support_constraint(low: Tensor, high: Tensor) -> Any:
    """The torch constraint of a product of intervals, half-lines and lines."""
    if torch.isinf(low).all() and torch.isinf(high).all():
        return constraints.real_vector
    if torch.isfinite(low).all() and torch.isfinite(high).all():
        return constraints.independent(constraints.interval(low.float(), high.float()), 1)
    parts = [
        constraints.independent(_scalar_constraint(float(a), float(b)), 1)
        for a, b in zip(low, high)
    ]
    return constraints.cat(parts, dim=-1, lengths=[1] * len(parts))


def _scalar_constraint(low: float, high: float) -> Any:
    if math.isinf(low) and math.isinf(high):
        return constraints.real
    if math.isinf(high):
        return constraints.greater_than(low)
    if math.isinf(low):
        return constraints.less_than(high)
    return constraints.interval(low, high)


def _bounds(rule: dict[str, Any]) -> tuple[float, float]:
    kind = rule["kind"]
    if kind in ("interval", "soft", "circular"):
        return rule["low"], rule["high"]
    if kind == "above":
        return rule["low"], math.inf
    if kind == "below":
        return -math.inf, rule["high"]
    if kind == "exponential":
        return 0.0, math.inf
    if kind == "cdf":
        return rule["low"], rule["high"]
    return -math.inf, math.inf


def _cdf_factor(family: str, p: dict[str, Tensor]) -> D.Distribution:
    parameters = {k: v for k, v in p.items() if k not in ("low", "high")}
    return getattr(D, family)(**parameters, validate_args=False)


def _forward(kind: str, family: str, u: Tensor, p: dict[str, Tensor]) -> Tensor:
    if kind == "affine":
        return p["loc"] + p["scale"] * u
    if kind == "interval":
        width = p["high"] - p["low"]
        # the tail that is small is computed from its own side
        return torch.where(u < 0, p["low"] + width * ndtr(u), p["high"] - width * ndtr(-u))
    if kind == "soft":
        distance, below = soft_cdf(u, p["edge"])
        distance = (p["high"] - p["low"]) * distance
        return torch.where(below, p["low"] + distance, p["high"] - distance)
    if kind == "circular":
        return p["low"] + (p["high"] - p["low"]) * torch.remainder(u / (2 * math.pi) + 0.5, 1)
    if kind == "above":
        return p["low"] + torch.exp(p["loc"] + p["scale"] * u)
    if kind == "below":
        return p["high"] - torch.exp(-u)
    if kind == "sinh":
        return p["loc"] + p["scale"] * torch.sinh(u)
    if kind == "hurdle":
        return torch.where(u < 0, u / p["width"], p["scale"] * torch.expm1(u.clamp(min=0)))
    if kind == "exponential":
        return -log_ndtr(-u) / p["rate"]
    return _cdf_factor(family, p).icdf(ndtr(u.clamp(-_LIMIT, _LIMIT)))


def _backward(kind: str, family: str, theta: Tensor, p: dict[str, Tensor]) -> Tensor:
    if kind == "affine":
        return (theta - p["loc"]) / p["scale"]
    if kind == "interval":
        width = p["high"] - p["low"]
        tiny = torch.finfo(torch.float64).tiny
        below = ((theta - p["low"]) / width).clamp(tiny, 1)
        above = ((p["high"] - theta) / width).clamp(tiny, 1)
        u = torch.where(below < 0.5, ndtri(below), -ndtri(above))
        return u.clamp(-_LIMIT, _LIMIT)
    if kind == "soft":
        width = p["high"] - p["low"]
        below = theta - p["low"] <= p["high"] - theta
        distance = torch.where(below, theta - p["low"], p["high"] - theta) / width
        return soft_inverse(distance, below, p["edge"].expand_as(distance))
    if kind == "circular":
        turn = torch.remainder((theta - p["low"]) / (p["high"] - p["low"]), 1)
        return 2 * math.pi * turn - math.pi
    if kind == "above":
        tiny = torch.finfo(torch.float64).tiny
        return ((theta - p["low"]).clamp(min=tiny).log() - p["loc"]) / p["scale"]
    if kind == "below":
        return -(p["high"] - theta).clamp(min=torch.finfo(torch.float64).tiny).log()
    if kind == "sinh":
        return torch.asinh((theta - p["loc"]) / p["scale"])
    if kind == "hurdle":
        positive = torch.log1p(theta.clamp(min=0) / p["scale"])
        return torch.where(theta < 0, theta * p["width"], positive)
    if kind == "exponential":
        y = (theta * p["rate"]).clamp(min=torch.finfo(torch.float64).tiny)
        # u = -Phi^-1(e^-y); in the far tail by two Newton steps on log Phi(-u) = -y
        start = torch.where(y < 700, -ndtri(torch.exp(-y)), (2 * y).sqrt())
        u = torch.where(y < 0.1, ndtri(-torch.expm1(-y)), start)
        for _ in range(3):
            log_tail = log_ndtr(-u)
            slope = -torch.exp(_normal_log_prob(u) - log_tail)
            step = (log_tail + y) / slope
            u = torch.where(y < 30, u, u - step)
        return u
    q = _cdf_factor(family, p).cdf(theta)
    return ndtri(q.clamp(1e-300, 1 - 2**-53)).clamp(-_LIMIT, _LIMIT)


def _log_slope(kind: str, family: str, u: Tensor, theta: Tensor, p: dict[str, Tensor]) -> Tensor:
    if kind == "affine":
        return p["scale"].log().expand_as(u)
    if kind == "interval":
        return (p["high"] - p["low"]).log() + _normal_log_prob(u)
    if kind == "soft":
        return (p["high"] - p["low"]).log() + soft_log_slope(u, p["edge"])
    if kind == "circular":
        return ((p["high"] - p["low"]) / (2 * math.pi)).log().expand_as(u)
    if kind == "above":
        return p["loc"] + p["scale"] * u + p["scale"].log()
    if kind == "below":
        return -u
    if kind == "sinh":
        return torch.cosh(u).log() + p["scale"].log()
    if kind == "hurdle":
        return torch.where(u < 0, -p["width"].log(), u + p["scale"].log())
    if kind == "exponential":
        return _normal_log_prob(u) - log_ndtr(-u) - p["rate"].log()
    return _normal_log_prob(u) - _cdf_factor(family, p).log_prob(theta)


def interval_rule(low: float | None, high: float | None) -> dict[str, Any]:
    """The rule of a column that is known by its bounds only."""
    low = -math.inf if low is None else float(low)
    high = math.inf if high is None else float(high)
    if math.isinf(low) and math.isinf(high):
        return {"kind": "affine", "loc": 0.0, "scale": 1.0}
    if math.isinf(high):
        return {"kind": "above", "low": low, "loc": 0.0, "scale": 1.0}
    if math.isinf(low):
        return {"kind": "below", "high": high}
    return {"kind": "interval", "low": low, "high": high}


def soft_rule(rule: dict[str, Any] | None, columns: int) -> dict[str, Any] | None:
    """A box rule with soft edges, as models of few columns take it; any other as it is.

    The edge, in half-widths of the box, is 0.002 d^2 between 0.02 and 0.5 for d columns: a
    posterior keeps its shape wherever it stands, but every edge is one more thing to be learned
    from the same rows.

    Arguments:
        rule: The rule.
        columns: Columns that are modelled together.
    """
    if rule is None or rule["kind"] != "interval":
        return rule
    edge = min(max(0.002 * columns**2, 0.02), 0.5)
    return {"kind": "soft", "low": rule["low"], "high": rule["high"], "edge": edge}


def factor_rule(factor: D.Distribution) -> dict[str, Any]:
    """The rule that makes a scalar torch factor N(0, 1) where its CDF allows, else one by its
    support.

    Raises:
        ValueError: If the factor is discrete, or its support is no interval.
    """
    family = type(factor).__name__
    value = {k: float(getattr(factor, k)) for k in factor.arg_constraints if _scalar(factor, k)}
    if type(factor) is D.Normal:
        return {"kind": "affine", "loc": value["loc"], "scale": value["scale"]}
    if type(factor) is D.Uniform:
        return {"kind": "interval", "low": value["low"], "high": value["high"]}
    if type(factor) is D.LogNormal:
        return {"kind": "above", "low": 0.0, "loc": value["loc"], "scale": value["scale"]}
    if type(factor) is D.Exponential:
        return {"kind": "exponential", "rate": value["rate"]}
    low, high = _support_bounds(factor)
    if family in ("Laplace", "Cauchy", "Gumbel", "HalfNormal", "HalfCauchy", "Pareto", "Weibull"):
        if getattr(D, family) is type(factor):
            return {"kind": "cdf", "family": family, "low": low, "high": high, **value}
    return interval_rule(low, high)


def _scalar(factor: D.Distribution, name: str) -> bool:
    try:
        return isinstance(getattr(factor, name), Tensor) and getattr(factor, name).numel() == 1
    except (AttributeError, NotImplementedError):
        return False


def _support_bounds(factor: D.Distribution) -> tuple[float, float]:
    support = factor.support
    if getattr(support, "is_discrete", False):
        raise ValueError(f"a prior is continuous; {type(factor).__name__} is discrete")
    if isinstance(factor, D.VonMises):
        return -math.pi, math.pi  # torch says the line, on which its density has no integral
    if support is constraints.real:
        return -math.inf, math.inf
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None and high is None:
        raise ValueError(
            f"the support of {type(factor).__name__} ({support}) is no interval; "
            "give the prior as factors on intervals, half-lines or lines"
        )
    return (
        -math.inf if low is None else float(low),
        math.inf if high is None else float(high),
    )
