"""Surrogates of showers: what is split comes back, and draws keep what must be kept."""

import numpy as np
import pytest

from simulators.calorimeter import CalorimeterShower
from studies.showers.splits import layer_states, parts_of, pull_of, ratios_of, whole_of
from studies.showers.surrogates import FAMILIES, Trainer, encode

THETA = np.stack([np.repeat([0.0, 0.5, 1.5, 3.0], 20), np.tile([0.0, 5.0, 10.0, 20.0], 20)], 1)
E = 1e3 * 10 ** THETA[:, 0]


@pytest.fixture(scope="module")
def showers():
    return CalorimeterShower()(THETA, seed=0)["x"]


def test_pull_and_ratios_are_the_energies(showers):
    energies = showers.sum((1, 3, 4), dtype=np.float64)
    energies[:5, 0] = 0  # an empty first layer too
    ratios, whole = ratios_of(energies), whole_of(pull_of(energies.sum(1), E), E)
    assert ((ratios == 0) == (energies[:, 1:] == 0)).all()
    np.testing.assert_allclose(parts_of(ratios, whole), energies, atol=1e-9 * E.max())


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_parts_of_any_ratios_have_the_sum_and_are_above_the_threshold(threshold):
    rng = np.random.default_rng(0)
    ratios = rng.exponential(1e2, (500, 7)) ** 2 * (rng.random((500, 7)) < 0.5)
    whole = rng.exponential(3.0, 500)
    parts = parts_of(ratios, whole, threshold)
    np.testing.assert_allclose(parts.sum(1), whole)
    largest = parts == parts.max(1, keepdims=True)
    assert ((parts == 0) | (parts > threshold) | largest).all()


def test_the_age_of_a_layer_is_one_in_the_middle_of_the_shower():
    energies = np.zeros((1, 24))
    energies[0, 4:9] = [1, 2, 3, 2, 1]
    state = layer_states(energies, np.array([[1.0, 10.0]]))[0]
    assert state[6, 3] == pytest.approx(1.0)
    assert state[6, 4] == pytest.approx((2 * 4 / 9 + 2 * 2 / 9) ** 0.5)
    assert state[6, 5] == pytest.approx(6.5 * np.tan(np.radians(10)))


def test_splits_of_a_shower_are_the_shower(showers):
    fields = encode(showers, THETA)
    energies = parts_of(fields["layers"]["ratios"], whole_of(fields["layers"]["x"][:, 0], E), 0.01)
    rings = np.zeros((80, 24, 8))
    rings[energies > 0] = parts_of(fields["rings"]["x"], energies[energies > 0], 0.01)
    cells = np.zeros((80, 24, 8, 9))
    cells[rings > 0] = parts_of(fields["cells"]["x"], rings[rings > 0], 0.01)
    np.testing.assert_allclose(cells.swapaxes(-1, -2)[:, None], showers, rtol=1e-6)
    for stage, rows in fields.items():
        assert len(rows["row"]) == len(rows["state"]) == len(rows["x"])
        assert np.isfinite(rows["state"]).all(), stage


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_have_the_energies_of_their_layers(name, tmp_path, showers):
    surrogate = Trainer(tmp_path, simulations=300)(name)
    x = surrogate(THETA, seed=5)
    assert x.shape == showers.shape
    assert ((x == 0) | (x > 0.99 * surrogate.threshold)).all()
    energies = surrogate.energies(THETA, seed=5)
    np.testing.assert_allclose(x.sum((1, 3, 4), dtype=np.float64), energies, rtol=1e-5)
    assert (x == surrogate(THETA, seed=5)).all()
    assert (x != surrogate(THETA, seed=6)).any()
    density = surrogate.log_prob(showers[:2], THETA[:2])
    assert density.shape == (2,) and np.isfinite(density).all()
    again = Trainer(tmp_path)(name)
    assert (again(THETA, seed=5) == x).all()
