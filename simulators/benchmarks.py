r"""Four tasks of the public benchmark sbibm, with likelihoods and exact posterior samplers.

.. math::
    \text{two moons:} \quad
        x = \begin{pmatrix} r \cos a + 1/4 - |\vartheta_1 + \vartheta_2| / \sqrt 2 \\
        r \sin a + (\vartheta_2 - \vartheta_1) / \sqrt 2 \end{pmatrix}, \quad
        a \sim U(-\tfrac\pi2, \tfrac\pi2), \; r \sim N(0.1, 0.01^2)

.. math::
    \text{SLCP:} \quad y_{1..4} \sim N(m, S), \; m = (\vartheta_1, \vartheta_2), \;
        S = \begin{pmatrix} s_1^2 & \rho s_1 s_2 \\ \rho s_1 s_2 & s_2^2 \end{pmatrix}
        + 10^{-6} I, \;
        s = (\vartheta_3^2, \vartheta_4^2), \; \rho = \tanh \vartheta_5

.. math::
    \text{Gaussian linear (and uniform):} \quad x \sim N(\vartheta, 0.1\, I_{10}), \quad
        \vartheta \sim N(0, 0.1\, I_{10}) \; \text{ or } \; U[-1, 1]^{10}

References:
    | Benchmarking Simulation-Based Inference (Lueckmann et al., 2021), appendix T
    | https://arxiv.org/abs/2101.04653
"""

from __future__ import annotations

__all__ = ["SLCP", "TASKS", "GaussianLinear", "GaussianLinearUniform", "TwoMoons"]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray as Array

from simgen.field import Field
from simgen.forward import Simulator

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from simgen.prior import Prior

Draw = Callable[[int], Array]


class Benchmark(Simulator, ABC):
    """A simulator whose likelihood and posterior are known; theta_1 ... theta_d, no latents."""

    dim: int

    @cached_property
    def prior(self) -> Prior:  # type: ignore[override]
        """The task's prior over theta_1 ... theta_d."""
        from simgen.prior import Prior

        return Prior({f"theta_{i + 1}": self._factor() for i in range(self.dim)})

    @abstractmethod
    def _factor(self) -> Distribution:
        """The prior of one parameter."""

    @abstractmethod
    def log_likelihood(self, x: Array, theta: Array) -> Array:
        """Log p(x | theta), shape (...), of x (..., dx) and theta (..., d), broadcast."""

    @abstractmethod
    def sample_posterior(self, x: Array, n: int, rng: np.random.Generator) -> Array:
        """Exact, independent draws of theta (n, d) given one observation x (dx,)."""


