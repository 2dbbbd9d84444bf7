r"""HierarchicalVAE: a Markov chain of latents, z_T at the top and z_1 next to the target.

.. math::
    p(x, z_{1:T} \mid c) = p(z_T \mid c) \prod_{t=2}^T p(z_{t-1} \mid z_t, c)\, p(x \mid z_1, c)

.. math::
    \mathcal{L} = \mathbb{E}_q\Bigl[ \log p(x \mid z_1, c)
        - \sum_{t=1}^{T} \log \frac{q(z_t \mid \cdot)}{p(z_t \mid z_{t+1}, c)} \Bigr]

The inference goes up as the chain does, q(z_1 | x) q(z_2 | z_1) ... q(z_T | z_{T-1}), or from the
top down, q(z_T | x) q(z_{T-1} | z_T, x) ... q(z_1 | z_2, x), where every term but the first is a
KL between Gaussians in closed form. Everything is given c as well.

References:
    | Understanding Diffusion Models: A Unified Perspective (Luo, 2022), section on hierarchical
    | variational autoencoders, https://arxiv.org/abs/2208.11970
    | Ladder Variational Autoencoders (Sønderby et al., 2016), section 2
    | https://arxiv.org/abs/1602.02282
"""

from __future__ import annotations

__all__ = ["HierarchicalModule", "HierarchicalVAE"]

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from ..field import Field
from .base import Given
from .coders import Prepared, SkipMLP, decoder, encoder
from .elbo import diagonal
from .hierarchical_start import link_start, top_down_start
from .latent_prior import latent_prior
from .pca import principal_axes, regression
from .vae import default_latent
from .variational import LatentModule, check, event_of

Link = tuple[Normal, Tensor]
"""q(z_t | ...) of m rows, and its draw (m, l_t)."""


