r"""TARP: tests of accuracy with random points, which depend on the observation.

.. math::
    f_i = \frac1S \#\{s : d(\vartheta_{is}, r_i) < d(\vartheta_i^*, r_i)\}, \qquad
    r_i = \hat\vartheta(x_i) + \varepsilon_i

Uniform for the posterior whatever the reference r(x) is; for the prior in place of the posterior
only if r ignores x. So r is what a regression of theta on x predicts, plus noise as large as its
error: then q that ignores x is seen as too wide around r.
"""

from __future__ import annotations

__all__ = ["count_closer", "reference_points"]

import numpy as np
from torch import Tensor

from .regression import Prediction


def reference_points(prediction: Prediction, rng: np.random.Generator) -> np.ndarray:
    """Reference points r (n, k); NaN where there is no prediction."""
    noise = rng.standard_normal(prediction.mean.shape)
    return prediction.mean + prediction.scale * noise


def count_closer(
    draws: Tensor, truth: Tensor, reference: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """How many draws are closer to the reference than the truth is, and how many equally close.

    Arguments:
        draws: Shape (S, B, k).
        truth: Shape (B, k).
        reference: Shape (B, k).
        scale: The unit of distance in each quantity, shape (B, k).

    Returns:
        Two counts, shape (B,).

    References:
        | Sampling-Based Accuracy Testing of Posterior Estimators for General Inference (Lemos et
        | al., 2023)
        | https://arxiv.org/abs/2302.03026
    """
    distance = ((draws - reference) / scale).square().sum(-1)
    distance_truth = ((truth - reference) / scale).square().sum(-1)
    return (distance < distance_truth).sum(0), (distance == distance_truth).sum(0)
