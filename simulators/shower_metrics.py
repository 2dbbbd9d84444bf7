r"""What the field reports of calorimeter showers: observables, separation power, classifiers.

.. math::
    \langle v \rangle_i = \frac{\sum_j x_{ij} v_j}{\sum_j x_{ij}}, \qquad
    \sigma_i(v) = \sqrt{\langle v^2 \rangle_i - \langle v \rangle_i^2}, \qquad
    v \in \{\eta = r \cos\varphi, \; r \sin\varphi, \; r\} \\
    S = \frac12 \sum_b \frac{(h_b - g_b)^2}{h_b + g_b}, \qquad
    \mathrm{AUC} = P(s > s') + \tfrac12 P(s = s')

S compares two histograms of unit sum: 0 for equal ones, 1 for disjoint ones, and on average (bins
- 1) / (2 n) for two samples of n draws from one distribution. The AUC is that of a network that
learns to tell two samples apart, on draws that it has not seen: 1/2 where nobody can.

References:
    | CaloChallenge 2022: A Community Challenge for Fast Calorimeter Simulation (2024)
    | https://arxiv.org/abs/2410.21611
"""

from __future__ import annotations

__all__ = [
    "AUC",
    "area_under_curve",
    "classifier_auc",
    "high_level",
    "layer_correlation",
    "low_level",
    "observables",
    "sample_separation",
    "separation_power",
]

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray as Array
from scipy.stats import rankdata


class AUC(NamedTuple):
    """An area under the curve and its standard error."""

    value: float
    error: float


