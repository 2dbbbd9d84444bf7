r"""Active allocation: more simulations where a posterior is least calibrated, and no bias from it.

.. math::
    S_c = \sum_{k=1}^K \bar z_{ck}^2 - \frac{K}{N_c}, \qquad
    n_c \propto \pi_c \sqrt{S_c}, \qquad
    w(\vartheta) = \frac{\sum_r n_r}{\sum_r n_r\, p_r(\vartheta) / p(\vartheta)}

z_k are normal scores of the rank of the truth among draws of q(theta | x): in each parameter, and
in density. Given x they are N(0, 1) if q is exact, so that S_c, the miscalibration of a region c
of theta in squared deviations, is then zero in the mean. A pair counts where its posterior is, at
one more draw of q: where the truth is would not do, as its rank depends on that even for the exact
posterior (see `calibration.places`). Regions are leaves of a tree that one half of the pairs grows
and the other half scores. Where errors fall as one over the number of rows, the sum of pi_c S_c is
least for Neyman's allocation n_c, to which new rows fill up what is there. All rows together have
the density of a mixture over rounds r, and weights w make averages over them averages over the
prior p: bounded by one over the share of the rows that follow p, the same for equal theta.

References:
    | On the two different aspects of the representative method (Neyman, 1934), section III.4
    | https://doi.org/10.2307/2342192
    | Optimally combining sampling techniques for Monte Carlo rendering (Veach & Guibas, 1995),
    | eq. 14, https://doi.org/10.1145/218380.218498
    | Recursive partitioning for heterogeneous causal effects (Athey & Imbens, 2016), section 3
    | https://arxiv.org/abs/1504.01132
"""

from __future__ import annotations

__all__ = ["Allocation", "allocate", "gather", "regional_scores"]

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..calibration.coverage import count_denser
from ..calibration.drawing import draw
from ..calibration.pairs import select
from ..calibration.ranks import count_below
from ..calibration.uniformity import normal_scores, randomised_ranks
from ..dataset import Dataset, DatasetError
from ..expression import parse
from ..forward import Simulator
from ..prior import Prior
from .boxes import LEAST, Boxes, grow

log = logging.getLogger("simgen")

_KEY = "allocation"
_VOLUME = 1 << 18  # draws of the prior by which the size of regions is found
_DRAWS = 63  # of the posterior, that a truth is ranked among

S = TypeVar("S", bound=Simulator)


