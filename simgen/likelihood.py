r"""Explicit likelihoods p(y | x): an instrument, and its noise.

.. math::
    y = A(x) + N(0, \Sigma), \qquad y_i \sim \mathrm{Poisson}\bigl(A(x)_i\bigr)

An operator is any callable in physical units, of rows (n, *event) to (n, *observed): linear or
not, differentiable or not; what it can do is found out, not declared. It may take several
unknowns, by the names of its arguments; or some parameters of one prior, by their names.

Of a set of independent events the logarithms add up, in chunks, so that memory is bounded;
Gaussian and Poisson noise ask for sums over events alone, and one prediction.
"""

from __future__ import annotations

__all__ = [
    "CallableLikelihood",
    "GaussianLikelihood",
    "Likelihood",
    "PoissonLikelihood",
    "as_likelihood",
    "events_of",
    "rows_of",
]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .answers.unknowns import Unknowns, arguments, by_name, call, whole

EVENTS = 1 << 18
"""Rows times events whose densities are computed at once."""

Operator = Callable[..., Any]


class Noise:
    """N(0, Sigma) of m numbers: what makes it white.

    Arguments:
        sigma: A standard deviation, one a number, or (m, m): a covariance.
        shape: Shape of what is observed.
        covariance: Whether sigma is a covariance.

    Raises:
        ValueError: If the shapes do not agree or the noise is not positive.
    """

    def __init__(self, sigma: Any, shape: torch.Size, covariance: bool = False) -> None:
        m = shape.numel()
        value = torch.as_tensor(sigma, dtype=torch.float64)
        square = value.shape == (m, m) and (covariance or len(shape) == 1) and m > 1
        self.factor: Tensor | None = None
        if square or (covariance and value.shape == (m, m)):
            self.factor, failed = torch.linalg.cholesky_ex((value + value.mT) / 2)
            if int(failed) or not torch.allclose(value, value.mT, rtol=1e-6, atol=0):
                raise ValueError("the noise's covariance must be symmetric and positive definite")
            self.logdet = 2 * float(self.factor.diagonal().log().sum())
            return
        if covariance:
            raise ValueError(f"the noise's covariance must be {(m, m)}; got {tuple(value.shape)}")
        if value.dim() and value.shape != shape:
            try:
                value = value.expand(shape)
            except RuntimeError:
                raise ValueError(
                    f"sigma must be a number, {tuple(shape)} as the observation, or a covariance "
                    f"{(m, m)}; got {tuple(value.shape)}"
                ) from None
        if not bool((value > 0).all() & value.isfinite().all()):
            raise ValueError("sigma must be positive and finite")
        self.sd = value.flatten() if value.dim() else value
        self.logdet = 2 * float(self.sd.log().sum() if value.dim() else m * self.sd.log())

    def white(self, residual: Tensor) -> Tensor:
        """Residuals (..., m) in units of the noise."""
        if self.factor is None:
            return residual / self.sd.to(residual)
        columns = torch.linalg.solve_triangular(
            self.factor.to(residual), residual.reshape(-1, residual.shape[-1]).mT, upper=False
        )
        return columns.mT.view_as(residual)

    def colour(self, noise: Tensor) -> Tensor:
        """N(0, Sigma) of noise (..., m) ~ N(0, I)."""
        return (
            noise * self.sd.to(noise) if self.factor is None else noise @ self.factor.to(noise).mT
        )


class Likelihood(ABC):
    """p(y | unknowns).

    Attributes:
        names: The unknowns that it takes by name; empty if it takes one, whatever its name.
    """

    names: tuple[str, ...] = ()

    @abstractmethod
    def log_prob(self, y: Tensor, unknowns: Unknowns) -> Tensor:
        """log p(y | x) (n,) of n rows of the unknowns."""

    def of_events(self, y: Tensor, unknowns: Unknowns) -> Tensor:
        """The sum (n,) over independent events y (events, *event)."""
        total = self.log_prob(y[0], unknowns)
        for event in y[1:]:
            total = total + self.log_prob(event, unknowns)
        return total

    def dear(self, iid: bool) -> bool:
        """Whether an observation is a set of independent events, asked for as one with `iid`,
        whose sum costs more the more there are.
        """
        return iid


