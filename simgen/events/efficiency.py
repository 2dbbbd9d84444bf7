r"""The share of simulations that is accepted, learned from flags, and how well it is known.

.. math::
    \mathrm{logit}\, \epsilon(\vartheta) = w \cdot \phi(\vartheta), \qquad
    w \sim N(0, \Lambda^{-1}), \qquad
    w \mid \text{flags} \approx N\bigl(\hat w, H^{-1}\bigr), \quad
    H = \Lambda + \sum_i k_i\, \epsilon_i (1 - \epsilon_i)\, \phi_i \phi_i^\top

A Gaussian process: phi are one, theta, sines of each parameter, and cosines of all together, so
that a sum of smooth functions of one parameter and a smooth function of all are drawn from the
weights' prior. Their length and sizes are a few, averaged by Laplace's evidence. No network and no
early stopping, and the logit comes with its deviation, which grows where no flag was seen.

References:
    | Gaussian Processes for Machine Learning (Rasmussen & Williams, 2006), eqs. 3.23-3.24, 3.32
    | https://gaussianprocess.org/gpml/
    | Hilbert space methods for reduced-rank Gaussian process regression (Solin & Särkkä, 2020),
      eqs. 56 and 60, https://arxiv.org/abs/1401.5508
    | Random Features for Large-Scale Kernel Machines (Rahimi & Recht, 2007), algorithm 1
"""

from __future__ import annotations

__all__ = ["Efficiency"]

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ..answers.unknowns import Unknowns, parameters
from ..dataset import Dataset
from ..field import Field
from ..preprocessing import Standardise

_SINES, _COSINES = 24, 96  # of each parameter; of all together
_LENGTHS = (0.4, 0.8, 1.6, 3.2)  # in deviations of theta
_SIZES, _TOGETHER = (0.5, 2.0), (0.1, 0.7)  # in logits
_OFFSET, _SLOPE = 5.0, 2.0  # deviations of the constant and of slopes, in logits
_CHOICE, _CHUNK = 4_096, 16_384  # rows by which lengths are chosen; rows at once
_LEAST = 0.02  # share of a length and size, below which it is left out


@dataclass(frozen=True)
class Features:
    """phi: one, theta, sines, cosines; for weights of deviation one.

    Arguments:
        reach: Largest theta that was seen (d,): beyond it the sines are constant.
        length: Over which the functions vary.
        size: Deviation of a function of one parameter.
        together: Deviation of a function of all.
    """

    reach: Tensor
    length: float
    size: float
    together: float

    def __call__(self, z: Tensor) -> Tensor:
        """(n, m) of standardised theta (n, d)."""
        d = z.shape[1]
        j = torch.arange(1, _SINES + 1, dtype=z.dtype)
        wide = self.reach + 2 * self.length  # where the sines vanish, which theta must not feel
        omega = math.pi * j / (2 * wide[:, None])
        inner = torch.minimum(torch.maximum(z, -self.reach), self.reach) + wide
        power = math.sqrt(2 * math.pi) * self.length * torch.exp(-0.5 * (self.length * omega) ** 2)
        sines = self.size * (power / wide[:, None]).sqrt() * torch.sin(omega * inner[..., None])
        parts = [torch.full_like(z[:, :1], _OFFSET), _SLOPE * z, sines.flatten(1)]
        if d > 1:
            points = torch.quasirandom.SobolEngine(d + 1, scramble=True, seed=0)
            u = points.draw(_COSINES, dtype=z.dtype).clamp(1e-6, 1 - 1e-6)
            frequencies = torch.special.ndtri(u[:, :d]).T / (self.length * math.sqrt(d))
            waves = torch.cos(z @ frequencies + 2 * math.pi * u[:, d])
            parts.append(self.together * math.sqrt(2 / _COSINES) * waves)
        return torch.cat(parts, 1)


