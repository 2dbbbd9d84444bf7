r"""LatentDiffusion: an auto-encoder, and a diffusion model of its codes, trained together.

.. math::
    p(x \mid c) = \int \mathcal{N}\bigl(x; D(z), \sigma^2\bigr)\, p(z \mid c)\, dz, \qquad
    \mathcal{L} = \mathcal{L}_\mathrm{AE}
        + \mathcal{L}_\mathrm{diffusion}\Bigl( \frac{\mathrm{sg}[z] - a}{b} \Bigr)
        - \log \mathcal{N}\bigl(\mathrm{sg}[z]; a, b^2\bigr)

sg stops the gradient: the auto-encoder is trained for itself alone, the diffusion model on the
codes that it has at the time, the last term keeps their mean a and scale b, a channel each. A
draw costs the solver's evaluations on a small grid and one decoding. Without noise a draw is D(z);
white noise in the data, which no code can carry, is what sigma measures and `noise` adds.

References:
    | High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022)
    | https://arxiv.org/abs/2112.10752
    | Score-based Generative Modeling in Latent Space (Vahdat et al., 2021), section 3
    | https://arxiv.org/abs/2106.05931
"""

from __future__ import annotations

__all__ = ["LatentDiffusion", "LatentDiffusionModule"]

from collections.abc import Mapping
from dataclasses import dataclass, replace
from dataclasses import field as default
from typing import Any

import torch
from torch import Tensor, nn

from ..field import Field
from ..fitting.schedule import Schedule, default_schedule
from ..networks.codec import GridEncoder
from .autoencoder import AutoEncoder
from .base import Given, ModelDistribution
from .codebook import Codebook, GaussianCode
from .diffusion import Diffusion

_MAP = 16  # channels that a given map has on the codes' grid
_CHANNELS = 16
_HIDDEN = 24
_ROWS = 20_000  # that the start is found from


