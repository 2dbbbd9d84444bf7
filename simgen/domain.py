r"""The domain of what was learned: where its density can be positive.

.. math:: \mathrm{supp}\, p_\mathrm{asked} \subseteq \mathrm{supp}\, p_\mathrm{learned}

Outside it a posterior or a surrogate says nothing. No weight, no effective sample size and no
Pareto shape shows what is missing there, as no draw ever lands there: so it is refused beforehand,
by bounds and by draws.
"""

from __future__ import annotations

__all__ = ["check_domain"]

from typing import Any

import torch
from torch import Tensor

from .randomness import seeded
from .support import bounds_of

_DRAWS = 4096


def check_domain(asked: Any, learned: Any, what: str, seed: int = 0) -> None:
    """Refuses a prior that reaches beyond what was learned.

    Arguments:
        asked: The prior of the question, a distribution over (d,).
        learned: The distribution that has to cover it: a proposal, or a prior of training.
        what: What that is, for the message.
        seed: Of the draws by which the two are compared.

    Raises:
        ValueError: If some of the prior is where the other has no density.
    """
    d = torch.Size(asked.event_shape).numel()
    ours, theirs = bounds_of(asked, d), bounds_of(learned, d)
    names = getattr(asked, "names", None) or [f"column {i}" for i in range(d)]
    over = [i for i in range(d) if ours[i, 0] < theirs[i, 0] or ours[i, 1] > theirs[i, 1]]
    if over:
        said = ", ".join(f"{names[i]} in {_interval(ours[i])}" for i in over[:3])
        known = ", ".join(_interval(theirs[i]) for i in over[:3])
        raise ValueError(
            f"the prior is wider than {what}: it has {said}, the other {known}, and nothing was "
            "learned beyond; simulate there, or narrow the prior"
        )
    with torch.no_grad(), seeded(seed):
        drawn = asked.sample((_DRAWS,)).reshape(_DRAWS, *learned.event_shape)
        outside = float(_outside(learned, drawn).double().mean())
    if outside > 0:
        raise ValueError(
            f"the prior is wider than {what}: {outside:.2%} of its draws are where that has no "
            "density; simulate there, or narrow the prior"
        )


def _outside(q: Any, x: Tensor) -> Tensor:
    """Which rows x (n, *event) have no density, (n,)."""
    n = len(x)
    try:
        inside = q.support.check(x).reshape(n, -1).all(-1)
    except (AttributeError, NotImplementedError):
        inside = torch.ones(n, dtype=torch.bool)
    found = ~inside
    if bool(inside.any()) and getattr(q, "density", "exact") is not None:
        part = x[inside]
        density = q.log_prob(part.reshape(len(part), *q.batch_shape, *q.event_shape))
        found[inside] = density.reshape(len(part)) == -torch.inf
    return found


def _interval(bounds: Any) -> str:
    return f"({bounds[0]:g}, {bounds[1]:g})"
