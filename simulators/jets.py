r"""Jets and event shapes: anti-kt clustering and thrust, of many events at once.

.. math::
    d_{ij} = \min(p_{T,i}^{-2}, p_{T,j}^{-2}) \, \frac{\Delta y^2 + \Delta\phi^2}{R^2}, \qquad
    d_{iB} = p_{T,i}^{-2}, \qquad
    T = \max_{\vec n} \frac{\sum_i |\vec p_i \cdot \vec n|}{\sum_i |\vec p_i|}

The smallest distance merges two particles, adding their momenta, or makes a jet of one. The plane
across the thrust axis can be turned until it holds two of the momenta without passing another:
the planes through all pairs, and the signs of those two, give the exact maximum.

References:
    | The anti-k_t jet clustering algorithm (Cacciari, Salam, Soyez, 2008)
    | https://arxiv.org/abs/0802.1189
    | FastJet user manual (Cacciari, Salam, Soyez, 2011)
    | https://arxiv.org/abs/1111.6097
"""

from __future__ import annotations

__all__ = ["Jets", "anti_kt", "thrust"]

import importlib.util
from typing import NamedTuple

import numpy as np
from numpy import ndarray as Array

_FARTHEST = 1e5
"""The rapidity of a momentum along the beam."""
_CHUNK = 1 << 22
"""About how many numbers a temporary array may have."""


class Jets(NamedTuple):
    """The jets of n events by falling pT.

    Arguments:
        momenta: (px, py, pz, E), zeros behind the last, (n, K, 4).
        counts: How many there are, (n,).
    """

    momenta: Array
    counts: Array


def anti_kt(
    momenta: Array,
    counts: Array,
    radius: float = 0.4,
    pt_min: float = 0.0,
    backend: str | None = None,
) -> Jets:
    """Clusters each event's particles into jets.

    Arguments:
        momenta: (px, py, pz, E), (n, K, 4).
        counts: How many of the K slots hold a particle, (n,).
        radius: R.
        pt_min: Jets of less transverse momentum are dropped.
        backend: "fastjet" or "numpy"; unless said, fastjet where it is installed.

    Raises:
        ValueError: If the backend is unknown, the radius not positive, or a shape not as above.

    Examples:
        >>> import numpy as np
        >>> p = np.array([[[3.0, 0, 0, 3], [2, 0.1, 0, 2.1], [-5, 0, 0, 5]]])
        >>> anti_kt(p, np.array([3]), backend="numpy").momenta[0, :, 0]
        array([ 5., -5.,  0.])
    """
    momenta, counts = np.asarray(momenta, dtype=np.float64), np.asarray(counts)
    if momenta.ndim != 3 or momenta.shape[2] != 4 or counts.shape != momenta.shape[:1]:
        raise ValueError(
            f"momenta must be (n, K, 4) and counts (n,); got {momenta.shape} and {counts.shape}"
        )
    if not radius > 0:
        raise ValueError(f"radius must be positive; got {radius}")
    if backend is None:
        backend = "fastjet" if importlib.util.find_spec("fastjet") else "numpy"
    clusters = {"fastjet": _fastjet, "numpy": _numpy}
    if backend not in clusters:
        raise ValueError(f"backend must be one of {', '.join(clusters)}; got {backend!r}")
    found = clusters[backend](momenta, counts, radius)
    pt = np.hypot(found[..., 0], found[..., 1])
    kept = (found[..., 3] > 0) & (pt >= pt_min)
    order = np.argsort(np.where(kept, -pt, np.inf), axis=1, kind="stable")
    jets = np.take_along_axis(found * kept[..., None], order[..., None], axis=1)
    return Jets(jets, kept.sum(1))


def _fastjet(momenta: Array, counts: Array, radius: float) -> Array:
    import fastjet

    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, radius)
    out = np.zeros_like(momenta)
    for particles, count, found in zip(momenta, counts, out):
        inputs = [fastjet.PseudoJet(*p) for p in particles[:count].tolist()]
        if inputs:
            sequence = fastjet.ClusterSequence(inputs, definition)
            jets = [(j.px(), j.py(), j.pz(), j.E()) for j in sequence.inclusive_jets()]
            found[: len(jets)] = jets
    return out


