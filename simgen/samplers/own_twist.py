r"""The twist by each row's own covariance of what is left unknown, where noise is low.

.. math::
    V = \sigma^2 \, \partial \hat x / \partial x_t, \qquad
    (I + A V A^\top)\, w = y - A(\hat x + V^{1/2} \epsilon) - \epsilon_y, \qquad
    x_0 = \hat x + V^{1/2} \epsilon + V A^\top w

A covariance that all rows share, averaged over the prior, is too wide where an image is dark and
too narrow where it is bright. A row's own is known by products, one backward pass each: the
system is solved by conjugate gradients, which the shared one preconditions, the root is
Lanczos'. Of a network, V is no covariance to the precision that data ask for where noise is high:
a row whose system is not solved keeps the shared one.

References:
    | Learning Diffusion Priors from Observations by Expectation Maximization (Rozet et al., 2024),
    | eqs. 17-20, https://arxiv.org/abs/2405.13712
"""

from __future__ import annotations

__all__ = ["OwnTwist", "own_levels"]

import itertools
from dataclasses import replace

import torch
from torch import Tensor

from ..krylov import conjugate_gradients, lanczos_root
from ..row_covariance import JacobianCovariance
from .problem import Problem, twist

_ROWS = 256  # whose graph is held at once
_ITERATIONS, _PRODUCTS = 12, 8  # of conjugate gradients, and of Lanczos
_TOLERANCE, _SOLVED = 1e-3, 0.05  # of a residual: to aim at, and to be content with
_TRIED, _MOST = 32, 0.25  # draws of the prior by which a level is judged, and the share it solves
_LOWEST, _LEVELS = 4, 3  # of the prior's smallest level: below it a network has seen few rows


class OwnTwist:
    """What is known of x_0 and y at rows x_t, each by its own covariance: of a linear instrument,
    and a prior that shares one.

    Arguments:
        problem: Prior, instrument and data.
        x_t: Rows (n, d).
        sigma: Their noise level.
    """

    def __init__(self, problem: Problem, x_t: Tensor, sigma: float) -> None:
        self.problem, self.x_t, self.sigma = problem, x_t, sigma
        self.shared = twist(problem, x_t, sigma)
        self.residual = self.shared.residual
        self.solved = torch.zeros(len(x_t), dtype=torch.bool, device=x_t.device)

    def draw(self, noise: Tensor, error: Tensor, led: Tensor | None = None) -> Tensor:
        """A draw of x_0 given x_t and y, as of `Twist`; says in `solved` (n,) which rows' own
        system was solved.
        """
        out = self.shared.draw(noise, error, led)
        for at in torch.arange(len(out), device=out.device).split(_ROWS):
            own, solved = self._own(at, noise[at], error[at])
            self.solved[at] = solved if led is None else solved & led[at]
            out[at] = torch.where(self.solved[at, None], own, out[at])
        return out

    def _own(self, at: Tensor, noise: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
        A, L = self.problem.matrix, self.shared.factor[0]
        assert A is not None
        with torch.enable_grad():
            x_t = self.x_t[at].detach().requires_grad_()
            mean = self.problem.prior.mean(x_t, self.sigma)
        V = JacobianCovariance(x_t, mean, self.problem.prior.variance(self.sigma))  # type: ignore[attr-defined]

        def system(w: Tensor) -> Tensor:
            return w + V(w @ A) @ A.mT

        def white(w: Tensor, upper: bool = False) -> Tensor:
            factor = L.mT if upper else L
            return torch.linalg.solve_triangular(factor, w.mT, upper=upper).mT

        z = lanczos_root(V, noise, _PRODUCTS)
        rest = self.residual[at] - z @ A.mT - error
        found = conjugate_gradients(
            lambda u: white(system(white(u, upper=True))), white(rest), _TOLERANCE, _ITERATIONS
        )
        w = white(found, upper=True)
        left = (rest - system(w)).norm(dim=-1) / rest.norm(dim=-1)
        x_0 = mean.detach() + z + V(w @ A)
        return x_0.detach(), (left < _SOLVED) & x_0.isfinite().all(-1)


def own_levels(problem: Problem) -> list[tuple[float, float]]:
    """Steps between low noise levels that rows can take by covariances of their own: up by factors
    of two, as far as these solve problems of the prior's own draws, but not from the lowest: of
    what is there a network has seen least, and sweeps would add up what is wrong with it.
    Downwards, to zero; none where V is each row's own anyway, where it is too large to be
    averaged, and where the instrument is not linear.
    """
    prior = problem.prior
    if problem.matrix is None or not getattr(prior, "averages", False):
        return []
    generator = torch.Generator().manual_seed(0)
    x = prior.draw(_TRIED, generator).to(prior.device)  # type: ignore[attr-defined]
    seen = problem.predict(x)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)

    observed = replace(problem, y=seen + normal(seen))
    levels = [0.0]
    for k in range(_LEVELS):
        sigma = _LOWEST * prior.smallest * 2**k
        tried = OwnTwist(observed, x + sigma * normal(x), sigma)
        tried.draw(normal(x), normal(seen))
        if float(tried.solved.double().mean()) < _MOST:
            break
        levels.append(sigma)
    return list(itertools.pairwise(reversed(levels)))
