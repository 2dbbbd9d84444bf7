import numpy as np
import torch

from simgen.calibration.statistics import PROJECTIONS, Statistics


def test_small_targets_are_their_columns() -> None:
    truth = np.arange(12.0).reshape(4, 3)
    statistics = Statistics(truth, ("a", "b", "c"), None, 0)
    assert statistics.names == ("a", "b", "c")
    assert np.array_equal(statistics.truth, truth)
    y = torch.randn(7, 4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(statistics(y), y)


def test_projections_are_linear_and_see_the_scale_of_every_column() -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((500, 8, 10)) * np.geomspace(1e-3, 1e3, 10)
    statistics = Statistics(truth, (), None, 0)
    assert statistics.truth.shape == (500, PROJECTIONS)
    assert np.allclose(statistics.truth.std(0), 1.0, atol=0.6)
    y = torch.as_tensor(truth[:2], dtype=torch.float32)
    half = statistics(0.5 * (y[0] + y[1]))
    assert torch.allclose(half, 0.5 * (statistics(y[0]) + statistics(y[1])), atol=1e-4)


def test_a_constant_column_does_no_harm() -> None:
    truth = np.concatenate([np.ones((50, 40)), np.random.default_rng(1).random((50, 40))], 1)
    assert np.isfinite(Statistics(truth, (), None, 0).truth).all()
