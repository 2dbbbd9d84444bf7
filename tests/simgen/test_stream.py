"""Batches: each row exactly once, in an order that follows from seed and epoch."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import simgen.shard
from simgen import Dataset, DatasetError
from simgen.stream import Batches

NAMES = ("theta", "x", "z_n")
BIG = 1 << 30


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    rng = np.random.default_rng(0)
    n = 5000
    x = rng.standard_normal((n, 40)).astype("f4")
    x[::17] = np.nan
    path = tmp_path_factory.mktemp("stream") / "d"
    return Dataset.create(
        path, theta=np.arange(n)[:, None], x=x, z_n=np.arange(n, dtype=np.uint16)
    )


def numbers(batches, epoch, start=0):
    return [batch["theta"][:, 0].long() for batch in batches.epoch(epoch, start)]


@pytest.mark.parametrize("memory", [BIG, 200_000, 20_000])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_is_every_good_row_once(dataset, memory, shuffle) -> None:
    view = dataset.train
    batches = Batches(view, NAMES, 256, seed=1, memory=memory, shuffle=shuffle)
    assert batches.in_memory == (memory == BIG)
    x = np.asarray(dataset["x"])
    sizes, seen = [], []
    for batch in batches.epoch(0):
        rows = batch["theta"][:, 0].long()
        assert np.array_equal(batch["x"].numpy(), x[rows])
        assert torch.equal(batch["z_n"].long(), rows) and batch["x"].dtype == torch.float32
        sizes.append(len(rows))
        seen.append(rows)
    assert len(sizes) == batches.steps == round(len(view) / 256)
    assert max(sizes) - min(sizes) <= 1
    order = torch.cat(seen).numpy()
    assert np.array_equal(np.sort(order), view.rows) and np.array_equal(batches.rows, view.rows)
    assert np.array_equal(order, view.rows) != shuffle


@pytest.mark.parametrize("memory", [BIG, 60_000])
def test_the_order_follows_from_seed_and_epoch(dataset, memory) -> None:
    def make(seed):
        return Batches(dataset, NAMES, 100, seed=seed, memory=memory)

    first, again, other = make(1), make(1), make(2)
    whole = numbers(first, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, numbers(again, 3)))
    for start in (0, 1, 20, first.steps - 1, first.steps):
        rest = numbers(again, 3, start)
        assert len(rest) == first.steps - start
        assert all(torch.equal(a, b) for a, b in zip(whole[start:], rest))
    assert not torch.equal(torch.cat(whole), torch.cat(numbers(first, 4)))
    assert not torch.equal(torch.cat(whole), torch.cat(numbers(other, 3)))


def test_a_stream_mixes_rows_from_all_over(dataset) -> None:
    batches = Batches(dataset, NAMES, 200, memory=250_000)
    assert not batches.in_memory
    spread = [rows.float().std().item() for rows in numbers(batches, 0)]
    # a uniform sample of 5000 rows has standard deviation 1443; 200 neighbours have 58
    assert np.mean(spread) > 1000


def test_a_stream_reads_contiguously_with_few_files_within_its_memory(
    dataset, monkeypatch
) -> None:
    reads: list[int] = []
    window: list[int] = []
    read, load = simgen.shard.Segments.read, Batches._load

    def counted(self, name, start, stop, out=None):
        reads.append(stop - start)
        assert len(self._open) <= 8
        return read(self, name, start, stop, out)

    def measured(self, item):
        out = load(self, item)
        window.append(sum(v.numel() * v.element_size() for v in out[0].values()))
        return out

    monkeypatch.setattr(simgen.shard.Segments, "read", counted)
    monkeypatch.setattr(Batches, "_load", measured)
    memory = 300_000
    batches = Batches(dataset.train, ("x",), 128, memory=memory)
    assert sum(len(b["x"]) for b in batches.epoch(0)) == len(dataset.train)
    assert len(reads) < len(dataset.train) / 50  # spans, not rows
    assert max(window) <= memory / 3


def test_an_abandoned_epoch_leaves_no_thread(dataset) -> None:
    epoch = Batches(dataset, NAMES, 50, memory=60_000).epoch(0)
    next(epoch)
    epoch.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("simgen-read")]


def test_tensors_parameters_and_small_sets(dataset) -> None:
    tensors = {"a": torch.arange(10.0), "b": torch.ones(10, 2)}
    batches = Batches(tensors, ("a",), 4)
    assert batches.steps == 2 and batches.in_memory and len(batches) == 2
    assert torch.equal(torch.cat([b["a"] for b in batches.epoch(0)]).sort()[0], tensors["a"])
    one = Batches(dataset.validation, ("theta_0",), 100_000)
    assert one.steps == 1 and next(iter(one.epoch(0)))["theta_0"].ndim == 1
    with pytest.raises(DatasetError, match="no good rows"):
        Batches(dataset.test, NAMES, 10)
    with pytest.raises(DatasetError, match="no field 'y'"):
        Batches(dataset, ("y",), 10)
    with pytest.raises(ValueError, match="batch_size"):
        Batches(dataset, NAMES, 0)


def test_workers_import_no_torch_through_these_modules() -> None:
    import subprocess
    import sys

    code = "import simgen.simulation, simgen.dataset, sys; print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert out.stdout.strip() == "False", out.stderr
