r"""Priors of a latent vector, p(z | c): standard normal, conditional Gaussian, flow, diffusion.

.. math::
    \mathrm{KL}(q \,\|\, p) = \sum_j \log \frac{\sigma_j}{s_j}
        + \frac{s_j^2 + (m_j - \mu_j)^2}{2 \sigma_j^2} - \frac12
    \qquad \text{or} \qquad -\mathrm{H}(q) - \log p(z \mid c), \quad z \sim q = \mathcal{N}(m, s^2)

The left one, a number a latent, where p is Gaussian; the right one, with one draw of z and the
entropy in closed form, where it is not: shared evenly by the latents.

References:
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014), appendix B
    | https://arxiv.org/abs/1312.6114
    | Variational Lossy Autoencoder (Chen et al., 2017), https://arxiv.org/abs/1611.02731
    | Sticking the Landing (Roeder et al., 2017), https://arxiv.org/abs/1703.09194
"""

from __future__ import annotations

__all__ = ["DiffusionPrior", "FlowPrior", "GaussianPrior", "StandardNormal", "latent_prior"]

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from ..field import Field
from .coders import Sizes, SkipMLP
from .elbo import diagonal
from .flow import Flow

PRIORS = ("normal", "gaussian", "flow", "diffusion")


class StandardNormal(nn.Module):
    """N(0, I); what the other priors have in common."""

    def __init__(self, latent: int, context: int = 0) -> None:
        super().__init__()
        self.latent, self.context = latent, context

    def gaussian(self, like: Tensor, context: Tensor | None) -> Normal:
        """The prior of rows like z (n, latent)."""
        zero = torch.zeros_like(like)
        return Normal(zero, zero + 1, validate_args=False)

    def kl(self, q: Normal, z: Tensor, context: Tensor | None) -> Tensor:
        """KL(q || p) in nats, (n, latent), z (n, latent) a draw of q."""
        return kl_divergence(q, self.gaussian(z, context))

    def penalty(self, q: Normal, z: Tensor, context: Tensor | None) -> Tensor:
        """What training pays in its place, (n, latent)."""
        return self.kl(q, z, context)

    def auxiliary(self, z: Tensor, context: Tensor | None) -> Tensor | None:
        """A loss of the prior's own, (n,), or None."""
        return None

    def log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        """log p(z | c), (s, n), of z (s, n, latent) given contexts (n, c)."""
        return self.gaussian(z[0], context).log_prob(z).sum(-1)

    def transport(self, noise: Tensor, context: Tensor | None) -> Tensor:
        """Maps noise (s, n, latent) ~ N(0, I) to draws."""
        p = self.gaussian(noise[0], context)
        return p.loc + p.scale * noise

    def initialise(self, z: Tensor, context: Tensor | None) -> None:
        """Nothing to be found in rows."""


class GaussianPrior(StandardNormal):
    """N(m(c), diag s(c)^2), m and log s by a network; m and s are numbers where nothing is given.

    It starts as N(0, I).
    """

    def __init__(self, latent: int, context: int = 0, sizes: Sizes | None = None) -> None:
        super().__init__(latent, context)
        if context:
            self.net = SkipMLP(context, 2 * latent, sizes or Sizes())
            nn.init.zeros_(self.net.linear.weight)
            nn.init.zeros_(self.net.linear.bias)
        else:
            self.raw = nn.Parameter(torch.zeros(2 * latent))

    def gaussian(self, like: Tensor, context: Tensor | None) -> Normal:
        """The prior of rows like z (n, latent)."""
        return diagonal(self.net(context) if self.context else self.raw.expand(len(like), -1))


class FlowPrior(StandardNormal):
    """A normalizing flow."""

    def __init__(self, latent: int, context: int = 0) -> None:
        super().__init__(latent, context)
        given = {"context": Field((context,))} if context else {}
        self.module = self.build(Field((latent,)), given)

    def build(self, target: Field, given: dict[str, Field]) -> Any:
        """The module of the family."""
        return Flow().build(target, given)

    def kl(self, q: Normal, z: Tensor, context: Tensor | None) -> Tensor:
        """-H(q) - log p(z), (n, latent), with the same log p for each."""
        return -q.entropy() - self.log_prob(z[None], context)[0][:, None] / self.latent

    def penalty(self, q: Normal, z: Tensor, context: Tensor | None) -> Tensor:
        """log q(z) - log p(z), (n, latent), without the score of q, whose mean is zero: where q is
        the exact posterior, the gradient has no scatter.
        """
        fixed = Normal(q.loc.detach(), q.scale.detach(), validate_args=False)
        return fixed.log_prob(z) - self.log_prob(z[None], context)[0][:, None] / self.latent

    def log_prob(self, z: Tensor, context: Tensor | None) -> Tensor:
        """log p(z | c), (s, n), of z (s, n, latent) given contexts (n, c)."""
        return self.module.distribution((context, None)).log_prob(z)

    def transport(self, noise: Tensor, context: Tensor | None) -> Tensor:
        """Maps noise (s, n, latent) ~ N(0, I) to draws."""
        return self.module.distribution((context, None)).transport(noise)

    def initialise(self, z: Tensor, context: Tensor | None) -> None:
        """Starts the flow from draws z (n, latent) given contexts (n, c)."""
        if hasattr(self.module, "initialise"):
            self.module.initialise(z, (context, None))


class DiffusionPrior(FlowPrior):
    """A diffusion model, trained on the encoder's draws, which its gradient does not reach; the
    encoder is held near N(0, I) in its place. Its density is the probability flow's.

    References:
        | High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022)
        | https://arxiv.org/abs/2112.10752, section 3.1, KL-regularisation
    """

    def build(self, target: Field, given: dict[str, Field]) -> Any:
        """The module of the family."""
        from .diffusion import Diffusion

        return Diffusion().build(target, given)

    def penalty(self, q: Normal, z: Tensor, context: Tensor | None) -> Tensor:
        """KL(q || N(0, I)), (n, latent)."""
        return kl_divergence(q, self.gaussian(z, context))

    def auxiliary(self, z: Tensor, context: Tensor | None) -> Tensor | None:
        """The diffusion model's loss of draws z (n, latent), (n,)."""
        return self.module.loss(z.detach(), (context, None))


def latent_prior(kind: str, latent: int, context: int, sizes: Sizes) -> StandardNormal:
    """The prior by name: "normal", "gaussian", "flow" or "diffusion"."""
    if kind == "gaussian":
        return GaussianPrior(latent, context, sizes)
    classes = {"normal": StandardNormal, "flow": FlowPrior, "diffusion": DiffusionPrior}
    return classes[kind](latent, context)
