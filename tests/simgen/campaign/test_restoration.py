"""Restoration: lost and damaged shards come back byte for byte."""

import hashlib

import h5py
import numpy as np
import pytest
from torch.distributions import Uniform

import simgen
from simgen.campaign.restoration import restore
from simulators import TwoMoons


@pytest.fixture
def dataset(tmp_path):
    return simgen.simulate(
        TwoMoons(), 600, tmp_path / "d", block=100, shard_size=200, progress=False
    )


def contents(path):
    """A digest of every field of every shard."""
    out = {}
    for shard in sorted(path.glob("shard-*.h5")):
        with h5py.File(shard) as file:
            for name in ("theta", "x", "row", "status"):
                digest = hashlib.sha256(np.ascontiguousarray(file[name][()]).tobytes())
                out[shard.name, name] = digest.hexdigest()
    return out


def damage(shard):
    with h5py.File(shard, "r+") as file:
        file["x"][3] += 1


def test_nothing_to_do(dataset):
    assert restore(dataset.path) == []


@pytest.mark.parametrize("damaged", [[0], [1], [2], [0, 1, 2]])
def test_damaged_and_missing_shards_come_back(dataset, damaged):
    before = contents(dataset.path)
    shards = sorted(dataset.path.glob("shard-*.h5"))
    for i in damaged:
        damage(shards[i])
    if len(damaged) == 1:
        shards[(damaged[0] + 1) % 3].unlink()
    problems = restore(dataset.path, progress=False)
    assert len(problems) >= len(damaged)
    assert contents(dataset.path) == before
    assert simgen.Dataset(dataset.path).verify() == []
    assert not list(dataset.path.glob(".damaged-*"))


def test_a_truncated_shard_and_a_lost_index(dataset):
    before = contents(dataset.path)
    shard = sorted(dataset.path.glob("shard-*.h5"))[1]
    shard.write_bytes(shard.read_bytes()[:1000])
    (dataset.path / "index.h5").unlink()
    assert len(restore(dataset.path, progress=False)) == 2
    assert contents(dataset.path) == before


def test_another_simulator_is_refused_and_nothing_is_lost(dataset):
    @simgen.simulator(prior=TwoMoons().prior, batched=True)
    def other(theta, rng):
        return theta + rng.standard_normal(theta.shape)

    shard = sorted(dataset.path.glob("shard-*.h5"))[1]
    damage(shard)
    before = contents(dataset.path)
    with pytest.raises(simgen.DatasetError, match="another path"):
        restore(dataset.path, other, progress=False)
    assert contents(dataset.path) == before


def test_rows_of_arrays_cannot_be_simulated_again(tmp_path):
    made = simgen.Dataset.create(tmp_path / "d", theta=np.eye(3), x=np.eye(3))
    (made.path / "index.h5").unlink()
    assert len(restore(made.path)) == 1
    next(made.path.glob("shard-*.h5")).unlink()
    with pytest.raises(simgen.DatasetError, match="made from arrays"):
        restore(made.path)


def test_a_simulator_of_ones_own_has_to_be_named(tmp_path):
    @simgen.simulator(prior=simgen.Prior(mu=Uniform(0.0, 1.0)))
    def mine(theta, rng):
        return theta + rng.standard_normal(1)

    made = simgen.simulate(mine, 20, tmp_path / "d", progress=False)
    next(made.path.glob("shard-*.h5")).unlink()
    with pytest.raises(simgen.DatasetError, match="--simulator"):
        restore(made.path)
    assert len(restore(made.path, mine, progress=False)) == 1
