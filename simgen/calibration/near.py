r"""Near one observation: the pairs whose posteriors are most like it, judged by themselves.

.. math::
    D_i^2 = \frac{1}{p} \sum_j \frac{(h_j(x_i) - h_j(x_o))^2}{\mathrm{Var}\, h_j}, \qquad
    h = (m, \log \mathrm{sd})(x) \text{ and the numbers of } x, \text{ where few}

Mean and width of the posterior tell what it makes of x, of whatever kind x is. As the choice knows
x and the pools alone, ranks of the nearest pairs are uniform if q is the posterior, and are tested
as all ranks are.
"""

from __future__ import annotations

__all__ = ["Neighbours", "nearest", "one_row"]

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .pairs import Pairs

SHARE = 5  # one in so many pairs is near
FEWEST = 50
NUMBERS = 5  # of x, up to which they count
FAR = 0.99


@dataclass(frozen=True)
class Neighbours:
    """Which pairs are nearest, ``rows`` (k,), and whether the observation is far from them."""

    rows: np.ndarray
    far: bool


def one_row(near: Any, pairs: Pairs) -> dict[str, np.ndarray]:
    """An observation as given fields of one row.

    Arguments:
        near: The given field, or a dict of the given fields; of variable length as long as it is.
        pairs: What it is compared with.

    Raises:
        ValueError: If a field is missing, has another shape, or is not finite.
    """
    if not pairs.given:
        raise ValueError("near= is an observation, and nothing is given here")
    lengths = {k for k in pairs.given if k.removesuffix("_length") in pairs.given} - {
        k for k in pairs.given if not k.endswith("_length")
    }
    names = [k for k in pairs.given if k not in lengths]
    if not isinstance(near, Mapping):
        if len(names) != 1:
            raise ValueError(f"near= needs a dict of the given fields {', '.join(names)}")
        near = {names[0]: near}
    row = {}
    for name in names:
        if name not in near:
            raise ValueError(f"near= needs the given field {name!r}; it has {', '.join(near)}")
        value, shape = _array(near[name]), pairs.given[name].shape[1:]
        if value.shape == (1, *shape):
            value = value[0]
        length = f"{name}_length"
        if length in pairs.given:
            if value.shape[1:] == shape[1:] and len(value) <= shape[0]:
                count = np.asarray(near.get(length, len(value))).reshape(())
                row[length] = count.astype(pairs.given[length].dtype)[None]
                fill = [(0, shape[0] - len(value))] + [(0, 0)] * (value.ndim - 1)
                value = np.pad(value, fill)
        if value.shape != shape:
            raise ValueError(
                f"near= has {name!r} of shape {value.shape}; the pairs have {tuple(shape)}"
            )
        gaps = np.isnan(pairs.given[name]).any() if value.dtype.kind == "f" else False
        if not (np.isfinite(value) | (np.isnan(value) & gaps)).all():
            raise ValueError(f"near= has a {name!r} that is not finite")
        row[name] = value.astype(pairs.given[name].dtype)[None]
    return row


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _numbers(given: Mapping[str, np.ndarray]) -> np.ndarray:
    """The numbers of the given fields where they are few, shape (n, p) or (n, 0)."""
    flat = [np.asarray(v, dtype=np.float64).reshape(len(v), -1) for v in given.values()]
    out = np.concatenate(flat, 1)
    return out if out.shape[1] <= NUMBERS else out[:, :0]


def nearest(
    moments: tuple[np.ndarray, np.ndarray],
    given: Mapping[str, np.ndarray],
    observed: tuple[np.ndarray, np.ndarray],
    row: Mapping[str, np.ndarray],
) -> Neighbours:
    """The pairs nearest to an observation.

    Arguments:
        moments: Mean and deviation of the pools, (n, k) each.
        given: The given fields of the pairs.
        observed: Mean and deviation of the draws given the observation, (1, k) each.
        row: The given fields of the observation, one row.
    """
    both = []
    for (mean, sd), x in ((moments, given), (observed, {k: row[k] for k in given})):
        both.append(np.concatenate([mean, np.log(sd + 1e-30), _numbers(x)], 1))
    h, h_o = (np.where(np.isfinite(part), part, 0.0) for part in both)
    scale = h.std(0)
    live = scale > 1e-12
    if not live.any():
        return Neighbours(np.arange(len(h)), False)
    h, h_o = h[:, live] / scale[live], h_o[:, live] / scale[live]
    n = len(h)
    count = max(round(n / SHARE), min(n, FEWEST))
    distance = ((h - h_o) ** 2).mean(1)
    rows = np.sort(np.argsort(distance, kind="stable")[:count])
    # As far as the observation's neighbours: how many pairs have theirs so far?
    others = h[:: max(n // 500, 1)]
    square = (h**2).sum(1)[:, None] + (others**2).sum(1) - 2 * h @ others.T
    apart = np.maximum(square, 0) / h.shape[1]
    reach = np.sort(apart, 0)[count - 1]
    return Neighbours(rows, bool((reach < np.sort(distance)[count - 1]).mean() > FAR))
