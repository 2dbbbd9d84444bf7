r"""Power spectra of images: what suffices of a stationary Gaussian field, as an embedding.

.. math::
    P_{ab}(b) = \frac{1}{N_b} \sum_{|k| \in b} \mathrm{Re}\, \hat x_a(k)\, \hat x_b^*(k),
    \qquad s = \Bigl(\log P_{aa}, \; \frac{P_{ab}}{\sqrt{P_{aa} P_{bb}}}\Bigr)

for each pair of channels, in rings one fundamental mode wide, and the mean of each channel. An
encoder of vectors turns s into features.
"""

from __future__ import annotations

__all__ = ["PowerSpectrum"]

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Configured
from .vectors import VectorEncoder


class PowerSpectrum(Configured):
    """Auto- and cross-spectra of periodic images, then features: (n, c, H, W) → (n, size).

    Arguments:
        channels: Channels of the image c.
        size: Pixels H and W.
        out: Features that the network adds to the linear ones.
        hidden: Widths of its layers.
        directions: Linear summaries; found by `initialise`.
        keep: Whether the spectra themselves are passed on; decided by `initialise`.

    Raises:
        ValueError: If an image has fewer than four pixels a side.
    """

    ring: Tensor
    weight: Tensor
    counts: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        channels: int,
        size: Sequence[int],
        out: int = 32,
        hidden: Sequence[int] = (128, 128),
        directions: int = 0,
        keep: bool = True,
    ) -> None:
        super().__init__()
        rows, columns = size
        if min(rows, columns) < 4:
            raise ValueError(f"a spectrum needs four pixels a side; got {tuple(size)}")
        self.channels, self.size = channels, (rows, columns)
        self.arguments = (channels, (rows, columns), out, tuple(hidden))
        # in units of the longer side's fundamental mode
        side = max(rows, columns)
        k_y = torch.fft.fftfreq(rows) * side
        k_x = torch.fft.rfftfreq(columns) * side
        ring = (k_y[:, None].square() + k_x.square()).sqrt().round().long()
        _, ring = torch.unique(ring, return_inverse=True)
        # conjugate modes that rfft2 leaves out count twice
        twice = torch.full((columns // 2 + 1,), 2.0)
        twice[0] = 1.0
        if columns % 2 == 0:
            twice[-1] = 1.0
        weight = twice.expand_as(ring).clone()
        weight[0, 0] = 0.0  # the mean stands for itself
        counts = torch.zeros(int(ring.max()) + 1).index_add(0, ring.flatten(), weight.flatten())
        self.register_buffer("ring", ring.flatten() - 1)
        self.register_buffer("weight", weight.flatten())
        self.register_buffer("counts", counts[1:])
        pairs = channels * (channels + 1) // 2
        features = pairs * len(self.counts) + channels
        self.register_buffer("loc", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.encoder = VectorEncoder(features, out, hidden, directions, keep)

    def spectra(self, x: Tensor) -> Tensor:
        """Logarithms of auto-spectra, correlations of channels, and means of x, (n, features)."""
        modes = torch.fft.rfft2(x).flatten(2)[..., 1:]  # without the mean
        weighted = modes * self.weight[1:]
        ring, shape = self.ring[1:], (*x.shape[:2], len(self.counts))

        def power(a: Tensor, b: Tensor) -> Tensor:
            product = (a * b.conj()).real
            return product.new_zeros(shape[0], shape[2]).index_add(1, ring, product) / self.counts

        auto = [power(weighted[:, i], modes[:, i]) for i in range(self.channels)]
        tiny = torch.finfo(x.dtype).tiny
        out = [(a + tiny).log() for a in auto]
        for i in range(self.channels):
            for j in range(i):
                cross = power(weighted[:, i], modes[:, j])
                out.append(cross * (auto[i] * auto[j] + tiny).rsqrt())
        return torch.cat([*out, x.mean((-2, -1))], 1)

    @torch.no_grad()
    def initialise(self, x: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Standardises the spectra of training images x (n, c, H, W) and finds linear summaries
        of them for the target (n, targets).
        """
        s = torch.cat([self.spectra(part) for part in x.split(1024)])
        loc, scale = s.mean(0), s.std(0).clamp(min=1e-6)
        encoder = self.encoder
        encoder.initialise((s - loc) / scale, target)
        found = encoder.weight.shape[1]
        self.__init__(*self.arguments, directions=found, keep=encoder.keep)  # type: ignore[misc]
        self.encoder = encoder
        self.loc.copy_(loc)
        self.scale.copy_(scale)

    def forward(self, x: Tensor) -> Tensor:
        """Encodes images x (n, c, H, W).

        Raises:
            ValueError: If they have another shape.
        """
        if x.shape[1:] != (self.channels, *self.size):
            raise ValueError(
                f"images must be {(self.channels, *self.size)}; got {tuple(x.shape[1:])}"
            )
        return self.encoder((self.spectra(x) - self.loc) / self.scale)
