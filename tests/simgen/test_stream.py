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

    def measured(self, item, *room):
        out = load(self, item, *room)
        window.append(sum(v.nbytes for v in out.values()))
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


@pytest.fixture(scope="module")
def ordered(tmp_path_factory):
    """Rows sorted by theta, which is uniform on (-1, 1)."""
    theta = np.sort(np.random.default_rng(1).uniform(-1, 1, 6000))[:, None]
    return Dataset.create(tmp_path_factory.mktemp("ordered") / "d", theta=theta, x=theta)


def excess(batches) -> float:
    """How much worse than the best constant, of loss 1/3, descent is in its last epoch."""
    b, found = 0.0, []
    for epoch in range(4):
        for batch in batches.epoch(epoch):
            b -= 0.02 * 2 * (b - float(batch["theta"].mean()))
            found.append(b * b)
    return float(np.mean(found[-batches.steps :]))


def test_training_on_sorted_rows_is_as_in_memory(ordered) -> None:
    """Held-out loss within 5 %, where the order of the file costs 25 %; windows are of 8 chunks,
    and of 85 with the memory that fit() has.
    """
    memory = [excess(Batches(ordered, ("theta",), 50, seed=s)) for s in range(4)]
    disk = [excess(Batches(ordered, ("theta",), 50, seed=s, memory=12_000)) for s in range(4)]
    assert np.mean(memory) < 0.001 and np.mean(disk) < 0.05 / 3
    assert excess(Batches(ordered, ("theta",), 50, shuffle=False)) > 0.2 / 3


def test_resident_memory_stays_within_the_budget(tmp_path) -> None:
    import resource

    n, budget = 40_000, 24 << 20
    x = np.zeros((n, 1024), "f4")  # 156 MiB, given page by page
    x[:, 0] = np.arange(n)
    path = Dataset.create(tmp_path / "d", x=x).path
    del x

    def private() -> int:
        fields = Path("/proc/self/statm").read_text().split()
        return (int(fields[1]) - int(fields[2])) * resource.getpagesize()

    batches = Batches(Dataset(path), ("x",), 256, memory=budget)
    seen = torch.zeros(2, n)  # kept in one piece: small ones between batches would pin their pages
    before, peak = private(), 0
    for epoch in range(2):
        at = 0
        for batch in batches.epoch(epoch):
            seen[epoch, at : at + len(batch["x"])] = batch["x"][:, 0]
            at += len(batch["x"])
            peak = max(peak, private())
    assert torch.equal(seen[0].sort()[0], torch.arange(float(n)))
    assert peak - before < budget + (16 << 20)  # a batch, checksums' buffers, a thread's arena


def test_windows_are_filled_again_and_again(dataset, monkeypatch) -> None:
    batches = Batches(dataset, NAMES, 100, memory=100_000)
    buffers = set()
    load = Batches._load

    def noted(self, window, buffer, chunk):
        buffers.add(buffer["x"].ctypes.data)
        return load(self, window, buffer, chunk)

    monkeypatch.setattr(Batches, "_load", noted)
    for epoch in range(3):
        assert len(numbers(batches, epoch)) == batches.steps
    assert len(buffers) == 2
    both = zip(batches.epoch(3), batches.epoch(4))  # two at a time do not share
    first = [batch["theta"][:, 0].long() for batch, _ in both]
    assert all(torch.equal(a, b) for a, b in zip(first, numbers(batches, 3)))


def test_batches_that_are_kept_are_not_written_over(dataset) -> None:
    batches = Batches(dataset, NAMES, 100, memory=100_000)
    kept = list(batches.epoch(0))
    copies = [{k: v.clone() for k, v in batch.items()} for batch in kept]
    for epoch in range(1, 3):
        assert len(numbers(batches, epoch)) == batches.steps
    for batch, copy in zip(kept, copies):
        assert all(torch.equal(batch[k], copy[k]) for k in batch)


def test_batches_for_a_gpu_leave_from_pinned_memory(dataset, monkeypatch) -> None:
    pinned, sent = [], []
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda t: pinned.append(len(t)) or t)

    def send(tensor, device, non_blocking=False):
        sent.append((torch.device(device).type, non_blocking))
        return to(tensor, "cpu")

    monkeypatch.setattr(torch.Tensor, "to", send)
    batches = Batches(dataset, ("theta", "x"), 500, memory=100_000, device="cuda")
    assert sum(len(batch["x"]) for batch in batches.epoch(0)) == len(batches.rows)
    assert sum(pinned) == 2 * len(batches.rows) and set(sent) == {("cuda", True)}


def test_sparse_rows_are_gathered(dataset) -> None:
    view = dataset.validation  # one row in ten
    batches = Batches(view, NAMES, 32, memory=15_000)
    assert not batches.in_memory
    seen = torch.cat(numbers(batches, 0)).numpy()
    assert np.array_equal(np.sort(seen), view.rows)


def test_augment_draws_noise_anew_on_what_is_stored_without(tmp_path) -> None:
    """From noise-free rows, in every epoch other noise: the posterior is that of noisy data."""
    import simgen

    rng = np.random.default_rng(0)
    theta = rng.standard_normal((300, 1)).astype("f4")
    dataset = Dataset.create(tmp_path / "d", theta=theta, x=theta)  # x without its noise
    seen: dict[float, set[float]] = {}

    def noisy(batch, rng):
        out = batch["x"] + 0.5 * torch.from_numpy(rng.standard_normal(batch["x"].shape)).float()
        for t, x in zip(batch["theta"][:, 0].tolist(), out[:, 0].tolist()):
            seen.setdefault(t, set()).add(x)
        return {**batch, "x": out}

    for memory in (1 << 30, 2_000):
        seen.clear()
        posterior = simgen.fit(
            "theta | x",
            dataset,
            simgen.Flow(transforms=1),
            augment=noisy,
            memory=memory,
            max_epochs=20,
            batch_size=30,
            progress=False,
        )
        fresh = np.median([len(v) for v in seen.values()])
        assert fresh > 15  # of 20 epochs
        draws = posterior(torch.tensor([1.0])).sample((4000,), seed=0)
        # exact: N(0.8, 0.2); without noise the deviation would be about 0
        assert abs(float(draws.mean()) - 0.8) < 0.25 and 0.3 < float(draws.std()) < 0.65
