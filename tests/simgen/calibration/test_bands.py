import numpy as np
import pytest
from scipy.stats import binom, kstest

from simgen.calibration.bands import band, band_p_value, ecdf_grid


@pytest.mark.parametrize(("n", "draws"), [(50, 20), (200, 255)])
def test_p_value_is_uniform_under_the_null(n: int, draws: int) -> None:
    rng = np.random.default_rng(1)
    p = np.array([band_p_value(rng.integers(0, draws + 1, n), draws) for _ in range(800)])
    # Exact size: the share below each level is binomial around at most that level.
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).mean() <= level + 4 * np.sqrt(level * (1 - level) / len(p))
    # Counts are discrete, so p-values are a little coarse, yet not conservative by much.
    assert 0.4 * 0.05 < (p <= 0.05).mean()


def test_p_value_of_one_point_is_the_binomial_tail() -> None:
    # With one draw there is one threshold: the exact two-sided test of a fair coin.
    ranks = np.array([1] * 60 + [0] * 40)
    assert len(ecdf_grid(1)) == 1
    gamma = 2 * binom.cdf(40, 100, 0.5)
    assert band_p_value(ranks, 1) == pytest.approx(gamma, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_band_holds_its_level(alpha: float) -> None:
    n, draws, repeats = 100, 63, 3000
    limits = band(n, draws, alpha)
    rng = np.random.default_rng(2)
    grid = ecdf_grid(draws)
    out = 0
    for _ in range(repeats):
        ranks = np.sort(rng.integers(0, draws + 1, n))
        share = np.searchsorted(ranks, grid) / n
        out += bool(np.any((share < limits.low - 1e-12) | (share > limits.high + 1e-12)))
    error = np.sqrt(alpha * (1 - alpha) / repeats)
    assert out / repeats <= alpha + 4 * error
    assert out / repeats >= 0.7 * alpha


def test_band_is_wider_than_pointwise_limits_and_holds_the_middle() -> None:
    limits = band(500, 255)
    assert np.all(limits.low < limits.z) and np.all(limits.z < limits.high)
    assert np.all(limits.low <= binom.ppf(0.025, 500, limits.z) / 500)


def test_gross_departure_has_a_tiny_p_value() -> None:
    assert band_p_value(np.full(300, 255), 255) < 1e-100
    assert kstest(np.full(300, 0.999), "uniform").pvalue < 1e-100
