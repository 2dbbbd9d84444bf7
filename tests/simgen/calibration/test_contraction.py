import numpy as np
import pytest

from simgen.calibration.contraction import contraction, information


def test_contraction_of_a_gaussian() -> None:
    rng = np.random.default_rng(0)
    truth = 2.0 * rng.standard_normal((20_000, 2))
    variances = np.stack([np.full(20_000, 0.4), np.full(20_000, 4.0)], 1)
    assert np.allclose(contraction(variances, truth), [0.9, 0.0], atol=0.04)


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
