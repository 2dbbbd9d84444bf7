r"""Stochastic dynamics: a drift, a solver that makes steps of it, noise after each, what is seen.

.. math::
    z_0 \sim N(m_0, C_0), \qquad
    z_{i+1} = f_\vartheta(z_i) + D \sqrt{\Delta t} \, N(0, I), \qquad
    x_j = z_{b + jk} + s \, N(0, I)

with the step f by Euler's rule, :math:`f(z) = z + v_\vartheta(z) \Delta t` (Euler-Maruyama), or by
the classical fourth-order Runge-Kutta rule. Solver and step define the model: nothing here
approximates a continuous one. So the density of a path is closed,

.. math::
    \log p(z \mid \vartheta) = \log p(z_0)
        + \sum_i \log N\bigl(z_{i+1}; f_\vartheta(z_i), D^2 \Delta t I\bigr), \qquad
    t = \nabla_\vartheta \log p(z \mid \vartheta)
        = \sum_i \frac{(z_{i+1} - f_\vartheta(z_i))^\top \nabla_\vartheta f_\vartheta(z_i)}
            {D^2 \Delta t}

which is the joint score: x given z knows no theta. All of it in float64.
"""

from __future__ import annotations

__all__ = ["SOLVERS", "StochasticDynamics", "euler", "runge_kutta"]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

from simgen import Field, Simulator

if TYPE_CHECKING:
    from simgen import Prior

Drift = Callable[[Tensor], Tensor]
CHUNK = 2048
"""Rows whose paths are in memory at once."""


def euler(drift: Drift, state: Tensor, dt: float) -> Tensor:
    """One step of Euler's rule."""
    return torch.add(state, drift(state), alpha=dt)


def runge_kutta(drift: Drift, state: Tensor, dt: float) -> Tensor:
    """One step of the classical fourth-order Runge-Kutta rule."""
    k_1 = drift(state)
    k_2 = drift(torch.add(state, k_1, alpha=dt / 2))
    k_3 = drift(torch.add(state, k_2, alpha=dt / 2))
    k_4 = drift(torch.add(state, k_3, alpha=dt))
    return torch.add(state, k_1 + 2 * (k_2 + k_3) + k_4, alpha=dt / 6)


SOLVERS = {"euler": euler, "rk4": runge_kutta}


