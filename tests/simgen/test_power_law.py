"""Power laws against curves in closed form."""

import numpy as np
import pytest

from simgen.power_law import fit_power_law

SIZES = np.array([250, 500, 1000, 2000, 4000, 8000])


def law(left: float, exponent: float, limit: float = -1.3) -> np.ndarray:
    return limit - left * (SIZES / SIZES[-1]) ** -exponent


@pytest.mark.parametrize(("left", "exponent"), [(0.05, 1.0), (0.2, 0.5), (0.1, 0.7)])
def test_exact_curves_are_extrapolated_exactly(left: float, exponent: float) -> None:
    found = fit_power_law(SIZES, law(left, exponent), 1e-12 * np.eye(6))
    assert found.left.mean() == pytest.approx(left, rel=0.03)
    assert found.limit.mean() == pytest.approx(-1.3, abs=0.03 * left)
    gain = left * (1 - 2.0**-exponent)
    assert found.gain(16_000).mean() == pytest.approx(gain, rel=0.01)
    needed = 8000 * (1 - 0.6) ** (-1 / exponent)
    assert np.median(found.needed(0.6 * left)) == pytest.approx(needed, rel=0.05)
    assert np.isinf(found.needed(1.2 * left)).all()
    at = found(SIZES).mean(0)
    assert np.allclose(at, law(left, exponent), atol=0.01 * left)


@pytest.mark.parametrize("noise", [0.002, 0.01])
def test_errors_cover_the_truth(noise: float) -> None:
    truth, pulls = 0.1 * (1 - 2.0**-0.8), []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        values = law(0.1, 0.8) + noise * rng.standard_normal(6)
        gain = fit_power_law(SIZES, values, noise**2 * np.eye(6), seed=seed).gain(16_000)
        pulls.append((gain.mean() - truth) / gain.std())
    assert np.abs(pulls).max() < 3.5 and np.std(pulls) < 1.5


def test_what_is_common_to_all_sizes_does_not_count() -> None:
    alone = fit_power_law(SIZES, law(0.1, 0.8), 1e-8 * np.eye(6))
    moved = fit_power_law(SIZES, law(0.1, 0.8) + 3.0, 1e-8 * np.eye(6) + 0.2)
    assert moved.gain(16_000).mean() == pytest.approx(alone.gain(16_000).mean(), rel=0.01)
    assert moved.gain(16_000).std() < 2 * alone.gain(16_000).std() + 1e-4


def test_a_flat_curve_has_nothing_left_and_a_falling_one_may_fall() -> None:
    rng = np.random.default_rng(1)
    flat = fit_power_law(SIZES, 0.001 * rng.standard_normal(6), 1e-6 * np.eye(6))
    assert (flat.left >= 0).all() and flat.gain(16_000).mean() < 0.003
    values = 0.9 - law(0.05, 1.0, 0.0)
    falling = fit_power_law(SIZES, values, 1e-8 * np.eye(6), increasing=False)
    assert falling(16_000).mean() == pytest.approx(0.925, abs=0.005)


def test_too_few_points_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="three sizes or more"):
        fit_power_law([1, 2], [0.0, 1.0], np.eye(2))
    with pytest.raises(ValueError, match="three sizes or more"):
        fit_power_law([1, 2, 2], [0.0, 1.0, 1.0], np.eye(3))
