"""The grid against a Gaussian posterior that is known."""

import numpy as np
import pytest

from simulators.grid_posterior import GridPosterior, grid_cells

LOW, HIGH = np.array([-3.0, -2.0]), np.array([3.0, 4.0])
CENTRES, SD = np.array([[0.2, 0.5], [-0.3, 1.0]]), np.array([0.4, 0.3])


def posterior():
    theta, width = grid_cells(LOW, HIGH, 40)
    log_p = -(((theta - CENTRES[:, None]) / SD) ** 2).sum(-1) / 2
    return GridPosterior.from_log_likelihood(theta, width, log_p)


def test_moments_and_evidence_of_a_gaussian():
    grid = posterior()
    np.testing.assert_allclose(grid.mean, CENTRES, atol=1e-6)
    np.testing.assert_allclose(grid.sd, [SD, SD], rtol=1e-5)
    evidence = 2 * np.pi * SD.prod() / (HIGH - LOW).prod()
    np.testing.assert_allclose(grid.log_evidence, np.log(evidence), atol=1e-6)


def test_draws_have_the_moments_and_repeat():
    grid = posterior()
    draws = grid.sample(20_000, seed=1)
    assert draws.shape == (20_000, 2, 2)
    np.testing.assert_allclose(draws.mean(0), CENTRES, atol=4 * 0.4 / 20_000**0.5)
    # Draws uniform within a cell add its variance.
    sd = np.sqrt(SD**2 + grid.width**2 / 12)
    np.testing.assert_allclose(draws.std(0), [sd, sd], rtol=0.02)
    np.testing.assert_array_equal(grid.sample(5, seed=2), grid.sample(5, seed=2))


def test_no_density_anywhere_is_an_error():
    theta, width = grid_cells(LOW, HIGH, 3)
    with pytest.raises(ValueError, match="density zero"):
        GridPosterior.from_log_likelihood(theta, width, np.full(9, -np.inf))
    with pytest.raises(ValueError, match="points must be"):
        grid_cells(LOW, HIGH, 1)
