"""The detector's density against integrals of what it smears."""

import numpy as np
import pytest
from scipy.integrate import quad

from simulators.detector import DETECTORS

BOTH = pytest.mark.parametrize("name", DETECTORS)


@BOTH
def test_density_is_normalised(name):
    """Over E, c_x and tau_x separately, with the record at fixed values."""
    detector = DETECTORS[name]
    m, c, n, tau = 300.0, 0.4, 3.0, 0.1

    def total(column, low, high):
        def density(value):
            x = np.array([m, c, n, tau])
            x[column] = value
            return np.exp(detector.log_prob(x, m, c, n, tau))

        return quad(density, low, high, epsrel=1e-10, limit=200)[0]

    peak = np.exp(detector.log_prob(np.array([m, c, n, tau]), m, c, n, tau))
    s_E, s_c, s_t = detector.energy_width(m), detector.axis, detector.thrust
    at_peak = [1 / (np.sqrt(2 * np.pi) * s) for s in (s_E * m, s_c, s_t)]
    assert peak == pytest.approx(np.prod(at_peak))
    for column, width, one in zip((0, 1, 3), (s_E * m, s_c, s_t), at_peak):
        middle = (m, c, n, tau)[column]
        low = max(middle - 8 * width, 1.0) if column == 0 else middle - 8 * width
        found = total(column, low, middle + 12 * width) / (peak / one)
        assert found == pytest.approx(1, abs=1e-6)
    wrong = detector.log_prob(np.array([m, c, n + 1, tau]), m, c, n, tau)
    assert wrong == -np.inf


@BOTH
def test_draws_have_the_density_s_moments(name):
    detector, n = DETECTORS[name], 50_000
    record = [np.full(n, v) for v in (250.0, -0.3, 2.0, 0.05)]
    x = detector.observe(*record, np.random.default_rng(0))
    log_p = detector.log_prob(x, *record)
    widths = np.array([detector.energy_width(250.0), detector.axis, detector.thrust])
    entropy = np.log(widths).sum() + 1.5 * np.log(2 * np.pi * np.e) + np.log(250.0)
    assert abs(log_p.mean() + entropy) < 4 * log_p.std() / n**0.5
    assert (x[:, 2] == 2).all()


@BOTH
def test_smeared_angles_are_the_integral(name):
    detector = DETECTORS[name]
    s = detector.axis
    c, w = np.polynomial.legendre.leggauss(600)
    for c_x in (-1 - 6 * s, -1.2, -1, -0.5, 0, 0.3, 0.99, 1 + s, 1 + 6 * s):
        normal = w * np.exp(-0.5 * ((c_x - c) / s) ** 2) / (s * np.sqrt(2 * np.pi))
        expected = [(normal * (1 + sign * c) ** 2).sum() for sign in (1, -1)]
        np.testing.assert_allclose(detector.smeared(np.array(c_x)), expected, rtol=1e-7)
    far = detector.smeared(np.array([-50.0, 50.0]))
    assert (np.array(far) >= 0).all()


def test_no_energy_is_no_event():
    log_p = DETECTORS["coarse"].log_energy(np.array([-1.0, 0.0, 200.0]), np.array(200.0))
    assert (log_p[:2] == -np.inf).all() and np.isfinite(log_p[2])
