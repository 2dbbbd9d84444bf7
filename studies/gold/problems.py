r"""Problems with an exact likelihood and a joint score.

.. math::
    \text{chain}: \quad z \sim \mathcal N(m(\vartheta), I), \quad x \sim \mathcal N(z, 2^2 I),
    \quad m(\vartheta) = \bigl( \sin 3 \vartheta_1 + \vartheta_2, \; \vartheta_1 \vartheta_2 \bigr)

and single events of the collider with the coarse detector, whose number of emissions is a field of
its own: whole numbers are modelled as such.
"""

from __future__ import annotations

__all__ = ["PROBLEMS", "Chain", "Events"]

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy import ndarray as Array
from torch.distributions import Uniform

import simgen
from simulators.collider import ColliderShower


class Chain(simgen.Simulator):
    """Two parameters, two numbers, one latent stage; x is a Gaussian given theta."""

    prior = simgen.Prior(a=Uniform(-1.0, 1.0), b=Uniform(-1.0, 1.0))
    smear = 2.0
    expression = "x | theta"

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws x and the joint score of theta (n, 2)."""
        theta = np.asarray(theta)
        noise = rng.standard_normal(theta.shape)
        x = self._mean(theta) + noise + self.smear * rng.standard_normal(theta.shape)
        a, b = theta.T
        by_a, by_b = np.stack([3 * np.cos(3 * a), b], -1), np.stack([np.ones_like(a), a], -1)
        score = np.stack([(noise * by_a).sum(-1), (noise * by_b).sum(-1)], -1)
        return {"x": x, "joint_score": score}

    def _mean(self, theta: Array) -> Array:
        a, b = np.moveaxis(theta, -1, 0)
        return np.stack([np.sin(3 * a) + b, a * b], -1)

    def exact(self, fields: Mapping[str, Array], theta: Array) -> Array:
        """Log p(x | theta), (n,)."""
        variance = 1 + self.smear**2
        excess = np.asarray(fields["x"], np.float64) - self._mean(theta)
        return -0.5 * (excess**2).sum(-1) / variance - np.log(2 * np.pi * variance)


class Events(ColliderShower):
    """Single events: E_vis, cos theta* and tau in x, the counted emissions in n_det."""

    expression = "x, n_det | theta"

    def __init__(self) -> None:
        super().__init__("coarse", record=["joint_score"])
        self.fields = {
            "x": simgen.Field((3,), names=("E_vis", "cos_theta", "tau")),
            "n_det": simgen.Field((), discrete=True),
            "joint_score": self.fields["joint_score"],
        }

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws events; the number of emissions stands apart."""
        fields = super().simulate(theta, rng)
        x = fields["x"]
        n_det = np.rint(x[:, 2]).astype(np.int64)
        return {**fields, "x": x[:, [0, 1, 3]], "n_det": n_det}

    def exact(self, fields: Mapping[str, Array], theta: Array) -> Array:
        """Log p(x | theta), (n,)."""
        energy, axis, tau = np.asarray(fields["x"], np.float64).T
        return self.log_likelihood(np.stack([energy, axis, fields["n_det"], tau], -1), theta)


PROBLEMS: dict[str, Any] = {"chain": Chain, "collider": Events}
