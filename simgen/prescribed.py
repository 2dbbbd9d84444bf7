r"""Fitting a prescribed latent-variable model p_theta(x, z): four ways to the same theta.

.. math::
    \theta^* = \arg\max_\theta \sum_i \log p_\theta(x_i), \qquad
    p_\theta(x) = \int p_\theta(x \mid z)\, p_\theta(z)\, dz

- `NaiveEvidence`: an average over draws of p(z), of which few reach where p(x | z) is not zero;
- `InstanceBound`: variational inference, a Gaussian q_i(z) of each row's own;
- `AmortisedBound`: one network for all rows, q(z | x);
- `ExactEvidence`: log p(x) in closed form, where the model has it.

Each is a module that maps rows to (a bound of) their log-evidence; `maximise` climbs it over
the model's parameters and the guide's alike. A model is an nn.Module with `latent`, `prior` (a
torch Distribution over z) and `log_likelihood(x, z)`, such as `models.pca.ProbabilisticPCA`.

References:
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014), eqs. 1 to 3
    | https://arxiv.org/abs/1312.6114
    | Importance Weighted Autoencoders (Burda et al., 2016), eq. 8
    | https://arxiv.org/abs/1509.00519
"""

from __future__ import annotations

__all__ = [
    "AmortisedBound",
    "ExactEvidence",
    "InstanceBound",
    "NaiveEvidence",
    "PrescribedModel",
    "maximise",
]

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from .models.elbo import diagonal, importance_bound


class PrescribedModel(Protocol):
    """A latent-variable model written down by hand; an nn.Module where it has parameters."""

    latent: int

    @property
    def prior(self) -> Distribution:
        """p(z), event shape (latent,)."""

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z), (...,), of x (..., k) and z (..., latent)."""


class NaiveEvidence(nn.Module):
    """log (1/K) sum_k p(x | z_k), z_k ~ p(z), fresh for every row.

    Arguments:
        model: The model.
        draws: K.
    """

    def __init__(self, model: Any, draws: int = 100) -> None:
        super().__init__()
        self.model, self.draws = model, draws

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """Of x (n, k), its row numbers aside: (n,)."""
        z = self.model.prior.rsample((self.draws, len(x)))
        return importance_bound(self.model.log_likelihood(x, z))


class _Guided(nn.Module):
    """log (1/K) sum_k p(x, z_k) / q(z_k), z_k ~ q: the ELBO for K = 1.

    References:
        | Sticking the Landing (Roeder et al., 2017): the gradient for K = 1
        | https://arxiv.org/abs/1703.09194
    """

    def __init__(self, model: Any, draws: int) -> None:
        super().__init__()
        self.model, self.draws = model, draws

    def guide(self, x: Tensor, rows: Tensor) -> Normal:
        """q(z) of each row, (n, latent)."""
        raise NotImplementedError

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """Of x (n, k), which are the rows numbered rows (n,): (n,)."""
        q = self.guide(x, rows)
        z = q.rsample((self.draws,))
        joint = self.model.log_likelihood(x, z) + self.model.prior.log_prob(z)
        if self.draws == 1:  # the score of q has mean zero: without it the gradient scatters less
            q = Normal(q.loc.detach(), q.scale.detach(), validate_args=False)
        return importance_bound(joint - q.log_prob(z).sum(-1))


class InstanceBound(_Guided):
    """The bound with a diagonal Gaussian q_i for every row, whose numbers are parameters.

    Arguments:
        model: The model.
        rows: Number of rows.
        draws: K.
    """

    def __init__(self, model: Any, rows: int, draws: int = 1) -> None:
        super().__init__(model, draws)
        self.raw = nn.Parameter(torch.zeros(rows, 2 * model.latent))

    def guide(self, x: Tensor, rows: Tensor) -> Normal:
        """q(z) of each row, (n, latent)."""
        return diagonal(self.raw[rows])


class AmortisedBound(_Guided):
    """The bound with q(z | x) by a network.

    Arguments:
        model: The model.
        network: Maps x (n, k) to means and log standard deviations (n, 2 latent).
        draws: K.
    """

    def __init__(self, model: Any, network: nn.Module, draws: int = 1) -> None:
        super().__init__(model, draws)
        self.network = network

    def guide(self, x: Tensor, rows: Tensor) -> Normal:
        """q(z) of each row, (n, latent)."""
        return diagonal(self.network(x))


class ExactEvidence(nn.Module):
    """log p(x) of a model that has `log_evidence(x)`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """Of x (n, k), its row numbers aside: (n,)."""
        return self.model.log_evidence(x)


def maximise(
    bound: nn.Module,
    x: Tensor,
    *,
    steps: int = 1000,
    batch_size: int = 256,
    learning_rate: float = 1e-2,
    seed: int = 0,
) -> list[float]:
    """Climbs the mean of a bound over rows, by Adam with a cosine's decay, in place.

    Arguments:
        bound: Maps rows (n, k) and their numbers (n,) to (n,); its trainable parameters move.
        x: All rows.
        steps: Steps of the optimiser.
        batch_size: Rows a step.
        learning_rate: At the start.
        seed: Of the batches and of the draws.

    Returns:
        The bound's mean over the batch at each step, in nats.
    """
    optimizer = torch.optim.Adam([p for p in bound.parameters() if p.requires_grad])
    history = []
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for step in range(steps):
            share = torch.tensor(torch.pi * step / steps)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * 0.5 * float(1 + share.cos())
            rows = torch.randperm(len(x))[:batch_size].to(x.device)
            value = bound(x[rows], rows).mean()
            optimizer.zero_grad()
            (-value).backward()
            optimizer.step()
            history.append(float(value.detach()))
    return history
