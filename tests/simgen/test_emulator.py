"""An emulator draws what its surrogate draws, and is told apart by its weights."""

import numpy as np
import pytest
import torch
from torch.distributions import Uniform

import simgen
from simgen.console.arguments import simulator

PRIOR = simgen.Prior(a=Uniform(-1.0, 1.0), b=Uniform(0.0, 2.0))
FLOW = simgen.Flow(transforms=1, hidden=(16,))


@simgen.simulator(prior=PRIOR, batched=True)
def linear(theta, rng):
    x = theta @ np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 2.0]])
    x = x + 0.1 * rng.standard_normal((len(theta), 3))
    return {
        "x": x,
        "z": theta[:, :1] * np.ones((len(theta), 2)) + 0.05 * rng.random((len(theta), 2)),
    }


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return simgen.simulate(linear, 2_000, tmp_path_factory.mktemp("e") / "d", progress=False)


@pytest.fixture(scope="module")
def surrogate(dataset):
    return simgen.fit("x | theta", dataset, FLOW, max_epochs=4, progress=False)


def test_rows_are_draws_of_the_surrogate(surrogate):
    emulator = simgen.Emulator(surrogate)
    theta = np.tile([0.3, 1.2], (20_000, 1))
    x = emulator(theta, seed=3)["x"]
    exact = surrogate(torch.tensor([0.3, 1.2])).sample((20_000,), seed=4).numpy()
    scale = exact.std(0)
    # two sets of 20,000 draws: means differ by scale / 100 one standard deviation
    np.testing.assert_array_less(np.abs(x.mean(0) - exact.mean(0)), 0.05 * scale)
    np.testing.assert_allclose(x.std(0), scale, rtol=0.04)
    assert len(np.unique(x[:, 0])) > 19_000
    np.testing.assert_array_equal(x, emulator(theta, seed=3)["x"])
    assert not np.array_equal(x, emulator(theta, seed=5)["x"])


def test_a_dataset_of_it_is_the_same_by_workers(surrogate, tmp_path):
    emulator = simgen.Emulator(surrogate)
    alone = simgen.simulate(emulator, 600, tmp_path / "a", seed=2, progress=False)
    shared = simgen.simulate(emulator, 600, tmp_path / "b", seed=2, workers=2, progress=False)
    for name in ("theta", "x"):
        np.testing.assert_array_equal(alone[name][:], shared[name][:])
    assert alone.prior.names == ("a", "b")


def test_other_weights_are_another_simulator(surrogate, dataset, tmp_path):
    simgen.simulate(simgen.Emulator(surrogate), 300, tmp_path / "a", progress=False)
    other = simgen.fit("x | theta", dataset, FLOW, seed=1, max_epochs=1, progress=False)
    with pytest.raises(simgen.DatasetError, match="digest"):
        simgen.simulate(simgen.Emulator(other), 400, tmp_path / "a", progress=False)


def test_several_fields_come_apart(dataset):
    both = simgen.fit("z, x | theta", dataset, FLOW, max_epochs=4, progress=False)
    theta = np.stack([np.linspace(-0.9, 0.9, 50), np.full(50, 1.0)], 1).repeat(40, 0)
    found = simgen.Emulator(both)(theta)
    assert found["z"].shape == (2_000, 2) and found["x"].shape == (2_000, 3)
    # the fields follow their own means, a and (a, 0.5 a + b, 2 b)
    assert np.corrcoef(found["z"][:, 0], theta[:, 0])[0, 1] > 0.8
    assert np.corrcoef(found["x"][:, 0], theta[:, 0])[0, 1] > 0.8
    assert abs(found["x"][:, 2].mean() - 2.0) < 0.3


def test_what_it_refuses(dataset, surrogate):
    posterior = simgen.fit("theta | x", dataset, FLOW, max_epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"'x \| theta'"):
        simgen.Emulator(posterior)
    with pytest.raises(ValueError, match="wider"):
        simgen.Emulator(surrogate, simgen.Prior(a=Uniform(-2.0, 1.0), b=Uniform(0.0, 2.0)))
    narrow = simgen.Prior(a=Uniform(-0.5, 0.5), b=Uniform(0.0, 2.0))
    assert simgen.Emulator(surrogate, narrow).prior is narrow


def test_the_command_line_takes_a_file(surrogate, tmp_path):
    surrogate.save(tmp_path / "surrogate.safetensors")
    emulator = simulator(str(tmp_path / "surrogate.safetensors"))
    theta = np.array([[0.1, 1.0]])
    np.testing.assert_array_equal(
        emulator(theta, seed=1)["x"], simgen.Emulator(surrogate)(theta, seed=1)["x"]
    )
    with pytest.raises(ValueError, match="takes no settings"):
        simulator(str(tmp_path / "surrogate.safetensors"), {"events": "3"})