def _numpy(momenta: Array, counts: Array, radius: float) -> Array:
    """Events in order of their number of particles: those still clustering come first."""
    order = np.argsort(-counts, kind="stable")
    out = np.zeros_like(momenta)
    start = 0
    while start < len(order):
        most = max(int(counts[order[start]]), 1)
        rows = order[start : start + max(_CHUNK // most**2, 1)]
        out[rows, :most] = _cluster(momenta[rows, :most], counts[rows], radius)
        start += len(rows)
    return out


def _cluster(momenta: Array, counts: Array, radius: float) -> Array:
    """Jets (n, K, 4), in the slots where they end, of events with falling counts."""
    n, slots = momenta.shape[:2]
    p, jets = momenta.copy(), np.zeros_like(momenta)
    alive = np.arange(slots) < counts[:, None]
    where = _place(p)
    d = np.full((n, slots, slots), np.inf)
    for i in range(slots):
        d[:, i] = _distances(where, alive, np.full(n, i), radius)
    d[~alive] = np.inf
    for step in range(int(counts.max(initial=0))):
        m = int((counts > step).sum())
        event = np.arange(m)
        i, j = np.unravel_index(d[:m].reshape(m, -1).argmin(1), (slots, slots))
        beam = i == j
        done = event[beam]
        jets[done, i[beam]] = p[done, i[beam]]
        merged = event[~beam]
        p[merged, i[~beam]] += p[merged, j[~beam]]
        alive[event, j] = False
        d[event, j] = d[event, :, j] = np.inf
        sums, of = merged, i[~beam]
        where[:, sums, of] = _place(p[sums, of])
        row = _distances(where[:, sums], alive[sums], of, radius)
        d[sums, of] = row
        d[sums, :, of] = row
    return jets


def _place(p: Array) -> Array:
    """pT^-2, rapidity and azimuth of momenta (..., 4), stacked (3, ...)."""
    px, py, pz, energy = np.moveaxis(p, -1, 0)
    pt2 = px**2 + py**2
    mass2 = np.maximum((energy - pz) * (energy + pz) - pt2, 0.0)
    # of a small E - |pz| too much is rounding: as in fastjet, from mT^2 and E + |pz|
    rise = np.abs(pz) + energy
    with np.errstate(divide="ignore", invalid="ignore"):
        y = 0.5 * np.log(rise**2 / (pt2 + mass2))
        weight = 1 / pt2
    y = np.where(pt2 + mass2 > 0, np.minimum(y, _FARTHEST), _FARTHEST + np.abs(pz))
    return np.stack([np.minimum(weight, 1e200), np.copysign(y, pz), np.arctan2(py, px)])


def _distances(where: Array, alive: Array, i: Array, radius: float) -> Array:
    """From particle i (m,) of each event to all others, to the beam in its own place, (m, K)."""
    event = np.arange(len(i))
    weight, y, phi = where
    turn = np.abs(phi - phi[event, i][:, None])
    turn = np.minimum(turn, 2 * np.pi - turn)
    apart = ((y - y[event, i][:, None]) ** 2 + turn**2) / radius**2
    d = np.minimum(weight, weight[event, i][:, None]) * apart
    d[event, i] = weight[event, i]
    return np.where(alive, d, np.inf)


def thrust(momenta: Array, counts: Array | None = None) -> tuple[Array, Array]:
    """Thrust (n,) and its axis, a unit vector (n, 3), of each event.

    Arguments:
        momenta: (px, py, pz) or (px, py, pz, E), (n, K, 3) or (n, K, 4). Zeros count for nothing.
        counts: How many of the K slots hold a particle; all of them unless said, (n,).

    Raises:
        ValueError: If a shape is not as above.

    Returns:
        T between 1/2 and 1, and the axis; of an event without momentum 1 and zeros.

    Examples:
        >>> import numpy as np
        >>> angle = 2 * np.pi / 3 * np.arange(3)
        >>> mercedes = np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
        >>> round(float(thrust(mercedes[None])[0][0]), 6)
        0.666667
    """
    p = np.asarray(momenta, dtype=np.float64)[..., :3]
    n, slots = p.shape[:2] if p.ndim == 3 else (0, 0)
    counts = np.full(n, slots) if counts is None else np.asarray(counts)
    if p.shape[2:] != (3,) or counts.shape != (n,) or slots < 1:
        raise ValueError(
            "momenta must be (n, K, 3) or (n, K, 4), K at least 1, and counts (n,); "
            f"got {np.shape(momenta)} and {counts.shape}"
        )
    order = np.argsort(-counts, kind="stable")
    best = np.zeros((n, 3))
    start = 0
    while start < n:
        most = max(int(counts[order[start]]), 2)
        rows = order[start : start + max(_CHUNK // most**3, 1)]
        here = np.arange(min(most, slots)) < counts[rows, None]
        best[rows] = _largest_sum(p[rows, :most] * here[..., None])
        start += len(rows)
    size = np.linalg.norm(best, axis=1)
    total = (np.linalg.norm(p, axis=2) * (np.arange(slots) < counts[:, None])).sum(1)
    T = np.divide(size, total, out=np.ones(n), where=total > 0)
    return np.minimum(T, 1), np.divide(
        best, size[:, None], out=np.zeros((n, 3)), where=size[:, None] > 0
    )


def _largest_sum(p: Array) -> Array:
    """The longest of the sums of +-p_i, (n, 3), over the signs of p (n, K, 3)."""
    first, second = np.triu_indices(p.shape[1], 1)
    pairs = np.cross(p[:, first], p[:, second])
    sums = _sums(p, pairs, first, second)
    # if all lie in one plane, planes through a pair don't tell the rest apart: stand upright
    upright = np.linalg.eigh(np.swapaxes(p, 1, 2) @ p)[1][:, None, :, 0]
    each = np.arange(p.shape[1])
    sums = np.concatenate([sums, _sums(p, np.cross(p, upright), each)], axis=1)
    at = (sums**2).sum(-1).argmax(1)
    best = sums[np.arange(len(p)), at]
    for _ in range(3):  # parallel momenta in a plane must take one side: the sum only grows
        side = np.where(p @ best[:, :, None] < 0, -1.0, 1.0)
        best = (side * p).sum(1)
    return best


def _sums(p: Array, normals: Array, *ends: Array) -> Array:
    """Sums of p by the side of each plane, with either sign of the momenta in it, (n, m, 3)."""
    side = np.sign(normals @ np.swapaxes(p, 1, 2))
    planes = np.arange(normals.shape[1])
    for end in ends:
        side[:, planes, end] = 0
    sums = side @ p
    for end in ends:
        sums = np.concatenate([sums + _tiled(p, end, sums), sums - _tiled(p, end, sums)], axis=1)
    return sums


def _tiled(p: Array, end: Array, sums: Array) -> Array:
    return np.tile(p[:, end], (1, sums.shape[1] // max(len(end), 1), 1))
