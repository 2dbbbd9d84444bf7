"""Importing: arrays of a foreign file become a dataset of ours."""

import h5py
import numpy as np
import pytest
from torch.distributions import Uniform

import simgen
from simgen.storage.importing import import_arrays

RNG = np.random.default_rng(0)
ARRAYS = {"theta": RNG.uniform(size=(30, 1)).astype("f4"), "x": RNG.normal(size=(30, 1, 4, 4))}


def test_a_numpy_file_needs_no_names(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    prior = simgen.Prior(mu=Uniform(0.0, 1.0))
    dataset = import_arrays(tmp_path / "a.npz", tmp_path / "d", {}, prior)
    assert dataset.fields["x"].layout == "image"
    assert np.array_equal(dataset["mu"][:], ARRAYS["theta"][:, 0])
    assert np.allclose(dataset["x"][:], ARRAYS["x"], atol=1e-6)
    assert dataset.verify() == []


def test_an_hdf5_file_by_names(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/params"], file["maps"] = ARRAYS["theta"], ARRAYS["x"]
    fields = {"theta": "group/params", "x": "maps"}
    dataset = import_arrays(tmp_path / "a.h5", tmp_path / "d", fields)
    assert np.array_equal(dataset["theta"][:], ARRAYS["theta"])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"text"])
def test_a_damaged_file(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(simgen.DatasetError, match="cannot be read"):
        import_arrays(tmp_path / "a.npz", tmp_path / "d", {})
    assert not (tmp_path / "d").exists()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(simgen.DatasetError, match="no file"):
        import_arrays(tmp_path / "a.npz", tmp_path / "d", {})
