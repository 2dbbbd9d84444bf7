r"""TruncatedPrior: a prior inside regions of highest posterior density, drawn from exactly.

.. math::
    \tilde p(\vartheta) = \frac{p(\vartheta)\, 1[\vartheta \in R]}{Z}, \qquad
    Z = \int_R p(\vartheta)\, d\vartheta

Draws of the prior are kept where they are inside. Where few are, draws of q are: inside
R = {log q > tau} the ratio p / q is at most max p / e^tau, so that q is an envelope,

.. math::
    \vartheta \sim q, \quad \text{kept with probability} \quad
    1[\vartheta \in R]\, \frac{p(\vartheta)}{\max p} \, \frac{e^{\tau}}{q(\vartheta)} ,

which is exact too, asks for no resampling, and of a Gaussian q keeps one draw in some thousands,
however narrow it is: 1 in 600 in one dimension, in 3,600 in ten, in 15,000 in a hundred.

References:
    | Truncated proposals for scalable and hassle-free simulation-based inference (Deistler,
      Gonçalves & Macke, 2022), section 3 and appendix A.6
    | https://arxiv.org/abs/2210.04815
"""

from __future__ import annotations

__all__ = ["QUANTILE", "TruncatedPrior", "Volume", "measure"]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bijection import inside
from ..prior import Prior
from ..storage.shard import DatasetError
from .region import Region, load_region

QUANTILE = 1e-4
"""The share of a posterior's draws that its region leaves out."""

_DRAWS = 1 << 17  # of q, for its threshold
_TRIED = 1 << 16  # draws of the prior at a time
_MOST = 1 << 22  # draws of the prior, to find the volume of a region that only it draws from
_ENOUGH = 64  # of them inside
_LEAST = 1e-6  # the share of draws of q that must be kept
_PATIENCE = 100  # times the draws that are expected, before giving up


@dataclass(frozen=True)
class Volume:
    """How large a region is, and how it is drawn from.

    Arguments:
        threshold: Of log q.
        volume: Z, the share of the prior inside, as estimated.
        origin: "prior" or "posterior": whose draws are tried.
        acceptance: The share of them that is kept, as estimated.
    """

    threshold: float
    volume: float
    origin: str
    acceptance: float


class TruncatedPrior(Prior):
    """A prior restricted to regions, each inside of those before it.

    The log-density is normalised by the estimated volume.

    Arguments:
        prior: The prior.
        regions: The regions; the last is drawn from where that is better than from the prior.
        volume: Of the last region, see `measure`.
        stored: Where the regions are, as JSON values; None if they are nowhere.
    """

    def __init__(
        self,
        prior: Prior,
        regions: Sequence[Region] | Callable[[], Sequence[Region]],
        volume: Volume,
        stored: Mapping[str, Any] | None = None,
    ) -> None:
        vars(self).update(vars(prior))
        self.whole, self.volume, self.stored = prior, volume, stored
        self._regions = regions

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The regions, read from their files when they are first asked for."""
        return tuple(self._regions() if callable(self._regions) else self._regions)

    def contains(self, theta: Tensor) -> Tensor:
        """Whether theta (..., d) is in the prior's support and in every region, (...)."""
        theta = torch.as_tensor(theta)
        rows = theta.reshape(-1, len(self.names)).float()
        found = self.whole.log_prob(rows) > -math.inf
        for region in reversed(self.regions):
            at = found.nonzero()[:, 0]
            if len(at):
                found[at] = region.contains(rows[at])
        return found.view(theta.shape[:-1])

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(theta) (...), normalised by the estimated volume; -inf outside the regions."""
        total = self.whole.log_prob(value)
        within = self.contains(torch.as_tensor(value))
        out = torch.full_like(total, -math.inf)
        return torch.where(within, total - math.log(self.volume.volume), out)

    def sample(self, sample_shape: Any = (), seed: int | None = None) -> Tensor:
        """Draws (*sample_shape, d); `seed` makes the draw repeatable."""
        shape = torch.Size([sample_shape] if isinstance(sample_shape, int) else sample_shape)
        seed = int(torch.randint(2**62, ())) if seed is None else seed
        return self.draw(shape.numel(), seed, ()).view(*shape, len(self.names))

    def draw(self, n: int, seed: int, key: tuple[int, ...]) -> Tensor:
        """n draws (n, d), float32, of the stream (seed, *key) alone.

        Raises:
            DatasetError: If far fewer draws are inside than were when the region was measured.
        """
        kept: list[Tensor] = []
        found, tried = 0, 0
        expected = n / self.volume.acceptance
        most, batch = _PATIENCE * expected + _TRIED, min(_TRIED, math.ceil(1.2 * expected) + 256)
        while found < n:
            if tried > most:
                raise DatasetError(
                    f"{tried} draws of the {self.volume.origin} gave {found} of {n} parameters "
                    "inside the region, which is far fewer than when it was measured: its file, "
                    "or the prior, has changed"
                )
            state = np.random.SeedSequence(seed, spawn_key=(*key, tried // batch))
            theta = self._tried(batch, *(int(s) >> 1 for s in state.generate_state(2, np.uint64)))
            kept.append(theta)
            found, tried = found + len(theta), tried + batch
        return torch.cat(kept)[:n] if kept else torch.empty(0, len(self.names))

    def _tried(self, m: int, seed: int, other: int) -> Tensor:
        """What is kept of m draws; the seeds are of draws and of whether each is kept."""
        if self.volume.origin == "prior":
            theta = inside(self.whole.sample((m,), seed=seed).float(), self.low, self.high)
            return theta[self.contains(theta)]
        region = self.regions[-1]
        theta = inside(region.q.sample((m,), seed=seed).float(), self.low, self.high)
        log_q = region.log_q(theta)
        log_p = self.whole.log_prob(theta.double()) - _log_peak(self.whole)
        u = torch.rand(m, generator=torch.Generator().manual_seed(other), dtype=torch.float64)
        theta = theta[u.log() < log_p + region.threshold - log_q]
        return theta[self.contains(theta)]

    @property
    def mean(self) -> Tensor:
        """The mean of 10,000 draws, (d,)."""
        return self.sample((10_000,), seed=0).mean(0)

    @property
    def variance(self) -> Tensor:
        """The variance of each parameter in 10,000 draws, (d,)."""
        return self.sample((10_000,), seed=0).var(0)

    def __repr__(self) -> str:
        return f"{self.whole!r} within a region of {self.volume.volume:.3g} of it"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: the whole prior, and where the regions are."""
        return {**self.whole.to_dict(), "truncation": self.stored}

    @classmethod
    def of_rounds(cls, prior: Prior, stored: Mapping[str, Any]) -> TruncatedPrior:
        """The prior truncated to the regions of a dataset's rounds.

        Arguments:
            prior: The prior.
            stored: "path", the dataset's directory, and "proposals", of its rounds in order. Files
                are read when they are first needed.
        """
        directory, proposals = Path(stored["path"]), list(stored["proposals"])
        keys = Volume.__dataclass_fields__
        volume = Volume(**{k: proposals[-1][k] for k in keys})
        return cls(prior, lambda: [load_region(directory, p) for p in proposals], volume, stored)


