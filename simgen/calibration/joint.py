r"""Can a classifier tell (theta*, x) from (theta_q, x)? A two-sample test on the joint.

.. math::
    f = \beta^\top \varphi(e, c(x)), \qquad
    \beta = \Big(N H + \frac{p}{\tau^2}\Big)^{-1}
    \sum_i \big(\varphi(e_{i0}, c_i) - \bar\varphi_i\big), \qquad
    r_i = \#\{s : f(e_{is}, c_i) < f(e_{i0}, c_i)\}

with H the covariance of phi among the draws of a pair, the same x for all: Fisher's discriminant,
one Newton step of the conditional logistic regression. Features are the residuals, their products,
these times directions of x, and random waves of both for any other shape; which of them, and tau,
are those of the highest evidence.

The classifier of a pair has learned from earlier pairs alone, so that its ranks are uniform and
independent if q is the posterior: the test is exact, with no second dataset and no permutations.
A classifier that sees a difference ranks the truth high.
"""

from __future__ import annotations

__all__ = ["Joint", "assess_joint", "directions"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from .uniformity import normal_scores, randomised_ranks

BLOCKS = 8
DRAWS = 31
DIRECTIONS = 8
SHAPES = 64
FREQUENCY = 1.5  # of the waves, over the deviation of the residuals
PRODUCTS = 12  # quantities up to which products are formed
WIDEST = 320  # features
_TAUS = np.geomspace(1e-4, 10.0, 16)
_CLIP = 6.0
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Joint:
    """What the classifier found.

    Attributes:
        auc: How often it ranks the truth above a draw given the same x: 0.5 by chance.
        p_value: Of the mean normal score of the ranks, one-sided.
        ranks: Uniform on 0 ... draws, shape (m,): of the pairs that came after others.
        names: Of the features that differ most, at most two.
    """

    auc: float
    p_value: float
    ranks: np.ndarray
    names: tuple[str, ...]


def directions(columns: Sequence[np.ndarray]) -> np.ndarray:
    """The principal directions (n, q) of what is known of each x: columns (n, p_i).

    They must not know which member of a pool is the truth.
    """
    values = np.concatenate(columns, 1)
    values = values - values.mean(0)
    sd = values.std(0)
    values = (values / np.where(sd > 1e-12, sd, 1.0))[:, sd > 1e-12]
    left, s, _ = np.linalg.svd(values, full_matrices=False)
    kept = s[:DIRECTIONS] > 1e-6 * max(s[:1].sum(), 1e-300)
    return np.clip(left[:, :DIRECTIONS][:, kept] * np.sqrt(len(values)), -4, 4)


class _Features:
    """phi(y, c), in groups; terms of c alone cancel within a pair and are left out."""

    def __init__(self, k: int, q: int, names: Sequence[str], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.first, self.second = (
            torch.triu_indices(k, k) if k <= PRODUCTS else torch.arange(k).expand(2, k)
        )
        self.with_products = k * (k + 1) // 2 * (q + 1) + k * q <= WIDEST - SHAPES
        # Waves along one or two quantities, half of them shifted by x.
        chosen = torch.rand(k, SHAPES, generator=generator).argsort(0).argsort(0) < 2
        self.weights = FREQUENCY * torch.randn(k, SHAPES, generator=generator) * chosen
        self.slopes = torch.randn(q, SHAPES, generator=generator) / max(q, 1) ** 0.5
        self.slopes[:, : SHAPES // 2] = 0
        self.offsets = 2 * math.pi * torch.rand(SHAPES, generator=generator)
        self.names = [f"the mean of {n}" for n in names]
        for i, j in zip(self.first.tolist(), self.second.tolist()):
            both = f"the product of {names[i]} and {names[j]}"
            self.names.append(f"the width of {names[i]}" if i == j else both)
        square = len(self.first) if self.with_products else k
        sizes = [k, len(self.first), q * (k + square), SHAPES]
        self.names += ["how that depends on x"] * sizes[2] + ["other shapes"] * SHAPES
        start, *inner, stop = np.cumsum([0, *sizes])
        group = [np.arange(a, b) for a, b in pairwise([start, *inner, stop])]
        self.sets = [
            np.concatenate(g)
            for g in (group[:1], group[:2], group[:3], group[:2] + group[3:], group)
        ]
        self.size = int(stop)

    def __call__(self, y: Tensor, c: Tensor) -> Tensor:
        """Of residuals (..., n, k) and contexts (n, q), shape (..., n, p)."""
        y = y.clamp(-_CLIP, _CLIP)
        squares = y[..., self.first] * y[..., self.second]
        inner = torch.cat([y, squares if self.with_products else y.square()], -1)
        crossed = (inner[..., None] * c[:, None, :]).flatten(-2)
        shapes = torch.cos(y @ self.weights + c @ self.slopes + self.offsets)
        return torch.cat([y, squares, crossed, shapes], -1)


class _Classifier:
    """Sums over the past, and the discriminant that they give."""

    def __init__(self, features: _Features) -> None:
        self.features, self.count = features, 0
        self.g = np.zeros(features.size)
        self.h = np.zeros((features.size, features.size))

    def learn(self, truth: Tensor, draws: Tensor) -> None:
        """Features of the truth (n, p) and of draws (K, n, p)."""
        mean = draws.mean(0)
        flat = (draws - mean).flatten(0, 1)
        self.g += (truth - mean).double().sum(0).numpy()
        self.h += (flat.T @ flat).double().numpy() / (len(draws) - 1)
        self.count += len(truth)

    def weights(self) -> Tensor:
        """beta (p,) of the set of features, and the tau, of the highest evidence."""
        variance = np.diag(self.h) / self.count
        live = variance > 1e-8
        unit = np.sqrt(np.where(live, variance, 1.0))
        best, beta = -np.inf, np.zeros(len(unit))
        for chosen in self.features.sets:
            chosen = chosen[live[chosen]]
            if not len(chosen):
                continue
            h = self.h[np.ix_(chosen, chosen)] / np.outer(unit[chosen], unit[chosen])
            values, vectors = np.linalg.eigh(h)  # the sum over pairs, N H
            values = np.maximum(values, 1e-6 * self.count)
            g = vectors.T @ (self.g[chosen] / unit[chosen])
            gain = _TAUS[:, None] / len(chosen) * values
            evidence = (-np.log1p(gain) + g**2 / values * gain / (1 + gain)).sum(1) / 2
            if evidence.max() > best:
                best = evidence.max()
                step = g / (values + len(chosen) / _TAUS[int(evidence.argmax())])
                beta = np.zeros(len(unit))
                beta[chosen] = vectors @ step / unit[chosen]
        return torch.as_tensor(beta).float()

    def reasons(self) -> tuple[str, ...]:
        """The features that stand out most, one a name, the worst first."""
        scale = np.sqrt(np.maximum(np.diag(self.h), 1e-300))
        score = np.where(np.diag(self.h) > 1e-8 * self.count, np.abs(self.g) / scale, 0.0)
        order = np.argsort(-score)[: len(score)]
        names = dict.fromkeys(self.features.names[i] for i in order if score[i] > 4)
        return tuple(names)[:2]


def assess_joint(
    truth: np.ndarray,
    drawn: np.ndarray,
    context: np.ndarray,
    draws: int,
    names: Sequence[str],
    rng: np.random.Generator,
) -> Joint:
    """Trains on the past and ranks what follows, block by block.

    Arguments:
        truth: Residuals of the true values, shape (n, k).
        drawn: Residuals of draws, shape (K, n, k).
        context: What the classifier may know of x, shape (n, q).
        draws: Ranks are brought to 0 ... draws.
        names: Of the k quantities.
        rng: Of random features and of ties.

    References:
        | Revisiting Classifier Two-Sample Tests (Lopez-Paz & Oquab, 2017)
        | https://arxiv.org/abs/1610.06545
        | L-C2ST: Local Diagnostics for Posterior Approximations in Simulation-Based Inference
        | (Linhart et al., 2023)
        | https://arxiv.org/abs/2306.03580
    """
    (n, k), q = truth.shape, context.shape[1]
    features = _Features(k, q, names, int(rng.integers(2**31)))
    model = _Classifier(features)
    values, others = torch.as_tensor(truth).float(), torch.as_tensor(drawn).float()
    known = torch.as_tensor(context).float()
    step = max(_CHUNK // (len(drawn) * features.size), 1)
    edges = np.linspace(0, n, BLOCKS + 1).round().astype(int)
    parts = []
    for start, stop in pairwise(edges):
        beta = model.weights() if start else None
        for a in range(start, stop, step):
            b = min(a + step, stop)
            phi = features(values[a:b], known[a:b])
            phi_drawn = features(others[:, a:b], known[a:b])
            if beta is not None:
                f, f_drawn = phi @ beta, phi_drawn @ beta
                below, same = (f_drawn < f).sum(0), (f_drawn == f).sum(0)
                parts.append(randomised_ranks(below.numpy(), same.numpy(), rng))
            model.learn(phi, phi_drawn)
    ranks = np.concatenate(parts)
    z = normal_scores(ranks, len(drawn), rng)
    spread = (ranks + rng.random(len(ranks))) / (len(drawn) + 1)
    return Joint(
        float((ranks / len(drawn)).mean()),
        float(ndtr(-z.mean() * np.sqrt(len(z)))),
        np.minimum((spread * (draws + 1)).astype(int), draws),
        model.reasons(),
    )
