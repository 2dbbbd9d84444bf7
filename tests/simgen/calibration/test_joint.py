"""The classifier: exact ranks, and eyes for what single parameters do not show."""

import numpy as np
import pytest
from scipy.stats import kstest

from simgen.calibration.joint import assess_joint, directions

K, N = 31, 800


def judge(kind: str, seed: int, k: int = 3, n: int = N):
    rng = np.random.default_rng([seed, 5])
    truth, drawn = rng.standard_normal((n, k)), rng.standard_normal((K, n, k))
    context = directions([rng.standard_normal((n, 4))])
    if kind == "correlation":
        truth[:, 1] = 0.4 * truth[:, 0] + np.sqrt(1 - 0.16) * truth[:, 1]
    elif kind == "x":  # a correlation whose sign x chooses: zero on average
        sign = np.where(context[:, 0] > 0, 0.5, -0.5)
        truth[:, 1] = sign * truth[:, 0] + np.sqrt(0.75) * truth[:, 1]
    elif kind == "modes":  # the same mean and variance
        truth[:, 0] = 0.9 * np.sign(truth[:, 0]) + np.sqrt(0.19) * rng.standard_normal(n)
    elif kind == "mean":
        truth[:, 2] += 0.25
    return assess_joint(truth, drawn, context, 255, ("a", "b", "c"), rng)


@pytest.mark.parametrize("kind", ["correlation", "x", "modes", "mean"])
def test_sees_what_differs(kind: str) -> None:
    result = judge(kind, 0)
    assert result.p_value < 1e-5 and result.auc > 0.52
    assert len(result.ranks) == N - N // 8 and 0 <= result.ranks.min() <= result.ranks.max() <= 255


def test_says_what_differs() -> None:
    assert judge("correlation", 0).names[0] == "the product of a and b"
    assert judge("mean", 0).names[0] == "the mean of c"
    assert "how that depends on x" in judge("x", 0).names
    assert judge("null", 0).names == ()


def test_ranks_are_uniform_if_nothing_differs() -> None:
    p = [judge("null", seed, k=2, n=96).p_value for seed in range(100)]
    assert kstest(p, "uniform").pvalue > 1e-3


def test_needs_no_context_and_takes_many_quantities() -> None:
    rng = np.random.default_rng(3)
    truth, drawn = 0.7 * rng.standard_normal((300, 20)), rng.standard_normal((K, 300, 20))
    names = [f"y_{i}" for i in range(20)]
    result = assess_joint(truth, drawn, np.zeros((300, 0)), 255, names, rng)
    assert result.p_value < 1e-8


def test_directions_are_standardised_and_drop_what_is_constant() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((500, 3))
    found = directions([x, x @ np.ones((3, 1)), np.ones((500, 2))])
    assert found.shape == (500, 3)
    assert np.allclose(found.T @ found / 500, np.eye(3), atol=0.05)
    assert directions([np.ones((10, 2))]).shape == (10, 0)
