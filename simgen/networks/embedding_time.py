r"""A smooth embedding of one number: sines and cosines of geometric frequencies.

.. math::
    e(t) = \bigl(\sin \omega_1 t, \cos \omega_1 t, \dots, \sin \omega_m t, \cos \omega_m t\bigr),
    \qquad \omega_i = \omega_1 \, (\omega_m / \omega_1)^{(i - 1) / (m - 1)}

The number should be of order one: a time in [0, 1], or a quarter of a log noise level. A network
then sees differences from about 1 / omega_m on, and can't tell t from t + 2 pi / omega_1.
"""

from __future__ import annotations

__all__ = ["SinusoidalEmbedding"]

import torch
from torch import Tensor

from .base import Configured


class SinusoidalEmbedding(Configured):
    """Sines and cosines of a number: (...,) → (..., size).

    Arguments:
        size: Features, an even number.
        low: The smallest frequency, radians a unit.
        high: The largest.

    Raises:
        ValueError: If the size is odd.

    References:
        | Attention Is All You Need (Vaswani et al., 2017), section 3.5
        | https://arxiv.org/abs/1706.03762
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020), appendix B
        | https://arxiv.org/abs/2006.11239
    """

    frequencies: Tensor

    def __init__(self, size: int = 64, low: float = 0.5, high: float = 64.0) -> None:
        super().__init__()
        if size < 2 or size % 2:
            raise ValueError(f"size must be even and positive; got {size}")
        ratio = torch.linspace(0, 1, size // 2, dtype=torch.float64)
        frequencies = low * (high / low) ** ratio
        self.register_buffer("frequencies", frequencies.float())

    def forward(self, t: Tensor) -> Tensor:
        """Embeds t (...,) as (..., size)."""
        angle = t[..., None] * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], -1)
