r"""Does it hold everywhere? Ranks that are uniform on average may not be so in some region of x.

.. math::
    z_i = \Phi^{-1}(u_i), \quad v_i = \Phi^{-1}(2 \Phi(|z_i|) - 1), \qquad
    t = r \sqrt{\frac{n - 2}{1 - r^2}} \sim t_{n - 2}, \quad
    r = \mathrm{corr}(z, F_p), \mathrm{corr}(v, F_p), \mathrm{corr}(z, F_p^2), ...

If q is the posterior, z is normal and independent of x, and so is v, which grows with the distance
of the truth from the middle: every t is exactly Student's. A slope of z is a shift that depends on
the place F, one of v a width that does; squares of F find a middle that differs from both ends.
"""

from __future__ import annotations

__all__ = ["Local", "about_local", "assess_local", "thirds"]

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import t as student

from .places import Places

THIRDS = ("low", "middle", "high")


@dataclass(frozen=True)
class Local:
    """The worst place of one quantity.

    Attributes:
        correlation: r of the worst test.
        p_value: Of all tests together (Bonferroni).
        place: Number of the place.
        kind: "shift" or "width".
        third: "low", "middle" or "high": the third of the place that strays most.
        here: The shift in deviations, or the width over its due width, in that third.
        elsewhere: The same in the other two.
    """

    correlation: float
    p_value: float
    place: int
    kind: str
    third: str
    here: float
    elsewhere: float


def thirds(values: np.ndarray) -> np.ndarray:
    """0, 1 or 2 for the low, middle and high third of values (n,)."""
    edges = np.quantile(values, [1 / 3, 2 / 3])
    return np.searchsorted(edges, values, side="right")


def assess_local(z: np.ndarray, places: Places) -> Local:
    """Tests normal scores z (n,) for independence of the places.

    References:
        | Diagnostics for Conditional Density Models and Bayesian Inference Algorithms (Zhao et
        | al., 2021)
        | https://arxiv.org/abs/2102.10473
        | Conditionally Calibrated Predictive Distributions by Probability-Probability Map (Dey et
        | al., 2022)
        | https://arxiv.org/abs/2205.14568
    """
    n, p = places.values.shape
    v = ndtri(np.clip(2 * ndtr(np.abs(z)) - 1, 1e-15, 1 - 1e-15))
    columns = np.concatenate([places.values, places.values**2], 1)
    columns = columns - columns.mean(0)
    norm = np.sqrt((columns**2).sum(0))
    columns = columns[:, norm > 1e-9] / norm[norm > 1e-9]
    origin = np.tile(np.arange(p), 2)[norm > 1e-9]
    scores = np.stack([z - z.mean(), v - v.mean()])
    r = scores / np.sqrt((scores**2).sum(1, keepdims=True)) @ columns
    kind, column = np.unravel_index(int(np.abs(r).argmax()), r.shape)
    worst = float(np.clip(r[kind, column], -1 + 1e-12, 1 - 1e-12))
    p_value = 2 * student.sf(abs(worst) * np.sqrt((n - 2) / (1 - worst**2)), n - 2)
    place = int(origin[column])
    what = ("shift", "width")[int(kind)]
    third, here, elsewhere = _extreme(z, places.values[:, place], what)
    return Local(worst, float(min(r.size * p_value, 1.0)), place, what, third, here, elsewhere)


def _extreme(z: np.ndarray, values: np.ndarray, kind: str) -> tuple[str, float, float]:
    """The third that strays most, and what it and the others show."""
    side = thirds(values)
    found: list[tuple[float, str, float, float]] = []
    for i in range(3):
        here, elsewhere = (_measure(z[chosen], kind) for chosen in (side == i, side != i))
        off = abs(here) if kind == "shift" else abs(np.log(here))
        found.append((float(off), THIRDS[i], here, elsewhere))
    return max(found)[1:]


def _measure(z: np.ndarray, kind: str) -> float:
    if len(z) < 2:
        return 0.0 if kind == "shift" else 1.0
    return float(z.mean() if kind == "shift" else 1 / max(z.std(), 1e-9))


def about_local(found: Local, places: Places, coverage: bool = False) -> str:
    """In words; of coverage levels, the truth outside too often is overconfidence."""
    where = f"where {places.names[found.place]} is {found.third}"
    if found.third == "middle":
        where = f"in the middle of {places.names[found.place]}"
    if coverage:
        word = "over" if found.here > 0 else "under"
        return f"{word}confident {where}" if found.kind == "shift" else f"coverage is off {where}"
    if found.kind == "shift":
        side = "low" if found.here > 0 else "high"
        return f"{side} by {abs(found.here):.2f} sd {where} ({found.elsewhere:+.2f} elsewhere)"
    side = "narrow" if found.here < 1 else "wide"
    return (
        f"too {side} {where}: {found.here:.2f} of its due width, {found.elsewhere:.2f} elsewhere"
    )
