r"""Priors from corrupted data alone: three random directions of each x in five dimensions, with
noise, and no x.

.. math::
    y_i = A_i x_i + N(0, \sigma^2 I), \qquad A_i \in \mathbb{R}^{3 \times 5}

Of a Gaussian, the covariance that is found is compared with the true one; of a mixture, draws of
the prior with exact ones, lap by lap.
"""

from __future__ import annotations

__all__ = ["gaussian", "mixture"]

import math
import time
from typing import Any

import torch
from torch import Tensor

import simgen
from simgen.em import Incomplete, fit_gaussian_prior, prior_laps

from .measure import sliced_w1

D, SEEN, SIGMA = 5, 3, 0.1


def observe(x: Tensor) -> tuple[Tensor, Tensor]:
    """y (n, 3) and A (n, 3, 5) of x (n, 5)."""
    A = torch.randn(len(x), SEEN, D, dtype=torch.float64)
    A = A / A.norm(dim=-1, keepdim=True)
    return torch.einsum("nmd,nd->nm", A, x) + SIGMA * torch.randn(len(x), SEEN).double(), A


def target() -> simgen.MixturePrior:
    """Five narrow components around the origin."""
    generator = torch.Generator().manual_seed(0)
    means = 1.5 * torch.randn(5, D, generator=generator, dtype=torch.float64)
    return simgen.MixturePrior(torch.ones(5), means, 0.2**2 * torch.eye(D))


def covariance() -> Tensor:
    """A covariance whose eigenvalues are 0.05 to 2."""
    generator = torch.Generator().manual_seed(0)
    U = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=torch.float64)).Q
    return U @ torch.diag(torch.logspace(math.log10(0.05), math.log10(2), D).double()) @ U.mT


def gaussian(rows: int, laps: int, seed: int) -> dict[str, Any]:
    """How far the covariance is from the true one, in closed form and by diffusion models."""
    torch.manual_seed(seed)
    C = covariance()
    true = simgen.GaussianPrior(torch.ones(D, dtype=torch.float64), C)
    x = true.sample((rows,))
    y, A = observe(x)
    data = Incomplete.of(y, A, SIGMA)

    def judged(found: simgen.GaussianPrior) -> dict[str, float]:
        error = float((found.covariance - C).norm() / C.norm())
        lost = (data.log_likelihood(true) - data.log_likelihood(found)) / rows
        return {"error": error, "nats_lost": lost}

    start = time.process_time()
    found = {"rows": rows, "closed": judged(fit_gaussian_prior(y, A, SIGMA)), "laps": []}
    found["closed"]["seconds"] = round(time.process_time() - start, 1)
    found["seen_whole"] = float((x.mT.cov() - C).norm() / C.norm())
    for prior in prior_laps(y, A, SIGMA, laps=laps, seed=seed):
        draws = prior().sample((50_000,), seed=0).double()
        one = judged(simgen.GaussianPrior(draws.mean(0), draws.mT.cov()))
        found["laps"].append(one | {"seconds": round(time.process_time() - start, 1)})
    return found


def mixture(rows: int, laps: int, seed: int) -> dict[str, Any]:
    """Sliced W1 of the prior from the exact one, lap by lap; and draws of the last, for a
    picture.
    """
    torch.manual_seed(seed)
    true = target()
    y, A = observe(true.sample((rows,)))
    exact, again = true.sample((5000,)), true.sample((5000,))
    start = time.process_time()
    closed = fit_gaussian_prior(y, A, SIGMA)
    found: dict[str, Any] = {
        "rows": rows,
        "floor": sliced_w1(exact, again),
        "gaussian": sliced_w1(closed.sample((5000,)), exact),
        "laps": [],
    }
    for prior in prior_laps(y, A, SIGMA, laps=laps, seed=seed):
        draws = prior().sample((5000,), seed=0)
        w1 = sliced_w1(draws, exact)
        found["laps"].append({"w1": w1, "seconds": round(time.process_time() - start, 1)})
    found["picture"] = {
        "exact": _points(exact),
        "gaussian": _points(closed.sample((1000,))),
        "learned": _points(draws),
    }
    return found


def _points(x: Tensor) -> list[list[float]]:
    return [[round(float(v), 3) for v in row[:2]] for row in x[:600]]