class Efficiency:
    """epsilon(theta), and how well it is known; called with theta (n, d) it returns (n,).

    Arguments:
        theta: Parameters (n, d) of simulated events, or of sets of them.
        accepted: Flags (n,), or (n, K) of the events of each row.
        weight: Of the rows, (n,), none negative.
        names: Of the parameters.

    Raises:
        ValueError: If shapes do not agree, or a weight is negative.
    """

    def __init__(
        self, theta: Any, accepted: Any, weight: Any = None, names: tuple[str, ...] = ()
    ) -> None:
        theta = torch.as_tensor(np.asarray(theta)).double()
        flags = torch.as_tensor(np.asarray(accepted)).double().reshape(len(accepted), -1)
        if theta.dim() != 2 or len(theta) != len(flags) or not len(flags):
            raise ValueError(
                f"theta must be (n, d) with a row for each flag; got {tuple(theta.shape)} and "
                f"{len(flags)} flags"
            )
        if not bool(((flags == 0) | (flags == 1)).all()):
            raise ValueError("accepted must be flags, 0 or 1")
        of = torch.full((len(flags),), float(flags.shape[1]), dtype=torch.float64)
        taken = flags.sum(1)
        if weight is not None:
            w = torch.as_tensor(np.asarray(weight)).double().reshape(-1)
            if bool((w < 0).any()):
                raise ValueError(
                    "an efficiency is learned from weights that are not negative: merge rows "
                    "until they are, or leave the weights out if they do not depend on acceptance"
                )
            w = w * w.sum() / w.square().sum()  # as many rows as they are worth
            of, taken = of * w, taken * w
        self.names = tuple(names) or tuple(f"theta_{i}" for i in range(theta.shape[1]))
        self.standardise = Standardise(Field((theta.shape[1],))).fit_(theta)
        z = self.standardise(theta).double()
        few = torch.randperm(len(z), generator=torch.Generator().manual_seed(0))[:_CHOICE]
        reach = z.abs().amax(0)
        together = _TOGETHER if z.shape[1] > 1 else (0.0,)
        tried = [Features(reach, *v) for v in product(_LENGTHS, _SIZES, together)]
        found = [_posterior(phi, z[few], taken[few], of[few], tolerance=0.1) for phi in tried]
        share = torch.tensor([evidence for *_, evidence in found], dtype=z.dtype).softmax(0)
        self.parts = []
        for i in (share > _LEAST).nonzero().flatten().tolist():
            self.parts.append((tried[i], *_posterior(tried[i], z, taken, of, found[i][0])))
        self.share = torch.tensor([evidence for *_, evidence in self.parts]).double().softmax(0)

    @classmethod
    def learned(cls, dataset: Dataset, accepted: str | None = None) -> Efficiency:
        """The efficiency of a dataset of single events.

        Arguments:
            dataset: The simulations.
            accepted: A field of flags; the recorded failures unless said: a row that failed was
                not accepted.

        Raises:
            ValueError: If the dataset has no theta, or no such field.
        """
        for name in ("theta", *([accepted] if accepted else ())):
            if name not in dataset.fields:
                raise ValueError(f"{dataset.path} has no field {name!r} to learn from")
        good = dataset.status == 0
        rows = good if accepted else np.ones_like(good)
        flags = dataset[accepted][:][good] if accepted else good
        weight = None
        if "weight" in dataset.fields and accepted:
            weight = dataset["weight"][:][good]
        names = dataset.fields["theta"].names or ()
        return cls(dataset["theta"][:][rows], flags, weight, names)

    def logit(self, unknowns: Unknowns | Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation (n,) of logit epsilon, of theta (n, d) or of rows of unknowns."""
        theta = unknowns if isinstance(unknowns, Tensor) else parameters(unknowns, self.names)
        z = self.standardise(theta.double()).double()
        means, variances = [], []
        for features, mode, root, _ in self.parts:
            phi = features(z)
            white = torch.linalg.solve_triangular(root, phi.mT, upper=False)
            means.append(phi @ mode)
            variances.append(white.square().sum(0))
        every = torch.stack(means)
        mean = self.share @ every
        variance = self.share @ (torch.stack(variances) + (every - mean).square())
        return mean, variance.sqrt()

    def __call__(self, theta: Any) -> Tensor:
        """The mean of epsilon (n,) of theta (n, d)."""
        mean, sd = self.logit(torch.as_tensor(theta))
        nodes, weights = (
            torch.from_numpy(v)[:, None] for v in np.polynomial.hermite_e.hermegauss(24)
        )
        share = torch.sigmoid(mean + sd * nodes)
        return (weights * share).sum(0) / weights.sum()


def _posterior(
    features: Features,
    z: Tensor,
    taken: Tensor,
    of: Tensor,
    start: Tensor | None = None,
    tolerance: float = 1e-6,
) -> tuple[Tensor, Tensor, float]:
    """The weights' mode (m,), the root of their precision (m, m), and the log-evidence, of rows z
    (n, d) of which `taken` were accepted `of` so many: Newton's method.
    """
    phis = [features(part) for part in z.split(_CHUNK)] if len(z) <= 4 * _CHUNK else None
    w = z.new_zeros(features(z[:1]).shape[1]) if start is None else start
    eye = torch.eye(len(w), dtype=z.dtype)

    def chunks() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        parts = phis or map(features, z.split(_CHUNK))
        return zip(parts, taken.split(_CHUNK), of.split(_CHUNK))

    def value(w: Tensor) -> float:
        parts = ((k * (phi @ w) - n * softplus(phi @ w)).sum() for phi, k, n in chunks())
        return float(sum(parts)) - 0.5 * float(w @ w)

    here = value(w)
    for _ in range(50):
        slope, bend = -w, eye.clone()
        for phi, k, n in chunks():
            p = torch.sigmoid(phi @ w)
            slope = slope + phi.T @ (k - n * p)
            bend = bend + phi.T @ ((n * p * (1 - p))[:, None] * phi)
        root = torch.linalg.cholesky(bend)
        step = torch.cholesky_solve(slope[:, None], root)[:, 0]
        if float(slope @ step) < tolerance:
            break
        while value(w + step) < here and float(step.abs().max()) > 1e-8:
            step = step / 2
        w = w + step
        here = value(w)
    return w, root, here - float(root.diagonal().log().sum())
