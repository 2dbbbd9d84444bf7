r"""The handwritten digits that scikit-learn ships: 1,797 real images of 8 × 8 pixels, 0 to 16.

.. math::
    x = k + u, \quad u \sim \mathcal{U}[-\tfrac12, \tfrac12)^{64}, \qquad
    \mathbb{E}_u \log p(k + u) \le \log P(k) = \log \int p(k + u)\, du

A pixel is a whole number; a density is learned of numbers spread over the unit cells around them,
afresh each epoch, and its mean log-density is a lower bound of the log-probability of an image.

.. math::
    x = \mathrm{unhaar}(2\, x_\mathrm{low}, d), \qquad x_\mathrm{low} \in \mathbb{R}^{4 \times 4},
    \quad d \in \mathbb{R}^{3 \times 4 \times 4}

An image is its means of 2 × 2 blocks, and the differences d within the blocks.

References:
    | Optical recognition of handwritten digits (Alpaydin & Kaynak, 1998), UCI repository
    | https://doi.org/10.24432/C50P49
    | A note on the evaluation of generative models (Theis et al., 2016), eq. 5
    | https://arxiv.org/abs/1511.01844
"""

from __future__ import annotations

__all__ = ["WHITE", "Batch", "digits", "halves", "joined", "pixels", "spread", "spread_rows"]

import numpy as np
import torch
from numpy import ndarray as Array
from sklearn.datasets import load_digits
from torch import Tensor

from simgen import Dataset, Field
from simgen.models.multiscale import haar, unhaar

Batch = dict[str, Tensor]
WHITE = 16  # the largest grey level
SPLIT = (0.8, 0.1, 0.1)


def digits(folder: str, split: tuple[float, float, float] = SPLIT) -> Dataset:
    """Writes the digits as a dataset.

    Its fields are `image` (1, 8, 8), the same as a vector `x` (64,), the block means `low` (16,)
    with the differences `details` (48,), and the class `digit` (10,) with a one in its place.

    Arguments:
        folder: The directory to make.
        split: Shares of rows that train, validate and test.
    """
    data = load_digits()
    image = data.images[:, None].astype(np.float32)
    low, details = halves(torch.from_numpy(image))
    inside = Field(image.shape[1:], layout="image", support=(-0.5, WHITE + 0.5))
    Dataset.create(
        folder,
        x=image.reshape(len(image), -1),
        image=image,
        low=low.numpy(),
        details=details.numpy(),
        digit=np.eye(10, dtype=np.float32)[data.target],
        declared={"image": inside},
    )
    return Dataset(folder, split=split)


def halves(image: Tensor) -> tuple[Tensor, Tensor]:
    """Block means (n, 16) and differences within blocks (n, 48) of images (n, 1, 8, 8)."""
    parts = haar(image)
    return parts[:, :1].flatten(1) / 2, parts[:, 1:].flatten(1)


def joined(low: Tensor, details: Tensor) -> Tensor:
    """Images (..., 8, 8) of block means (..., 16) and details (..., 48)."""
    low = low.expand(*details.shape[:-1], 16)
    parts = torch.cat([2 * low, details], -1)
    return unhaar(parts.reshape(-1, 4, 4, 4)).reshape(*details.shape[:-1], 8, 8)


def spread(batch: Batch, rng: np.random.Generator) -> Batch:
    """Pixels spread evenly over the unit cells around whole numbers, and their parts likewise."""
    n = len(next(iter(batch.values())))
    u = torch.from_numpy(rng.random((n, 1, 8, 8)) - 0.5)
    low, details = halves(u)
    noise = {"image": u, "x": u.flatten(1), "low": low, "details": details}
    return {k: v + noise[k].to(v) if k in noise else v for k, v in batch.items()}


def spread_rows(rows: dict[str, Array], seed: int) -> Batch:
    """The same of held-out rows, by a seed."""
    batch = {k: torch.from_numpy(v) for k, v in rows.items()}
    return spread(batch, np.random.default_rng(seed))


def pixels(x: Tensor) -> Array:
    """Draws as images of whole numbers from 0 to 16, (..., 8, 8)."""
    flat = x.flatten(-3) if x.shape[-3:] == (1, 8, 8) else x
    image = flat if flat.shape[-2:] == (8, 8) else flat.unflatten(-1, (8, 8))
    return image.detach().round().clamp(0, WHITE).numpy()