def _log_peak(prior: Prior) -> float:
    """The largest log-density of a prior; infinite where it is not known."""
    factors = [prior.joint] if prior.joint is not None else list(prior.factors.values())
    total = 0.0
    for factor in factors:
        if isinstance(factor, torch.distributions.Uniform):
            total -= math.log(float(factor.high - factor.low))
            continue
        try:
            value = float(factor.log_prob(factor.mode))
        except (NotImplementedError, AttributeError, ValueError):
            return math.inf
        total += value if math.isfinite(value) else math.inf
    return total


def measure(
    prior: Prior, q: Any, before: Sequence[Region] = (), quantile: float = QUANTILE, seed: int = 0
) -> Volume:
    """The threshold of a posterior's region, and how it is best drawn from.

    Arguments:
        prior: The prior.
        q: The posterior of one observation; its log_prob and sample.
        before: Regions of earlier rounds, which the new one is inside of.
        quantile: The share of q's draws, of those inside the regions before, that it leaves out.
        seed: Of the draws.

    Raises:
        ValueError: If the quantile is none.
        DatasetError: If q and the regions before, or the prior, have next to nothing in common.
    """
    if not 0 < quantile < 0.5:
        raise ValueError(f"quantile is a small share, such as {QUANTILE}; got {quantile}")
    least = max(10, math.ceil(2 / quantile))
    known = TruncatedPrior(prior, before, Volume(-math.inf, 1.0, "prior", 1.0))
    region = Region(q, -math.inf)
    theta = torch.cat(
        [
            q.sample((_TRIED,), seed=seed + i).float()
            for i in range(-(-max(_DRAWS, least) // _TRIED))
        ]
    )
    within = known.contains(theta)
    if int(within.sum()) < least:
        raise DatasetError(
            f"{float(within.double().mean()):.2%} of the proposal's draws are inside the prior "
            "and the regions of earlier rounds: it is not a posterior of these simulations, for "
            "this observation"
        )
    theta = theta[within]
    log_q = region.log_q(theta).double()
    threshold = float(log_q.sort().values[int(quantile * len(log_q))])
    log_p = prior.log_prob(theta.double())
    region = Region(q, threshold)
    truncated = TruncatedPrior(prior, [*before, region], Volume(threshold, 1.0, "prior", 1.0))
    tried, found = 0, 0
    exact = q.density == "exact" and math.isfinite(peak := _log_peak(prior))
    most = _TRIED if exact else _MOST
    while found < _ENOUGH and tried < most:
        draws = prior.sample((_TRIED,), seed=seed + tried + 1).float()
        found, tried = found + int(truncated.contains(draws).sum()), tried + _TRIED
    share = found / tried
    above = log_q > threshold
    if exact:
        scale = len(theta) / len(within)
        kept = scale * float((above * (log_p - peak + threshold - log_q).exp()).mean())
        if found < _ENOUGH or kept > 2 * share:
            if kept < _LEAST:
                raise DatasetError(
                    f"of the proposal's draws {kept:.1g} would be kept: the prior is next to "
                    "nothing there, or the proposal has sharp peaks on a wide floor; raise "
                    "quantile, or simulate with a prior that is nearer"
                )
            ratio = scale * float((above * (log_p - log_q).exp()).mean())
            return Volume(threshold, min(ratio, 1.0), "posterior", kept)
    if found < _ENOUGH // 4:
        raise DatasetError(
            f"the region holds {found} of {tried} draws of the prior, and the proposal's density "
            f"is {q.density!r}: only a posterior with an exact density, such as Flow(), and a "
            "prior with a mode can be drawn from where the region is so small"
        )
    return Volume(threshold, share, "prior", share)