def observables(x: Array, energy: Array, ring_width: float = 1.0) -> dict[str, Array]:
    """The observables of showers; those of a layer without energy are zero.

    Arguments:
        x: Energies (n, 1, layers, wedges, rings); wedge k is centred on 2 pi k / wedges.
        energy: Incident energy (n,), in the unit of x.
        ring_width: Width of a ring; centres and widths have its unit.

    Returns:
        `response`, E_tot / E_inc, (n,); of each layer (n, layers): `energy`, `sparsity` (the
        share of cells that are not zero), `centre_eta`, `centre_phi`, `centre_r`, and `width_`
        of the same. Eta and phi are the two directions across the shower.

    Raises:
        ValueError: If a shape is wrong.
    """
    x, energy = _checked(x, energy)
    wedges, rings = x.shape[-2:]
    phi = 2 * np.pi * np.arange(wedges)[:, None] / wedges
    r = ring_width * (np.arange(rings) + 0.5)
    places = {"eta": r * np.cos(phi), "phi": r * np.sin(phi), "r": r + 0 * phi}
    moments = np.stack([v.ravel() ** k for v in places.values() for k in (0, 1, 2)], -1)
    flat = x.reshape(*x.shape[:2], -1)
    # in double precision, a part at a time: a layer's width is a difference
    sums = np.concatenate([part @ moments for part in np.array_split(flat, len(x) // 1024 + 1)])
    layers = sums[..., 0]
    out = {
        "response": layers.sum(1) / energy,
        "energy": layers,
        "sparsity": (x > 0).mean((2, 3)),
    }
    means = sums / np.where(layers > 0, layers, 1)[..., None]
    for i, name in enumerate(places):
        first, second = means[..., 3 * i + 1], means[..., 3 * i + 2]
        out[f"centre_{name}"] = first
        out[f"width_{name}"] = np.sqrt(np.maximum(second - first**2, 0))
    return out


def high_level(found: Mapping[str, Array], energy: Array) -> Array:
    """What the classifier of observables sees, (n, 2 + 8 layers): log10 E_inc, the response, and
    of each layer log10 of its share of E_inc, sparsity, centres and widths.

    Arguments:
        found: `observables`.
        energy: Incident energy (n,), in the same unit.
    """
    share = np.log10(found["energy"] / energy[:, None] + 1e-8)
    rest = [v for k, v in found.items() if k not in ("response", "energy")]
    columns = [np.log10(energy)[:, None], found["response"][:, None], share, *rest]
    return np.concatenate(columns, 1)


def low_level(x: Array, energy: Array) -> Array:
    """What the classifier of voxels sees, (n, 1 + voxels): log10 E_inc and voxels over E_inc."""
    x, energy = _checked(x, energy)
    voxels = x.reshape(len(x), -1) / energy[:, None].astype(x.dtype)
    return np.concatenate([np.log10(energy)[:, None].astype(x.dtype), voxels], 1)


def layer_correlation(x: Array) -> Array:
    """The Pearson correlation of the layers' energies, (layers, layers), of x (n, 1, layers, ...);
    a layer of one energy only correlates with itself alone.
    """
    layers = np.asarray(x, dtype=np.float64).reshape(len(x), x.shape[2], -1).sum(-1)
    layers -= layers.mean(0)
    norm = np.sqrt((layers**2).sum(0))
    layers /= np.where(norm > 0, norm, 1)
    matrix: Array = layers.T @ layers
    np.fill_diagonal(matrix, 1)
    return matrix


def separation_power(h: Array, g: Array) -> Array:
    """S of histograms (..., bins), each of which is brought to unit sum.

    Raises:
        ValueError: If the shapes differ, or a histogram is empty or has negative entries.
    """
    h, g = np.asarray(h, dtype=np.float64), np.asarray(g, dtype=np.float64)
    if h.shape != g.shape:
        raise ValueError(f"histograms must have equal shapes; got {h.shape} and {g.shape}")
    for one in (h, g):
        if (one < 0).any() or (one.sum(-1) <= 0).any():
            raise ValueError("a histogram needs entries, and none that is negative")
    h, g = h / h.sum(-1, keepdims=True), g / g.sum(-1, keepdims=True)
    total = h + g
    return 0.5 * ((h - g) ** 2 / np.where(total > 0, total, 1)).sum(-1)


def sample_separation(a: Array, b: Array, bins: int = 50) -> Array:
    """S of two samples (n, ...) and (m, ...), for each column (...).

    The bins have equal widths between the 0.5 % and 99.5 % quantiles of both samples together;
    what lies outside counts in the bins at the ends.
    """
    u, v = (np.asarray(s).reshape(len(s), -1) for s in (a, b))
    out = np.empty(u.shape[1])
    for i in range(len(out)):
        low, high = np.quantile(np.concatenate([u[:, i], v[:, i]]), [0.005, 0.995])
        edges = np.linspace(low, high, bins + 1)[1:-1]
        h, g = (
            np.bincount(np.searchsorted(edges, s[:, i], side="right"), minlength=bins)
            for s in (u, v)
        )
        out[i] = separation_power(h, g)
    return out.reshape(np.shape(a)[1:])


def area_under_curve(a: Array, b: Array) -> AUC:
    """The share of pairs in which a score of b (m,) is above one of a (n,), with its error.

    References:
        | Comparing the Areas under Two or More Correlated Receiver Operating Characteristic
          Curves (DeLong, DeLong and Clarke-Pearson, 1988)
        | https://doi.org/10.2307/2531595
    """
    n, m = len(a), len(b)
    ranks = rankdata(np.concatenate([a, b]))
    below = (ranks[n:] - rankdata(b)) / n  # of each score of b, the share of a below it
    above = 1 - (ranks[:n] - rankdata(a)) / m
    error = np.sqrt(below.var(ddof=1) / m + above.var(ddof=1) / n)
    return AUC(float(below.mean()), float(error))


def classifier_auc(
    a: Array,
    b: Array,
    seed: int = 0,
    hidden: int = 256,
    epochs: int = 20,
    batch: int = 500,
    learning_rate: float = 5e-4,
) -> AUC:
    """The AUC of a network that tells rows of a (n, k) from rows of b (m, k), on test rows.

    Three hidden layers, Adam; 60 % of each sample train it, 20 % choose the epoch, 20 % judge it.
    Columns are standardised by the training rows.

    Arguments:
        a: Rows of one kind.
        b: Rows of the other.
        seed: Of the split, the weights and the batches; torch's own generator is left alone.
        hidden: Units of a hidden layer.
        epochs: Passes over the training rows.
        batch: Rows a step.
        learning_rate: Of Adam.

    Raises:
        ValueError: If the samples have different columns, or fewer than ten rows.
    """
    import torch

    if np.ndim(a) != 2 or np.shape(a)[1:] != np.shape(b)[1:] or min(len(a), len(b)) < 10:
        raise ValueError(
            "samples must be (n, k) and (m, k), with ten rows or more; "
            f"got {np.shape(a)} and {np.shape(b)}"
        )
    generator = torch.Generator().manual_seed(seed)
    parts: list[list[Any]] = [[], [], []]
    for rows in (a, b):
        order = torch.randperm(len(rows), generator=generator)
        cuts = [int(0.6 * len(rows)), int(0.8 * len(rows))]
        for part, index in zip(parts, order.tensor_split(cuts)):
            part.append(torch.as_tensor(rows, dtype=torch.float32)[index])
    train = torch.cat(parts[0])
    label = torch.cat([torch.full((len(v),), float(i)) for i, v in enumerate(parts[0])])
    loc, scale = train.mean(0), train.std(0)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    train = (train - loc) / scale
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(train.shape[1], hidden)
    optimiser = torch.optim.Adam(network.parameters(), lr=learning_rate)
    loss = torch.nn.BCEWithLogitsLoss()

    def judge(part: list[Any]) -> AUC:
        with torch.no_grad():
            scores = [network((v - loc) / scale).squeeze(-1).numpy() for v in part]
        return area_under_curve(*scores)

    best, found = -1.0, AUC(0.5, 0.0)
    for _ in range(epochs):
        for index in torch.randperm(len(train), generator=generator).split(batch):
            optimiser.zero_grad()
            loss(network(train[index]).squeeze(-1), label[index]).backward()
            optimiser.step()
        if (reached := judge(parts[1]).value) > best:
            best, found = reached, judge(parts[2])
    return found


def _network(columns: int, hidden: int) -> Any:
    from torch import nn

    layers: list[nn.Module] = []
    for size, after in pairwise((columns, hidden, hidden, hidden)):
        layers += [nn.Linear(size, after), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers, nn.Linear(hidden, 1))


def _checked(x: Array, energy: Array) -> tuple[Array, Array]:
    """Showers (n, layers, wedges, rings) in their own float type, and their energies (n,)."""
    x, energy = np.asarray(x), np.asarray(energy)
    if x.ndim != 5 or x.shape[1] != 1:
        raise ValueError(f"showers must be (n, 1, layers, wedges, rings); got {x.shape}")
    if energy.shape != (len(x),):
        raise ValueError(f"energy must be ({len(x)},), one a shower; got {energy.shape}")
    return (x if x.dtype.kind == "f" else x.astype(float))[:, 0], energy
