r"""Sets of any number of events, of a dataset of large ones.

.. math::
    \log L \sim U(\log L_{\min}, \log K), \qquad \{x_1 \dots x_L\} \subset \{x_1 \dots x_K\}

Some of the events that one theta made are a set of fewer events of the same theta, so a posterior
trained on them, drawn anew each epoch, holds for any number up to K. Every factor in the number
is as frequent: as many sets of 1 to 10 as of 100 to 1,000.
"""

from __future__ import annotations

__all__ = ["random_lengths"]

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Batch = dict[str, Tensor]


def random_lengths(
    field: str = "x", least: int = 1
) -> Callable[[Batch, np.random.Generator], Batch]:
    """An augmentation for `fit`: each set keeps a random number of its events, which are random.

    The posterior may then be called with a set of any number of events up to what is stored.

    Arguments:
        field: The given field, a set of independent events (n, K, features); where lengths are
            stored, `<field>_length`, they are the most.
        least: The fewest events.

    Raises:
        ValueError: If least is not positive.

    Examples:
        >>> augment = random_lengths()
        >>> batch = augment({"x": torch.ones(3, 50, 2)}, np.random.default_rng(0))
        >>> batch["x"].sum((1, 2)) == 2 * batch["x_length"]
        tensor([True, True, True])
    """
    if least < 1:
        raise ValueError(f"least is at least 1; got {least}")
    name = f"{field}_length"

    def augment(batch: Batch, rng: np.random.Generator) -> Batch:
        x = batch[field]
        n, places = x.shape[0], torch.arange(x.shape[1], device=x.device)
        stored = batch[name].long() if name in batch else torch.full_like(places[:1], len(places))
        u, v = torch.from_numpy(rng.random((2, n))).to(x.device)
        lowest = stored.clamp(max=least)
        length = (lowest * ((stored + 1) / lowest.clamp(min=1)) ** u).floor().long()
        length = torch.minimum(length, stored)
        start = (v * stored).long()  # any event may be the first: so may any set be chosen
        index = (start[:, None] + places) % stored.clamp(min=1).expand(n)[:, None]
        drawn = x.gather(1, index[..., None].expand(x.shape))
        keep = places < length[:, None]
        return {**batch, field: drawn * keep[..., None], name: length}

    return augment
