r"""A small network for images: what a Gaussian would make of them, and a U-Net for the rest.

.. math::
    \hat x = m + C (C + r^2 I)^{-1} (x' - m) + \dots, \qquad x' = x_0 + r \epsilon, \qquad
    F = F_\mathrm{linear} + s\, U(x / s, t, \log s), \quad s^2 = \overline{x^2}

F is what a denoiser of parameterisation "edm" is asked for, x its input x' / sqrt(1 + r^2), and
t = log(r) / 4. The mean m and the covariance C of training images are known before training
starts, which learns only what is not Gaussian. U sees blocks of pixels as channels, and s gives
back the scale that its normalisations take away: galaxies' brightness spans decades.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
    | eq. 7, https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

__all__ = ["WienerUNet"]

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from simgen.networks import UNet

_FLOOR = 1e-6  # of the largest eigenvalue


class WienerUNet(nn.Module):
    """x (n, 1, N, N), time (n,) → (n, 1, N, N).

    Arguments:
        pixels: Pixels N along a side, a multiple of the fold.
        widths: Channels at each level of the U-Net, finest first.
        fold: Pixels along a side of the blocks that it sees.
        periodic: Whether images close on themselves.
    """

    mean: Tensor
    vectors: Tensor
    values: Tensor

    def __init__(
        self,
        pixels: int = 32,
        widths: Sequence[int] = (64, 128),
        fold: int = 4,
        periodic: bool = False,
    ) -> None:
        super().__init__()
        d = pixels**2
        self.fold = fold
        self.body = UNet(fold**2, 1, widths=widths, periodic=periodic)
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("vectors", torch.eye(d))
        self.register_buffer("values", torch.ones(d))

    @classmethod
    def of(cls, images: Tensor, **settings: object) -> WienerUNet:
        """With mean and covariance of images (n, 1, N, N), brought to mean 0 and variance 1 over
        all pixels.
        """
        network = cls(images.shape[-1], **settings)  # type: ignore[arg-type]
        x = images.double().flatten(1)
        x = (x - x.mean()) / x.std()
        network.mean.copy_(x.mean(0))
        values, vectors = torch.linalg.eigh(torch.cov(x.mT))
        network.values.copy_(values.clamp(min=_FLOOR * float(values[-1])))
        network.vectors.copy_(vectors)
        return network

    def linear(self, x: Tensor, time: Tensor) -> Tensor:
        """F (n, d) of a Gaussian, of x (n, d)."""
        square = (8 * time).exp()[:, None]
        total = (1 + square).sqrt()
        rest = ((total * x - self.mean) @ self.vectors) / (self.values + square)
        return square.sqrt() * (x - total * (rest @ self.vectors.mT))

    def forward(
        self, x: Tensor, time: Tensor, context: Tensor | None = None, grid: Tensor | None = None
    ) -> Tensor:
        """Applies the network; it takes no context and no map."""
        scale = (x.square().mean((1, 2, 3), keepdim=True) + 1e-6).sqrt()
        told = scale.flatten(1).log()
        rest = self.body(pixel_unshuffle(x / scale, self.fold), time, told)
        linear = self.linear(x.flatten(1), time.expand(len(x)))
        return linear.view_as(x) + scale * pixel_shuffle(rest, self.fold)