class StochasticDynamics(Simulator, ABC):
    """Paths of a stochastic dynamical system. A subclass says the drift, the prior, the start.

    Fields of a row, of a state of k numbers:

    - `x` (1 + steps // every, k): the state at the end of the burn-in and every few steps after
      it, with noise of standard deviation sd.
    - `z_path` (1 + burn_in + steps, k): every state, from the start on.
    - `joint_score` (d,): the gradient of log p(x, z_path | theta) by theta.

    Arguments:
        solver: "euler" or "rk4", which makes a step of the drift.
        dt: The step in time.
        steps: Steps after the burn-in.
        diffusion: D; each step adds noise of variance D^2 dt to each number of the state.
        every: Steps between observations.
        sd: Standard deviation of the observations' noise; 0 for none.
        burn_in: Steps before the first observation. The start does not depend on theta.
        fixed: The parameters, where they are not to be inferred: the simulator is then
            unconditional, a prior of series.
        record: Fields beside x, all of them unless said, or none where theta is fixed.

    Raises:
        ValueError: If an option is unknown or out of range.
    """

    parameters: ClassVar[tuple[str, ...]]
    states: ClassVar[tuple[str, ...]]
    start_mean: ClassVar[tuple[float, ...]]
    start_covariance: ClassVar[tuple[tuple[float, ...], ...]]

    def __init__(
        self,
        solver: str,
        dt: float,
        steps: int,
        diffusion: float,
        every: int,
        sd: float,
        burn_in: int = 0,
        fixed: Sequence[float] | None = None,
        record: Sequence[str] | None = None,
    ) -> None:
        if solver not in SOLVERS:
            raise ValueError(f"solver must be one of {', '.join(SOLVERS)}; got {solver!r}")
        for name, value in (("dt", dt), ("diffusion", diffusion)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive; got {value}")
        if not 0 <= sd < math.inf:
            raise ValueError(f"sd must be 0 or positive; got {sd}")
        if not 1 <= every <= steps or burn_in < 0:
            raise ValueError(
                "steps and every must be positive, every at most steps, and burn_in not "
                f"negative; got steps={steps}, every={every}, burn_in={burn_in}"
            )
        if fixed is not None and len(fixed) != len(self.parameters):
            raise ValueError(f"fixed must be {', '.join(self.parameters)}; got {fixed}")
        known = ("z_path", "joint_score") if fixed is None else ("z_path",)
        if record is None:
            record = known if fixed is None else ()
        record = [record] if isinstance(record, str) else list(record)
        if not set(record) <= set(known):
            raise ValueError(f"record must be names among {', '.join(known)}; got {record}")
        self.solver, self.dt, self.diffusion, self.sd = solver, float(dt), float(diffusion), sd
        self.steps, self.every, self.burn_in = int(steps), int(every), int(burn_in)
        self.fixed = None if fixed is None else [float(value) for value in fixed]
        self.record = record
        self.variance = self.diffusion**2 * self.dt
        k = len(self.states)
        series: dict[str, Any] = {"layout": "series", "names": self.states}
        every_field = {
            "z_path": Field((1 + self.burn_in + self.steps, k), **series),
            "joint_score": Field(
                (len(self.parameters),), names=tuple(f"d_{name}" for name in self.parameters)
            ),
        }
        self.fields = {
            "x": Field((1 + self.steps // self.every, k), **series),
            **{name: every_field[name] for name in record},
        }

    @abstractmethod
    def drift(self, state: Tensor, theta: Tensor) -> Tensor:
        """The drift v (..., k) of states (..., k) at theta (..., d); differentiable."""

    @abstractmethod
    def _prior(self) -> Prior: ...

    @cached_property
    def prior(self) -> Prior | None:  # type: ignore[override]
        """The prior over theta; None where it is fixed."""
        return None if self.fixed is not None else self._prior()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return self.parameters if self.fixed is None else ()

    @property
    def whole(self) -> bool:
        """Whether x is the path itself."""
        return self.every == 1 and self.sd == 0 and self.burn_in == 0

    @property
    def answers(self) -> tuple[str, ...]:
        """What is answered exactly with these settings."""
        return ("log_likelihood",) if self.whole else ()

    def step(self, state: Tensor, theta: Tensor | None = None) -> Tensor:
        """One step f without noise; differentiable in both arguments.

        Arguments:
            state: States, shape (..., k).
            theta: Parameters, shape (..., d), that broadcast against the states'; the fixed ones
                unless said.
        """
        theta = self._parameters(theta, state)
        return SOLVERS[self.solver](lambda z: self.drift(z, theta), state, self.dt)

    def _parameters(self, theta: Tensor | None, like: Tensor) -> Tensor:
        if theta is not None:
            return theta
        if self.fixed is None:
            raise ValueError("theta is not fixed: give it")
        return like.new_tensor(self.fixed)

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws x and what is in `record` for theta (n, d), or for n rows (n, 0) where fixed."""
        rows = self._tensor(theta)
        parts = [
            self._simulate(rows[i : i + CHUNK], rng) for i in range(0, max(len(rows), 1), CHUNK)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @torch.no_grad()
    def _simulate(self, theta: Tensor, rng: np.random.Generator) -> dict[str, Array]:
        mean, root = self._start(theta)
        shape = (1 + self.burn_in + self.steps, len(theta), len(mean))
        path = torch.from_numpy(rng.standard_normal(shape))
        path[0] = mean + path[0] @ root.T
        path[1:] *= math.sqrt(self.variance)
        drift, solver = (lambda z: self.drift(z, theta)), SOLVERS[self.solver]
        for before, after in pairwise(path):  # after holds its noise already
            after += solver(drift, before, self.dt)
        path = path.movedim(0, 1)
        x = path[:, self.burn_in :: self.every].numpy()
        out = {"x": x + self.sd * rng.standard_normal(x.shape) if self.sd else x.copy()}
        if "z_path" in self.record:
            out["z_path"] = path.numpy()
        if "joint_score" in self.record:
            out["joint_score"] = self.path_score(path, theta).numpy()
        return out

    def _start(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (k,) and Cholesky factor (k, k) of the covariance of the first state."""
        mean, covariance = like.new_tensor(self.start_mean), like.new_tensor(self.start_covariance)
        return mean, torch.linalg.cholesky(covariance)

    def transition_log_prob(
        self, before: Tensor, after: Tensor, theta: Tensor | None = None
    ) -> Tensor:
        """Log p(z_{i+1} | z_i, theta), shape (...).

        Arguments:
            before: States z_i, shape (..., k).
            after: States z_{i+1}, shape (..., k).
            theta: Parameters, shape (..., d); the fixed ones unless said.
        """
        square = (after - self.step(before, theta)).square().sum(-1) / self.variance
        return -(square + after.shape[-1] * math.log(2 * math.pi * self.variance)) / 2

    def path_log_prob(self, path: Tensor, theta: Tensor | None = None) -> Tensor:
        """Log p(z_0, z_1, ... | theta) from the start on, shape (...), differentiable.

        Arguments:
            path: Consecutive states, shape (..., length, k).
            theta: Parameters, shape (..., d); the fixed ones unless said.
        """
        theta = self._parameters(theta, path)[..., None, :]
        steps = self.transition_log_prob(path[..., :-1, :], path[..., 1:, :], theta)
        start = torch.distributions.MultivariateNormal(
            self._start(path)[0], scale_tril=self._start(path)[1]
        )
        return start.log_prob(path[..., 0, :]) + steps.sum(-1)

    def path_score(self, path: Tensor, theta: Tensor) -> Tensor:
        """The gradient of `path_log_prob` by theta (n, d), for paths (n, length, k)."""
        with torch.enable_grad():
            at = theta.detach().clone().requires_grad_()
            before, after = path[:, :-1], path[:, 1:]
            mean = self.step(before, at[:, None])
            pull = (after - mean.detach()) / self.variance
            (score,) = torch.autograd.grad(mean, at, pull)
        return score

    def joint_log_likelihood(self, fields: Mapping[str, Array], theta: Array) -> Array:
        """Log p(x, z_path | theta) of each row, (n,), up to p(x | z_path), which knows no theta.

        Arguments:
            fields: `z_path` (n, length, k), as simulated.
            theta: (n, d), or (d,) for all rows.

        Raises:
            ValueError: If z_path was not recorded.
        """
        if "z_path" not in fields:
            raise ValueError(
                f"the joint likelihood needs z_path, and there are {', '.join(fields)}: "
                "simulate with record=['z_path']"
            )
        path = torch.from_numpy(np.ascontiguousarray(fields["z_path"], dtype=float))
        return self.path_log_prob(
            path, torch.tensor(np.ascontiguousarray(theta, dtype=float))
        ).numpy()

    def _log_likelihood(self, x: Tensor, theta: Tensor) -> Tensor:
        """Log p(x | theta) of a path seen whole."""
        if not self.whole:
            raise ValueError(
                "log p(x | theta) is known where every state from the start on is seen without "
                f"noise: every=1, sd=0, burn_in=0; here every={self.every}, sd={self.sd}, "
                f"burn_in={self.burn_in}"
            )
        return self.path_log_prob(x, theta)

    def log_likelihood(self, x: Array, theta: Array) -> Array:
        """The exact log p(x | theta), shape broadcast(*B, *T), float64.

        Arguments:
            x: Observations, shape (*B, K, k).
            theta: Parameters, shape (*T, d).

        Raises:
            ValueError: If it is not known for these settings, or x has another shape.
        """
        return self._log_likelihood(*self._tensors(x, theta)).numpy()

    def score(self, x: Array, theta: Array) -> Array:
        """The gradient of `log_likelihood` by theta, (n, d), for x (n, K, k), theta (n, d)."""
        series, at = self._tensors(x, theta)
        at.requires_grad_()
        total = self._log_likelihood(series, at).sum()
        return torch.autograd.grad(total, at)[0].numpy()

    def _tensors(self, x: Array, theta: Array) -> tuple[Tensor, Tensor]:
        series, wanted = np.ascontiguousarray(x, dtype=float), self.fields["x"].shape
        if series.shape[-2:] != wanted:
            raise ValueError(f"x must be (..., {wanted[0]}, {wanted[1]}); got {series.shape}")
        return torch.tensor(series), self._tensor(theta)

    def _tensor(self, theta: Array) -> Tensor:
        """Theta (..., d); the fixed ones for rows of none."""
        rows = np.ascontiguousarray(theta, dtype=float)
        if self.fixed is not None and rows.shape[-1:] == (0,):
            rows = np.tile(self.fixed, (*rows.shape[:-1], 1))
        return torch.tensor(rows)
