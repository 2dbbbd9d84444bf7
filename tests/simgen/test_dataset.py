"""Dataset: lazy reading, splits, foreign files, damage."""

from __future__ import annotations

import json
import logging
import pickle

import h5py
import numpy as np
import pytest
from torch.distributions import Independent, MultivariateNormal, Normal, Uniform

import simgen
from simgen import Dataset, DatasetError, Field, Prior, simulate
from simgen.storage.manifest import Manifest, plain

PRIOR = Prior(
    Omega_m=Uniform(0.1, 0.5), w_0=Normal(-1.0, 0.2), labels=[r"\Omega_m", "w_0"], units=["", ""]
)


@simgen.simulator(prior=PRIOR, batched=True)
def line(theta, rng):
    x = np.linspace(0, 1, 4) * theta[:, :1] + theta[:, 1:]
    return {"x": x, "z_n": np.arange(len(x), dtype=np.int16), "on": theta[:, 0] > 0.3}


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    theta = np.stack([rng.uniform(0.1, 0.5, 3000), rng.normal(-1, 0.2, 3000)], 1)
    return {
        "theta": theta.astype("f4"),
        "x": rng.standard_normal((3000, 1, 6, 6)).astype("f4"),
        "z_n": rng.integers(0, 9, 3000),
    }


@pytest.fixture
def dataset(tmp_path, arrays):
    return Dataset.create(tmp_path / "d", prior=PRIOR, **arrays)


def test_columns_slice_like_arrays(dataset, arrays) -> None:
    rng = np.random.default_rng(1)
    keys = [slice(None), slice(100), slice(2000, 2100), slice(None, None, -7), 17, -1]
    keys += [rng.integers(-3000, 3000, 40), arrays["z_n"] == 3, [2999, 0, 0], slice(7, 3)]
    for name, array in arrays.items():
        column = dataset[name]
        assert column.shape == array.shape and column.dtype == array.dtype
        assert len(column) == 3000 and column.ndim == array.ndim
        for key in keys:
            assert np.array_equal(column[key], array[key])
        assert np.array_equal(np.asarray(column), array)
    assert np.array_equal(dataset["x"][5:9, 0, ::2], arrays["x"][5:9, 0, ::2])
    assert np.array_equal(dataset["x"][3, 0], arrays["x"][3, 0])
    assert np.array_equal(dataset["w_0"][10:20], arrays["theta"][10:20, 1])
    for wrong in (3000, [0, 3000], np.zeros(3, bool), [0.5]):
        with pytest.raises(IndexError):
            dataset["x"][wrong]
    assert dataset["x"][[]].shape == (0, 1, 6, 6)
    with pytest.raises(DatasetError, match="no field 'y'; it has theta, x, z_n, Omega_m, w_0"):
        dataset["y"]


def test_fields_come_from_prior_and_arrays(dataset) -> None:
    fields = dataset.fields
    assert list(fields) == ["theta", "x", "z_n", "Omega_m", "w_0"]
    theta = fields["theta"]
    assert theta.names == ("Omega_m", "w_0") and theta.labels == (r"\Omega_m", "w_0")
    assert theta.support is not None and theta.support[0][0] == pytest.approx(0.1)
    assert theta.support[0][1] is None
    assert fields["x"].layout == "image" and fields["z_n"].discrete
    assert fields["Omega_m"].shape == () and fields["Omega_m"].labels == (r"\Omega_m",)
    assert fields["Omega_m"].support == pytest.approx((0.1, 0.5)) and fields["w_0"].support is None
    assert dataset.prior.names == PRIOR.names
    declared = {"x": Field((4, 2), "set", iid=True)}
    made = Dataset.create(dataset.path / "set", x=np.zeros((3, 4, 2)), declared=declared)
    assert made.fields["x"].iid and made.prior is None and made.prior_rules is None


def test_splits_are_by_row_and_stable_under_extension(tmp_path) -> None:
    shares = (0.6, 0.3, 0.1)
    small = simulate(line, 1000, tmp_path / "d")
    first = Dataset(small.path, split=shares)
    simulate(line, 4000, tmp_path / "d")
    second = Dataset(small.path, split=shares)
    assert first.identity == second.identity
    for side, share in zip(("train", "validation", "test"), shares):
        rows, more = getattr(first, side).rows, getattr(second, side).rows
        assert np.array_equal(more[more < 1000], rows)
        # binomial
        assert abs(len(more) - 4000 * share) < 5 * np.sqrt(4000 * share * (1 - share))
    sides = [second.train.rows, second.validation.rows, second.test.rows]
    assert np.array_equal(np.sort(np.concatenate(sides)), second.good.rows)
    other = Dataset(simulate(line, 1000, tmp_path / "other", seed=1).path, split=shares)
    assert not np.array_equal(other.train.rows, first.train.rows)
    assert len(Dataset(small.path).test) == 0
    for wrong in ((0.5, 0.5), (1.0, 0.5, 0.0), (-0.1, 1.0, 0.1), (0, 0, 0)):
        with pytest.raises(DatasetError, match="split"):
            Dataset(small.path, split=wrong)


