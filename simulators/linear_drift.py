r"""A linear twin of chaotic dynamics: the same noise and observations, and an exact likelihood.

.. math::
    \dot z = A z + D\, \dot W, \qquad
    A = \begin{pmatrix} -\gamma & -\omega \\ \omega & -\gamma \end{pmatrix}

a damped rotation: the complex Ornstein-Uhlenbeck process, which Kolmogorov used of the wobble of
the Earth's axis. In steps as `dynamics` has them, f(z) = M z with M a polynomial of A dt, so that
path and observations are jointly Gaussian and the Kalman filter gives p(x | theta):

.. math::
    S = P + s^2 I, \qquad e = x_j - m, \qquad
    \log p(x \mid \vartheta) = \sum_j \log N(e; 0, S), \\
    m \leftarrow M^k (m + P S^{-1} e), \qquad
    P \leftarrow M^k (P - P S^{-1} P) M^{k \top} + \sum_{i<k} D^2 \Delta t\, M^i M^{i \top} .

References:
    | A New Approach to Linear Filtering and Prediction Problems (Kalman, 1960)
    | https://doi.org/10.1115/1.3662552
    | On estimation of parameters of a complex stationary Gaussian Markov process (Arató,
      Kolmogorov & Sinai, 1962)
"""

from __future__ import annotations

__all__ = ["LinearDrift"]

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

from .dynamics import StochasticDynamics
from .grid_posterior import GridPosterior, grid_cells

if TYPE_CHECKING:
    from simgen import Prior

CELLS = 128
"""Cells of a grid at once: with a batch of series, as much as fits a cache."""


class LinearDrift(StochasticDynamics):
    """Noisy observations x of a noisy damped rotation, theta = (gamma, omega).

    Priors: damping gamma in [0.1, 1.1], frequency omega in [1, 4], uniform. Fields and options
    are those of `StochasticDynamics`; the likelihood is exact for all of them.

    Arguments:
        solver: "rk4" or "euler".
        dt: The step in time.
        steps: Steps after the burn-in.
        diffusion: D; each step adds noise of variance D^2 dt.
        every: Steps between observations.
        sd: Standard deviation of the observations' noise; 0 for none.
        burn_in: Steps before the first observation.
        fixed: (gamma, omega), where they are not to be inferred.
        record: Fields beside x: "z_path", "joint_score".

    Examples:
        >>> simulator = LinearDrift()
        >>> x = simulator([[0.3, 2.0]], seed=0)["x"]
        >>> simulator.log_likelihood(x, [0.3, 2.0]).shape
        (1,)
    """

    parameters = ("gamma", "omega")
    states = ("p", "q")
    start_mean = (2.0, 0.0)
    start_covariance = ((0.5, 0.0), (0.0, 0.5))

    def __init__(
        self,
        solver: str = "rk4",
        dt: float = 0.05,
        steps: int = 200,
        diffusion: float = 0.5,
        every: int = 4,
        sd: float = 0.3,
        burn_in: int = 0,
        fixed: Sequence[float] | None = None,
        record: Sequence[str] | None = None,
    ) -> None:
        super().__init__(solver, dt, steps, diffusion, every, sd, burn_in, fixed, record)

    def _prior(self) -> Prior:
        from torch.distributions import Uniform

        from simgen import Prior

        return Prior(
            gamma=Uniform(0.1, 1.1), omega=Uniform(1.0, 4.0), labels=(r"$\gamma$", r"$\omega$")
        )

    @property
    def answers(self) -> tuple[str, ...]:
        """Everything, unless theta is fixed: then there is no posterior."""
        both = ("log_likelihood", "exact_posterior")
        return both if self.fixed is None else both[:1]

    def drift(self, state: Tensor, theta: Tensor) -> Tensor:
        """A z, shape (..., 2)."""
        p, q = state.unbind(-1)
        gamma, omega = theta.unbind(-1)
        return torch.stack((-gamma * p - omega * q, omega * p - gamma * q), -1)

    def _propagator(self, theta: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """M^steps, and the covariance of the noise of so many steps, each (*T, 2, 2)."""
        eye = torch.eye(2, dtype=theta.dtype)
        M = self.step(eye, theta[..., None, :]).mT  # the images of the unit vectors
        power, Q = eye.expand(M.shape), torch.zeros_like(M)
        for _ in range(steps):
            power, Q = M @ power, M @ Q @ M.mT + self.variance * eye
        return power, Q

    def _log_likelihood(self, x: Tensor, theta: Tensor) -> Tensor:
        """The Kalman filter."""
        mean, root = self._start(theta)
        M, Q = self._propagator(theta, self.burn_in)
        m, P = _apply(M, mean), M @ root @ root.mT @ M.mT + Q
        M, Q = self._propagator(theta, self.every)
        noise = self.sd**2 * torch.eye(2, dtype=theta.dtype)
        total = torch.zeros((), dtype=theta.dtype)
        for x_j in x.unbind(-2):
            S = P + noise
            inverse = torch.linalg.inv(S)
            gain, e = P @ inverse, x_j - m
            square = (e * _apply(inverse, e)).sum(-1)
            total = total - (square + torch.logdet(S)) / 2 - math.log(2 * math.pi)
            m = _apply(M, m + _apply(gain, e))
            P = M @ (P - gain @ P) @ M.mT + Q
        return total

    def exact_posterior(self, x: Array, points: int = 100) -> GridPosterior:
        """The exact posterior of theta on a grid of points^2 cells under the uniform prior.

        Arguments:
            x: One series (K, 2), or a batch (n, K, 2).
            points: Cells along each parameter.
        """
        prior = self._prior()
        theta, width = grid_cells(prior.low.numpy(), prior.high.numpy(), points)
        series = np.asarray(x, dtype=float)[..., None, :, :]
        parts = [
            self.log_likelihood(series, theta[i : i + CELLS]) for i in range(0, len(theta), CELLS)
        ]
        return GridPosterior.from_log_likelihood(theta, width, np.concatenate(parts, -1))


def _apply(A: Tensor, v: Tensor) -> Tensor:
    """A v of matrices (..., 2, 2) and vectors (..., 2): a few of the one for many of the other."""
    return (A * v[..., None, :]).sum(-1)
