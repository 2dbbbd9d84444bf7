r"""Prior: named, bounded parameters; a torch Distribution with its bijection to R^d.

.. math::
    p(\vartheta) = \prod_i p_i(\vartheta_i), \qquad
    \vartheta_i = F_i^{-1}(\Phi(u_i)), \quad u \sim \mathcal N(0, I)

Models of theta live in the unconstrained u: no posterior draw falls outside the prior, none is
rejected.
"""

from __future__ import annotations

__all__ = ["Prior"]

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributions as D
from torch import Tensor
from torch.distributions import constraints

from .bijection import Columns, factor_rule, inside, interval_rule


class Prior(D.Distribution):
    r"""A prior over named parameters theta, shape (d,).

    Arguments:
        factors: Independent scalar distributions by name, or one joint distribution with event
            shape (d,).
        names: Of a joint distribution, the d names.
        labels: LaTeX, one a parameter.
        units: Units, one a parameter.
        **named: Factors by keyword, `Prior(Omega_m=Uniform(0.1, 0.5))`.

    Raises:
        ValueError: If a factor is discrete, not scalar, or its bounds are not finite or not
            ordered; if names do not match.

    Examples:
        >>> from torch.distributions import Normal, Uniform
        >>> prior = Prior(Omega_m=Uniform(0.1, 0.5), w_0=Normal(-1.0, 0.2))
        >>> prior.names
        ('Omega_m', 'w_0')
        >>> prior.sample((3,)).shape
        torch.Size([3, 2])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(
        self,
        factors: Mapping[str, D.Distribution] | D.Distribution | None = None,
        /,
        *,
        names: Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
        units: Sequence[str] | None = None,
        **named: D.Distribution,
    ) -> None:
        self.joint: D.Distribution | None = None
        if isinstance(factors, D.Distribution):
            if named:
                raise ValueError("give one joint distribution, or factors by name, not both")
            factors, joint = _split(factors, names)
            self.joint = joint
        else:
            if names is not None:
                raise ValueError("names go with a joint distribution; factors have theirs as keys")
            factors = {**(factors or {}), **named}
        if not factors:
            raise ValueError("a prior needs at least one parameter")
        self.names = tuple(factors)
        for name in self.names:
            if not name.isidentifier():
                raise ValueError(f"parameter names are Python identifiers; got {name!r}")
        if self.joint is None:
            self.factors = {k: _scalar_factor(k, v) for k, v in factors.items()}
            rules = []
            for name, factor in self.factors.items():
                try:
                    rules.append(factor_rule(factor))
                except ValueError as error:
                    raise ValueError(f"parameter {name!r}: {error}") from None
            self.bijection = Columns(rules)
        else:
            self.factors = {}
            self.bijection = Columns(_joint_rules(self.joint))
        d = len(self.names)
        self.labels = _strings("labels", labels, self.names)
        self.units = _strings("units", units, ("",) * d)
        super().__init__(torch.Size(), torch.Size((d,)), validate_args=False)

    @property
    def support(self) -> Any:  # type: ignore[override]
        """The support, as a torch constraint on (d,)."""
        return self.bijection.codomain

    @property
    def low(self) -> Tensor:
        """Lower bounds (d,), float64; -inf where there is none."""
        return self.bijection.low

    @property
    def high(self) -> Tensor:
        """Upper bounds (d,), float64; inf where there is none."""
        return self.bijection.high

    @property
    def mean(self) -> Tensor:
        """The mean, shape (d,)."""
        if self.joint is not None:
            return self.joint.mean
        return torch.stack([f.mean for f in self.factors.values()])

    @property
    def variance(self) -> Tensor:
        """The variance of each parameter, shape (d,)."""
        if self.joint is not None:
            return self.joint.variance
        return torch.stack([f.variance for f in self.factors.values()])

    def sample(self, sample_shape: Any = (), seed: int | None = None) -> Tensor:
        """Draws (*sample_shape, d), strictly inside the support; `seed` makes the draw
        repeatable.
        """
        shape = torch.Size([sample_shape] if isinstance(sample_shape, int) else sample_shape)
        with torch.no_grad(), torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.default_generator.manual_seed(seed)
            if self.joint is not None:
                theta = self.joint.sample(shape)
            else:
                theta = torch.stack([f.sample(shape) for f in self.factors.values()], -1)
        return inside(theta, self.low, self.high)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(theta), shape (...), -inf outside the support."""
        value = torch.as_tensor(value)
        if value.shape[-1:] != self.event_shape:
            raise ValueError(f"theta must be (..., {len(self.names)}); got {tuple(value.shape)}")
        within = self.bijection.contains(value) & value.isfinite().all(-1)
        safe = torch.where(within[..., None], value, self._inner.to(value))
        if self.joint is not None:
            total = self.joint.log_prob(safe)
        else:
            parts = [f.log_prob(safe[..., i]) for i, f in enumerate(self.factors.values())]
            total = torch.stack(parts).sum(0)
        return torch.where(within, total, torch.full_like(total, -math.inf))

    @property
    def _inner(self) -> Tensor:
        """Some point inside the support."""
        return self.bijection(torch.zeros(len(self.names), dtype=torch.float64))

    def __repr__(self) -> str:
        inner = ", ".join(f"{k}={v}" for k, v in self.factors.items()) or repr(self.joint)
        return f"Prior({inner})"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values. Independent torch factors come back whole; of others names and support
        are kept.
        """
        out: dict[str, Any] = {
            "names": list(self.names),
            "labels": list(self.labels),
            "units": list(self.units),
            "bijection": self.bijection.rules,
        }
        factors = {k: _factor_dict(v) for k, v in self.factors.items()}
        if factors and all(v is not None for v in factors.values()):
            out["factors"] = factors
        return out

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Prior:
        """The inverse of to_dict.

        Raises:
            ValueError: If the prior was not made of independent torch factors: give it again.
        """
        if "factors" not in values:
            names = ", ".join(values["names"])
            raise ValueError(
                f"the prior over {names} cannot be rebuilt from its file: give prior=..."
            )
        factors = {}
        for name, spec in values["factors"].items():
            spec = dict(spec)
            factors[name] = getattr(D, spec.pop("family"))(**spec)
        whole = Prior(factors, labels=values["labels"], units=values["units"])
        if values.get("truncation") is None:
            return whole
        from .rounds.truncation import TruncatedPrior

        return TruncatedPrior.of_rounds(whole, values["truncation"])


def _strings(what: str, given: Sequence[str] | None, default: Sequence[str]) -> tuple[str, ...]:
    if given is None:
        return tuple(default)
    if isinstance(given, Mapping):
        raise ValueError(f"{what} is a sequence in the order of the parameters, not a mapping")
    if len(given) != len(default):
        raise ValueError(f"{what} must be {len(default)} strings; got {len(given)}")
    return tuple(str(v) for v in given)


def _scalar_factor(name: str, factor: Any) -> D.Distribution:
    if not isinstance(factor, D.Distribution):
        raise TypeError(
            f"parameter {name!r} needs a torch distribution; got {type(factor).__name__}"
        )
    shape = factor.batch_shape + factor.event_shape
    if math.prod(shape) != 1:
        raise ValueError(
            f"parameter {name!r} needs a scalar distribution; got shape {tuple(shape)}: "
            "give Prior(joint, names=[...]) for several parameters at once"
        )
    if shape:
        parameters = {k: getattr(factor, k) for k in factor.arg_constraints if _has(factor, k)}
        factor = type(factor)(**{k: v.reshape(()) for k, v in parameters.items()})
    if isinstance(factor, D.Uniform) and not (
        math.isfinite(float(factor.low)) and math.isfinite(float(factor.high))
    ):
        raise ValueError(
            f"parameter {name!r}: Uniform needs finite bounds, got ({float(factor.low)}, "
            f"{float(factor.high)}); use Normal, LogNormal or another proper prior"
        )
    return factor


def _split(joint: D.Distribution, names: Sequence[str] | None) -> tuple[dict[str, Any], Any]:
    """Factors of an independent joint distribution, or the joint one as it is."""
    shape = joint.event_shape
    if len(shape) != 1 or joint.batch_shape:
        raise ValueError(
            f"a joint prior has event shape (d,) and no batch shape; got {tuple(shape)} and "
            f"{tuple(joint.batch_shape)}: wrap factors with Independent(..., 1)"
        )
    d = shape[0]
    keys = tuple(names) if names is not None else tuple(f"theta_{i}" for i in range(d))
    if len(keys) != d or len(set(keys)) != d:
        raise ValueError(f"names must be {d} different strings; got {keys}")
    base: Any = getattr(joint, "base_dist", None)
    if isinstance(joint, D.Independent) and base.batch_shape == shape:
        columns = {k: getattr(base, k) for k in base.arg_constraints if _has(base, k)}
        if type(base) in (
            D.Uniform,
            D.Normal,
            D.LogNormal,
            D.Exponential,
            D.Laplace,
            D.Beta,
            D.Gamma,
            D.VonMises,
        ):
            if type(base) is D.Beta:
                columns = {k: columns[k] for k in ("concentration1", "concentration0")}
            factors = {
                key: type(base)(**{k: v.expand(shape)[i] for k, v in columns.items()})
                for i, key in enumerate(keys)
            }
            return factors, None
    return dict.fromkeys(keys), joint


def _has(factor: D.Distribution, name: str) -> bool:
    return isinstance(getattr(factor, name, None), Tensor)


def _joint_rules(joint: D.Distribution) -> list[dict[str, Any]]:
    d = joint.event_shape[0]
    support = joint.support
    if getattr(support, "is_discrete", False):
        raise ValueError("a prior is continuous; this joint distribution is discrete")
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support in (constraints.real, constraints.real_vector):
        return [interval_rule(None, None)] * d
    if isinstance(support, type(constraints.real_vector)):
        return [interval_rule(None, None)] * d
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None and high is None:
        raise ValueError(
            f"the support {support} is no product of intervals; simgen models theta in R^d "
            "behind a bijection of each column, so give a prior on a box, half-lines or R^d"
        )
    lows = torch.as_tensor(-math.inf if low is None else low, dtype=torch.float64).expand(d)
    highs = torch.as_tensor(math.inf if high is None else high, dtype=torch.float64).expand(d)
    return [interval_rule(float(a), float(b)) for a, b in zip(lows, highs)]


def _factor_dict(factor: D.Distribution) -> dict[str, Any] | None:
    """A torch factor by family and parameters, None if it is not one of torch's plain families."""
    family = type(factor).__name__
    if getattr(D, family, None) is not type(factor) or isinstance(factor, D.Independent):
        return None
    parameters = {k: getattr(factor, k) for k in factor.arg_constraints if _has(factor, k)}
    if family == "Dirichlet" or not parameters:
        return None
    return {"family": family, **{k: float(v) for k, v in parameters.items()}}
