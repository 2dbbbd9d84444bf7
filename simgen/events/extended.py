r"""Counting experiments: the number of events tells of theta, beside the events themselves.

.. math::
    p(n, x_1 \dots x_n \mid \vartheta) = \mathrm{Poisson}\bigl(n;\,
        \nu(\vartheta)\, \epsilon(\vartheta)\bigr)
        \prod_i p(x_i \mid \vartheta, \text{accepted})

nu events are expected, of which a share epsilon is accepted. An efficiency that was learned is
uncertain: its logit t is N(m, s^2) at each theta, and what is not known is averaged over,

.. math::
    p(n \mid \vartheta) = \int N(t; m, s^2)\,
        \mathrm{Poisson}\bigl(n; \nu / (1 + e^{-t})\bigr)\, dt

by Gauss and Hermite's rule around the integrand's maximum.

References:
    | Extended maximum likelihood (Barlow, 1990), eq. 4
    | https://doi.org/10.1016/0168-9002(90)91334-8
"""

from __future__ import annotations

__all__ = ["ExtendedLikelihood", "log_poisson"]

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..answers.unknowns import Unknowns, call
from ..likelihood import Likelihood, as_likelihood
from .efficiency import Efficiency

_NODES, _STEPS = 48, 30


class ExtendedLikelihood(Likelihood):
    """The number of accepted events, and each of them.

    What is observed is the set of accepted events (n, *event), without `iid`; n may be 0.

    Arguments:
        density: Of one accepted event: a fitted "x | theta", of the rows that were accepted, or
            any likelihood that `infer` takes; None where only the number was recorded: then an
            observation's length alone counts.
        rate: nu, events expected before selection: a callable of the unknowns that returns (n,),
            or a number.
        efficiency: The share that is accepted: an `Efficiency`, a callable like `rate`, or a
            number.
    """

    counts = True  # an observation may be empty

    def __init__(self, density: Any, rate: Any, efficiency: Any = 1.0) -> None:
        self.density = None if density is None else as_likelihood(density)
        self.rate, self.efficiency = rate, efficiency

    def trained(self, rows: Any) -> Any:
        """As of the density."""
        known = getattr(self.density, "trained", None)
        return None if known is None else known(rows)

    def log_prob(self, y: Tensor, unknowns: Unknowns) -> Tensor:
        """log p(number, y | theta) (n,) of n rows of the unknowns.

        Raises:
            ValueError: If rate or efficiency are not (n,), or out of range.
        """
        rows, count = len(next(iter(unknowns.values()))), len(y)
        rate = _number(self.rate, unknowns, rows, "rate")
        if isinstance(self.efficiency, Efficiency):
            total = log_poisson(count, rate, *self.efficiency.logit(unknowns))
        else:
            share = _number(self.efficiency, unknowns, rows, "efficiency", 1.0)
            expected = (rate * share).clamp(min=torch.finfo(rate.dtype).tiny)
            total = count * expected.log() - expected - math.lgamma(count + 1)
        if count and self.density is not None:
            total = total + self.density.of_events(y, unknowns).to(total)
        return total


def log_poisson(count: int, rate: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    """log p(count) (n,) of a rate (n,) times a share whose logit is N(mean, sd^2), (n,) each."""
    with torch.no_grad():  # the rule's place only: its result does not depend on it
        t = mean.clone()
        for _ in range(_STEPS):
            p = torch.sigmoid(t)
            slope = (mean - t) / sd**2 + (1 - p) * (count - rate * p)
            bend = 1 / sd**2 + rate * p * (1 - p) ** 2
            t = t + (slope / bend).clamp(-1, 1)
        p = torch.sigmoid(t)
        exact = 1 / sd**2 + p * (1 - p) * (count + rate * (1 - 2 * p))
        width = torch.where(exact > 0.2 * bend, exact, bend).rsqrt()
    nodes, weights = (
        torch.from_numpy(v).to(mean)[:, None] for v in np.polynomial.hermite_e.hermegauss(_NODES)
    )
    places = t + width * nodes
    log_rate = rate.clamp(min=torch.finfo(rate.dtype).tiny).log()
    log_share = torch.nn.functional.logsigmoid(places)
    inner = count * (log_rate + log_share) - rate * log_share.exp() - math.lgamma(count + 1)
    normal = -0.5 * ((places - mean) / sd).square() - (sd / width).log()
    return (weights.log() + 0.5 * nodes.square() + inner + normal).logsumexp(0) - 0.5 * math.log(
        2 * math.pi
    )


def _number(
    value: Any, unknowns: Unknowns, rows: int, what: str, most: float = math.inf
) -> Tensor:
    """A rate or share (n,) of n rows of the unknowns.

    Raises:
        ValueError: If it has another shape, is negative, NaN, or larger than it may be.
    """
    found = torch.as_tensor(call(value, unknowns) if callable(value) else value).double()
    if found.numel() not in (1, rows):
        raise ValueError(
            f"the {what} must be one number a row, {(rows,)}; got {tuple(found.shape)}"
        )
    if not bool(((found >= 0) & (found <= most)).all()):
        raise ValueError(
            f"the {what} must lie in [0, {most:g}]; got {float(found.min())} to "
            f"{float(found.max())}"
        )
    return found.reshape(-1).expand(rows)
