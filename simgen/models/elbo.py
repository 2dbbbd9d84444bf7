r"""The evidence lower bound of a latent-variable model, its parts, and tighter bounds of K draws.

.. math::
    \log p(x \mid c) = \underbrace{\mathbb{E}_q[\log p(x \mid z, c)]
        - \mathrm{KL}(q(z \mid x, c) \,\|\, p(z \mid c))}_{\mathrm{ELBO}}
        + \mathrm{KL}(q(z \mid x, c) \,\|\, p(z \mid x, c))

.. math::
    \mathcal{L}_K = \mathbb{E}_{z_1 \dots z_K \sim q} \Bigl[ \log \frac1K \sum_k
        \frac{p(x, z_k \mid c)}{q(z_k \mid x, c)} \Bigr], \qquad
    \mathrm{ELBO} = \mathcal{L}_1 \le \mathcal{L}_2 \le \dots \le \log p(x \mid c)

References:
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014), eqs. 1, 3
    | https://arxiv.org/abs/1312.6114
    | Importance Weighted Autoencoders (Burda et al., 2016), eq. 8 and theorem 1
    | https://arxiv.org/abs/1509.00519
"""

from __future__ import annotations

__all__ = ["Elbo", "diagonal", "free_nats", "importance_bound"]

import math
from dataclasses import dataclass

from torch import Tensor
from torch.distributions import Normal

_RAW = (-9.0, 4.0)  # logarithms of standard deviations that a network can reach


@dataclass(frozen=True)
class Elbo:
    """The bound of each row, in nats.

    Attributes:
        reconstruction: E_q[log p(x | z, c)], (n,).
        kl: KL(q(z | x, c) || p(z | c)), (n,).
    """

    reconstruction: Tensor
    kl: Tensor

    @property
    def value(self) -> Tensor:
        """Reconstruction less KL, (n,)."""
        return self.reconstruction - self.kl


def diagonal(raw: Tensor) -> Normal:
    """The diagonal Gaussian of a network's output (..., 2 k): means, then logarithms of standard
    deviations.
    """
    mean, log_std = raw.chunk(2, -1)
    return Normal(mean, log_std.clamp(*_RAW).exp(), validate_args=False)


def free_nats(kl: Tensor, each: float) -> Tensor:
    r"""Sum over the last axis of max(each, KL), (n, latent) → (n,): a latent costs nothing more
    until it says `each` nats.

    References:
        | Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016)
        | https://arxiv.org/abs/1606.04934, appendix C.8; here of each row: rows stay apart
    """
    return kl.clamp(min=each).sum(-1) if each else kl.sum(-1)


def importance_bound(log_weights: Tensor) -> Tensor:
    """log (1/K) sum_k w_k of log-weights (K, ...)."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))
