r"""Row summaries: what a row of a field looks like, as vectors, by the field's layout.

.. math::
    h(x) = \sqrt{K / K_0} \Bigl( \frac1K \sum_{i=1}^K \phi(x_i) - \bar\phi \Bigr)

of the elements of a set, with, in a group each, phi(x) = (x, x x^T), the indicators of x > t, of
pairs of columns beyond a pair of thresholds, and waves cos w^T x and sin w^T x. Of a series the
elements are values and increments; of an image they are pixels, and means of blocks, their
log-variances, and power spectra go along. A vector stands for itself. The summaries don't depend
on what a model learned: they show what it overlooks.

References:
    | Random Features for Large-Scale Kernel Machines (Rahimi & Recht, 2007)
    | https://papers.nips.cc/paper/3182-random-features-for-large-scale-kernel-machines
"""

from __future__ import annotations

__all__ = ["RowSummary", "atoms"]

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d

from .networks import PowerSpectrum

_LEVELS = (0.001, 0.01, 0.05, *(k / 10 for k in range(1, 10)), 0.95, 0.99, 0.999)
_POOLED = 200_000  # elements that thresholds are estimated from
_PRODUCTS = 16  # features of an element up to which products are taken, beyond it squares alone
_PAIRS, _JOINT = 6, (0.1, 0.3, 0.5, 0.7, 0.9)  # features up to which pairs are counted, levels
_WAVES = 32
_BLOCKS = 8  # blocks a side


