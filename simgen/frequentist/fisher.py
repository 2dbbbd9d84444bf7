r"""Fisher information: how well theta could be known, before anything is observed.

.. math::
    I(\vartheta) = E_{x \sim p(x \mid \vartheta)}\bigl[ s\, s^\top \bigr], \quad
    s = \nabla_\vartheta \log p(x \mid \vartheta); \qquad
    \mathrm{Cov}[\hat\vartheta] \ge I^{-1}

Of a linear or bent instrument with Gaussian noise or counts it is known in closed form; of a
surrogate it is averaged over the surrogate's own draws. With joint scores t of true simulations
at theta it is bounded from both sides, whatever the surrogate is worth:

.. math::
    E[t s^\top]\, E[s s^\top]^{-1}\, E[s t^\top] \;\preceq\; I(\vartheta) \;\preceq\;
        E[t\, t^\top],

on the left what the surrogate's score s(x) knows of theta, on the right what the latents know.

References:
    | Information and the accuracy attainable in the estimation of statistical parameters
    | (Rao, 1945), https://doi.org/10.1007/978-1-4612-0919-5_16
    | Mining gold from implicit models to improve likelihood-free inference (Brehmer et al., 2018)
    | https://arxiv.org/abs/1805.12244
    | An optimum property of regular maximum likelihood estimation (Godambe, 1960)
    | https://doi.org/10.1214/aoms/1177705693
"""

from __future__ import annotations

