"""Random numbers of torch's global generator, repeatable and without a trace."""

from __future__ import annotations

__all__ = ["seeded"]

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int | torch.Generator) -> Iterator[None]:
    """Draws in the body follow from a seed, or from the next number of a generator; afterwards
    torch's generator stands where it stood. For what takes no generator, as distributions do.
    """
    with torch.random.fork_rng([]):
        if isinstance(seed, torch.Generator):
            seed = int(torch.randint(2**62, (), generator=seed))
        torch.manual_seed(seed)
        yield
