"""Surrogates of showers: what is split comes back, and draws keep what must be kept."""

import numpy as np
import pytest

from simulators.calorimeter import CalorimeterShower
from studies.showers.splits import (
    LAYER_STATE,
    THRESHOLD,
    layer_states,
    parts_of,
    pull_of,
    ratios_of,
    shower_states,
    whole_of,
)
from studies.showers.surrogates import encode
from studies.showers.training import FAMILIES, Trainer

THETA = np.stack([np.repeat([0.0, 0.5, 1.5, 3.0], 20), np.tile([0.0, 5.0, 10.0, 20.0], 20)], 1)
E = 1e3 * 10 ** THETA[:, 0]


@pytest.fixture(scope="module")
def showers():
    return CalorimeterShower()(THETA, seed=0)


def test_pull_and_ratios_are_the_energies(showers):
    energies = showers["x"].sum((1, 3, 4), dtype=np.float64)
    energies[:5, 0] = 0  # an empty first layer too
    ratios, whole = ratios_of(energies), whole_of(pull_of(energies.sum(1), E), E)
    assert ((ratios == 0) == (energies == 0)).all()
    np.testing.assert_allclose(parts_of(ratios, whole), energies, atol=1e-9 * E.max())


def test_parts_of_any_ratios_have_the_sum_and_are_above_the_threshold():
    rng = np.random.default_rng(0)
    ratios = rng.exponential(1e2, (500, 7)) ** 2 * (rng.random((500, 7)) < 0.5)
    whole = THRESHOLD * (1 + rng.exponential(3.0, 500))  # enough for one part, often not for all
    parts = parts_of(ratios, whole)
    np.testing.assert_allclose(parts.sum(1), whole)
    assert ((parts == 0) | (parts > (1 - 1e-9) * THRESHOLD)).all()
    enough = whole > 7 * THRESHOLD
    some = (ratios > 0).any(1) & enough
    assert ((parts > 0) == (ratios > 0))[some].all() and some.any()


def test_the_first_ratio_says_nothing():
    ratios = np.array([[0.0, 1.0, 2.0, 0.0], [0.0, 7.0, 2.0, 0.0]])
    parts = parts_of(ratios, np.array([5.0, 5.0]))
    assert (parts[0] == parts[1]).all()
    np.testing.assert_allclose(parts[0, 2] - THRESHOLD, 2 * (parts[0, 1] - THRESHOLD))


def test_states_are_what_the_simulator_expects(showers):
    profile = showers["z_profile"].astype(np.float64)
    state = layer_states(showers["z_layers"], THETA, profile)
    simulator = CalorimeterShower(ring_width=1e4)  # all that is in a layer
    share = simulator.shares(THETA, profile).sum((2, 3))
    found = dict(zip(LAYER_STATE, state.transpose(2, 0, 1)))
    np.testing.assert_allclose(10 ** found["log10_expected"], share * E[:, None], rtol=1e-3)
    np.testing.assert_allclose(found["age"][0], 1.5 * (np.arange(24) + 0.5) / profile[0, 0])
    assert (found["offset"][0] == 0).all()
    depth = 1.5 * (np.arange(24) + 0.5)
    np.testing.assert_allclose(found["offset"][3], depth * np.tan(np.radians(20)))
    odds = 10 ** shower_states(THETA, profile)[:, 4:]
    np.testing.assert_allclose(odds[:, 5], share[:, 5] / share[:, :5].sum(1), rtol=1e-3)


def test_splits_of_a_shower_are_the_shower(showers):
    x = showers["x"]
    fields = encode(x, showers["z_profile"], THETA)
    energies = parts_of(fields["layers"]["ratios"], whole_of(fields["layers"]["x"][:, 0], E))
    rings = np.zeros((80, 24, 8))
    rings[energies > 0] = parts_of(fields["rings"]["x"], energies[energies > 0])
    cells = np.zeros((80, 24, 8, 9))
    cells[rings > 0] = parts_of(fields["cells"]["x"], rings[rings > 0])
    np.testing.assert_allclose(cells.swapaxes(-1, -2)[:, None], x, rtol=1e-4)
    assert ((cells.swapaxes(-1, -2)[:, None] > 0) == (x > 0)).all()
    for stage, rows in fields.items():
        assert len(rows["row"]) == len(rows["state"]) == len(rows["x"])
        assert np.isfinite(rows["state"]).all(), stage


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_have_the_energies_of_their_layers(name, tmp_path, showers):
    surrogate = Trainer(tmp_path, simulations=300)(name)
    x = surrogate(THETA, seed=5)
    assert x.shape == showers["x"].shape
    assert ((x == 0) | (x > 0.99 * THRESHOLD)).all()
    assert (x == surrogate(THETA, seed=5)).all()
    assert (x != surrogate(THETA, seed=6)).any()
    profile = surrogate.profiles(THETA, seed=5)  # the seeds of the first two stages
    energies = surrogate.energies(THETA, profile, seed=6)
    np.testing.assert_allclose(x.sum((1, 3, 4), dtype=np.float64), energies, rtol=1e-5)
    density = surrogate.log_prob(showers["x"][:2], showers["z_profile"][:2], THETA[:2])
    assert density.shape == (2,) and np.isfinite(density).all()
    again = Trainer(tmp_path)(name)
    assert (again(THETA, seed=5) == x).all()