__all__ = ["Fisher", "fisher_information"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

from ..answers.unknowns import Rows, call
from ..learned_likelihood import ConditionalLikelihood
from ..likelihood import GaussianLikelihood, PoissonLikelihood
from ..prior import Prior
from ..randomness import seeded

_CHUNK = 4_096


@dataclass(frozen=True)
class Fisher:
    """Information on theta.

    Attributes:
        names: Of the parameters.
        theta: Where, (d,).
        matrix: I (d, d).
        error: Its Monte Carlo standard error (d, d); zero in closed form.
        method: "closed form", "surrogate's draws" or "joint scores" (a lower bound).
        upper: Of joint scores, the information of the latents (d, d), an upper bound.
    """

    names: tuple[str, ...]
    theta: Array
    matrix: Array
    error: Array
    method: str
    upper: Array | None = None

    @property
    def covariance(self) -> Array:
        """The Cramér-Rao bound: the inverse (d, d).

        Raises:
            numpy.linalg.LinAlgError: If some direction of theta is not informed at all.
        """
        return np.linalg.inv(self.matrix)

    @property
    def errors(self) -> Array:
        """The least standard errors (d,) of unbiased estimates, the others being unknown."""
        return np.sqrt(np.diagonal(self.covariance))

    @property
    def headline(self) -> str:
        """One sentence."""
        bounds = ", ".join(f"{k} ± {e:.3g}" for k, e in zip(self.names, self.errors))
        return f"Fisher information ({self.method}): at best {bounds}."

    def __str__(self) -> str:
        width = max(12, *(len(k) + 2 for k in self.names))
        lines = [self.headline, " " * width + "".join(f"{k:>{width}}" for k in self.names)]
        for name, row in zip(self.names, self.matrix):
            lines.append(f"{name:<{width}}" + "".join(f"{v:>{width}.4g}" for v in row))
        return "\n".join(lines)


def fisher_information(
    surrogate: Any,
    theta: Any,
    dataset: Mapping[str, Any] | None = None,
    *,
    names: tuple[str, ...] | None = None,
    n: int = 10_000,
    seed: int = 0,
) -> Fisher:
    """Fisher information of p(x | theta) at a point.

    Arguments:
        surrogate: A fitted "x | theta", any callable of theta to a distribution over x with
            `sample` and `log_prob`, or a `GaussianLikelihood` or `PoissonLikelihood`.
        theta: The point (d,).
        dataset: Simulations at this theta with fields x and joint_score, as
            `simulator(np.tile(theta, (n, 1)), seed=0)` gives them.
        names: Of the parameters; of the surrogate's prior unless said.
        n: Draws of the surrogate.
        seed: Of these.

    Raises:
        ValueError: If the dataset lacks joint scores, or was simulated elsewhere.
    """
    point = torch.as_tensor(theta).double().reshape(-1)
    names = names or _names(surrogate, len(point))
    exact = _closed_form(surrogate, point, names) if dataset is None else None
    if exact is not None:
        zero = np.zeros_like(exact.numpy())
        return Fisher(names, point.numpy(), exact.numpy(), zero, "closed form")
    at = _conditional(surrogate)
    if dataset is None:
        with seeded(seed):
            x = at(point[None]).sample((n,))[:, 0]
        scores = _scores(at, x, point)
        matrix, error = _mean(scores, scores)
        return Fisher(names, point.numpy(), matrix.numpy(), error.numpy(), "surrogate's draws")
    x, joint = _gold(dataset, point)
    scores = _scores(at, x, point)
    scores = scores - scores.mean(0)  # of a surrogate that is not exact it is not zero
    within, _ = _mean(scores, scores)
    across, _ = _mean(joint, scores)
    # the best linear guess of t from s: what remains in it is the information of s
    guess = scores @ torch.linalg.solve(within, across.mT)
    matrix = across @ torch.linalg.solve(within, across.mT)
    influence = guess[:, :, None] * joint[:, None, :]
    influence = influence + influence.mT - guess[:, :, None] * guess[:, None, :]
    error = influence.std(0) / len(x) ** 0.5
    upper, _ = _mean(joint, joint)
    matrix = (matrix + matrix.mT) / 2
    return Fisher(
        names, point.numpy(), matrix.numpy(), error.numpy(), "joint scores", upper.numpy()
    )


def _names(surrogate: Any, d: int) -> tuple[str, ...]:
    prior = getattr(surrogate, "prior", None)
    if isinstance(prior, Prior) and len(prior.names) == d:
        return prior.names
    return tuple(f"theta_{i}" for i in range(d))


def _conditional(surrogate: Any) -> Any:
    if isinstance(surrogate, ConditionalLikelihood):
        return surrogate.surrogate
    if not callable(surrogate):
        raise TypeError(
            "information needs a fitted 'x | theta', a callable of theta to a distribution, a "
            f"GaussianLikelihood or a PoissonLikelihood; got {type(surrogate).__name__}"
        )
    return surrogate


def _closed_form(surrogate: Any, theta: Tensor, names: tuple[str, ...]) -> Tensor | None:
    r"""J^T Sigma^-1 J of Gaussian noise, with 2 sum_i (grad log sigma_i)(grad log sigma_i)^T where
    that depends on theta; J^T diag(1 / rate) J of counts; None of anything else.
    """
    if not isinstance(surrogate, (GaussianLikelihood, PoissonLikelihood)):
        return None

    def mean(t: Tensor) -> Tensor:
        return surrogate.predict(Rows({"theta": t}, {"theta": names}))

    slopes, value = _slopes(mean, theta)
    if isinstance(surrogate, PoissonLikelihood):
        return (slopes / value) @ slopes.mT
    if not callable(surrogate.sigma):
        white = surrogate.noise(mean(theta[None]).shape[1:]).white(slopes)
        return white @ white.mT

    def log_sd(t: Tensor) -> Tensor:
        sd = torch.as_tensor(call(surrogate.sigma, Rows({"theta": t}, {"theta": names})))
        return sd.double().reshape(1, -1).expand(1, len(value)).log()

    noise, level = _slopes(log_sd, theta)
    white = slopes / level.exp()
    return white @ white.mT + 2 * noise @ noise.mT


def _slopes(function: Any, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives (d, m) and values (m,) of a function of rows."""

    def flat(t: Tensor) -> Tensor:
        return torch.as_tensor(function(t[None])).double().reshape(-1)

    slopes = torch.autograd.functional.jacobian(flat, theta)
    return slopes.mT, flat(theta)


def _scores(at: Any, x: Tensor, theta: Tensor) -> Tensor:
    """The gradient of log q(x_i | theta) (n, d)."""
    parts = []
    for rows in x.split(_CHUNK):
        with torch.enable_grad():
            point = theta.expand(len(rows), -1).clone().requires_grad_()
            value = at(point).log_prob(rows)
            (slope,) = torch.autograd.grad(value.sum(), point)
        parts.append(slope.double())
    return torch.cat(parts)


def _mean(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """E[a b^T] (d, d) and its standard error."""
    products = a[:, :, None] * b[:, None, :]
    return products.mean(0), products.std(0) / len(a) ** 0.5


def _gold(dataset: Mapping[str, Any], theta: Tensor) -> tuple[Tensor, Tensor]:
    for name in ("x", "joint_score"):
        if name not in dataset:
            raise ValueError(f"information by joint scores needs the field {name!r}")
    x = torch.as_tensor(np.asarray(dataset["x"]))
    joint = torch.as_tensor(np.asarray(dataset["joint_score"])).double()
    if joint.shape != (len(x), len(theta)):
        raise ValueError(f"joint_score must be {(len(x), len(theta))}; got {tuple(joint.shape)}")
    if "theta" in dataset:
        there = torch.as_tensor(np.asarray(dataset["theta"])).double()
        if not torch.allclose(there, theta.expand_as(there), rtol=1e-5, atol=1e-6):
            raise ValueError("the dataset was simulated at other theta: simulate at this one")
    return x, joint
