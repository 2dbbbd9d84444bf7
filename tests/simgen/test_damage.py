"""Damage: random corruption of files is detected, and repaired to the same bytes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch.distributions import Normal, Uniform

import simgen
from simgen import Dataset, DatasetError, Prior
from simgen.campaign.restoration import restore

PRIOR = Prior(mu=Uniform(-1.0, 1.0), tau=Normal(0.0, 2.0))


@simgen.simulator(prior=PRIOR, name="waves")
def waves(theta, rng):
    if rng.random() < 0.02:
        raise ArithmeticError("no root was found for this wave")
    x = np.sin(theta[0] * np.arange(40)).reshape(1, 8, 5) + rng.standard_normal((1, 8, 5))
    return {"x": x, "z_k": int(rng.integers(100)), "flag": bool(rng.random() < 0.5)}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "d"
    simgen.simulate(waves, 600, path, block=50, shard_size=100, progress=False)
    return path


FUZZ = r'''
"""Corrupts a file of a dataset in many ways, and prints what became of each."""
import json, shutil, sys, time, warnings
from pathlib import Path
import numpy as np
from simgen import Dataset, DatasetError

sound, work, first, last = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
FIELDS = ("theta", "x", "z_k", "flag", "mu", "status")

def everything(dataset):
    out = {k: dataset.status if k == "status" else dataset[k][:] for k in FIELDS}
    out["length"] = len(dataset)
    out["failures"] = [(f.row, f.kind, f.message) for f in dataset.failures]
    out["prior"] = None if dataset.prior is None else json.dumps(dataset.prior.to_dict())
    return out

def same(a, b):
    return all(np.array_equal(a[k], b[k], equal_nan=True) if k in FIELDS and a[k].dtype.kind == "f"
               else np.array_equal(a[k], b[k]) for k in a)

def corrupt(content, rng):
    """Bits flipped, bytes overwritten, or a piece zeroed, cut off, repeated, or put elsewhere."""
    data, n = bytearray(content), len(content)
    kind = rng.integers(7)
    low = int(rng.integers(n) if rng.random() < 0.5 else rng.integers(min(n, 4096)))
    size = int(rng.integers(1, 600))
    if kind == 0:
        data[low] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        for i in rng.integers(n, size=8):
            data[int(i)] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        data[low : low + size] = rng.bytes(len(data[low : low + size]))
    elif kind == 3:
        data[low : low + size] = bytes(len(data[low : low + size]))
    elif kind == 4:
        del data[low:]
    elif kind == 5:
        data[low:low] = data[low : low + size]
    else:
        other = int(rng.integers(n))
        piece = content[other : other + size]
        data[low : low + len(piece)] = piece
    return bytes(data)

truth = everything(Dataset(sound))
files = sorted(p.name for p in sound.iterdir())
for i in range(first, last):
    rng = np.random.default_rng(i)
    name = files[i % len(files)]
    content = (sound / name).read_bytes()
    broken = corrupt(content, rng)
    print(json.dumps({"case": i, "file": name, "begun": True}), flush=True)
    (work / name).write_bytes(broken)
    began = time.perf_counter()
    outcome = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = Dataset(work)
            outcome["read"] = "same" if same(everything(dataset), truth) else "WRONG"
        except DatasetError as error:
            outcome["read"] = "error" if str(work) in str(error) else f"UNCLEAR {error}"
        try:
            outcome["found"] = bool(Dataset(work).verify())
        except DatasetError as error:
            outcome["found"] = True
    outcome |= {"case": i, "file": name, "changed": broken != content,
                "seconds": time.perf_counter() - began}
    print(json.dumps(outcome), flush=True)
    (work / name).write_bytes(content)
'''


def test_two_hundred_corruptions_never_give_a_wrong_array(sound, tmp_path) -> None:
    work = tmp_path / "work"
    shutil.copytree(sound, work)
    command = [sys.executable, "-c", FUZZ, str(sound), str(work), "0", "200"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (lines[-1:], done.stderr[-2000:])  # no crash, no hang
    outcomes = [line for line in lines if "read" in line and line["changed"]]
    assert len(outcomes) > 190
    for outcome in outcomes:
        assert outcome["read"] in ("same", "error"), outcome
        # what verify() does not find must change nothing that is read
        assert outcome["found"] or outcome["read"] == "same", outcome
        assert outcome["seconds"] < 10
    shards = [o for o in outcomes if o["file"].startswith("shard")]
    found = np.mean([o["found"] for o in shards])
    assert found > 0.8, found  # the rest hit bytes that stand for nothing


def contents(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.glob("shard-*.h5")}


def fields(path: Path) -> dict[str, list[bytes]]:
    dataset = Dataset(path)
    return {k: dataset[k][:].tobytes() for k in dataset.stored} | {"s": dataset.status.tobytes()}


@pytest.mark.parametrize("how", ["bit", "cut", "gone", "stranger's", "empty"])
def test_verify_finds_and_repair_mends(sound, tmp_path, how) -> None:
    path = tmp_path / "d"
    shutil.copytree(sound, path)
    before, whole = fields(path), contents(path)
    shard = path / "shard-00000300.h5"
    content = bytearray(shard.read_bytes())
    if how == "bit":
        content[len(content) // 2] ^= 16
        shard.write_bytes(content)
    elif how == "cut":
        shard.write_bytes(content[: len(content) // 3])
    elif how == "gone":
        shard.unlink()
    elif how == "empty":
        shard.write_bytes(b"")
    else:  # whole and sound, with the same rows: but of another seed
        other = simgen.simulate(
            waves, 600, tmp_path / "other", seed=1, block=50, shard_size=100, progress=False
        )
        shutil.copy(other.path / shard.name, shard)
    others = {k: v for k, v in whole.items() if k != shard.name}
    (problem,) = Dataset(path).verify()
    assert "shard-00000300.h5" in problem
    if how != "gone":
        with pytest.raises(DatasetError, match="shard-00000300"):
            Dataset(path)["x"][:]
    assert len(Dataset(path)["theta"][:300]) == 300  # the rest can be read
    assert restore(path, waves, progress=False) == [problem]
    assert Dataset(path).verify() == [] and fields(path) == before
    again = contents(path)
    assert {k: v for k, v in again.items() if k != shard.name} == others  # nothing else is touched
    assert restore(path, waves, progress=False) == []


def test_files_of_another_origin_are_told_and_left_alone(sound, tmp_path) -> None:
    path = tmp_path / "d"
    shutil.copytree(sound, path)
    (path / "notes.txt").write_text("keep")
    shutil.copy(path / "shard-00000000.h5", path / "shard-00009000.h5")
    (path / "plots").mkdir()
    problems = Dataset(path).verify()
    assert [p.split()[0] for p in problems] == ["notes.txt", "shard-00009000.h5"]
    assert all("not of this dataset" in p for p in problems)
    assert len(Dataset(path)) == 600 and restore(path, waves, progress=False) == []
    assert (path / "notes.txt").read_text() == "keep"


def test_an_interrupted_repair_is_finished(sound, tmp_path) -> None:
    path = tmp_path / "d"
    shutil.copytree(sound, path)
    before = fields(path)
    shard = path / "shard-00000200.h5"
    shard.rename(path / f".damaged-{shard.name}")  # killed while the shard was set aside
    assert len(restore(path, waves, progress=False)) == 1
    assert fields(path) == before and not list(path.glob(".damaged-*"))


def test_a_manifest_that_says_something_else_is_told(sound, tmp_path) -> None:
    path = tmp_path / "d"
    shutil.copytree(sound, path)
    text = (path / "dataset.json").read_text()
    values = json.loads(text)
    for change in ({"seed": 1}, {"block": 25}, {"identity": "0" * 64}, {"plans": [500]}):
        (path / "dataset.json").write_text(json.dumps({**values, **change}))
        try:
            assert Dataset(path).verify(), change
        except DatasetError:
            continue


def test_large_arrays_are_checked_at_the_first_reading_alone(tmp_path, monkeypatch) -> None:
    x = np.random.default_rng(0).standard_normal((3000, 64)).astype("f4")
    path = Dataset.create(tmp_path / "d", x=x).path
    shard = path / "shard-00000000.h5"
    content = bytearray(shard.read_bytes())
    at = content.find(x[700].tobytes())
    content[at] ^= 1
    shard.write_bytes(content)
    dataset = Dataset(path)
    assert np.array_equal(dataset["x"][2500:], x[2500:]) and not dataset.status.any()
    with pytest.raises(DatasetError, match=r"'x' is damaged.*repair"):
        dataset["x"][5]  # not the damaged row: but of its array
    content[at] ^= 1
    shard.write_bytes(content)
    dataset, sums = Dataset(path), []
    real = simgen.storage.shard.checksum
    monkeypatch.setattr(simgen.storage.shard, "checksum", lambda *a: sums.append(1) or real(*a))
    assert np.array_equal(dataset["x"][5], x[5])
    first = len(sums)
    assert first and np.array_equal(dataset["x"][:2000], x[:2000]) and len(sums) == first


def test_shards_open_with_any_tool(sound) -> None:
    import h5py

    with h5py.File(sound / "shard-00000100.h5") as file:  # past the seal
        assert np.array_equal(file["x"][()], Dataset(sound)["x"][100:200], equal_nan=True)
    with h5py.File(sound / "index.h5") as index:
        assert np.array_equal(index["theta"][()], Dataset(sound)["theta"][:])