@dataclass(frozen=True)
class HierarchicalVAE:
    """A conditional variational auto-encoder with a Markov chain of latents.

    Arguments:
        latents: Lengths of z_1 ... z_T; by the target's size and `levels` unless said.
        levels: T, where latents are not said: of vectors all have the same length, of images
            each half that of the one below.
        inference: "top-down" or "bottom-up".
        prior: p(z_T | given): "normal", "gaussian", "flow" or "diffusion".
        decoder: "gaussian", "spline", of any density of each number, or "bernoulli" for targets
            of two values.
        variance: Of a Gaussian decoder: "scalar", "dimension" or "network".
        floor: The decoder's smallest standard deviation.
        beta: Weight of the KL.
        warmup: Share of the training over which that weight grows from 0.
        free_bits: Nats of KL a latent that cost nothing.
        particles: Draws of the importance bound that is trained; 1 is the ELBO.
        draws: Draws K of the importance bound that is `log_prob`.
        width: Of the networks of vectors and latents.
        blocks: Their residual blocks; 0 for linear maps. At each resolution for images.
        channels: Of an image's networks, at the finest resolution.
        depth: Halvings of an image; down to sides of 4 unless said.
        periodic: Whether an image's edges meet.
    """

    latents: tuple[int, ...] | None = None
    levels: int = 3
    inference: str = "top-down"
    prior: str = "gaussian"
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
        if self.latents is not None:
            object.__setattr__(self, "latents", tuple(int(k) for k in self.latents))
            if not self.latents or min(self.latents) < 1:
                raise ValueError(f"latents must be lengths of at least 1; got {self.latents}")
        if self.levels < 1:
            raise ValueError(f"levels must be at least 1; got {self.levels}")
        if self.inference not in ("top-down", "bottom-up"):
            raise ValueError(f"inference is top-down or bottom-up; got {self.inference!r}")
        check(self)

    def build(self, target: Field, given: Mapping[str, Field]) -> HierarchicalModule:
        """The network for a target vector or image, given a context vector, a map, or nothing.

        Raises:
            ValueError: If the target is neither vector nor image.
        """
        event = event_of(target)
        return HierarchicalModule(self, event, given, self.latents or self._lengths(event))

    def _lengths(self, event: torch.Size) -> tuple[int, ...]:
        first, halve = default_latent(event), len(event) > 1
        return tuple(max(2, first // 2**t) if halve else first for t in range(self.levels))


class HierarchicalModule(LatentModule):
    """The networks of a `HierarchicalVAE`: encoder, links up or down, prior, decoder."""

    def __init__(
        self,
        settings: HierarchicalVAE,
        event: torch.Size,
        given: Mapping[str, Field],
        latents: tuple[int, ...],
    ) -> None:
        super().__init__(settings, event, given, sum(latents))
        self.latents, self.top_down = latents, settings.inference == "top-down"
        condition, sizes, c = self.condition, self.sizes, self.condition.size
        self.features = max(settings.width, latents[0]) if self.top_down else 2 * latents[0]
        self.encoder: Any = encoder(event, condition, self.features, sizes)
        self.decoder: Any = decoder(latents[0], condition, event, self.head.outputs, sizes)
        self.prior = latent_prior(settings.prior, latents[-1], c, sizes)
        self.down = nn.ModuleList(
            SkipMLP(above + c, 2 * below, sizes) for below, above in pairwise(latents)
        )
        if self.top_down:
            inputs = [self.features + above for above in (*latents[1:], 0)]
            outputs = latents
        else:
            inputs, outputs = list(latents[:-1]), latents[1:]
        self.infer = nn.ModuleList(SkipMLP(i + c, 2 * o, sizes) for i, o in zip(inputs, outputs))
        self._start_links()

    def chain(self, x: Tensor, given: Prepared, noise: Tensor) -> list[Link]:
        """q(z_t | ...) and z_t, t from 1 to T, of x (n, *event) by noise (k, n, latent), each of
        k n rows.
        """
        k = len(noise)
        h = self.encoder(x, given).repeat(k, 1)
        parts = noise.flatten(0, 1).split(self.latents, -1)
        context = given.repeat(k).context
        if self.top_down:
            links: list[Link] = []
            for net, part in zip(reversed(self.infer), reversed(parts)):
                links.insert(0, _link(net(h, links[0][1] if links else None, context), part))
            return links
        links = [_link(h, parts[0])]
        for net, part in zip(self.infer, parts[1:]):
            links.append(_link(net(links[-1][1], context), part))
        return links

    def terms(
        self, x: Tensor, given: Prepared, noise: Tensor, train: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `LatentModule.terms`."""
        links = self.chain(x, given, noise[None])
        fit = self.likelihood(x, links[0][1][None], given)[0]
        kl = []
        for net, (q, z), (_, above) in zip(self.down, links, links[1:]):
            p = diagonal(net(above, given.context))
            kl.append(kl_divergence(q, p) if self.top_down else -q.entropy() - p.log_prob(z))
        q, z = links[-1]
        pay = self.prior.penalty if train else self.prior.kl
        kl.append(pay(q, z, given.context))
        own = self.prior.auxiliary(z, given.context) if train else None
        return fit, torch.cat(kl, -1), own

    def log_weights(self, x: Tensor, given: Prepared, noise: Tensor) -> Tensor:
        """See `LatentModule.log_weights`."""
        k, n = noise.shape[:2]
        links = self.chain(x, given, noise)
        context = given.repeat(k).context
        total = -sum(q.log_prob(z).sum(-1) for q, z in links)
        for net, (_, z), (_, above) in zip(self.down, links, links[1:]):
            total = total + diagonal(net(above, context)).log_prob(z).sum(-1)
        top = self.prior.log_prob(links[-1][1].view(k, n, -1), given.context)
        return total.view(k, n) + top + self.likelihood(x, links[0][1].view(k, n, -1), given)

    def prior_draws(self, noise: Tensor, given: Prepared) -> Tensor:
        """See `LatentModule.prior_draws`: z_1."""
        s, n = noise.shape[:2]
        parts = noise.split(self.latents, -1)
        context = given.repeat(s).context
        z = self.prior.transport(parts[-1], given.context).flatten(0, 1)
        for net, part in zip(reversed(self.down), reversed(parts[:-1])):
            z = _link(net(z, context), part.flatten(0, 1))[1]
        return z.view(s, n, -1)

    def encode(self, x: Tensor, given: Given = (None, None)) -> list[Tensor]:
        """A draw of z_1 ... z_T, each (n, l_t), of rows x (n, *event)."""
        noise = torch.randn(1, len(x), self.latent).to(x)
        return [z for _, z in self.chain(x, self.condition(given), noise)]

    @torch.no_grad()
    def initialise(self, target: Tensor, given: Given) -> None:
        """Starts vectors as `VAE` does, z_1 being the latent of probabilistic PCA, with its
        posterior and that of all latents above as inference; finds a Bernoulli decoder's values.
        """
        self.head.initialise(target)
        if len(self.event_shape) > 1 or self.settings.decoder == "bernoulli":
            return
        slope, shift, covariance = regression(target, given[0])
        pca = principal_axes(covariance, self.latents[0])
        inward = torch.cat([pca.inward, -pca.inward @ slope.T], 1)
        self.decoder.net.start(torch.cat([pca.outward, slope.T], 1), shift)
        self.head.start(float(pca.variance.sqrt()))
        if self.top_down:
            self.encoder.net.start(inward, -pca.inward @ shift)
            starts = top_down_start(self.latents, pca.spread, self.features)
            for net, start in zip(self.infer, starts):
                net.start(*start)  # type: ignore
        else:
            bias = torch.cat([-pca.inward @ shift, pca.spread.log()])
            self.encoder.net.start(inward, bias)
        noise = torch.randn(1, len(target), self.latent).to(target)
        prepared = self.condition(given)
        self.prior.initialise(self.chain(target, prepared, noise)[-1][1], prepared.context)

    def _start_links(self) -> None:
        links = list(zip(self.down, pairwise(self.latents)))
        if not self.top_down:
            links += [(n, (b, a)) for n, (a, b) in zip(self.infer, pairwise(self.latents))]
        for net, (out, size) in links:
            net.start(*link_start(out, size))  # type: ignore


def _link(raw: Tensor, noise: Tensor) -> Link:
    """The Gaussian of a network's output, and its draw."""
    q = diagonal(raw)
    return q, q.loc + q.scale * noise
