r"""The exact answers of the collider chain: likelihood, score, posterior, and those of its stages.

.. math::
    p(z_p \mid x, \vartheta) = \frac{p(z_p \mid \vartheta) \, p(x \mid z_p, \vartheta)}
        {p(x \mid \vartheta)}, \qquad
    p(z_p \mid x) = \frac{\langle p(m, c \mid \epsilon) \rangle_\epsilon \,
        \langle p(x \mid z_p, a) \rangle_a}{\langle p(x \mid \vartheta) \rangle_\vartheta}

with averages over the prior; p(x | z_p, a) has the shower's compound Poisson law, p(x | z_d) is a
closed form.
"""

from __future__ import annotations

__all__ = ["EPS_HIGH", "EPS_LOW", "ExactAnswers"]

from collections.abc import Callable
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy import ndarray as Array

from . import contact
from .collider_exact import ExactMarginal
from .collider_fields import checked, recorded
from .detector import DETECTORS
from .grid_posterior import GridPosterior, grid_cells
from .shower_table import A_HIGH, A_LOW

EPS_LOW, EPS_HIGH = -0.5, 2.0
"""The prior's range of eps, TeV^-2."""


class ExactAnswers:
    """What `ColliderShower` knows exactly, by its `detector` and whether it makes sets."""

    detector: str
    events: int | None
    _hidden: ClassVar[tuple[str, ...]] = ("prior", "marginal")

    @cached_property
    def marginal(self) -> ExactMarginal:
        """The marginal density of single events; half a second when first asked for."""
        return ExactMarginal(DETECTORS[self.detector])

    def log_likelihood(self, x: Array, theta: Array) -> Array:
        """The exact log p(x | theta), to 2e-4 nats an event.

        It is -inf where tau or n_det is so far out that no event in 1e9 gets there.

        Arguments:
            x: Events (*B, 4), or of a set (*B, events, 4), with any number of events.
            theta: (*T, 2), alpha_s within its prior.

        Returns:
            Shape broadcast(*B, *T), float64; of a set the sum over its events.

        Raises:
            ValueError: If a shape is wrong, eps <= -1, or alpha_s is outside its prior.
        """
        theta = checked(theta)
        if self.events is None:
            return self.marginal.log_prob(self.marginal.integrals(x), theta)
        events = self.marginal.integrals(_set(x))
        return self.marginal.log_prob(events, theta[..., None, :]).sum(-1)

    def score(self, x: Array, theta: Array) -> Array:
        """The gradient of `log_likelihood` by theta, (*broadcast(*B, *T), 2)."""
        theta = checked(theta)
        if self.events is None:
            return self.marginal.score(self.marginal.integrals(x), theta)
        events = self.marginal.integrals(_set(x))
        return self.marginal.score(events, theta[..., None, :]).sum(-2)

    def exact_posterior(self, x: Array, points: int = 64) -> GridPosterior:
        """The exact posterior of theta on a grid of points^2 cells under the uniform prior.

        Of 500 events it is some 10 cells wide in eps and 5 in alpha_s.

        Arguments:
            x: As of `log_likelihood`; a batch costs 0.02 CPU-seconds for each set of 500 events.
            points: Cells along each parameter.

        Raises:
            ValueError: If x has the wrong shape, or density zero.
        """
        low, high = np.array([EPS_LOW, A_LOW]), np.array([EPS_HIGH, A_HIGH])
        theta, width = grid_cells(low, high, points)
        eps, alpha_s = theta.reshape(points, points, 2)[:, 0, 0], theta[:points, 1]
        x = np.asarray(x)
        events = self.marginal.integrals(x[..., None, :] if self.events is None else _set(x))
        log_p = self.marginal.on_grid(events, eps, alpha_s)
        log_p = log_p.reshape(*log_p.shape[:-2], points**2)
        return GridPosterior.from_log_likelihood(theta, width, log_p)

    def detector_log_likelihood(self, x: Array, z_d: Array) -> Array:
        """Log p(x | z_d) of each event (...), for x (..., 4) and z_d (..., 3 + 64)."""
        return DETECTORS[self.detector].log_prob(x, *recorded(z_d))

    def shower_log_likelihood(self, x: Array, z_p: Array, theta: Array) -> Array:
        """The exact log p(x | z_p, theta) of each event (...): every shower integrated out.

        Arguments:
            x: Events (..., 4).
            z_p: m (GeV) and cos theta*, (..., 2).
            theta: (..., 2), of which alpha_s matters.
        """
        m, c = np.moveaxis(np.asarray(z_p, dtype=np.float64), -1, 0)
        return self.marginal.log_prob_given(x, m, c, checked(theta)[..., 1])

    def log_unfolding(self, z_p: Array, x: Array, theta: Array | None = None) -> Array:
        """The exact log p(z_p | x, theta) of single events (...), or log p(z_p | x).

        Arguments:
            z_p: m (GeV) and cos theta*, (..., 2).
            x: Events (..., 4).
            theta: (..., 2); None averages over the prior.
        """
        m, c = np.moveaxis(np.asarray(z_p, dtype=np.float64), -1, 0)
        events = self.marginal.integrals(x)
        if theta is None:
            eps, alpha_s = _average(EPS_LOW, EPS_HIGH, 16), _average(A_LOW, A_HIGH, 6)
        else:
            eps, alpha_s = ([(value, 1.0)] for value in np.moveaxis(checked(theta), -1, 0))
        pairs = [(np.stack([e, a], -1), v * w) for e, v in eps for a, w in alpha_s]
        hard = _log_mean(lambda e: contact.log_prob(m, c, e), eps)
        inside = np.clip(m, contact.M_LOW, contact.M_HIGH)
        rest = _log_mean(lambda a: self.marginal.log_prob_given(x, inside, c, a), alpha_s)
        return hard + rest - _log_mean(lambda pair: self.marginal.log_prob(events, pair), pairs)


def _set(x: Array) -> Array:
    """A set of events, checked to have their axis.

    Raises:
        ValueError: If x is one event, or none.
    """
    x = np.asarray(x)
    if x.ndim < 2:
        raise ValueError(f"x must be (..., events, 4); got shape {x.shape}")
    return x


def _average(low: float, high: float, size: int) -> list[tuple[Array, float]]:
    """Gauss-Legendre nodes and weights of an average over [low, high]."""
    x, w = np.polynomial.legendre.leggauss(size)
    return list(zip((low + high) / 2 + (high - low) / 2 * x, w / 2))


def _log_mean(log_p: Callable[[Array], Array], nodes: list[tuple[Array, float]]) -> Array:
    """The logarithm of the mean of exp(log_p) over weighted nodes."""
    total = np.array(-np.inf)
    for node, weight in nodes:
        total = np.logaddexp(total, np.log(weight) + log_p(node))
    return total
