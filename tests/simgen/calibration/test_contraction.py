import numpy as np
import pytest

from simgen.calibration.contraction import contraction, information


def test_contraction_of_a_gaussian() -> None:
    rng = np.random.default_rng(0)
    scale = np.array([0.9, 0.0]) ** 0.5
    means, draws = rng.standard_normal((20_000, 2)) * scale, 50
    within = np.array([0.1, 1.0])
    noisy = means + rng.standard_normal((20_000, 2)) * (within / draws) ** 0.5
    found = contraction(noisy, np.tile(within, (20_000, 1)), draws)
    # The relative error of a variance is sqrt(2 / n) = 0.01.
    assert np.allclose(found, [0.9, 0.0], atol=0.005)


def test_information_of_a_gaussian_is_half_the_log_of_the_variance_ratio() -> None:
    rng = np.random.default_rng(1)
    theta, noise = rng.standard_normal((2, 50_000))
    x = theta + 0.5 * noise
    residual = theta - x / 1.25
    log_q = -0.5 * residual**2 / 0.2 - 0.5 * np.log(2 * np.pi * 0.2)
    log_p = -0.5 * theta**2 - 0.5 * np.log(2 * np.pi)
    gain, error = information(log_q, log_p)
    assert gain == pytest.approx(0.5 * np.log(5), abs=4 * error)
    assert information(np.array([-np.inf, 0.0]), np.zeros(2))[0] == -np.inf