class GaussianLikelihood(Likelihood):
    """y = A(x) + N(0, sigma^2).

    Arguments:
        operator: A: a callable of rows (n, *event) to (n, *observed), by torch if it is to be
            differentiated, or a matrix (m, d). It may take several unknowns by name.
        sigma: The noise's standard deviation: a number, one a number observed, a covariance
            (m, m), or a callable of unknowns by name that returns rows of standard deviations.
        covariance: The noise's covariance (m, m), in place of sigma.

    Raises:
        ValueError: If neither or both of sigma and covariance are given.
    """

    def __init__(self, operator: Any, sigma: Any = None, *, covariance: Any = None) -> None:
        if (sigma is None) == (covariance is None):
            raise ValueError("give either sigma= or covariance=")
        self.operator = as_operator(operator)
        self.sigma = sigma
        self.covariance = covariance
        self._noise: dict[torch.Size, Noise] = {}
        self.names = tuple(arguments(self.operator))
        if callable(sigma):
            self.names = tuple(dict.fromkeys((*self.names, *arguments(sigma))))

    def predict(self, unknowns: Unknowns) -> Tensor:
        """A(x), (n, *observed)."""
        return _tensor(call(self.operator, unknowns))

    def noise(self, shape: torch.Size) -> Noise:
        """The noise of an observation of some shape, where it depends on nothing."""
        if shape not in self._noise:  # factorised once, not at each evaluation
            whole = self.covariance is not None
            self._noise[shape] = Noise(self.covariance if whole else self.sigma, shape, whole)
        return self._noise[shape]

    def log_prob(self, y: Tensor, unknowns: Unknowns) -> Tensor:
        """log p(y | x) (n,) of n rows of the unknowns."""
        mean = self.predict(unknowns).double()
        rest = (y.to(mean) - mean).flatten(1)
        constant = rest.shape[1] * math.log(2 * math.pi)
        if callable(self.sigma):
            sd = _tensor(call(self.sigma, unknowns)).to(mean)
            sd = sd.view(len(sd), -1) if sd.dim() else sd
            log_sd = sd.log().expand_as(rest).sum(-1)
            return -0.5 * ((rest / sd).square().sum(-1) + constant) - log_sd
        noise = self.noise(y.shape)
        return -0.5 * (noise.white(rest).square().sum(-1) + constant + noise.logdet)

    def dear(self, iid: bool) -> bool:
        """False: one prediction is compared with a sum over events."""
        return False

    def of_events(self, y: Tensor, unknowns: Unknowns) -> Tensor:
        r"""The sum (n,) over independent events y (events, *event), by their mean and scatter.

        .. math::
            \sum_i (y_i - m)^\top \Sigma^{-1} (y_i - m) = K (\bar y - m)^\top \Sigma^{-1}
            (\bar y - m) + \sum_i (y_i - \bar y)^\top \Sigma^{-1} (y_i - \bar y)
        """
        mean = self.predict(unknowns).double().flatten(1)
        seen = y.to(mean).flatten(1)
        centre, count = seen.mean(0), len(seen)
        rest, scatter = centre - mean, seen - centre
        constant = rest.shape[1] * math.log(2 * math.pi)
        if callable(self.sigma):
            sd = _tensor(call(self.sigma, unknowns)).to(mean)
            sd = sd.view(len(sd), -1).expand_as(rest) if sd.dim() else sd.expand_as(rest)
            square = count * rest.square() + scatter.square().sum(0)
            logdet = 2 * sd.log().sum(-1)
            return -0.5 * ((square / sd.square()).sum(-1) + count * (logdet + constant))
        noise = self.noise(y.shape[1:])
        square = count * noise.white(rest).square().sum(-1) + noise.white(scatter).square().sum()
        return -0.5 * (square + count * (constant + noise.logdet))

    def white(self, unknowns: Unknowns, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is predicted (n, m) in units of the noise, the noise's log-determinant (n,) or
        (1,), and y (n or 1, m) in the same units.
        """
        mean = self.predict(unknowns).double().flatten(1)
        seen = y.double().flatten()[None]
        if callable(self.sigma):
            sd = _tensor(call(self.sigma, unknowns)).double()
            sd = sd.reshape(len(sd), -1).expand_as(mean)
            return mean / sd, 2 * sd.log().sum(-1), seen / sd
        noise = self.noise(y.shape)
        return noise.white(mean), mean.new_tensor([noise.logdet]), noise.white(seen)

    def chi2(self, y: Tensor, unknowns: Unknowns) -> Tensor:
        """Squared residuals in units of the noise, summed (n,)."""
        mean = self.predict(unknowns).double()
        rest = (y - mean).flatten(1)
        if callable(self.sigma):
            sd = _tensor(call(self.sigma, unknowns)).double()
            return (rest / sd.view(len(sd), -1)).square().sum(-1)
        return self.noise(y.shape).white(rest).square().sum(-1)

    def draw(self, unknowns: Unknowns, generator: torch.Generator) -> Tensor:
        """Observations (n, *observed) of n rows of the unknowns."""
        mean = self.predict(unknowns)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        if callable(self.sigma):
            sd = _tensor(call(self.sigma, unknowns)).to(mean)
            return mean + noise * sd.view(len(sd), *[1] * (mean.dim() - 1))
        coloured = self.noise(mean.shape[1:]).colour(noise.flatten(1))
        return mean + coloured.view_as(mean)


class PoissonLikelihood(Likelihood):
    """y ~ Poisson(A(x)), counts of a rate that A gives; a rate below zero counts as zero.

    Arguments:
        operator: As of `GaussianLikelihood`.

    Raises:
        ValueError: When asked for the density of a negative count.
    """

    def __init__(self, operator: Any) -> None:
        self.operator = as_operator(operator)
        self.names = tuple(arguments(self.operator))

    def predict(self, unknowns: Unknowns) -> Tensor:
        """A(x), (n, *observed)."""
        return _tensor(call(self.operator, unknowns))

    def noise(self, shape: torch.Size, y: Tensor | None = None) -> Noise:
        """The Gaussian noise that stands for Poisson's where one has to: of variance y, or 1."""
        assert y is not None
        return Noise(y.double().clamp(min=1).sqrt(), shape)

    def log_prob(self, y: Tensor, unknowns: Unknowns) -> Tensor:
        """log p(y | x) (n,) of n rows of the unknowns."""
        return self.of_events(y[None], unknowns)

    def dear(self, iid: bool) -> bool:
        """False: one prediction is compared with a sum over events."""
        return False

    def of_events(self, y: Tensor, unknowns: Unknowns) -> Tensor:
        """The sum (n,) over independent events y (events, *event), by their total."""
        rate = self.predict(unknowns).double()
        counts = y.to(rate)
        if bool((counts < 0).any()):
            raise ValueError(f"counts cannot be negative; got {float(counts.min()):g}")
        log_rate = rate.clamp(min=torch.finfo(rate.dtype).tiny).log()
        terms = counts.sum(0) * log_rate - len(y) * rate.clamp(min=0)
        return (terms - torch.lgamma(counts + 1).sum(0)).flatten(1).sum(-1)

    def chi2(self, y: Tensor, unknowns: Unknowns) -> Tensor:
        """Squared residuals over the rate, summed (n,): Pearson's."""
        rate = self.predict(unknowns).double().clamp(min=1e-12)
        return ((y - rate).square() / rate).flatten(1).sum(-1)

    def draw(self, unknowns: Unknowns, generator: torch.Generator) -> Tensor:
        """Observations (n, *observed) of n rows of the unknowns."""
        return torch.poisson(self.predict(unknowns).clamp(min=0), generator=generator)


class CallableLikelihood(Likelihood):
    """Any log p(y | x).

    Arguments:
        function: Of (y, x), of x alone with y in its closure, or of (y, and unknowns by name);
            it returns (n,) log-likelihoods of n rows, or a torch Distribution over y.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        every = arguments(function)
        self.takes_y = len(every) != 1 or every[0] in ("y", "observed")
        self.names = tuple(every[1:]) if self.takes_y else tuple(every)

    def log_prob(self, y: Tensor, unknowns: Unknowns) -> Tensor:
        """log p(y | x) (n,) of n rows of the unknowns."""
        found = self._called(y, unknowns)
        if hasattr(found, "log_prob"):
            return rows_of(found, y)
        return _tensor(found)

    def of_events(self, y: Tensor, unknowns: Unknowns) -> Tensor:
        """The sum (n,) over independent events y (events, *event)."""
        if not self.takes_y:
            found = self._called(y, unknowns)
            if hasattr(found, "log_prob"):
                return events_of(found, y)
        return super().of_events(y, unknowns)

    def _called(self, y: Tensor, unknowns: Unknowns) -> Any:
        lead = (y,) if self.takes_y else ()
        if whole(unknowns, self.names):
            return self.function(*lead, next(iter(unknowns.values())))
        return self.function(*lead, **by_name(unknowns, self.names))


def as_likelihood(value: Any) -> Likelihood:
    """A likelihood: one of ours, a fitted conditional, or any callable.

    Raises:
        TypeError: If it is none of these.
    """
    if isinstance(value, Likelihood):
        return value
    if hasattr(value, "expression") and callable(value):
        from .learned_likelihood import ConditionalLikelihood

        return ConditionalLikelihood(value)
    if callable(value):
        return CallableLikelihood(value)
    raise TypeError(
        "a likelihood is a GaussianLikelihood, a PoissonLikelihood, a fitted 'x | theta', or a "
        f"callable log p(y | x); got {type(value).__name__}"
    )


def as_operator(operator: Any) -> Operator:
    """A callable operator, of a matrix (m, d) too."""
    if callable(operator):
        return operator
    matrix = torch.as_tensor(operator)
    if matrix.dim() != 2:
        raise ValueError(
            f"an operator is a callable or a matrix (m, d); got shape {tuple(matrix.shape)}"
        )

    def multiply(x: Tensor) -> Tensor:
        return x.flatten(1) @ matrix.to(x).mT

    return multiply


def _tensor(value: Any) -> Tensor:
    return torch.as_tensor(value)


def events_of(q: Any, y: Tensor) -> Tensor:
    """The sum (n,) of log q over events y (events, *event), of a batch of n distributions, in
    chunks; where it is differentiated, each is computed again in turn, so that memory is bounded.
    """
    n = max(q.batch_shape.numel(), 1)
    whole = len(q.event_shape) == y.dim()  # a set of events is what it models

    def part(events: Tensor) -> Tensor:
        return rows_of(q, events) if whole else q.log_prob(events[:, None]).sum(0)

    chunks = y.split(max(1, EVENTS // n))
    again = torch.is_grad_enabled() and len(chunks) > 1
    total = torch.zeros((), dtype=y.dtype, device=y.device)
    for events in chunks:
        total = total + (checkpoint(part, events, use_reentrant=False) if again else part(events))
    return total


def rows_of(q: Any, y: Tensor) -> Tensor:
    """log q(y), one a row of a batch of distributions."""
    found = q.log_prob(y)
    return found.flatten(1).sum(-1) if found.dim() > 1 else found
