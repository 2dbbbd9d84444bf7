"""Observables by hand, and metrics of samples whose answer is known."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from simulators.shower_metrics import (
    area_under_curve,
    classifier_auc,
    high_level,
    layer_correlation,
    low_level,
    observables,
    sample_separation,
    separation_power,
)

SHAPE = (1, 3, 9, 8)


def test_observables_of_a_shower_made_by_hand():
    x = np.zeros((2, *SHAPE), dtype=np.float32)
    x[0, 0, 0, 0, 0] = 3.0  # layer 0: r = 0.5 at phi = 0, and r = 2.5 at phi = 80 degrees
    x[0, 0, 0, 2, 2] = 1.0
    x[0, 0, 1, 4, 7] = 2.0  # layer 1: one cell; layer 2: nothing
    found = observables(x, np.array([12.0, 5.0]), ring_width=1.0)
    np.testing.assert_allclose(found["response"], [0.5, 0])
    np.testing.assert_allclose(found["energy"], [[4, 2, 0], [0, 0, 0]])
    np.testing.assert_allclose(found["sparsity"], np.array([[2, 1, 0], [0, 0, 0]]) / 72)
    phi = np.radians(80)
    eta_centre = (3 * 0.5 + 2.5 * np.cos(phi)) / 4
    eta_square = (3 * 0.25 + (2.5 * np.cos(phi)) ** 2) / 4
    for name, centre, width in (
        ("eta", eta_centre, np.sqrt(eta_square - eta_centre**2)),
        ("phi", 2.5 * np.sin(phi) / 4, np.sqrt(3) / 4 * 2.5 * np.sin(phi)),
        ("r", 1.0, np.sqrt((3 * 0.25 + 6.25) / 4 - 1)),
    ):
        assert found[f"centre_{name}"][0, 0] == pytest.approx(centre)
        assert found[f"width_{name}"][0, 0] == pytest.approx(width)
        assert found[f"width_{name}"][0, 1] == pytest.approx(0, abs=1e-6)
        assert (found[f"centre_{name}"][:, 2] == 0).all()
    np.testing.assert_allclose(found["centre_r"][0, 1], 7.5)
    assert found["centre_eta"][0, 1] == pytest.approx(7.5 * np.cos(np.radians(160)))


def test_observables_scale_with_energy_and_ring_width():
    rng = np.random.default_rng(0)
    x = rng.exponential(size=(50, *SHAPE)) * (rng.random((50, *SHAPE)) < 0.3)
    energy = rng.uniform(10, 20, 50)
    one, other = observables(x, energy), observables(3 * x, 3 * energy, ring_width=2.0)
    for name, value in one.items():
        factor = 3 if name == "energy" else 2 if "_" in name else 1
        np.testing.assert_allclose(other[name], factor * value, rtol=1e-9, atol=1e-9)
    turned = observables(np.roll(x, 3, axis=3), energy)  # by 120 degrees
    for name in ("response", "energy", "sparsity", "centre_r", "width_r"):
        np.testing.assert_allclose(turned[name], one[name], rtol=1e-9)
    cos, sin = np.cos(2 * np.pi / 3), np.sin(2 * np.pi / 3)
    rotated = cos * one["centre_eta"] - sin * one["centre_phi"]
    np.testing.assert_allclose(turned["centre_eta"], rotated, atol=1e-12)


def test_inputs_of_the_classifiers():
    rng = np.random.default_rng(1)
    x = rng.exponential(size=(20, *SHAPE)).astype(np.float32)
    energy = rng.uniform(100, 1000, 20)
    found = observables(x, energy)
    high, low = high_level(found, energy), low_level(x, energy)
    assert high.shape == (20, 2 + 8 * 3) and low.shape == (20, 1 + 3 * 72)
    np.testing.assert_allclose(high[:, 0], np.log10(energy))
    np.testing.assert_allclose(10 ** high[:, 2:5], found["energy"] / energy[:, None], rtol=1e-4)
    np.testing.assert_allclose(low[:, 0], np.log10(energy), rtol=1e-6)
    np.testing.assert_allclose(low[:, 1:].sum(1), found["response"], rtol=1e-5)
    # A layer without energy has a logarithm, too.
    assert np.isfinite(high_level(observables(0 * x, energy), energy)).all()


def test_layer_correlation_is_pearsons():
    rng = np.random.default_rng(2)
    common = rng.exponential(size=(500, 1, 1, 1, 1))
    x = rng.exponential(size=(500, *SHAPE)) + common
    x[:, :, 2] *= -1
    expected = np.corrcoef(x.sum((1, 3, 4)).T)
    np.testing.assert_allclose(layer_correlation(x), expected, rtol=1e-10)
    x[:, :, 1] = 7.0
    flat = layer_correlation(x)
    assert np.isfinite(flat).all() and flat[1, 1] == 1 and flat[0, 1] == 0


def test_separation_power_of_equal_and_disjoint_histograms():
    h = np.array([1.0, 2.0, 0.0, 3.0])
    g = np.array([0.0, 0.0, 5.0, 0.0])
    assert separation_power(h, 7 * h) == 0
    assert separation_power(h, g) == pytest.approx(1)
    # Half of g where h is: 1/2 [(1 - 1/2)^2 / (3/2) + (1/2)^2 / (1/2)]
    assert separation_power([1, 0], [0.5, 0.5]) == pytest.approx(0.5 * (1 / 6 + 1 / 2))
    both = separation_power(np.stack([h, h]), np.stack([h, g]))
    np.testing.assert_allclose(both, [0, 1])
    np.testing.assert_allclose(separation_power(h, g + h), separation_power(g + h, h))


def test_separation_of_samples_of_one_distribution_is_chance():
    """Its mean is (bins - 1) / (2 n); its deviation is by sqrt(2 / (bins - 1)) of that."""
    rng = np.random.default_rng(3)
    n, columns, bins = 2_000, 200, 20
    found = sample_separation(rng.normal(size=(n, columns)), rng.normal(size=(n, columns)), bins)
    mean = (bins - 1) / (2 * n)
    spread = mean * np.sqrt(2 / (bins - 1))
    assert abs(found.mean() - mean) < 4 * spread / columns**0.5 + 0.05 * mean
    assert found.std() == pytest.approx(spread, rel=0.3)


def test_separation_of_samples_far_apart_and_of_constants():
    rng = np.random.default_rng(4)
    a = rng.normal(size=(500, 2, 3))
    assert sample_separation(a, a + 100).shape == (2, 3)
    np.testing.assert_allclose(sample_separation(a, a + 100), 1)
    assert (sample_separation(np.ones((50, 2)), np.ones((60, 2))) == 0).all()


def test_area_under_curve_counts_pairs():
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 6, 70), rng.integers(1, 8, 50)  # with ties
    pairs = b[:, None] - a
    expected = (pairs > 0).mean() + (pairs == 0).mean() / 2
    assert area_under_curve(a, b).value == pytest.approx(expected, abs=1e-12)
    assert area_under_curve(b, a).value == pytest.approx(1 - expected, abs=1e-12)
    assert area_under_curve(a, a + 100) == (1, 0)


@pytest.mark.parametrize("separation", [0.0, 1.0])
def test_error_of_the_area_is_its_spread(separation):
    """Over 400 pairs of samples; of equal distributions it is sqrt((n + m + 1) / (12 n m))."""
    rng = np.random.default_rng(6)
    n, m = 120, 200
    found = [
        area_under_curve(rng.normal(size=n), rng.normal(size=m) + separation) for _ in range(400)
    ]
    value, error = np.array(found).T
    assert abs(value.mean() - norm.cdf(separation / 2**0.5)) < 4 * value.std() / 400**0.5
    assert error.mean() == pytest.approx(value.std(), rel=0.15)
    if separation == 0:
        assert error.mean() == pytest.approx(np.sqrt((n + m + 1) / (12 * n * m)), rel=0.03)


@pytest.mark.parametrize("separation", [0.0, 0.5, 1.5])
def test_classifier_of_gaussians_reaches_what_is_known(separation):
    """The best area of two unit Gaussians at distance d is Phi(d / sqrt 2)."""
    rng = np.random.default_rng(7)
    direction = np.array([3.0, -1.0, 2.0, 0.0, 1.0])
    direction *= separation / np.linalg.norm(direction)
    a, b = rng.normal(size=(6_000, 5)), rng.normal(size=(5_000, 5)) + direction
    value, error = classifier_auc(100 * a + 7, 100 * b + 7, seed=1, hidden=32, epochs=6)
    assert 0.003 < error < 0.013
    assert abs(value - norm.cdf(separation / 2**0.5)) < 3 * error


def test_error_of_the_classifier_is_its_spread_over_seeds():
    """Of equal distributions: deviations from 1/2 in standard errors are N(0, 1)."""
    rng = np.random.default_rng(10)
    z = []
    for seed in range(40):
        a, b = rng.normal(size=(300, 4)), rng.normal(size=(400, 4))
        value, error = classifier_auc(a, b, seed=seed, hidden=16, epochs=3, batch=100)
        z.append((value - 0.5) / error)
    assert abs(np.mean(z)) < 4 / 40**0.5
    assert 0.65 < np.std(z) < 1.45


def test_classifier_sees_more_than_means():
    """Samples of equal margins that differ in correlation: the best area is the ratio's."""
    rng = np.random.default_rng(8)
    a = rng.normal(size=(6_000, 2))
    b = rng.normal(size=(6_000, 2)) @ np.linalg.cholesky([[1, 0.8], [0.8, 1]]).T

    def log_ratio(v):
        return (
            0.5 * (v**2).sum(1)
            - 0.5 * (v[:, 0] ** 2 - 1.6 * v[:, 0] * v[:, 1] + v[:, 1] ** 2) / 0.36
        )

    best = area_under_curve(log_ratio(a), log_ratio(b)).value
    value, error = classifier_auc(a, b, hidden=32, epochs=10)
    assert abs(value - best) < 3 * error + 0.01
    assert best > 0.7