class TwoMoons(Benchmark):
    r"""A crescent folded onto two: theta in [-1, 1]^2, x in R^2.

    .. math::
        p(x \mid \vartheta) = \frac{N(\varrho; 0.1, 0.01^2)}{\pi \varrho}, \quad u > 0, \qquad
        (u, v) = x - \text{shift}(\vartheta) - (\tfrac14, 0), \; \varrho = \sqrt{u^2 + v^2}

    The factor 1/(pi rho) is the Jacobian of polar coordinates.
    """

    dim = 2
    fields = {"x": Field((2,))}  # noqa: RUF012

    def _factor(self) -> Distribution:
        return _uniform(1.0)

    def _crescent(self, n: int, rng: np.random.Generator) -> Array:
        a = rng.uniform(-math.pi / 2, math.pi / 2, n)
        r = rng.normal(0.1, 0.01, n)
        return np.stack([r * np.cos(a) + 0.25, r * np.sin(a)], -1)

    def _shift(self, theta: Array) -> Array:
        t1, t2 = np.moveaxis(np.asarray(theta), -1, 0)
        return np.stack([-np.abs(t1 + t2), t2 - t1], -1) / math.sqrt(2)

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws x (n, 2)."""
        return {"x": self._crescent(len(theta), rng) + self._shift(theta)}

    def log_likelihood(self, x: Array, theta: Array) -> Array:
        """Log p(x | theta), shape (...); -inf behind the crescent."""
        u, v = np.moveaxis(np.asarray(x, float) - self._shift(theta) - [0.25, 0.0], -1, 0)
        rho = np.hypot(u, v)
        with np.errstate(divide="ignore"):
            log_p = _log_normal(rho - 0.1, 0.01**2) - np.log(math.pi * rho)
        return np.where(u > 0, log_p, -np.inf)

    def sample_posterior(self, x: Array, n: int, rng: np.random.Generator) -> Array:
        """Exact draws (n, 2): the simulator run backwards, linear on either side of its fold.

        Raises:
            ValueError: If no theta in the box explains x.
        """
        x1, x2 = np.asarray(x, float)

        def draw(k: int) -> Array:
            p = self._crescent(k, rng)
            q0, q1 = p[:, 0] - x1, x2 - p[:, 1]
            s = rng.choice([-1.0, 1.0], k)
            theta = np.stack([s * q0 - q1, s * q0 + q1], -1) / math.sqrt(2)
            return theta[(q0 >= 0) & (np.abs(theta) <= 1).all(-1)]

        return _collect(draw, n)


class SLCP(Benchmark):
    """Simple likelihood, complex posterior: four draws of a Gaussian with five parameters.

    theta in [-3, 3]^5, x = (y_1a, y_1b, y_2a, ... y_4b). The signs of theta_3 and theta_4 do not
    matter: four modes.
    """

    dim = 5
    epsilon = 1e-6
    fields = {"x": Field((8,))}  # noqa: RUF012

    def _factor(self) -> Distribution:
        return _uniform(3.0)

    def _covariance(self, theta: Array) -> tuple[Array, Array, Array]:
        """S_11, S_12, S_22."""
        s1, s2 = theta[..., 2] ** 2, theta[..., 3] ** 2
        rho = np.tanh(theta[..., 4])
        return s1**2 + self.epsilon, rho * s1 * s2, s2**2 + self.epsilon

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws x (n, 8)."""
        theta = np.asarray(theta)
        s11, s12, s22 = (s[:, None] for s in self._covariance(theta))
        e = rng.standard_normal((len(theta), 4, 2))
        a = theta[:, :1] + np.sqrt(s11) * e[..., 0]
        b = theta[:, 1:2] + (s12 * e[..., 0] + np.sqrt(s11 * s22 - s12**2) * e[..., 1]) / np.sqrt(
            s11
        )
        return {"x": np.stack([a, b], -1).reshape(len(theta), 8)}

    def log_likelihood(self, x: Array, theta: Array) -> Array:
        """Log p(x | theta), shape (...)."""
        x, theta = np.asarray(x, float), np.asarray(theta, float)
        y = x.reshape(*x.shape[:-1], 4, 2) - theta[..., None, :2]
        s11, s12, s22 = self._covariance(theta)
        determinant = s11 * s22 - s12**2
        a11, a12, a22 = ((y[..., i] * y[..., j]).sum(-1) for i, j in ((0, 0), (0, 1), (1, 1)))
        square = (s22 * a11 - 2 * s12 * a12 + s11 * a22) / determinant
        return -square / 2 - 2 * np.log(determinant) - 4 * math.log(2 * math.pi)

    def sample_posterior(self, x: Array, n: int, rng: np.random.Generator) -> Array:
        r"""Exact draws (n, 5), by rejection from an inverse Wishart distribution.

        .. math::
            p(\vartheta_{3..5} \mid x) \propto |S|^{-3/2} e^{-\operatorname{tr}(S^{-1} A) / 2},
            \qquad A = \sum_i (y_i - \bar y)(y_i - \bar y)^\top,
            \qquad m \mid S \sim N(\bar y, S/4)

        With the Jacobian of theta_3..5 to S, the left one is IW(S; 2, A) times the weight

        .. math::
            w = \frac{|S|}{T_1 T_2 - S_{12}^2} (T_1 T_2)^{-1/4}, \qquad T_i = S_{ii} - 10^{-6},

        which is at most 10 / (A_11 A_22)^(1/4) except where A_ii / S_ii > 100 (probability 1e-23)
        or where T_i is of order 1e-6, so that the definition's jitter matters; there it is
        cut off. Draws outside the box are rejected.

        Raises:
            ValueError: If no theta in the box explains x.
        """
        y = np.asarray(x, float).reshape(4, 2)
        mean = y.mean(0)
        scatter = (y - mean).T @ (y - mean)
        precision_factor = np.linalg.cholesky(np.linalg.inv(scatter))
        bound = 10 / (scatter[0, 0] * scatter[1, 1]) ** 0.25

        def draw(k: int) -> Array:
            s = _inverse_wishart(k, precision_factor, rng)
            t1, t2, s12 = s[:, 0, 0] - self.epsilon, s[:, 1, 1] - self.epsilon, s[:, 0, 1]
            with np.errstate(invalid="ignore", divide="ignore"):
                rho = s12 / np.sqrt(t1 * t2)
                inside = (
                    (t1 > 0)
                    & (t2 > 0)
                    & (np.maximum(t1, t2) <= 81)
                    & (np.abs(rho) <= math.tanh(3))
                )
                determinant = s[:, 0, 0] * s[:, 1, 1] - s12**2
                weight = determinant / (t1 * t2 * (1 - rho**2)) * (t1 * t2) ** -0.25
            keep = inside & (rng.random(k) * bound < np.where(inside, weight, 0.0))
            s, rho = s[keep], rho[keep]
            root = np.linalg.cholesky(s / 4)
            m = mean + np.einsum("kij,kj->ki", root, rng.standard_normal((len(s), 2)))
            size = np.stack([t1[keep], t2[keep]], -1) ** 0.25 * rng.choice(
                [-1.0, 1.0], (len(s), 2)
            )
            theta = np.concatenate([m, size, np.arctanh(rho)[:, None]], -1)
            return theta[(np.abs(m) <= 3).all(-1)]

        return _collect(draw, n)


