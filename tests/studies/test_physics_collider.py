"""The study of the collider chain finds what is right, and what is wrong."""

import numpy as np
import pytest

from simulators.collider import ColliderShower
from studies.physics.collider import Moments, check, chi_squared, expected_counts

THETA, OTHER = np.array([0.4, 0.118]), np.array([0.8, 0.122])


def test_moments_are_those_of_all_chunks():
    rows = np.random.default_rng(0).normal(1.0, 2.0, (1000, 2))
    moments = Moments(["a", "b"])
    for part in np.split(rows, 5):
        moments.add(part)
    for found, column in zip(moments.compare([1, 0]), rows.T):
        assert found["mean"] == pytest.approx(column.mean())
        assert found["error"] == pytest.approx(column.std() / 1000**0.5)
    assert abs(moments.compare([1, 0])[0]["sigmas"]) < 4 < moments.compare([1, 0])[1]["sigmas"]


def test_all_identities_hold_for_few_events():
    found = check("coarse", THETA, OTHER, 20_000, seed=5)
    assert max(abs(row["sigmas"]) for row in found["rows"]) < 4.5
    assert found["histogram"]["p"] > 1e-3 and found["histogram"]["cells"] > 50


def test_the_histogram_sees_a_coupling_off_by_three_percent():
    simulator, n = ColliderShower("coarse", record=[]), 100_000
    x = simulator.simulate(np.tile(THETA, (n, 1)), np.random.default_rng(6))["x"]
    edges = np.array([-0.1, -0.02, 0, 0.02, 0.05, 0.1, 0.2, 1.4])
    counts = np.histogram2d(x[:, 2], x[:, 3], [np.arange(13) - 0.5, edges])[0]
    right, wrong = (expected_counts(simulator, THETA * [1, k], edges) for k in (1, 1.03))
    assert chi_squared(counts, right, n)["p"] > 1e-3
    assert chi_squared(counts, wrong, n)["p"] < 1e-6