def test_classifier_is_repeatable_and_leaves_the_generator_alone():
    rng = np.random.default_rng(9)
    a, b = rng.normal(size=(200, 3)), rng.normal(size=(200, 3))
    a[:, 1] = b[:, 1] = 4.0  # a constant column
    state = torch.random.get_rng_state()
    first = classifier_auc(a, b, seed=3, hidden=8, epochs=2, batch=50)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(5)
    assert classifier_auc(a, b, seed=3, hidden=8, epochs=2, batch=50) == first
    assert classifier_auc(a, b, seed=4, hidden=8, epochs=2, batch=50) != first


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: observables(np.zeros((2, 3, 9, 8)), np.ones(2)), "showers must be"),
        (lambda: observables(np.zeros((2, *SHAPE)), np.ones(3)), r"energy must be \(2,\)"),
        (lambda: low_level(np.zeros((2, *SHAPE)), 3.0), r"energy must be \(2,\)"),
        (lambda: separation_power([1, 2], [1, 2, 3]), "equal shapes"),
        (lambda: separation_power([0, 0], [1, 2]), "needs entries"),
        (lambda: separation_power([1, -1, 3], [1, 2, 3]), "negative"),
        (lambda: classifier_auc(np.zeros((20, 2)), np.zeros((20, 3))), "samples must be"),
        (lambda: classifier_auc(np.zeros((5, 2)), np.zeros((20, 2))), "ten rows"),
    ],
)
def test_wrong_inputs_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
