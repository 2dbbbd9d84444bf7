r"""How far emulated maps are from simulated ones: summaries with errors, and memorisation.

.. math::
    d_b = \frac{\bar s_b^\mathrm{emulated}}{\bar s_b^\mathrm{simulated}} - 1, \qquad
    \mathrm{error} = \sqrt{\overline{|d|^2} - \overline{\sigma_b^2}} \;\text{ over bins } b

The maps of both sides have the same parameters, one by one, so that the errors sigma_b, from the
scatter of pairs, are those of the maps' own randomness.
"""

from __future__ import annotations

__all__ = ["SUMMARIES", "Judgement", "edges_of", "judge", "nearest", "told_apart"]

from dataclasses import dataclass

import numpy as np
from numpy import ndarray as Array

from simulators.map_summaries import multipole_edges, one_point_pdf, peak_counts, power_spectrum
from simulators.shower_metrics import AUC, classifier_auc

SUMMARIES = ("power spectrum", "one-point PDF", "peak counts")


@dataclass(frozen=True)
class Judgement:
    """Relative deviation of each bin, its standard error, and the bins' centres.

    Arguments:
        centre: (bins,).
        deviation: d (bins,).
        sigma: Its standard error (bins,).
    """

    centre: Array
    deviation: Array
    sigma: Array

    @property
    def error(self) -> tuple[float, float]:
        """Root mean square deviation with the chance part taken out, and its standard error."""
        square = self.deviation**2 - self.sigma**2
        size = float(np.sqrt(max(square.mean(), 0.0)))
        spread = np.sqrt(2 * self.sigma**4 + 4 * self.deviation**2 * self.sigma**2)
        of_square = float(np.sqrt((spread**2).sum()) / len(spread))
        return size, of_square / (2 * max(size, np.sqrt(of_square)))


def edges_of(maps: Array, side_deg: float) -> dict[str, Array]:
    """Bins of each summary, by simulated maps (n, 1, N, N)."""
    low, high = np.quantile(maps, [0.005, 0.995])
    values = np.linspace(low, high, 17)
    peaks = np.quantile(maps, [0.5, 0.75, 0.88, 0.94, 0.97, 0.985, 0.993, 0.998])
    return {
        "power spectrum": multipole_edges(maps.shape[-1], side_deg, 10),
        "one-point PDF": values,
        "peak counts": peaks,
    }


def summaries(maps: Array, edges: dict[str, Array], side_deg: float) -> dict[str, Array]:
    """Each summary of maps (n, 1, N, N), (n, bins)."""
    values = (
        power_spectrum(maps, side_deg, edges["power spectrum"]),
        one_point_pdf(maps, edges["one-point PDF"]),
        peak_counts(maps, edges["peak counts"]),
    )
    return {name: value.astype(float) for name, value in zip(SUMMARIES, values)}


def told_apart(
    emulated: Array,
    simulated: Array,
    theta: tuple[Array, Array],
    edges: dict[str, Array],
    side_deg: float,
    seed: int = 0,
) -> dict[str, AUC]:
    """The AUC of a classifier that sees the summaries and theta, or the pixels and theta; the maps
    of both sides have parameters of their own (n, 3), by which none can be known again.
    """
    parts: dict[str, list[Array]] = {"AUC summaries": [], "AUC pixels": []}
    for maps, of in zip((emulated, simulated), theta):
        found = summaries(maps, edges, side_deg)
        power = np.log(found["power spectrum"].clip(min=1e-30))
        rest = [found[name] for name in SUMMARIES[1:]]
        parts["AUC summaries"].append(np.concatenate([of, power, *rest], 1))
        parts["AUC pixels"].append(np.concatenate([of, maps.reshape(len(maps), -1)], 1))
    return {name: classifier_auc(*sides, seed=seed, batch=100) for name, sides in parts.items()}


def judge(
    emulated: Array, simulated: Array, edges: dict[str, Array], side_deg: float
) -> dict[str, Judgement]:
    """Each summary of emulated maps (n, 1, N, N) against simulated ones of the same parameters."""
    out = {}
    found = (summaries(maps, edges, side_deg) for maps in (emulated, simulated))
    for (name, ours), truth in zip(next(found).items(), next(found).values()):
        mean = truth.mean(0)
        centre = (edges[name][1:] + edges[name][:-1]) / 2
        sigma = (ours - truth).std(0, ddof=1) / np.sqrt(len(ours)) / mean
        out[name] = Judgement(centre, ours.mean(0) / mean - 1, sigma)
    return out


def nearest(maps: Array, training: Array) -> Array:
    """Distance (n,) of each map to the nearest training map, root mean square a pixel."""
    a, b = (v.reshape(len(v), -1).astype(np.float32) for v in (maps, training))
    norms = (b**2).sum(1)
    closest = [
        ((part**2).sum(1)[:, None] - 2 * part @ b.T + norms).min(1)
        for part in np.array_split(a, max(1, len(a) // 256))
    ]
    return np.sqrt(np.concatenate(closest).clip(min=0) / a.shape[1])
