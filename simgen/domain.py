r"""The domain of what was learned: where its density can be positive.

.. math:: \mathrm{supp}\, p_\mathrm{asked} \subseteq \mathrm{supp}\, p_\mathrm{learned}

Outside it a posterior or a surrogate says nothing. No weight, no effective sample size and no
Pareto shape shows what is missing there, as no draw ever lands there: so it is refused beforehand,
by bounds and by draws.
"""

from __future__ import annotations

__all__ = ["check_domain", "check_trained"]

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .randomness import seeded
from .support import bounds_of

_DRAWS = 4096
_RARE = 0.01  # the share of draws beyond all those of training that is worth a warning


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
    names = getattr(asked, "names", None) or [f"column {i}" for i in range(d)]
    with torch.no_grad(), seeded(seed):
        _check_bounds(bounds_of(asked, d), bounds_of(learned, d), names, what)
        drawn = asked.sample((_DRAWS,)).reshape(_DRAWS, *learned.event_shape)
        _check_draws(drawn, learned, what)


def check_trained(
    trained: Callable[[dict[str, Tensor]], tuple[Any, Tensor] | None],
    priors: Mapping[str, Any],
    seed: int = 0,
) -> None:
    """Refuses priors that reach beyond the one that a surrogate was trained with, and warns where
    they reach its outskirts.

    Arguments:
        trained: Maps rows of the unknowns to that prior and its own columns of them (n, d); to
            None where it is not known.
        priors: Of each unknown. Conditional ones, and those of images, are not looked at.
        seed: Of the draws by which they are compared.

    Raises:
        ValueError: If some of the priors is where nothing was learned.
    """
    what = "the one that the surrogate was trained with"
    with torch.no_grad(), seeded(seed):
        rows = {}
        for name, p in priors.items():
            if hasattr(p, "expression") or len(p.event_shape) > 1:
                continue
            x = p.sample((_DRAWS,)).reshape(_DRAWS, -1)
            bounds = torch.from_numpy(bounds_of(p, x.shape[1]))  # travel with the draws
            rows[name] = torch.cat([bounds.mT, x.double()])
        found = trained(rows)
        if found is None:
            return
        learned, columns = found
        names = getattr(learned, "names", None) or [f"column {i}" for i in range(columns.shape[1])]
        theirs = bounds_of(learned, columns.shape[1])
        _check_bounds(columns[:2].mT.numpy(), theirs, names, what)
        known = learned.sample((_DRAWS,))
        drawn = columns[2:].to(known)
        _check_draws(drawn, learned, what)
        edge = learned.log_prob(known).min()
        rare = float((learned.log_prob(drawn) < edge).double().mean())
    if rare > _RARE:
        warnings.warn(
            f"{rare:.1%} of the prior's draws are farther out than any of {_DRAWS:,} draws of "
            f"{what}: it extrapolates there",
            stacklevel=4,
        )


def _check_bounds(ours: np.ndarray, theirs: np.ndarray, names: Sequence[str], what: str) -> None:
    """Refuses bounds (d, 2) that are wider than others."""
    over = np.flatnonzero((ours[:, 0] < theirs[:, 0]) | (ours[:, 1] > theirs[:, 1]))
    if len(over):
        said = ", ".join(f"{names[i]} in {_interval(ours[i])}" for i in over[:3])
        known = ", ".join(_interval(theirs[i]) for i in over[:3])
        raise ValueError(
            f"the prior is wider than {what}: it has {said}, the other {known}, and nothing was "
            "learned beyond; simulate there, or narrow the prior"
        )


def _check_draws(drawn: Tensor, learned: Any, what: str) -> None:
    """Refuses draws (n, *event) where the other has no density."""
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