def test_views_leave_failed_rows_out(tmp_path, arrays, caplog) -> None:
    x = arrays["x"].copy()
    x[[3, 2999], 0, 2, 2] = np.nan
    x[700, 0, 0, 0] = -np.inf
    x[800] = 3e38  # finite, though its sum is not
    with caplog.at_level(logging.WARNING, "simgen"):
        dataset = Dataset.create(tmp_path / "d", theta=arrays["theta"], x=x, prior=PRIOR)
    assert "3 of 3000 rows failed" in caplog.text
    assert [f.row for f in dataset.failures] == [3, 700, 2999]
    assert {f.kind for f in dataset.failures} == {"nonfinite"}
    assert np.array_equal(np.flatnonzero(dataset.status), [3, 700, 2999])
    assert np.isnan(dataset["x"][700]).all() and dataset.verify() == []
    good = np.setdiff1d(np.arange(3000), [3, 700, 2999])
    assert np.array_equal(dataset.good.rows, good) and len(dataset.good) == 2997
    view = dataset.train
    read = view.read(["x", "Omega_m"])
    assert np.array_equal(read["x"], x[view.rows])
    assert np.array_equal(read["Omega_m"], arrays["theta"][view.rows, 0])
    assert np.array_equal(view["x"][[5, 1]], x[view.rows[[5, 1]]])
    assert list(view.read()) == ["theta", "x"] and view.fields is dataset.fields


def test_foreign_files_are_read_in_place(tmp_path, arrays, caplog) -> None:
    path = tmp_path / "maps.h5"
    maps = arrays["x"].astype("f8")
    maps[5, 0, 0, 0] = np.nan
    with h5py.File(path, "w") as file:
        file["params"] = arrays["theta"].astype("f8")
        file.create_dataset("sims/maps", data=maps, chunks=(100, 1, 6, 6), compression="gzip")
        file["short"] = np.zeros(7)
        file["number"] = 3.0
        file["one"] = arrays["theta"][:, 0]
    before = path.read_bytes()
    dataset = Dataset(path, fields={"theta": "params", "x": "sims/maps"}, prior=PRIOR)
    assert len(dataset) == 3000 and list(dataset.fields)[:2] == ["theta", "x"]
    assert dataset["x"].dtype == np.float32 and dataset["x"].shape == (3000, 1, 6, 6)
    assert np.array_equal(dataset["x"][6:90], arrays["x"][6:90])
    assert np.array_equal(dataset["Omega_m"][:5], arrays["theta"][:5, 0])
    with caplog.at_level(logging.WARNING, "simgen"):
        assert dataset.failures[0].row == 5 and len(dataset.good) == 2999
    assert "1 of 3000 rows" in caplog.text
    assert dataset.verify() == [] and dataset.provenance["kind"] == "foreign"
    dataset.close()
    assert path.read_bytes() == before
    one = Dataset(path, fields={"theta": "one", "x": "sims/maps"})
    assert one["theta"].shape == (3000, 1) and one["theta_0"][3] == arrays["theta"][3, 0]
    with pytest.raises(DatasetError, match="prior="):
        _ = one.prior
    for fields, message in [
        (None, "say which array is which"),
        ({"theta": "params"}, "must name 'x'"),
        ({"x": "map"}, "no array 'map'; it holds number"),
        ({"x": "number"}, "is one number"),
        ({"theta": "params", "x": "short"}, "differ in their number of rows"),
    ]:
        with pytest.raises(DatasetError, match=message):
            Dataset(path, fields=fields)
    with pytest.raises(DatasetError, match="2 columns, the prior 1"):
        Dataset(path, fields={"theta": "params", "x": "one"}, prior=Prior(a=Normal(0.0, 1.0)))


def test_the_index_is_one_table_for_any_tool(tmp_path, monkeypatch) -> None:
    dataset = simulate(line, 1500, tmp_path / "d", shard_size=512)
    lost = dataset.path / "shard-00000512.h5"
    lost.unlink()
    monkeypatch.chdir("/")
    with h5py.File(dataset.path / "index.h5") as index:
        assert all(len(index[k]) == 1500 for k in ("theta", "x", "z_n", "on", "row", "round"))
        status = index["status"][()]
        there = np.ones(1500, bool)
        there[512:1024] = False
        assert np.array_equal(status == 255, ~there) and not status[there].any()
        assert (
            np.isnan(index["x"][()][~there]).all() and np.isnan(index["theta"][()][~there]).all()
        )
        assert index["on"].dtype == bool and index["z_n"].dtype == np.int16
        assert np.array_equal(index["row"][()], np.where(there, np.arange(1500), -1))
    assert len(Dataset(dataset.path)) == 512
    simulate(line, 1500, dataset.path)
    with h5py.File(dataset.path / "index.h5") as index:
        assert np.array_equal(index["x"][()], Dataset(dataset.path)["x"][:])


