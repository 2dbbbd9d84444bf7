import numpy as np
import pytest
import torch
from scipy.stats import norm

from simgen.calibration.c2st import c2st


def gaussian(n: int, d: int, mean: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, (n, d))


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_shifted_gaussians_reach_the_accuracy_of_the_best_classifier(shift: float) -> None:
    # the best classifier of N(0, 1) against N(shift, 1) is right with probability Phi(shift / 2);
    # 2,000 labels give a standard error of 0.011, and the network may overfit by some more
    value = c2st(gaussian(1000, 1, 0.0, 1), gaussian(1000, 1, shift, 2))
    assert value == pytest.approx(norm.cdf(shift / 2), abs=0.04)


def test_it_sees_a_correlation_that_the_marginals_hide() -> None:
    x = gaussian(1000, 2, 0.0, 3)
    y = np.stack([x[:, 0], 0.95 * x[:, 0] + 0.31 * x[:, 1]], -1)
    assert c2st(gaussian(1000, 2, 0.0, 4), y) > 0.7


def test_units_do_not_matter_and_tensors_are_as_good_as_arrays() -> None:
    p, q = gaussian(300, 2, 0.0, 5), gaussian(300, 2, 0.5, 6)
    scale, offset = np.array([1024.0, 1 / 64]), np.array([3.0, -5.0])
    plain = c2st(torch.tensor(p), torch.tensor(q))
    assert c2st(p, q) == plain
    # scaling by powers of two is exact; the offsets round in float32 and may flip a draw or two
    assert c2st(p * scale, q * scale) == plain
    assert c2st(p * scale + offset, q * scale + offset) == pytest.approx(plain, abs=0.02)


def test_it_is_repeatable_and_not_folded_about_one_half() -> None:
    # identical sets: a held-out row has its double in training with the other label
    p = gaussian(200, 2, 0.0, 7)
    value = c2st(p, p)
    assert value < 0.5
    assert value == c2st(p, p)


@pytest.mark.parametrize(
    ("reference", "samples", "message"),
    [
        (np.zeros((5, 2)), np.zeros(5), r"samples must be draws of shape \(n, d\); got \(5,\)"),
        (np.zeros((5, 2)), np.zeros((5, 3)), "reference has 2 columns, samples have 3"),
        (np.zeros((5, 2)), np.full((5, 2), np.nan), "samples must be finite; 5 of 5"),
        (
            np.eye(5)[:, :2] * [1, 0],
            np.eye(5)[:, :2],
            r"columns \[1\] of the reference are constant",
        ),
    ],
)
def test_bad_input_is_refused(reference: np.ndarray, samples: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        c2st(reference, samples)
