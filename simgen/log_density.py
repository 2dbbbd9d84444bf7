r"""LogDensity: the log-likelihood of an observation, for tools that speak NumPy.

.. math::
    f(\vartheta) = \sum_i \log q(x_i \mid \vartheta) \; \bigl[ + \log p(\vartheta) \bigr], \qquad
    \frac{\partial f}{\partial \vartheta}

Numbers in and out are float64, rows are evaluated together. Where the surrogate was not trained
it extrapolates, and says nothing of it: f is -inf there, with a gradient of zero. The networks
themselves compute in float32: take gradients from here, not by small differences.
"""

from __future__ import annotations

__all__ = ["LogDensity", "surrogate_density"]

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .field import Field
from .likelihood import Likelihood, as_likelihood
from .prior import Prior
from .support import bounds_of

if TYPE_CHECKING:
    from .conditional import Conditional

_ROWS = 1 << 14  # rows times events that are evaluated at once


class LogDensity:
    """f(theta): one number of theta (d,), (...) of theta (..., d). A fork of the process may call
    it; it uses one thread there, since its parent's are not in it.

    Arguments:
        function: Of theta (n, d) to (n,), float64, by torch; differentiable if gradients are
            asked for.
        names: Of the d parameters.
        bounds: Low and high of each (d, 2); outside, f is -inf.
        labels: LaTeX, one a parameter; the names unless said.
        units: One a parameter.
        prior: What `with_prior` adds unless told otherwise.
        density: How f is known: "exact", "bound" or "ode".
        rows: How many rows are evaluated at once.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        names: tuple[str, ...],
        bounds: np.ndarray,
        *,
        labels: tuple[str, ...] = (),
        units: tuple[str, ...] = (),
        prior: Any = None,
        density: str = "exact",
        rows: int = _ROWS,
    ) -> None:
        self.function, self.names, self.bounds = function, tuple(names), np.asarray(bounds)
        self.labels = tuple(labels) or self.names
        self.units = tuple(units) or ("",) * len(self.names)
        self.prior, self.density, self.rows = prior, density, rows
        self._process = os.getpid()

    def __call__(self, theta: Any = None, /, **named: Any) -> Any:
        """f(theta), a float or float64 (...); also by name, f(mu=0.1, tau=2.0)."""
        return self._evaluated(theta, named, gradient=False)[0]

    def gradient(self, theta: Any = None, /, **named: Any) -> np.ndarray:
        """The derivative by theta, (..., d); zero where f is not finite."""
        return self._evaluated(theta, named, gradient=True)[1]

    def value_and_gradient(self, theta: Any = None, /, **named: Any) -> tuple[Any, np.ndarray]:
        """f(theta) and its gradient, from one evaluation."""
        return self._evaluated(theta, named, gradient=True)

    def with_prior(self, prior: Any = None) -> LogDensity:
        """f(theta) + log p(theta): the posterior's logarithm, up to the evidence.

        Arguments:
            prior: A torch Distribution over these parameters in this order; unless said, the one
                that the surrogate was trained with.

        Raises:
            ValueError: If there is none, it says nothing of these parameters alone, or it reaches
                beyond the bounds.
        """
        added = _marginal(self.prior if prior is None else prior, self.names)
        box = bounds_of(added, len(self.names))
        wide = (box[:, 0] < self.bounds[:, 0]) | (box[:, 1] > self.bounds[:, 1])
        if wide.any():
            i = int(wide.argmax())
            raise ValueError(
                f"the prior of {self.names[i]!r} is on {_interval(box[i])}, the surrogate was "
                f"trained on {_interval(self.bounds[i])}: simulate there, or narrow the prior"
            )
        return LogDensity(
            _Sum(self.function, added),
            self.names,
            box,
            labels=self.labels,
            units=self.units,
            prior=added,
            density=self.density,
            rows=self.rows,
        )

    def _evaluated(
        self, theta: Any, named: Mapping[str, Any], gradient: bool
    ) -> tuple[Any, np.ndarray]:
        rows, lead = self._as_rows(theta, named)
        value, slope = np.full(len(rows), -math.inf), np.zeros(rows.shape)
        low, high = self.bounds.T
        within = np.flatnonzero(((rows >= low) & (rows <= high) & np.isfinite(rows)).all(-1))
        for start in range(0, len(within), self.rows):
            part = within[start : start + self.rows]
            value[part], slope[part] = self._torch(rows[part], gradient)
        found = value.reshape(lead) if lead else float(value[0])
        return found, slope.reshape(*lead, rows.shape[1])

    def _torch(self, rows: np.ndarray, gradient: bool) -> tuple[np.ndarray, np.ndarray]:
        """Values (n,) and slopes (n, d)."""
        if self._process != os.getpid():  # forked: the threads have stayed behind
            torch.set_num_threads(1)
            self._process = os.getpid()
        theta = torch.tensor(rows, dtype=torch.float64, requires_grad=gradient)
        with torch.set_grad_enabled(gradient):
            value = self.function(theta).double()
        slope = np.zeros(rows.shape)
        if value.requires_grad:
            (found,) = torch.autograd.grad(value.sum(), theta)
            slope = torch.where(value.isfinite()[:, None], found, 0.0).numpy()
        return value.detach().numpy(), slope

    def _as_rows(self, theta: Any, named: Mapping[str, Any]) -> tuple[np.ndarray, tuple[int, ...]]:
        """Rows (n, d) and the leading shape."""
        d = len(self.names)
        if named:
            if theta is not None or set(named) != set(self.names):
                raise ValueError(
                    f"give theta (..., {d}), or all of {', '.join(self.names)} by name; got "
                    f"{', '.join(named)}"
                )
            parts = [np.asarray(named[k], dtype=np.float64) for k in self.names]
            theta = np.stack(np.broadcast_arrays(*parts), -1)
        array = np.asarray(theta, dtype=np.float64)
        if array.ndim == 0 or array.shape[-1] != d:
            raise ValueError(
                f"theta must be (..., {d}): {', '.join(self.names)}; got shape {array.shape}"
            )
        return array.reshape(-1, d), array.shape[:-1]

    def __repr__(self) -> str:
        return f"LogDensity({', '.join(self.names)}; {self.density})"


def surrogate_density(
    surrogate: Conditional,
    x: Any,
    *,
    iid: bool = False,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> LogDensity:
    """log p(x | theta) of a fitted surrogate, as `Conditional.log_likelihood` gives it.

    Arguments:
        surrogate: A fitted "x | theta".
        x: What was observed, (*event), or (events, *event) with `iid`.
        iid: Whether x is a set of independent events.
        bounds: Where to trust the surrogate, by the name of a parameter; unless said, the support
            of the prior that it was trained with.
        fixed: Values of given fields that are no parameters here, by name.

    Raises:
        ValueError: If x has another shape than in training or is not finite, a given field is no
            vector, or it is not known where the surrogate was trained.
        NotImplementedError: If the family has no density.
    """
    given = {k: surrogate.fields[k] for k in surrogate.given}
    held = {k: torch.as_tensor(v) for k, v in (fixed or {}).items()}
    if unknown := [k for k in held if k not in given]:
        raise ValueError(f"{unknown[0]!r} is not given in {surrogate.expression!r}")
    free = {k: f for k, f in given.items() if k not in held}
    odd = [k for k, f in free.items() if f.layout != "vector"]
    if odd or not free:
        advice = f": hold {odd[0]!r} at a value, {odd[0]}=..." if odd else ""
        raise ValueError(f"{surrogate.expression!r} is no likelihood of parameters{advice}")
    names = _columns(free, "names")
    box = _trained_on(surrogate.prior, free, names, dict(bounds or {}))
    observed = _observed(surrogate, x, iid)
    function = _Observed(as_likelihood(surrogate), observed, iid, free, held)
    standard = [surrogate.pipeline.given_field(k) for k in free]
    centre = torch.cat([s.bijection(s.loc).flatten() for s in standard]).cpu()
    density = surrogate(**{k: v[0] for k, v in function.given(centre[None]).items()}).density
    found = LogDensity(
        function,
        names,
        box,
        labels=_columns(free, "labels"),
        units=_columns(free, "units"),
        prior=surrogate.prior,
        density=str(density),
        rows=max(1, _ROWS // (len(observed) if iid else 1)),
    )
    found._torch(centre.numpy()[None], gradient=False)  # what is wrong with x is said now
    return found


@dataclass(frozen=True, eq=False)
class _Observed:
    """log p(x | theta) of theta (n, d), the columns of the free fields one after the other."""

    likelihood: Likelihood
    x: Tensor
    iid: bool
    free: Mapping[str, Field]
    fixed: Mapping[str, Tensor]

    def __call__(self, theta: Tensor) -> Tensor:
        ask = self.likelihood.of_events if self.iid else self.likelihood.log_prob
        return ask(self.x, self.given(theta))

    def given(self, theta: Tensor) -> dict[str, Tensor]:
        """Rows of every given field."""
        parts = theta.split([f.size for f in self.free.values()], -1)
        rows = {k: v.reshape(-1, *f.shape) for (k, f), v in zip(self.free.items(), parts)}
        return rows | {k: v.expand(len(theta), *v.shape) for k, v in self.fixed.items()}


@dataclass(frozen=True, eq=False)
class _Sum:
    """A log-likelihood and the log-density of a prior."""

    function: Callable[[Tensor], Tensor]
    prior: Prior

    def __call__(self, theta: Tensor) -> Tensor:
        return self.function(theta) + self.prior.log_prob(theta)


def _observed(surrogate: Conditional, x: Any, iid: bool) -> Tensor:
    """An observation of the shape that was trained on."""
    value = torch.as_tensor(x if isinstance(x, Tensor) else np.asarray(x)).detach().double()
    event = tuple(surrogate.pipeline.event_shape)
    if event == (1,) and value.dim() == (1 if iid else 0):
        value = value[..., None]
    found = tuple(value.shape)
    fits = found[1:] == event if iid else found == event
    if surrogate.pipeline.iid:  # of a set of events there may be any number
        fits = len(found) == len(event) and found[1:] == event[1:]
    if not fits:
        wanted = ("events", *event) if iid else event
        more = ": a set of independent events needs iid=True" if found[1:] == event else ""
        raise ValueError(
            f"what was observed must be ({', '.join(map(str, wanted))}); got {found}{more}"
        )
    if not bool(value.isfinite().all()):
        raise ValueError("what was observed holds NaN or infinite values")
    return value


def _columns(fields: Mapping[str, Field], what: str) -> tuple[str, ...]:
    """Names, labels or units of the columns of vectors."""
    out: list[str] = []
    for name, f in fields.items():
        plain = [name] if f.size == 1 else [f"{name}_{i}" for i in range(f.size)]
        default = {"names": plain, "labels": f.names or plain, "units": [""] * f.size}[what]
        out += getattr(f, what) or default
    return tuple(out)


def _trained_on(
    prior: Any,
    free: Mapping[str, Field],
    names: tuple[str, ...],
    said: dict[str, tuple[float, float]],
) -> np.ndarray:
    """Where a surrogate was trained (d, 2): what is said, else the prior's support, else the
    field's.
    """
    known: dict[str, Any] = {}
    for name, f in free.items():
        if f.support is not None:
            ends = [np.array(v, dtype=float) for v in f.support]  # NaN where there is none
            low = np.broadcast_to(np.nan_to_num(ends[0], nan=-math.inf), (f.size,))
            high = np.broadcast_to(np.nan_to_num(ends[1], nan=math.inf), (f.size,))
            known |= dict(zip(_columns({name: f}, "names"), zip(low, high)))
    if prior is not None:
        known |= dict(zip(prior.names, bounds_of(prior, len(prior.names))))
    known |= said
    if unknown := [k for k in said if k not in names]:
        raise ValueError(f"the parameters are {', '.join(names)}; there are bounds of {unknown}")
    if missing := [k for k in names if k not in known]:
        raise ValueError(
            f"where {missing[0]!r} was trained is not known, and beyond it a surrogate is wrong "
            f"in silence: say bounds={{{missing[0]!r}: (low, high)}}"
        )
    return np.array([known[k] for k in names], dtype=np.float64)


def _marginal(prior: Any, names: tuple[str, ...]) -> Prior:
    """The prior of some parameters by name."""
    if prior is None:
        raise ValueError("the surrogate was trained without a prior: say with_prior(prior)")
    if not isinstance(prior, Prior):
        return Prior(prior, names=names)
    if prior.names == names:
        return prior
    factors = prior.factors if type(prior) is Prior else {}  # others may be restricted jointly
    if missing := [k for k in names if k not in factors]:
        raise ValueError(
            f"the prior over {', '.join(prior.names)} says nothing of {missing[0]!r} alone"
        )
    return Prior({k: factors[k] for k in names})


def _interval(pair: np.ndarray) -> str:
    return f"[{pair[0]:g}, {pair[1]:g}]"