def test_verify_finds_what_is_damaged(tmp_path) -> None:
    path = simulate(line, 1500, tmp_path / "d", shard_size=256).path
    assert Dataset(path).verify() == []
    with h5py.File(path / "shard-00000256.h5", "r+") as shard:
        shard["x"][7, 2] += 1
    with h5py.File(path / "shard-00000512.h5", "r+") as shard:
        shard.attrs["count"] = 9
    content = (path / "shard-00000768.h5").read_bytes()
    (path / "shard-00000768.h5").write_bytes(content[: len(content) // 2])
    (path / "shard-00001024.h5").unlink()
    (path / "index.h5").unlink()
    problems = Dataset(path).verify()
    words = ["crc32", "crc32", "cannot be read", "is missing: rows 1024 to 1279", "index.h5"]
    assert len(problems) == 5
    assert all(word in problem for word, problem in zip(words, problems))
    dataset = Dataset(path)
    assert len(dataset) == 1024
    with pytest.raises(DatasetError, match="damaged"):
        dataset["x"][:]


def test_what_is_no_dataset_is_told(tmp_path, dataset) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello")
    for path, message in [
        (tmp_path / "nowhere", "there is no dataset"),
        (tmp_path / "empty", "has no dataset.json"),
        (tmp_path / "text", "neither a dataset's directory nor a readable HDF5"),
    ]:
        with pytest.raises(DatasetError, match=message):
            Dataset(path)
    with pytest.raises(DatasetError, match="is a directory"):
        Dataset(dataset.path, fields={"x": "x"})
    file = dataset.path / "dataset.json"
    whole = file.read_text()
    for text, message in [
        (whole[: len(whole) // 2], "is damaged"),
        (whole.replace('"schema": 1', '"schema": 99'), "upgrade simgen"),
        ("[1, 2]", "no manifest"),
        (json.dumps({**json.loads(whole), "fields": 3}), "is damaged"),
    ]:
        file.write_text(text)
        with pytest.raises(DatasetError, match=message):
            Dataset(dataset.path)


def test_create_refuses_what_does_not_fit(tmp_path, arrays) -> None:
    theta, x = arrays["theta"], arrays["x"]
    for fields, message in [
        ({"theta": theta}, "needs the field 'x'"),
        ({"theta": theta[:9], "x": x}, "same number of rows"),
        ({"x": np.array(["a"])}, "numbers or booleans"),
        ({"x": x, "status": theta}, "'status'"),
        (
            {"x": x, "theta": theta, "Omega_m": theta, "prior": PRIOR},
            "'Omega_m' is a parameter",
        ),
        ({"x": np.zeros((3, 1, 1, 1, 1, 1))}, "no layout"),
    ]:
        with pytest.raises(DatasetError, match=message):
            Dataset.create(tmp_path / "new", **fields)
        assert not (tmp_path / "new").exists()
    Dataset.create(tmp_path / "d", x=x)
    with pytest.raises(DatasetError, match="is there already"):
        Dataset.create(tmp_path / "d", x=x)


def test_a_prior_that_cannot_be_stored_is_asked_for(tmp_path) -> None:
    joint = MultivariateNormal(np_tensor([0.0, 0.0]), np_tensor([[1.0, 0.9], [0.9, 1.0]]))
    prior = Prior(joint, names=["a", "b"])
    theta = prior.sample((50,), seed=0)
    Dataset.create(tmp_path / "d", theta=theta, x=theta, prior=prior)
    dataset = Dataset(tmp_path / "d")
    assert dataset.fields["theta"].names == ("a", "b") and len(dataset.prior_rules) == 2
    with pytest.raises(DatasetError, match=r"prior=\.\.\."):
        _ = dataset.prior
    assert Dataset(tmp_path / "d", prior=prior).prior is prior
    other = Prior(Independent(Normal(np_tensor([0.0, 0.0]), 1.0), 1), names=["a", "c"])
    with pytest.raises(DatasetError, match="a, b; the given prior has a, c"):
        Dataset(tmp_path / "d", prior=other)


def np_tensor(values):
    import torch

    return torch.tensor(values)


def test_a_dataset_travels_to_other_processes(dataset, arrays) -> None:
    assert dataset["x"][:3].shape[0] == 3  # a file is open
    copy = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(copy["x"][2500:], arrays["x"][2500:])


def test_the_layout_follows_from_the_plans(tmp_path) -> None:
    manifest = Manifest("arrays", None, None, {}, None, 4, 8, (6,), "0")
    manifest = manifest.extended(5).extended(17).extended(24)
    assert manifest.plans == (6, 17, 24)
    spans = [(s.first, s.rows) for s in manifest.layout(tmp_path)]
    assert spans == [(0, 6), (6, 2), (8, 8), (16, 1), (17, 7)]
    values = plain(
        {"a": np.float32(2), "b": np.arange(2), "c": (None, float("inf")), "d": tmp_path}
    )
    assert values == {"a": 2.0, "b": [0, 1], "c": [None, "inf"], "d": str(tmp_path)}
    assert "sha256" in plain(np.zeros(2000)) and plain(np.mean) == "numpy:mean"
