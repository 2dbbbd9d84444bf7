"""Batches: each row exactly once, in an order that follows from seed and epoch."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import simgen.storage.shard
from simgen import Dataset, DatasetError
from simgen.storage.extent import extent_of
from simgen.storage.window import Window, Windows
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
    rooms: list[int] = []
    read, room = simgen.storage.shard.Segments.read, Windows.room

    def counted(self, name, start, stop, out=None):
        reads.append(stop - start)
        assert len(self._open) <= 8
        return read(self, name, start, stop, out)

    def measured(self):
        out = room(self)
        rooms.append(sum(v.nbytes for v in out.values()))
        return out

    monkeypatch.setattr(simgen.storage.shard.Segments, "read", counted)
    monkeypatch.setattr(Windows, "room", measured)
    memory = 300_000
    batches = Batches(dataset.train, ("x",), 128, memory=memory)
    assert sum(len(b["x"]) for b in batches.epoch(0)) == len(dataset.train)
    assert len(reads) < len(dataset.train) / 50  # spans, not rows
    assert len(rooms) == 2 and sum(rooms) <= 0.75 * memory


def held_by_this_process(path: Path) -> list[str]:
    """Files of a folder that are mapped or open."""
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]
    links = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return maps + [link for link in links if link.startswith(str(path))]


@pytest.mark.parametrize("whole", [True, False])
def test_nothing_stays_of_an_epoch(dataset, whole) -> None:
    epoch = Batches(dataset, NAMES, 50, memory=60_000).epoch(0)
    next(epoch)
    batch = [b for b in epoch][-1] if whole else next(epoch)
    epoch.close()
    dataset.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("simgen-read")]
    assert not held_by_this_process(dataset.path)
    assert torch.isfinite(batch["x"]).all()  # a batch is a copy


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


@pytest.mark.parametrize("memory", [6_000, 20_000])
def test_training_on_sorted_rows_is_as_in_memory(ordered, memory) -> None:
    """Held-out loss as in memory but for 0.002, where the order of the file costs 25 % of it."""
    known = [excess(Batches(ordered, ("theta",), 50, seed=s)) for s in range(4)]
    batches = [Batches(ordered, ("theta",), 50, seed=s, memory=memory) for s in range(4)]
    assert not batches[0].in_memory and batches[0]._windows.count > 1
    disk = [excess(b) for b in batches]
    assert np.mean(known) < 0.001 and np.mean(disk) < 0.002
    assert excess(Batches(ordered, ("theta",), 50, shuffle=False)) > 0.2 / 3


def test_a_window_is_a_stratified_sample_of_the_file(ordered) -> None:
    windows = Batches(ordered, ("theta",), 50, memory=20_000)._windows
    chunks, w = windows._chunks, windows.count
    hands = windows.deal(np.random.default_rng(0))
    assert len(hands) == w > 2
    assert sorted(i for hand in hands for i in hand) == list(range(len(chunks)))
    for hand in hands:  # one of every w that follow each other
        assert [i // w for i in hand[: len(chunks) // w]] == list(range(len(chunks) // w))
    again = windows.deal(np.random.default_rng(1))
    assert again != hands and len({tuple(hand) for hand in hands + again}) == 2 * w


def test_resident_memory_stays_within_the_budget(tmp_path) -> None:
    import resource

    n, budget = 40_000, 24 << 20
    x = np.zeros((n, 1024), "f4")  # 156 MiB, given page by page
    x[:, 0] = np.arange(n)
    path = Dataset.create(tmp_path / "d", x=x).path
    del x

    def resident() -> int:  # with what is mapped of files
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    batches = Batches(Dataset(path), ("x",), 256, memory=budget)
    seen = torch.zeros(2, n)  # kept in one piece: small ones between batches would pin their pages
    before, peak = resident(), 0
    for epoch in range(2):
        at = 0
        for batch in batches.epoch(epoch):
            seen[epoch, at : at + len(batch["x"])] = batch["x"][:, 0]
            at += len(batch["x"])
            peak = max(peak, resident())
    assert torch.equal(seen[0].sort()[0], torch.arange(float(n)))
    assert peak - before < budget + (16 << 20)  # a batch, checksums' buffers, a thread's arena


def test_memory_of_batches_is_used_again(dataset) -> None:
    batches = Batches(dataset, NAMES, 100, memory=100_000)
    places = {batch["x"].data_ptr() for batch in batches.epoch(0)}
    assert len(places) < batches.steps / 2
    both = zip(batches.epoch(3), batches.epoch(4))  # two at a time do not share
    first = [batch["theta"][:, 0].long() for batch, _ in both]
    assert all(torch.equal(a, b) for a, b in zip(first, numbers(batches, 3)))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["u1", "bool", "f2", "i4", "f4", "f8", "c16"])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (64, 65)])
def test_rows_are_copied_as_they_are(shape, dtype, threads, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    rng = np.random.default_rng(0)
    size = 150 * int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
    rows = rng.integers(0, 2, size, np.uint8).view(dtype).reshape(150, *shape)
    index, out = rng.permutation(150)[:120], np.zeros((100, *shape), dtype)
    Window({"x": rows}, index).take(7, 107, {"x": out})
    assert out.tobytes() == rows[index[7:107]].tobytes()


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


def layouts(path: Path, x: np.ndarray) -> dict[str, bool]:
    """Writes x in many ways; which of them lie there as in memory."""
    plain, n = path / "plain.h5", len(x)
    with h5py.File(plain, "w", userblock_size=1024) as file:
        file["x"] = x
    other = path / "other.h5"
    kinds = {"f8": False, ">f4": False}
    with h5py.File(other, "w") as file:
        for kind in kinds:
            file[kind] = x.astype(kind)
        file.create_dataset("chunked", data=x, chunks=(64, *x.shape[1:]))
        file.create_dataset("gzip", data=x, chunks=(64, *x.shape[1:]), compression="gzip")
        file.create_dataset("outside", x.shape, "f4", external=[(str(path / "raw"), 0, x.nbytes)])
        file["outside"][:] = x
        layout = h5py.VirtualLayout(x.shape, "f4")
        layout[:] = h5py.VirtualSource(str(plain), "x", x.shape)
        file.create_virtual_dataset("virtual", layout)
        table = np.zeros(n, [("id", "i4"), ("x", "f4", x.shape[1:])])
        table["x"] = x
        file["table"] = table
        file["link"] = h5py.ExternalLink("plain.h5", "x")
        file["plain"] = x
    unmapped = {f"other.h5:{k}": False for k in ("chunked", "gzip", "outside", "virtual")}
    unmapped |= {f"other.h5:{k}": False for k in kinds} | {"other.h5:table/x": False}
    np.save(path / "one.npy", x)
    np.save(path / "fortran.npy", np.asfortranarray(x))
    np.savez(path / "stored.npz", x=x)
    np.savez_compressed(path / "packed.npz", x=x)
    mapped = ("plain.h5:x", "other.h5:link", "other.h5:plain", "one.npy:one", "stored.npz:x")
    unmapped |= {"fortran.npy:fortran": False, "packed.npz:x": False}
    return unmapped | dict.fromkeys(mapped, True)


def test_files_of_any_layout_stream_the_same_rows(tmp_path) -> None:
    x = np.random.default_rng(0).standard_normal((600, 2, 5)).astype("f4")
    x[:, 0, 0] = np.arange(600)
    epochs = []
    for name, plain in layouts(tmp_path, x).items():
        file, _, array = name.partition(":")
        found = Dataset(tmp_path / file, fields={"x": array})
        segment = found._segments.segments[0]
        extent = extent_of(found._segments._array(segment, "x"))
        assert (extent is not None and extent.fits(x)) == plain, name
        batches = Batches(found, ("x",), 64, seed=1, memory=16_000)
        assert not batches.in_memory
        epochs.append(torch.cat([batch["x"] for batch in batches.epoch(2)]))
        assert np.array_equal(epochs[-1].numpy(), x[epochs[-1][:, 0, 0].long()]), name
        assert torch.equal(epochs[-1], epochs[0]), name
        found.close()
    assert extent_of(np.zeros(3)) is None


@pytest.mark.parametrize("name", ["a.h5", "a.npy"])
@pytest.mark.parametrize("later", [True, False])
def test_a_file_that_is_cut_off_is_an_error(tmp_path, name, later) -> None:
    """Shorter than it says before the first epoch, or between two."""
    x, path = np.ones((5000, 8), "f4"), tmp_path / name
    write(path, x)
    found = Dataset(path, fields={"x": "a"})
    batches = Batches(found, ("x",), 64, memory=50_000)
    if later:
        assert sum(len(b["x"]) for b in batches.epoch(0)) == 5000
    found.close()
    os.truncate(path, 100_000)
    with pytest.raises(DatasetError, match=rf"{name}.*(truncated|100000|greater than file size)"):
        list(batches.epoch(1))


def write(path: Path, x: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, x)
    else:
        with h5py.File(path, "w") as file:
            file["a"] = x


@pytest.mark.parametrize("name", ["a.h5", "a.npy"])
def test_a_file_that_is_replaced_is_read_as_it_is_now(tmp_path, name) -> None:
    """At another offset too: nothing that is known of the old one is trusted."""
    x, path, other = np.ones((5000, 8), "f4"), tmp_path / name, tmp_path / f"b{name[1:]}"
    write(path, x)
    batches = Batches(Dataset(path, fields={"x": "a"}), ("x",), 64, memory=50_000)
    assert all((b["x"] == 1).all() for b in batches.epoch(0))
    if path.suffix == ".npy":
        with open(other, "wb") as file:
            np.lib.format.write_array(file, np.append(2 * x, x, 0), version=(2, 0))
    else:
        with h5py.File(other, "w", userblock_size=4096) as file:
            file["a"] = 2 * x
    os.replace(other, path)
    assert all((b["x"] == 2).all() for b in batches.epoch(1))


def test_fields_of_no_size_and_parameters_stream(tmp_path) -> None:
    theta = np.arange(3000.0, dtype="f4").reshape(1000, 3)
    path = Dataset.create(tmp_path / "d", theta=theta, x=np.zeros((1000, 0)), z_b=theta > 5).path
    batches = Batches(Dataset(path), ("theta_1", "x", "z_b", "theta"), 100, memory=10_000)
    assert not batches.in_memory
    for batch in batches.epoch(0):
        assert batch["x"].shape == (100, 0) and batch["z_b"].dtype == torch.bool
        assert torch.equal(batch["theta_1"], batch["theta"][:, 1])
        assert torch.equal(batch["z_b"], batch["theta"] > 5)


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
