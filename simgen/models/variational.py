r"""What variational families have in common: the bounds of log p(x | c), training, and draws.

.. math::
    \mathcal{L} = \mathbb{E}_{q(z \mid x, c)}[\log p(x \mid z, c)]
        - \beta \, \mathrm{KL}(q(z \mid x, c) \,\|\, p(z \mid c))

A family says its terms of one draw of z, its log-weights log p(x, z | c) - log q(z | x, c), and
how noise becomes latents; everything else follows.

References:
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014), eq. 7
    | https://arxiv.org/abs/1312.6114
    | beta-VAE (Higgins et al., 2017), eq. 4, https://openreview.net/forum?id=Sy2fzU9gl
"""

from __future__ import annotations

__all__ = ["LatentModule", "check", "event_of"]

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..field import Field
from .base import Given, ModelDistribution
from .coders import Conditioner, Prepared, Sizes
from .decoders import DECODERS, VARIANCES, decoder_head
from .elbo import Elbo, free_nats, importance_bound
from .latent_prior import PRIORS

_ROWS = 1 << 16  # rows times draws that go through the networks at once for a density


def check(settings: Any) -> None:
    """Checks what variational families have in common.

    Raises:
        ValueError: If a setting makes no sense.
    """
    choices = {
        "prior": PRIORS,
        "decoder": DECODERS,
        "variance": VARIANCES,
    }
    for name, allowed in choices.items():
        value = getattr(settings, name)
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
    for name, least in {"particles": 1, "draws": 1, "width": 1, "blocks": 0}.items():
        if getattr(settings, name) < least:
            raise ValueError(f"{name} must be at least {least}; got {getattr(settings, name)}")
    if not settings.floor > 0:
        raise ValueError(f"floor must be positive; got {settings.floor}")
    if not 0 <= settings.warmup <= 1:
        raise ValueError(f"warmup is a share of the training, 0 to 1; got {settings.warmup}")
    if settings.beta < 0 or settings.free_bits < 0:
        raise ValueError("beta and free_bits must not be negative")
    plain = settings.beta == 1 and not settings.free_bits and settings.prior != "diffusion"
    if settings.particles > 1 and not (plain and settings.warmup == 0):
        raise ValueError(
            "particles > 1 trains the importance bound, which has no KL of its own: leave beta, "
            "warmup and free_bits alone, and take another prior than diffusion"
        )


def event_of(target: Field) -> torch.Size:
    """Shape of a target that variational families can model.

    Raises:
        ValueError: If it is neither vector nor image.
    """
    if target.layout == "image":
        return torch.Size(target.shape)
    if target.layout != "vector":
        raise ValueError(f"the target must be a vector or an image; got {target.layout!r}")
    return torch.Size((target.size,))