class Allocation(Prior):
    """The prior, reweighted by a known factor in each of some regions: what new rows are drawn of.

    Arguments:
        prior: The prior p.
        boxes: The regions.
        ratio: Density of this over p in each region (C,).
        table: What is known of each region, one dict a region.
    """

    def __init__(
        self, prior: Prior, boxes: Boxes, ratio: Any, table: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        vars(self).update(vars(prior))
        self.whole, self.boxes = prior, boxes
        self.ratio = torch.from_numpy(np.array(ratio, dtype=np.float64))
        self.table = [dict(row) for row in table]

    def density_ratio(self, theta: Any) -> Tensor:
        """Density of this over that of the prior at theta (n, d), shape (n,)."""
        return self.ratio[self.boxes(theta)]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density (...), -inf outside the prior's support."""
        value = torch.as_tensor(value)
        rows = value.reshape(-1, len(self.names))
        ratio = self.density_ratio(rows).log().view(value.shape[:-1])
        return self.whole.log_prob(value) + ratio

    def sample(self, sample_shape: Any = (), seed: int | None = None) -> Tensor:
        """Draws (*sample_shape, d): of the prior, kept with a chance that goes as the ratio."""
        shape = torch.Size([sample_shape] if isinstance(sample_shape, int) else sample_shape)
        n, state = shape.numel(), int(torch.randint(2**62, ())) if seed is None else seed
        most, kept, tried = float(self.ratio.max()), [torch.empty(0, len(self.names))], 0
        while sum(map(len, kept)) < n:
            key = np.random.SeedSequence(state, spawn_key=(tried,)).generate_state(2, np.uint64)
            theta = self.whole.sample((math.ceil(1.2 * most * n) + 64,), seed=int(key[0] >> 1))
            generator = torch.Generator().manual_seed(int(key[1] >> 1))
            u = torch.rand(len(theta), generator=generator, dtype=torch.float64)
            kept.append(theta[u * most < self.density_ratio(theta)])
            tried += 1
        return torch.cat(kept)[:n].view(*shape, len(self.names))

    def of(self, simulator: S) -> S:
        """The same simulator with this as its prior."""
        out = copy.copy(simulator)
        out.prior = self
        return out

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: names and support as of any prior, what it is of the whole one."""
        whole = self.whole.to_dict()
        boxes = {"low": self.boxes.low.tolist(), "high": self.boxes.high.tolist()}
        own = {**boxes, "ratio": self.ratio.tolist(), "table": self.table, "whole": whole}
        return {**{k: v for k, v in whole.items() if k != "factors"}, _KEY: own}

    @property
    def mean(self) -> Tensor:
        """The mean of 10,000 draws, (d,)."""
        return self.sample((10_000,), seed=0).mean(0)

    @property
    def variance(self) -> Tensor:
        """The variance of each parameter in 10,000 draws, (d,)."""
        return self.sample((10_000,), seed=0).var(0)

    def __repr__(self) -> str:
        return f"{self.whole!r} in {len(self.boxes)} regions, of each its own share"

    def __str__(self) -> str:
        lines = [f"{'prior':>7}{'rows':>8}{'new':>8}{'score':>16}  region"]
        for row in self.table:
            score = f"{row['score']:.2f} ± {row['error']:.2f}"
            lines.append(
                f"{100 * row['prior']:>5.1f} %{row['rows']:>8,}{row['new']:>8,}{score:>16}  "
                f"{row['region']}"
            )
        return "\n".join(lines)


def allocate(
    posterior: Callable[..., Any],
    dataset: Dataset,
    n: int,
    *,
    checks: Any = None,
    pairs: int = 2_000,
    regions: int = 8,
    share: float = 0.25,
    seed: int = 0,
) -> Allocation:
    """Where n more simulations are to go: the prior, reweighted to where the posterior is worst.

    What it proposes goes to a dataset of its own, `simulate(found.of(simulator), n, path)`, and
    `gather` puts all rows together, with the weights that undo it.

    Arguments:
        posterior: A fitted "theta | x", amortised; or any callable of x (n, *event) to a batch of
            n torch distributions over theta.
        dataset: What it was trained on: it has the prior, and its rows are counted.
        n: How many new rows there are to be.
        checks: Rows that it was not trained on, from the prior: a Dataset, or a dict of arrays.
            The unseen rows of `dataset` unless given.
        pairs: The most of them to use.
        regions: The most regions.
        share: Of the new rows, how many follow the prior whatever the scores are.
        seed: Of the choice of pairs and of draws.

    Raises:
        ValueError: If settings make no sense, the posterior is of other parameters, or there are
            too few pairs.
        DatasetError: If the prior is not known, or the dataset has rounds for one observation.
    """
    if n < 1 or regions < 1 or not 0 < share <= 1:
        raise ValueError(
            f"allocate needs n >= 1, regions >= 1 and 0 < share <= 1; got {n}, {regions}, {share}"
        )
    if len(dataset.rounds) > 1:
        raise DatasetError(
            f"{dataset.path} has rounds for one observation: allocation is for a posterior that "
            "holds for every x"
        )
    prior = dataset.prior
    if prior is None:
        raise DatasetError(f"{dataset.path} has no parameters, and no prior to reweight")
    prior = prior.whole if isinstance(prior, Allocation) else prior
    where, z = _scores(posterior, dataset if checks is None else checks, pairs, seed)
    half = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1,))).random(len(z)) < 0.5
    boxes = grow(where[half], z[half], regions)
    scored = _scored(boxes(where[~half]).numpy(), z[~half], len(boxes))
    volume = torch.bincount(boxes(prior.sample((_VOLUME,), seed=seed)), minlength=len(boxes))
    pi = volume.double().numpy().clip(min=0.5) / _VOLUME
    rows = np.bincount(boxes(dataset["theta"][:]).numpy(), minlength=len(boxes))
    score = scored[:, 0].clip(min=0)
    if not score.any():
        log.warning("no region is found where calibration is off: new rows follow the prior")
    base = rows + share * n * pi
    new = share * n * pi + _fill(pi * np.sqrt(score), base, (1 - share) * n, pi)
    table = [
        {
            "region": boxes.describe(c, prior.names),
            "prior": float(pi[c]),
            "rows": int(rows[c]),
            "new": round(float(new[c])),
            "score": float(scored[c, 0]),
            "error": float(scored[c, 1]),
            "pairs": int(scored[c, 2]),
        }
        for c in range(len(boxes))
    ]
    return Allocation(prior, boxes, new / (n * pi) / (new.sum() / n), table)


def regional_scores(
    posterior: Callable[..., Any],
    checks: Any,
    allocation: Allocation,
    *,
    pairs: int = 10_000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Scores of a posterior by the regions of an allocation: before new rows, and after.

    Arguments:
        posterior: As of `allocate`.
        checks: Rows from the prior that no posterior that is compared was trained on.
        allocation: Whose regions.
        pairs: The most rows to use.
        seed: Of the choice of pairs and of draws.

    Returns:
        Dicts of region, prior (its share), score (in squared deviations; 0 for the exact
        posterior), error, pairs.
    """
    where, z = _scores(posterior, checks, pairs, seed)
    boxes = allocation.boxes
    found = _scored(boxes(where).numpy(), z, len(boxes))
    return [
        {
            "region": boxes.describe(c, allocation.names),
            "prior": row["prior"],
            "score": float(found[c, 0]),
            "error": float(found[c, 1]),
            "pairs": int(found[c, 2]),
        }
        for c, row in enumerate(allocation.table)
    ]


def gather(path: str | Path, datasets: Sequence[Dataset]) -> Dataset:
    """One dataset of all rows of several, weighted so that together they follow the prior.

    Rows that failed are left out. `origin` says which dataset a row is from; weights that the
    rows had are multiplied.

    Arguments:
        path: The directory to make.
        datasets: Of one simulator: rows of the prior first, then those of `Allocation`s.

    Raises:
        DatasetError: If they have other fields or priors, or none follows the prior.
    """
    first = datasets[0]
    stored = [_known(d) for d in datasets]
    plain = [i for i, s in enumerate(stored) if _KEY not in s]
    if not plain:
        raise DatasetError("none of the datasets follows the prior: its rows bound the weights")
    prior = datasets[plain[0]].prior
    assert prior is not None
    whole = [s[_KEY]["whole"] if _KEY in s else s for s in stored]
    names = [k for k in first.stored if k not in ("weight", "origin")]
    for d, w in zip(datasets, whole):
        others = [k for k in d.stored if k not in ("weight", "origin")]
        if w != whole[0] or set(others) != set(names):
            raise DatasetError(f"{d.path} and {first.path} have other fields, or other priors")
    counts = np.array([len(d) for d in datasets], dtype=float)
    ratios = [_of(prior, s[_KEY]).density_ratio if _KEY in s else _one for s in stored]
    weight = []
    for d in datasets:
        theta = d.good["theta"][:]
        total = sum(count * ratio(theta).numpy() for count, ratio in zip(counts, ratios))
        own = d.good["weight"][:].reshape(-1) if "weight" in d.fields else 1.0
        weight.append(np.broadcast_to(counts.sum() / total * own, (len(theta),)))
    origin = np.repeat(np.arange(len(datasets), dtype=np.int32), [len(d.good) for d in datasets])
    arrays = {k: _Joined([d.good[k] for d in datasets]) for k in names}
    return Dataset.create(
        path,
        prior=prior,
        declared={k: first.fields[k] for k in names},
        **arrays,
        weight=np.concatenate(weight).astype(np.float32),
        origin=origin,
    )


class _Joined:
    """Columns one after the other, read when sliced."""

    def __init__(self, columns: Sequence[Any]) -> None:
        self.columns = columns
        self.ends = np.cumsum([len(c) for c in columns])
        self.dtype = columns[0].dtype
        self.shape = (int(self.ends[-1]), *columns[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: slice) -> np.ndarray:
        start, stop, _ = key.indices(len(self))
        parts = []
        for column, end in zip(self.columns, self.ends):
            begin = int(end) - len(column)
            low, high = max(start, begin), min(stop, int(end))
            if low < high:
                parts.append(column[low - begin : high - begin])
        return np.concatenate(parts) if parts else self.columns[0][:0]


def _known(dataset: Dataset) -> dict[str, Any]:
    """What a dataset says of its prior."""
    manifest = dataset.manifest
    if manifest is None or manifest.prior is None:
        raise DatasetError(f"{dataset.path} does not know the prior of its parameters")
    return dict(manifest.prior)


def _one(theta: Any) -> Tensor:
    """The ratio of the prior to itself."""
    return torch.ones(len(theta), dtype=torch.float64)


def _of(prior: Prior, stored: Mapping[str, Any]) -> Allocation:
    return Allocation(prior, Boxes(stored["low"], stored["high"]), stored["ratio"])


def _scores(posterior: Any, checks: Any, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each pair counts, a draw of its posterior (n, d), and its normal scores (n, K)."""
    parsed = parse(getattr(posterior, "expression", "theta | x"))
    if parsed.target != ("theta",):
        raise ValueError(f"allocate needs a posterior of theta, 'theta | x'; got {str(parsed)!r}")
    about = (getattr(posterior, "provenance", None) or {}).get("dataset")
    pairs = select(checks, parsed, about, most, seed)
    if len(pairs) < 4 * LEAST:
        raise ValueError(
            f"{len(pairs)} pairs that the posterior was not trained on ({pairs.source}) are too "
            f"few to find regions by: {4 * LEAST} or more, better a thousand"
        )
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    where, z = [], []
    for part in draw(posterior, pairs.truth, pairs.given, _DRAWS + 1, seed):
        below, ties = count_below(part.draws[1:], part.truth)
        ranks = [randomised_ranks(below.numpy(), ties.numpy(), rng)]
        if part.log_q is not None and part.log_q_truth is not None:
            denser, ties = count_denser(part.log_q[1:], part.log_q_truth)
            ranks.append(randomised_ranks(denser.numpy(), ties.numpy(), rng)[:, None])
        z.append(normal_scores(np.concatenate(ranks, 1), _DRAWS, rng))
        where.append(part.draws[0].double().numpy())
    return np.concatenate(where), np.concatenate(z)


def _scored(region: np.ndarray, z: np.ndarray, count: int) -> np.ndarray:
    """Score, its error, and the pairs of each region, (count, 3)."""
    out, k = np.zeros((count, 3)), z.shape[1]
    for c in range(count):
        part = z[region == c]
        if m := len(part):
            square = float((part.mean(0) ** 2).sum())
            out[c] = square - k / m, math.sqrt(4 * square / m + 2 * k / m**2), m
    return out


def _fill(wanted: np.ndarray, there: np.ndarray, n: float, pi: np.ndarray) -> np.ndarray:
    """How n rows fill up what is there (C,) to numbers in proportion to what is wanted (C,)."""
    if not wanted.any():
        return n * pi
    low, high = 0.0, (n + there.sum()) / wanted[wanted > 0].min()
    for _ in range(200):
        level = 0.5 * (low + high)
        enough = np.maximum(level * wanted - there, 0).sum() > n
        low, high = (low, level) if enough else (level, high)
    found = np.maximum(high * wanted - there, 0)
    return found * (n / found.sum())