@dataclass(frozen=True)
class LatentDiffusion:
    """A diffusion model in the latent space of an auto-encoder.

    Arguments:
        latent: Channels of the code; as many numbers as the target has, but at most 16 channels,
            unless said. A rough map is not to be had from fewer numbers.
        depth: Halvings of an image's grid; down to sides of 16, at least one, unless said.
        regularisation: "kl" (a Gaussian near N(0, I)) or "vq" (words of a codebook).
        beta: Weight of the KL; at 1, minus the auto-encoder's loss is the ELBO.
        words: Of the codebook.
        commitment: Weight of the encoder's distance to its words.
        width: Of the auto-encoder's networks; for images 8 channels at the finest level, 32 where
            the code has fewer numbers than the image, for vectors 128, unless said.
        blocks: Its residual blocks, at each resolution for images.
        floor: Smallest standard deviation of what the decoder leaves, in standardised units.
        noise: Whether draws include that: white noise of the measured standard deviation.
        periodic: Whether an image's edges meet.
        diffusion: The diffusion model of the codes; 24 channels wide for images unless said.
    """

    latent: int | None = None
    depth: int | None = None
    regularisation: str = "kl"
    beta: float = 0.1
    words: int = 512
    commitment: float = 0.25
    width: int | None = None
    blocks: int = 1
    floor: float = 0.02
    noise: bool = False
    periodic: bool = False
    diffusion: Diffusion = default(default_factory=Diffusion)

    def __post_init__(self) -> None:
        if self.regularisation not in ("kl", "vq"):
            raise ValueError(f"regularisation must be kl or vq; got {self.regularisation!r}")
        for name, low in (("latent", 1), ("depth", 1), ("width", 4), ("blocks", 1), ("words", 2)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"{name} must be at least {low}; got {value}")
        for name in ("beta", "floor", "commitment"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")

    def schedule(self, rows: int, columns: int, vectors: bool) -> Schedule:
        """Of vectors: the default, with little decay."""
        return replace(default_schedule(rows, columns, vectors), weight_decay=0.01)

    def build(self, target: Field, given: Mapping[str, Field]) -> LatentDiffusionModule:
        """The networks for a target, and context vectors and maps.

        Raises:
            ValueError: If the target is neither vector nor image.
        """
        if target.layout not in ("vector", "image"):
            raise ValueError(
                f"LatentDiffusion models vectors and images; the target is a {target.layout}"
            )
        return LatentDiffusionModule(self, target, given)


class LatentDiffusionModule(nn.Module):
    """The networks of a `LatentDiffusion`.

    Arguments:
        settings: The family's.
        target: Field of the target.
        given: Fields "context" and "map", or none.
    """

    density = None

    def __init__(
        self, settings: LatentDiffusion, target: Field, given: Mapping[str, Field]
    ) -> None:
        super().__init__()
        self.settings = settings
        self.event_shape = torch.Size(target.shape if target.shape else (1,))
        size = self.event_shape[1:]
        depth = settings.depth or max(1, (max(size, default=0) - 1).bit_length() - 4)
        cell = self.event_shape[0] * 2 ** (depth * len(size))
        channels = settings.latent or min(cell, _CHANNELS)
        width = settings.width or (128 if not size else 8 if channels >= cell else 32)
        code: nn.Module = GaussianCode(settings.beta)
        if settings.regularisation == "vq":
            code = Codebook(channels, settings.words, settings.commitment)
        self.autoencoder = AutoEncoder(
            self.event_shape,
            channels,
            code,
            depth,
            width,
            settings.blocks,
            settings.periodic,
            settings.floor,
        )
        shape, fields = self.autoencoder.shape, dict(given)
        self.coarsen: Any = None
        if "map" in given:
            fields["map"] = Field((_MAP, *shape[1:]), layout="image")
            self.coarsen = GridEncoder(
                given["map"].shape[0], _MAP, width, depth, settings.blocks, len(size),
                periodic=settings.periodic,
            )  # fmt: skip
        inner = settings.diffusion
        if size:
            periodic = inner.periodic or settings.periodic
            inner = replace(inner, hidden=inner.hidden or _HIDDEN, periodic=periodic)
        self.diffusion = inner.build(Field(shape, layout=target.layout), fields)
        self.loc = nn.Parameter(torch.zeros(channels, *[1] * len(size)))
        self.log_scale = nn.Parameter(torch.zeros(channels, *[1] * len(size)))
        self.noise_shape = self.diffusion.noise_shape
        if settings.noise:  # what the decoder leaves is drawn beside the code
            total = self.noise_shape.numel() + self.event_shape.numel()
            self.noise_shape = torch.Size((total,))

    @torch.no_grad()
    def initialise(self, target: Tensor, given: Given) -> None:
        """Starts the auto-encoder from training rows (n, *event), and the diffusion model from
        their codes.
        """
        target = target[:_ROWS]
        context, grid = (None if g is None else g[:_ROWS] for g in given)
        self.autoencoder.initialise(target)
        code = torch.cat([self.autoencoder.loss(rows)[1] for rows in target.split(1024)])
        self.diffusion.initialise(self._standard(code), self._coarse((context, grid)))

    def loss(self, target: Tensor, given: Given) -> Tensor:
        """The loss of auto-encoder and diffusion model of each row (n,): target (n, *event)."""
        own, code = self.autoencoder.loss(target)
        z = self._standard(code.detach())
        spread = (0.5 * z.square() + self.log_scale).flatten(1).mean(1)
        return own + spread + self.diffusion.loss(z.detach(), self._coarse(given))

    def transport(self, noise: Tensor, given: Given) -> Tensor:
        """Maps noise (s, n, *noise_shape) ~ N(0, I) to draws (s, n, *event)."""
        s, n = noise.shape[:2]
        inner, white = self.diffusion.noise_shape, None
        if self.settings.noise:
            noise, white = noise.split([inner.numel(), self.event_shape.numel()], -1)
            noise = noise.reshape(s, n, *inner)
        z = self.diffusion.transport(noise, self._coarse(given))
        code = self.loc + self.log_scale.exp() * z
        x = self.autoencoder.decode(code.flatten(0, 1)).view(s, n, *self.event_shape)
        return x if white is None else x + self.autoencoder.sigma * white.reshape(x.shape)

    def distribution(self, given: Given) -> ModelDistribution:
        """The distribution over z given n rows."""
        return ModelDistribution(self, given)

    def _standard(self, code: Tensor) -> Tensor:
        return (code - self.loc) * (-self.log_scale).exp()

    def _coarse(self, given: Given) -> Given:
        """What is given, its map on the codes' grid."""
        context, grid = given
        return context, None if grid is None else self.coarsen(grid)
