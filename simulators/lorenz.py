r"""Lorenz-63: three modes of convection, chaotic, with noise.

.. math::
    \dot x = \sigma (y - x), \qquad \dot y = x (\rho - z) - y, \qquad \dot z = x y - \beta z

each with noise D dW, in steps as `dynamics` has them. With the Runge-Kutta rule, D = 1 and
dt = 0.025 the step is :math:`z_{i+1} = \mathrm{RK4}(z_i) + N(0, \Delta t\, I)`, the benchmark of
score-based data assimilation, as is the start

.. math::
    z_0 \sim N\left( \begin{pmatrix} 0 \\ 0 \\ 25 \end{pmatrix},
        \begin{pmatrix} 64 & 50 & 0 \\ 50 & 81 & 0 \\ 0 & 0 & 75 \end{pmatrix} \right) .

References:
    | Deterministic Nonperiodic Flow (Lorenz, 1963), eqs. 25-27
    | https://doi.org/10.1175/1520-0469(1963)020%3C0130:DNF%3E2.0.CO;2
    | Score-based Data Assimilation (Rozet & Louppe, 2023), section 4.1
    | https://arxiv.org/abs/2306.10574
"""

from __future__ import annotations

__all__ = ["CLASSICAL", "Lorenz63"]

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .dynamics import StochasticDynamics

if TYPE_CHECKING:
    from simgen import Prior

CLASSICAL = (10.0, 28.0, 8 / 3)
"""Lorenz's sigma, rho and beta."""


class Lorenz63(StochasticDynamics):
    """Noisy observations x of a stochastic Lorenz system, theta = (sigma, rho, beta).

    Priors: sigma in [5, 15], rho in [18, 38], beta in [1, 4], uniform. Fields, options and what
    is exact are those of `StochasticDynamics`: the likelihood where every state is seen without
    noise (`every=1, sd=0`), otherwise only the joint score.

    Arguments:
        solver: "rk4" or "euler".
        dt: The step in time; 0.025 unless said, or 0.01 by Euler's rule, which a longer step may
            throw out to infinity.
        steps: Steps after the burn-in.
        diffusion: D; each step adds noise of variance D^2 dt.
        every: Steps between observations.
        sd: Standard deviation of the observations' noise; 0 for none.
        burn_in: Steps before the first observation.
        fixed: (sigma, rho, beta), where they are not to be inferred.
        record: Fields beside x: "z_path", "joint_score".

    Examples:
        >>> fields = Lorenz63(steps=80)([CLASSICAL, (8.0, 30.0, 2.0)], seed=0)
        >>> {name: value.shape for name, value in fields.items()}
        {'x': (2, 11, 3), 'z_path': (2, 81, 3), 'joint_score': (2, 3)}
    """

    parameters = ("sigma", "rho", "beta")
    states = ("x", "y", "z")
    start_mean = (0.0, 0.0, 25.0)
    start_covariance = ((64.0, 50.0, 0.0), (50.0, 81.0, 0.0), (0.0, 0.0, 75.0))

    def __init__(
        self,
        solver: str = "rk4",
        dt: float | None = None,
        steps: int = 200,
        diffusion: float = 1.0,
        every: int = 8,
        sd: float = 1.0,
        burn_in: int = 0,
        fixed: Sequence[float] | None = None,
        record: Sequence[str] | None = None,
    ) -> None:
        dt = dt or (0.01 if solver == "euler" else 0.025)
        super().__init__(solver, dt, steps, diffusion, every, sd, burn_in, fixed, record)

    @classmethod
    def stationary(cls, length: int = 65, theta: Sequence[float] = CLASSICAL) -> Lorenz63:
        """An unconditional simulator of paths x (length, 3) on the attractor, seen whole.

        The data of score-based data assimilation: Runge-Kutta steps of 0.025, noise of variance
        0.025, a burn-in of 1024 steps. `transition_log_prob` is the exact density of its steps.

        Examples:
            >>> Lorenz63.stationary(9)(4, seed=0)["x"].shape
            (4, 9, 3)
        """
        return cls(steps=length - 1, every=1, sd=0.0, burn_in=1024, fixed=theta)

    def _prior(self) -> Prior:
        from torch.distributions import Uniform

        from simgen import Prior

        return Prior(
            sigma=Uniform(5.0, 15.0),
            rho=Uniform(18.0, 38.0),
            beta=Uniform(1.0, 4.0),
            labels=(r"$\sigma$", r"$\rho$", r"$\beta$"),
        )

    def drift(self, state: Tensor, theta: Tensor) -> Tensor:
        """Lorenz's vector field (..., 3)."""
        x, y, z = state.unbind(-1)
        sigma, rho, beta = theta.unbind(-1)
        return torch.stack((sigma * (y - x), x * (rho - z) - y, x * y - beta * z), -1)