class GaussianLinear(Benchmark):
    """A Gaussian of unknown mean under a Gaussian prior: the posterior is N(x / 2, 0.05 I)."""

    dim = 10
    variance = 0.1
    fields = {"x": Field((10,))}  # noqa: RUF012

    def _factor(self) -> Distribution:
        from torch.distributions import Normal

        return Normal(0.0, math.sqrt(self.variance))

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws x (n, 10)."""
        return {"x": np.asarray(theta) + rng.normal(0, math.sqrt(self.variance), np.shape(theta))}

    def log_likelihood(self, x: Array, theta: Array) -> Array:
        """Log p(x | theta), shape (...)."""
        return _log_normal(np.asarray(x, float) - theta, self.variance).sum(-1)

    def sample_posterior(self, x: Array, n: int, rng: np.random.Generator) -> Array:
        """Exact draws (n, 10)."""
        return np.asarray(x, float) / 2 + rng.normal(
            0, math.sqrt(self.variance / 2), (n, self.dim)
        )


class GaussianLinearUniform(GaussianLinear):
    """A Gaussian of unknown mean in a box: the posterior is N(x, 0.1 I), truncated to the box."""

    def _factor(self) -> Distribution:
        return _uniform(1.0)

    def sample_posterior(self, x: Array, n: int, rng: np.random.Generator) -> Array:
        """Exact draws (n, 10)."""
        from scipy.stats import truncnorm

        x, sd = np.asarray(x, float), math.sqrt(self.variance)
        size = (n, self.dim)
        return truncnorm.rvs((-1 - x) / sd, (1 - x) / sd, x, sd, size=size, random_state=rng)


TASKS: dict[str, type[Benchmark]] = {
    "two_moons": TwoMoons,
    "slcp": SLCP,
    "gaussian_linear": GaussianLinear,
    "gaussian_linear_uniform": GaussianLinearUniform,
}


def _uniform(bound: float) -> Distribution:
    from torch.distributions import Uniform

    return Uniform(-bound, bound)


def _log_normal(residual: Array, variance: float) -> Array:
    return -(residual**2) / (2 * variance) - math.log(2 * math.pi * variance) / 2


def _inverse_wishart(n: int, precision_factor: Array, rng: np.random.Generator) -> Array:
    """Bartlett's draws (n, 2, 2) of IW(2, A), given the Cholesky factor of A^-1."""
    bartlett = np.zeros((n, 2, 2))
    bartlett[:, 0, 0] = np.sqrt(rng.chisquare(2, n))
    bartlett[:, 1, 0] = rng.standard_normal(n)
    bartlett[:, 1, 1] = np.sqrt(rng.chisquare(1, n))
    (a, _), (b, c) = np.moveaxis(precision_factor @ bartlett, 0, -1)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return np.moveaxis(np.array([[b**2 + c**2, -a * b], [-a * b, a**2]]) / (a * c) ** 2, -1, 0)


def _collect(draw: Draw, n: int) -> Array:
    """Calls `draw` with more and more trials until it has given n rows in all.

    Raises:
        ValueError: If it gives less than one row in a million trials.
    """
    rows: list[Array] = []
    found = tried = 0
    trials = max(4 * n, 1000)
    while found < n:
        if tried > 1_000_000 * (found + 1):
            raise ValueError(
                f"{found} of {tried} trial draws fell inside the prior's box: the observation is "
                "too far from what the simulator can produce"
            )
        rows.append(draw(trials))
        found, tried = found + len(rows[-1]), tried + trials
        trials = min(2 * trials, 200_000)
    return np.concatenate(rows)[:n]
