r"""C2ST: can a classifier tell two sets of draws apart?

.. math::
    \mathrm{C2ST} = \frac15 \sum_{k=1}^5 \text{accuracy on fold } k, \qquad
    \tfrac12 \text{: no difference seen}, \quad 1 \text{: told apart without error}

This is the definition of the benchmark sbibm, to the classifier's settings and seeds: a multilayer
perceptron with two hidden layers of 10 d, five shuffled folds, both sets standardised by the
reference's mean and standard deviation. The value depends on the number of draws: published ones
are of 10,000 against 10,000.
"""

from __future__ import annotations

__all__ = ["c2st"]

from typing import Any

import numpy as np
from numpy import ndarray as Array


def c2st(reference: Any, samples: Any, *, folds: int = 5, seed: int = 1, jobs: int = 1) -> float:
    """Classifier two-sample test: the accuracy of telling samples from the reference.

    Arguments:
        reference: Draws of the exact distribution, shape (n, d): an array or a tensor.
        samples: Draws to judge, shape (m, d); with m = n, 0.5 is the best value.
        folds: Folds of the cross-validation.
        seed: Of the classifier and of the folds.
        jobs: Processes that share the folds.

    Returns:
        The mean accuracy over the folds; where nothing differs it scatters about 0.5.

    Raises:
        ValueError: If the shapes do not agree, an entry is not finite, or a reference column is
            constant.
        ImportError: If scikit-learn is not installed.

    References:
        | Revisiting Classifier Two-Sample Tests (Lopez-Paz & Oquab, 2017)
        | https://arxiv.org/abs/1610.06545
        | Benchmarking Simulation-Based Inference (Lueckmann et al., 2021), appendix M
        | https://arxiv.org/abs/2101.04653
    """
    p, q = _draws("reference", reference), _draws("samples", samples)
    if p.shape[1] != q.shape[1]:
        raise ValueError(f"reference has {p.shape[1]} columns, samples have {q.shape[1]}")
    mean, sd = p.mean(0), p.std(0, ddof=1)
    if not (sd > 0).all():
        constant = np.flatnonzero(~(sd > 0)).tolist()
        raise ValueError(f"columns {constant} of the reference are constant: leave them out")
    data = (np.concatenate([p, q]) - mean) / sd
    label = np.repeat([0, 1], [len(p), len(q)])
    return float(_accuracies(data, label, folds, seed, jobs).mean())


def _draws(what: str, value: Any) -> Array:
    """Draws (n, d) as the float32 that the benchmark's tensors are."""
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, np.float32)
    if array.ndim != 2:
        raise ValueError(f"{what} must be draws of shape (n, d); got {array.shape}")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array).all(1)).sum())
        raise ValueError(f"{what} must be finite; {bad} of {len(array)} draws are not")
    return array


def _accuracies(data: Array, label: Array, folds: int, seed: int, jobs: int) -> Array:
    """The held-out accuracy of each fold."""
    try:
        from sklearn.model_selection import KFold, cross_val_score
        from sklearn.neural_network import MLPClassifier
    except ImportError:
        raise ImportError("c2st needs scikit-learn: pip install 'simgen[bench]'") from None

    width = 10 * data.shape[1]
    classifier = MLPClassifier(
        activation="relu",
        hidden_layer_sizes=(width, width),
        max_iter=10_000,
        solver="adam",
        random_state=seed,
    )
    split = KFold(n_splits=folds, shuffle=True, random_state=seed)
    return cross_val_score(
        classifier, data, label, cv=split, scoring="accuracy", n_jobs=jobs, error_score="raise"
    )
