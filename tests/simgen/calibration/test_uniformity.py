import numpy as np
import pytest
from scipy.stats import binomtest, norm

from simgen.calibration.uniformity import Uniformity, assess, randomised_ranks

S = 255


def ranks_of(bias: float, width: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Ranks of a standard normal truth among draws of N(bias, width^2)."""
    draws = bias + width * rng.standard_normal((S, n))
    return (draws < rng.standard_normal(n)).sum(0)


@pytest.fixture(scope="module")
def null() -> list[Uniformity]:
    """The tests of 800 sets of 80 uniform ranks."""
    rng = np.random.default_rng(0)
    return [assess(rng.integers(0, S + 1, 80), S, rng) for _ in range(800)]


def test_size_is_at_most_the_level(null: list[Uniformity]) -> None:
    p = np.array([result.p_value for result in null])
    for level in (0.01, 0.1):
        assert (p < level).mean() <= level + 4 * np.sqrt(level * (1 - level) / len(p))


@pytest.mark.parametrize("test", ["ks", "band", "shift", "spread"])
def test_each_part_has_the_right_size(null: list[Uniformity], test: str) -> None:
    p = np.array([result.tests[test] for result in null])
    assert binomtest(int((p < 0.1).sum()), len(p), 0.1).pvalue > 1e-4


@pytest.mark.parametrize(
    ("bias", "width", "part"), [(0.3, 1.0, "shift"), (0.0, 0.7, "spread"), (0.0, 1.4, "spread")]
)
def test_departures_are_found_and_measured(bias: float, width: float, part: str) -> None:
    rng = np.random.default_rng(1)
    result = assess(ranks_of(bias, width, 500, rng), S, rng)
    assert result.tests[part] < 1e-3 and result.p_value < 1e-3
    # Truth above the draws counts as positive; errors of both are about 1 / sqrt(500).
    assert result.shift == pytest.approx(-bias / width, abs=0.2)
    assert result.width == pytest.approx(width, rel=0.12)


def test_statistic_is_the_kolmogorov_distance() -> None:
    rng = np.random.default_rng(4)
    ranks = ranks_of(0.5, 1.0, 2000, rng)
    distance = abs(norm.cdf(0.25) - norm.cdf(-0.25))
    assert assess(ranks, S, rng).statistic == pytest.approx(distance, abs=0.04)


def test_ties_are_broken_evenly() -> None:
    rng = np.random.default_rng(5)
    ranks = randomised_ranks(np.full(5000, 10), np.full(5000, 4), rng)
    counts = np.bincount(ranks, minlength=15)
    assert counts[:10].sum() == 0 and counts.sum() == 5000
    assert np.all(abs(counts[10:] - 1000) < 5 * np.sqrt(800))


def test_discrete_quantities_rank_uniformly() -> None:
    rng = np.random.default_rng(6)
    truth, draws = rng.poisson(1.0, 3000), rng.poisson(1.0, (S, 3000))
    ranks = randomised_ranks((draws < truth).sum(0), (draws == truth).sum(0), rng)
    assert assess(ranks, S, rng).p_value > 0.01
