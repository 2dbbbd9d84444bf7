r"""What an auto-encoder's code is held to: a Gaussian near N(0, I), or the words of a codebook.

.. math::
    z = m + s \odot \epsilon, \qquad
    \mathrm{KL} = \tfrac12 \sum_i (m_i^2 + s_i^2 - 1 - \log s_i^2)

or, with sg stopping the gradient and c(e) the word nearest to e,

.. math::
    z = e + \mathrm{sg}[c(e) - e], \qquad
    \bigl| \mathrm{sg}[e] - c(e) \bigr|^2 + \gamma \bigl| e - \mathrm{sg}[c(e)] \bigr|^2

The first term moves the codebook, the second commits the encoder to it; the gradient of z passes
straight through to e. Words are a fixed set, of codes of training rows, under one learned linear
map: a step that moves the words in use moves all, so that none is left behind unused.

References:
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014), appendix B
    | https://arxiv.org/abs/1312.6114
    | Neural Discrete Representation Learning (van den Oord et al., 2017), eq. 3
    | https://arxiv.org/abs/1711.00937
    | Addressing Representation Collapse in Vector Quantized Models with One Linear Layer (Zhu et
    | al., 2024), eq. 6, https://arxiv.org/abs/2411.02038
"""

from __future__ import annotations

__all__ = ["Codebook", "GaussianCode"]

import torch
from torch import Tensor, nn


class GaussianCode(nn.Module):
    """A diagonal Gaussian, whose draws are the code.

    Arguments:
        beta: Weight of the KL to N(0, I).
    """

    outputs = 2  # numbers of the encoder for each of the code: m and log s

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The code for the decoder and for a model of it, the same (n, C, *grid), and the weighted
        KL (n,), of the encoder's numbers (n, 2 C, *grid).
        """
        mean, log_scale = raw.chunk(2, 1)
        log_scale = log_scale.clamp(-12.0, 4.0)
        code = mean + log_scale.exp() * torch.randn_like(mean)
        kl = 0.5 * (mean.square() + (2 * log_scale).exp() - 1) - log_scale
        return code, code, self.beta * kl.flatten(1).sum(1)

    def read(self, code: Tensor) -> Tensor:
        """What the decoder is given for a code: itself."""
        return code


class Codebook(nn.Module):
    """Words of a code's channels, one for every cell of its grid.

    Arguments:
        channels: Length of a word.
        words: How many there are.
        commitment: The weight gamma.
    """

    outputs = 1
    base: Tensor

    def __init__(self, channels: int, words: int = 512, commitment: float = 0.25) -> None:
        super().__init__()
        self.commitment = commitment
        self.register_buffer("base", torch.randn(words, channels))
        self.map = nn.Parameter(torch.zeros(channels, channels))

    @property
    def words(self) -> Tensor:
        """The codebook (words, channels)."""
        return torch.addmm(self.base, self.base, self.map)

    @torch.no_grad()
    def initialise(self, code: Tensor) -> None:
        """Takes words at random from codes (n, channels, *grid) of training rows."""
        cells = code.flatten(2).transpose(1, 2).flatten(0, 1) if code.dim() > 2 else code
        chosen = torch.randperm(len(cells), device=cells.device)[: len(self.base)]
        words = cells[chosen.repeat(-(-len(self.base) // len(chosen)))[: len(self.base)]]
        self.base.copy_(words + 1e-3 * torch.randn_like(words))

    def forward(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The nearest words (n, C, *grid), the encoder's numbers (n, C, *grid) as they are, which
        a model of the code learns, and the codebook's loss (n,).
        """
        near = self._nearest(raw)
        moved = (raw.detach() - near).square() + self.commitment * (raw - near.detach()).square()
        return raw + (near - raw).detach(), raw, moved.flatten(1).sum(1)

    def read(self, code: Tensor) -> Tensor:
        """The nearest words to a code (n, C, *grid); a gradient passes straight through."""
        return code + (self._nearest(code) - code).detach()

    def index(self, code: Tensor) -> Tensor:
        """Which word is nearest in every cell of a code (n, C, *grid), (n, *grid)."""
        cells = code.movedim(1, -1)
        words = self.words
        return (words.square().sum(1) - 2 * cells @ words.t()).argmin(-1)

    def _nearest(self, code: Tensor) -> Tensor:
        return nn.functional.embedding(self.index(code), self.words).movedim(-1, 1)
