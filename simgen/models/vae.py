r"""VAE: a latent-variable model of the target, with an encoder that infers the latent.

.. math::
    p(x \mid c) = \int p(x \mid z, c)\, p(z \mid c)\, dz, \qquad
    \mathcal{L} = \mathbb{E}_{q(z \mid x, c)}[\log p(x \mid z, c)]
        - \beta \, \mathrm{KL}(q(z \mid x, c) \,\|\, p(z \mid c))

with q(z | x, c) a diagonal Gaussian whose draws m + s eps carry the gradient. Its density is a
bound: the logarithm of an importance average over K draws of q (see `elbo`).

References:
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014), eqs. 3, 7
    | https://arxiv.org/abs/1312.6114
    | beta-VAE (Higgins et al., 2017), eq. 4, https://openreview.net/forum?id=Sy2fzU9gl
"""

from __future__ import annotations

__all__ = ["VAE", "VAEModule"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from ..field import Field
from .base import Given
from .coders import Prepared, decoder, encoder
from .elbo import diagonal
from .latent_prior import latent_prior
from .pca import principal_axes, regression
from .variational import LatentModule, check, event_of


@dataclass(frozen=True)
class VAE:
    """A conditional variational auto-encoder.

    Arguments:
        latent: Length of z; unless said a vector's and one more, up to 32, or an eighth of an
            image's numbers, 8 to 64.
        prior: p(z | given): "normal", "gaussian" (by a network), "flow" or "diffusion".
        decoder: "gaussian", "spline", of any density of each number, or "bernoulli" for targets
            of two values.
        variance: Of a Gaussian decoder: "scalar", "dimension" or "network".
        floor: The decoder's smallest standard deviation.
        beta: Weight of the KL.
        warmup: Share of the training over which that weight grows from 0.
        free_bits: Nats of KL a latent that cost nothing.
        particles: Draws of the importance bound that is trained; 1 is the ELBO.
        draws: Draws K of the importance bound that is `log_prob`.
        width: Of a vector's networks.
        blocks: Their residual blocks; 0 for linear maps. At each resolution for images.
        channels: Of an image's networks, at the finest resolution.
        depth: Halvings of an image; down to sides of 4 unless said.
        periodic: Whether an image's edges meet.

    References:
        | Generating Sentences from a Continuous Space (Bowman et al., 2016): warm-up
        | https://arxiv.org/abs/1511.06349
        | Importance Weighted Autoencoders (Burda et al., 2016), eq. 8
        | https://arxiv.org/abs/1509.00519
    """

    latent: int | None = None
    prior: str = "flow"
    decoder: str = "gaussian"
    variance: str = "network"
    floor: float = 1e-3
    beta: float = 1.0
    warmup: float = 0.0
    free_bits: float = 0.0
    particles: int = 1
    draws: int = 64
    width: int = 128
    blocks: int = 2
    channels: int = 32
    depth: int | None = None
    periodic: bool = False

    def __post_init__(self) -> None:
        if self.latent is not None and self.latent < 1:
            raise ValueError(f"latent must be at least 1; got {self.latent}")
        check(self)

    def build(self, target: Field, given: Mapping[str, Field]) -> VAEModule:
        """The network for a target vector or image, given a context vector, a map, or nothing.

        Raises:
            ValueError: If the target is neither vector nor image.
        """
        return VAEModule(self, event_of(target), given)


class VAEModule(LatentModule):
    """The networks of a `VAE`: encoder, prior, decoder."""

    def __init__(self, settings: VAE, event: torch.Size, given: Mapping[str, Field]) -> None:
        super().__init__(settings, event, given, settings.latent or default_latent(event))
        condition, sizes, latent = self.condition, self.sizes, self.latent
        self.encoder: Any = encoder(event, condition, 2 * latent, sizes)
        self.decoder: Any = decoder(latent, condition, event, self.head.outputs, sizes)
        self.prior = latent_prior(settings.prior, latent, condition.size, sizes)

    def encode(self, x: Tensor, given: Given = (None, None)) -> Normal:
        """q(z | x, given) of rows x (n, *event)."""
        return diagonal(self.encoder(x, self.condition(given)))

    def terms(
        self, x: Tensor, given: Prepared, noise: Tensor, train: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `LatentModule.terms`."""
        q = diagonal(self.encoder(x, given))
        z = q.loc + q.scale * noise
        fit = self.likelihood(x, z[None], given)[0]
        if not train:
            return fit, self.prior.kl(q, z, given.context), None
        own = self.prior.auxiliary(z, given.context)
        return fit, self.prior.penalty(q, z, given.context), own

    def log_weights(self, x: Tensor, given: Prepared, noise: Tensor) -> Tensor:
        """See `LatentModule.log_weights`."""
        q = diagonal(self.encoder(x, given))
        z = q.loc + q.scale * noise
        prior = self.prior.log_prob(z, given.context)
        return self.likelihood(x, z, given) + prior - q.log_prob(z).sum(-1)

    def prior_draws(self, noise: Tensor, given: Prepared) -> Tensor:
        """See `LatentModule.prior_draws`."""
        return self.prior.transport(noise, given.context)

    @torch.no_grad()
    def initialise(self, target: Tensor, given: Given) -> None:
        """Starts vectors as probabilistic PCA of what a regression on the context leaves, with
        its posterior as encoder; finds a Bernoulli decoder's values.
        """
        self.head.initialise(target)
        if len(self.event_shape) > 1 or self.settings.decoder == "bernoulli":
            return
        slope, shift, covariance = regression(target, given[0])
        pca = principal_axes(covariance, self.latent)
        self.encoder.net.start(
            torch.cat([pca.inward, -pca.inward @ slope.T], 1),
            torch.cat([-pca.inward @ shift, pca.spread.log()]),
        )
        self.decoder.net.start(torch.cat([pca.outward, slope.T], 1), shift)
        self.head.start(float(pca.variance.sqrt()))
        q = self.encode(target, given)
        context = self.condition(given).context
        self.prior.initialise(q.loc + q.scale * torch.randn_like(q.loc), context)


def default_latent(event: torch.Size) -> int:
    """One more than a vector has, up to 32; an eighth of an image's numbers, 8 to 64."""
    return min(32, event[0] + 1) if len(event) == 1 else min(64, max(8, event.numel() // 8))