class LatentModule(nn.Module):
    """What variational families have in common: the bounds, of their terms.

    Arguments:
        settings: The family.
        event: Shape of the target.
        given: Fields of context and map.
        latent: Length of all latents together.
    """

    density = "bound"
    decoder: Any

    def __init__(
        self, settings: Any, event: torch.Size, given: Mapping[str, Field], latent: int
    ) -> None:
        super().__init__()
        self.settings, self.event_shape, self.latent = settings, event, latent
        self.noise_shape = torch.Size((latent + event.numel(),))
        self.share = 1.0
        self.sizes = Sizes(
            settings.width, settings.blocks, settings.channels, settings.depth, settings.periodic
        )
        self.condition = Conditioner(given, self.sizes)
        self.head = decoder_head(settings.decoder, event, settings.variance, settings.floor)

    def terms(
        self, x: Tensor, given: Prepared, noise: Tensor, train: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """log p(x | z, c) (n,), KL (n, latent), and a loss of the prior's own (n,), of one draw of
        z a row from noise (n, latent); with `train` what training pays in the KL's place.
        """
        raise NotImplementedError

    def log_weights(self, x: Tensor, given: Prepared, noise: Tensor) -> Tensor:
        """log p(x, z | c) - log q(z | x, c), (k, n), of noise (k, n, latent)."""
        raise NotImplementedError

    def prior_draws(self, noise: Tensor, given: Prepared) -> Tensor:
        """The latents that the decoder reads, (s, n, l), of noise (s, n, latent)."""
        raise NotImplementedError

    def progress(self, share: float) -> None:
        """Says how much of the training is done, 0 to 1: the KL's weight follows it."""
        self.share = share

    @property
    def weight(self) -> float:
        """The KL's weight now; its last value outside of training."""
        warmup = self.settings.warmup
        if not self.training or warmup == 0:
            return self.settings.beta
        return self.settings.beta * min(1.0, self.share / warmup)

    def loss(self, target: Tensor, given: Given) -> Tensor:
        """-L of each row, in nats, (n,), by one draw of z, or by several particles."""
        prepared = self.condition(given)
        particles = self.settings.particles
        noise = torch.randn(particles, len(target), self.latent, **_like(target))
        if particles > 1:
            return -importance_bound(self.log_weights(target, prepared, noise))
        fit, kl, own = self.terms(target, prepared, noise[0], True)
        value = self.weight * free_nats(kl, self.settings.free_bits) - fit
        return value if own is None else value + own

    def elbo(self, target: Tensor, given: Given = (None, None), draws: int = 1) -> Elbo:
        """The evidence lower bound of each row, and its parts, by an average over draws of z."""
        many = self.condition(given).repeat(draws)
        x = target.expand(draws, *target.shape).reshape(-1, *self.event_shape)
        fit, kl, _ = self.terms(x, many, torch.randn(len(x), self.latent, **_like(x)), False)
        kl = kl.sum(-1)
        return Elbo(fit.view(draws, -1).mean(0), kl.view(draws, -1).mean(0))

    def gap(
        self, target: Tensor, log_evidence: Tensor, given: Given = (None, None), draws: int = 64
    ) -> Tensor:
        """KL(q(z | x, c) || p(z | x, c)), (n,), where log p(x | c) of the model is known: what
        the ELBO lacks.
        """
        return log_evidence - self.elbo(target, given, draws).value

    def log_prob(
        self, z: Tensor, given: Given = (None, None), draws: int | None = None, seed: int = 0
    ) -> Tensor:
        """The importance bound of log p(z | given), (n,), of z (n, *event).

        The K draws are a scrambled Sobol sequence of a fixed seed, the same for every row: a
        function of z. Over seeds its mean is below log p, and grows with K.
        """
        k, n = draws or self.settings.draws, len(z)
        noise = _sobol_normal(k, self.latent, seed).to(z)[:, None].expand(-1, n, -1)
        prepared = self.condition(given)
        parts = noise.split(max(1, _ROWS // max(n, 1)))
        return importance_bound(torch.cat([self.log_weights(z, prepared, p) for p in parts]))

    def transport(self, noise: Tensor, given: Given = (None, None)) -> Tensor:
        """Maps noise (s, n, latent + size) ~ N(0, I) to draws (s, n, *event)."""
        s, n = noise.shape[:2]
        prepared = self.condition(given)
        z = self.prior_draws(noise[..., : self.latent], prepared).reshape(s * n, -1)
        raw = self.decoder(z, prepared.repeat(s))
        pixels = noise[..., self.latent :].reshape(s * n, *self.event_shape)
        return self.head.draw(raw, pixels).view(s, n, *self.event_shape)

    def distribution(self, given: Given) -> ModelDistribution:
        """The distribution over the target, given n rows."""
        return ModelDistribution(self, given)

    def decode(self, z: Tensor, given: Given = (None, None)) -> Tensor:
        """E[x | z, given], (n, *event), of latents (n, l) that the decoder reads."""
        return self.head.mean(self.decoder(z, self.condition(given)))

    def likelihood(self, x: Tensor, z: Tensor, given: Prepared) -> Tensor:
        """log p(x | z, c), (k, n), of x (n, *event) and z (k, n, l)."""
        k = len(z)
        raw = self.decoder(z.flatten(0, 1), given.repeat(k))
        many = x.expand(k, *x.shape).reshape(-1, *self.event_shape)
        return self.head.log_prob(many, raw).view(k, -1)


def _like(x: Tensor) -> dict[str, Any]:
    return {"dtype": x.dtype, "device": x.device}


def _sobol_normal(k: int, size: int, seed: int) -> Tensor:
    """Standard normal numbers (k, size) that fill the space more evenly than chance."""
    engine = torch.quasirandom.SobolEngine(size, scramble=True, seed=seed)
    return torch.special.ndtri(engine.draw(k, dtype=torch.float64).clamp(1e-9, 1 - 1e-9))
