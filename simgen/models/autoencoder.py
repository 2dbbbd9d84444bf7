r"""An auto-encoder: a vector, or an image on a coarser grid with more channels, and back.

.. math::
    (m, \log s) = V\, (p - \mu) + f(x), \qquad x \approx W z + \mu + g(z), \qquad
    p(x \mid z) = \mathcal{N}\bigl(x; D(z), \sigma^2\bigr)

p are the patches of the image that one cell of the coarse grid covers. V and W are fixed: the
maximum-likelihood linear-Gaussian model of patches (probabilistic PCA), in closed form from
training rows, so that codes have unit variance from the start. Encoder and decoder networks f and
g start at zero and learn the rest.

References:
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114
    | Probabilistic Principal Component Analysis (Tipping & Bishop, 1999), eqs. 4, 7, 8
    | https://doi.org/10.1111/1467-9868.00196
    | High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022),
    | section 3.1, https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

__all__ = ["AutoEncoder", "patches", "unpatched"]

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..networks.codec import GridDecoder, GridEncoder, coarse_size
from ..networks.mlp import ResMLP
from .pca import principal_axes

_CELLS = 200_000  # patches that the linear maps are found from
_RATE = 5.0  # sigma has orders of magnitude to go, in the steps that weights take


def patches(x: Tensor, side: int) -> Tensor:
    """Images (n, C, *size) as patches of a side: (n, C side^axes, *⌈size / side⌉); edges repeat
    their last values to fill patches that stick out.
    """
    axes = x.dim() - 2
    if axes == 0 or side == 1:
        return x
    missing = [-s % side for s in x.shape[2:]]
    x = nn.functional.pad(x, [m for r in reversed(missing) for m in (0, r)], mode="replicate")
    n, channels, *size = x.shape
    x = x.view(n, channels, *[v for s in size for v in (s // side, side)])
    coarse, fine = range(2, x.dim(), 2), range(3, x.dim(), 2)
    return x.permute(0, 1, *fine, *coarse).reshape(n, -1, *[s // side for s in size])


def unpatched(p: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    """The inverse of `patches`: images (n, channels, *size)."""
    n, _, *coarse = p.shape
    axes = len(coarse)
    side = round((p.shape[1] // channels) ** (1 / max(axes, 1)))
    if axes == 0 or side == 1:
        return p
    p = p.view(n, channels, *[side] * axes, *coarse)
    order = [v for i in range(axes) for v in (2 + axes + i, 2 + i)]
    x = p.permute(0, 1, *order).reshape(n, channels, *[s * side for s in coarse])
    for axis, s in enumerate(size):
        x = x.narrow(2 + axis, 0, s)
    return x


class AutoEncoder(nn.Module):
    """Encoder, code and decoder of vectors (k,) or images (C, *size).

    Arguments:
        event: Shape of x.
        channels: Of the code; its length, for vectors.
        code: What the code is held to, `GaussianCode` or `Codebook`.
        depth: Halvings of the grid.
        width: Of the networks: channels at the finest level, or of a vector's residual stream.
        blocks: Residual blocks, at each level for images.
        periodic: Whether an image's edges meet.
        floor: Smallest standard deviation sigma of what the decoder leaves.
    """

    inward: Tensor
    outward: Tensor
    mean: Tensor
    start: Tensor
    sigma_0: Tensor

    def __init__(
        self,
        event: Sequence[int],
        channels: int,
        code: Any,
        depth: int = 2,
        width: int = 16,
        blocks: int = 1,
        periodic: bool = False,
        floor: float = 0.02,
    ) -> None:
        super().__init__()
        self.event, self.floor, self.code = torch.Size(event), floor, code
        image, size = event[0], tuple(event[1:])
        self.side = 2**depth if size else 1
        self.shape = torch.Size((channels, *coarse_size(size, depth)))
        cell, raw = image * self.side ** len(size), channels * code.outputs
        self.encoder: Any
        self.decoder: Any
        if size:
            axes = len(size)
            self.encoder = GridEncoder(image, raw, width, depth, blocks, axes, periodic=periodic)
            self.decoder = GridDecoder(
                channels, image, size, width, depth, blocks, periodic=periodic
            )
        else:
            self.encoder = ResMLP(image, raw, width, blocks)
            self.decoder = ResMLP(channels, image, width, blocks)
        for net in (self.encoder, self.decoder):
            last = net.last if size else net.last[-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.register_buffer("inward", torch.eye(channels, cell))
        self.register_buffer("outward", torch.eye(cell, channels))
        self.register_buffer("mean", torch.zeros(cell))
        self.register_buffer("start", torch.full((channels,), -1.0))  # log s
        self.register_buffer("sigma_0", torch.tensor(0.3))
        self.log_sigma = nn.Parameter(torch.zeros(image, *[1] * len(size)))

    @property
    def sigma(self) -> Tensor:
        """Standard deviation of what the decoder leaves, a channel or column (C, 1, ...)."""
        return (self.floor**2 + (self.sigma_0 * (_RATE * self.log_sigma).exp()).square()).sqrt()

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Finds the linear maps, and words of a codebook, in training rows x (n, *event)."""
        cells = patches(x[: 1 + _CELLS // self.shape[1:].numel()], self.side)
        flat = cells.transpose(0, 1).flatten(1).double()
        pca = principal_axes(flat.cov(correction=0), len(self.inward), 0.01)
        self.mean.copy_(flat.mean(1))
        self.inward.copy_(pca.inward)
        self.outward.copy_(pca.outward)
        self.start.copy_(pca.spread.log())
        self.sigma_0.copy_(pca.variance.clamp(min=self.floor**2 / 100).sqrt())
        if hasattr(self.code, "initialise"):
            self.code.initialise(self._encode(x[:4096]))

    def loss(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """-log p(x | z) and the code's own loss, both a number of x, (n,), and the codes (n,
        *shape), of rows x (n, *event). With a `GaussianCode` of beta = 1, minus the ELBO in nats a
        number.
        """
        read, code, held = self.code(self._encode(x))
        error, sigma = (x - self.decode_read(read)).square(), self.sigma
        scale = sigma.expand(self.event)
        if self.code.outputs == 1:  # squared error for the networks, as the codebook's loss is
            fit = error + 0.5 * error.detach() / scale.square() + scale.log()
        else:
            fit = 0.5 * error / scale.square() + scale.log() + 0.5 * math.log(2 * math.pi)
        return fit.flatten(1).mean(1) + held / self.event.numel(), code

    def encode(self, x: Tensor) -> Tensor:
        """The mean code (n, *shape) of rows x (n, *event)."""
        return self._encode(x)[:, : self.shape[0]]

    def decode(self, code: Tensor) -> Tensor:
        """Rows (n, *event) of codes (n, *shape)."""
        return self.decode_read(self.code.read(code))

    def decode_read(self, z: Tensor) -> Tensor:
        """Rows (n, *event) of what the decoder is given (n, *shape)."""
        linear = torch.einsum("pc,nc...->np...", self.outward, z)
        linear = linear + self.mean.view(-1, *[1] * (z.dim() - 2))
        return unpatched(linear, self.event[0], self.event[1:]) + self.decoder(z)

    def _encode(self, x: Tensor) -> Tensor:
        """The encoder's numbers (n, outputs C, *grid)."""
        cells = patches(x, self.side)
        cells = cells - self.mean.view(-1, *[1] * (x.dim() - 2))
        linear = torch.einsum("cp,np...->nc...", self.inward, cells)
        if self.code.outputs == 2:
            start = self.start.view(-1, *[1] * (x.dim() - 2)).expand_as(linear)
            linear = torch.cat([linear, start], 1)
        return linear + self.encoder(x)