@dataclass(frozen=True)
class RowSummary:
    """Summaries of standardised rows of a field.

    Arguments:
        layout: Of the field.
        thresholds: Of each feature of an element, (features, levels).
        waves: Frequencies (features, waves).
        centre: The mean of phi over all elements.
        count: The mean number of elements of a row.
    """

    layout: str
    thresholds: Tensor
    waves: Tensor
    centre: Tensor
    count: Tensor

    @classmethod
    def fitted(cls, layout: str, z: Tensor, mask: Tensor | None = None) -> RowSummary:
        """Thresholds, frequencies and centre from training rows z (n, *shape), standardised, of
        which mask (n, K) elements are there.
        """
        none = torch.zeros(0)
        if layout == "vector":
            return cls(layout, none, none, none, none)
        elements, there = _elements(layout, z, mask)
        flat = elements.flatten(0, 1) if there is None else elements[there]
        flat = flat[:: -(-len(flat) // _POOLED)].double()
        levels = torch.tensor(_LEVELS, dtype=torch.float64)
        thresholds = torch.quantile(flat, levels, 0).T.contiguous()
        generator = torch.Generator().manual_seed(0)
        shape = (flat.shape[1], 0 if layout == "image" else _WAVES)
        waves = torch.randn(shape, generator=generator, dtype=torch.float64)
        waves *= torch.tensor([0.5, 1.0, 2.0, 4.0]).repeat(shape[1] // 4)
        count = elements.shape[1] if there is None else there.sum(1).double().mean()
        bare = cls(layout, thresholds, waves, none, torch.as_tensor(count, dtype=torch.float64))
        return replace(bare, centre=torch.cat(list(bare._phi(flat[None]).values()), 1)[0])

    def __call__(self, z: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Groups of summaries (n, p) in float64 of standardised rows z (n, *shape), by name."""
        if self.layout == "vector":
            return {"": z.flatten(1).double()}
        elements, there = _elements(self.layout, z, mask)
        phi = self._phi(elements.double(), there)
        count = float(elements.shape[1]) if there is None else there.sum(1, keepdim=True).double()
        root = torch.as_tensor(count / self.count).sqrt()
        sizes = [v.shape[1] for v in phi.values()]
        centres = self.centre.split(sizes)
        out = {k: (v - c) * root for (k, v), c in zip(phi.items(), centres)}
        if isinstance(count, Tensor):
            out["moments"] = torch.cat([out["moments"], count.clamp(min=0.5).log()], 1)
        elif self.layout == "series":
            out["values"] = z.flatten(1).double()
        if self.layout == "image":
            out |= _blocks(z.double())
            if z.dim() == 4 and min(z.shape[2:]) >= 4:
                spectrum = _spectrum(z.shape[1], (z.shape[2], z.shape[3]))
                out["spectra"] = spectrum.spectra(z.double())
        return out

    def _phi(self, x: Tensor, there: Tensor | None = None) -> dict[str, Tensor]:
        """The means of phi over the elements x (n, K, features) that are there, (n, q) each."""
        if there is None:
            weight = x.new_full(x.shape[:2], 1 / x.shape[1])
        else:
            weight = there / there.sum(1, keepdim=True).clamp(min=1).to(x)

        def mean(values: Tensor) -> Tensor:
            return torch.einsum("nk,nkq->nq", weight, values)

        features = x.shape[-1]
        weighted = weight[..., None] * x
        if features <= _PRODUCTS:
            i, j = torch.triu_indices(features, features)
            second = torch.einsum("nka,nkb->nab", weighted, x)[:, i, j]
        else:
            second = (weighted * x).sum(1)
        out = {"moments": torch.cat([weighted.sum(1), second], 1)}
        beyond = [mean((x > t).to(x)) for t in self.thresholds.T]
        out["distribution"] = torch.cat(beyond, 1)
        if 1 < features <= _PAIRS:
            levels = [_LEVELS.index(v) for v in _JOINT]
            both = torch.cat([(x > self.thresholds[:, k]).to(x) for k in levels], -1)
            column = torch.arange(features).repeat(len(levels))
            i, j = (column[:, None] < column).nonzero().T
            joint = torch.einsum("nk,nka,nkb->nab", weight, both, both)
            out["pairs"] = joint[:, i, j]
        if self.waves.shape[1]:
            phase = x @ self.waves
            out["waves"] = torch.cat([mean(phase.cos()), mean(phase.sin())], 1)
        return out


@lru_cache(maxsize=8)
def _spectrum(channels: int, size: tuple[int, int]) -> PowerSpectrum:
    """Spectra of images of one size."""
    with torch.random.fork_rng(devices=[]):
        return PowerSpectrum(channels, size, out=1, hidden=(1,)).double()


def _elements(layout: str, z: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Elements (n, K, features) of rows, and which are there."""
    if layout == "image":
        return z.flatten(2).movedim(1, 2), None
    if layout == "series" and z.shape[1] > 1:
        there = None if mask is None else mask[:, 1:]
        return torch.cat([z[:, 1:], z[:, 1:] - z[:, :-1]], -1), there
    return z, mask


def _blocks(z: Tensor) -> dict[str, Tensor]:
    """Means and log-variances of blocks of images (n, C, *grid)."""
    size = [min(_BLOCKS, k) for k in z.shape[2:]]
    pool: Any = adaptive_avg_pool2d if len(size) == 2 else adaptive_avg_pool3d
    mean, square = pool(z, size), pool(z.square(), size)
    if [*z.shape[2:]] == size:  # of single pixels
        return {"blocks": mean.flatten(1)}
    variance = (square - mean.square()).clamp(min=0) + 1e-6
    return {"blocks": mean.flatten(1), "roughness": variance.log().flatten(1)}


def atoms(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """How many numbers of a row x (n, ...) are exactly zero, and how many equal another one of
    the row: what a dead channel leaves and a continuous law does not, (n, 2).
    """
    if mask is not None:
        there = mask.view(*mask.shape, *([1] * (x.dim() - mask.dim())))
        x = x.double().masked_fill(~there, torch.nan)  # no number equals NaN
    flat = x.reshape(len(x), -1).sort(1).values
    repeats = (flat[:, 1:] == flat[:, :-1]).sum(1)
    return torch.stack([(flat == 0).sum(1), repeats], 1).double()
