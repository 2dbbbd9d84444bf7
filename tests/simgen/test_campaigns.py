"""Campaigns: kills, two coordinators, readers, and rows that end their process."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from torch.distributions import Normal, Uniform

import simgen
from simgen import Dataset, DatasetError, Prior, simulate
from simgen.forward import stream
from simgen.storage.locking import Lock
from simgen.storage.manifest import Manifest
from studies.campaigns.torture import SHARD, campaign, peace, processes, torture, walk

PRIOR = Prior(mu=Uniform(-1.0, 1.0), tau=Normal(0.0, 2.0))

linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")


@linux
def test_ten_kills_lose_repeat_and_rewrite_nothing(tmp_path) -> None:
    toll = torture(tmp_path, rows=1600, kills=10, pause=6e-3, longest=1.0)
    assert (toll.coordinators, toll.workers) == (5, 5)
    assert (toll.lost, toll.duplicated, toll.different, toll.rewritten) == (0, 0, 0, 0)
    assert toll.failed > 10
    dataset = Dataset(tmp_path / "torture")
    assert dataset.verify() == []
    assert not list((tmp_path / "torture").glob(".*"))
    assert {f.kind for f in dataset.failures} == {"ArithmeticError", "nonfinite"}


@linux
def test_of_coordinators_started_at_once_one_works_and_readers_see_whole_shards(tmp_path) -> None:
    rows, path = 640, tmp_path / "data"
    whole = peace(tmp_path / "peace", rows)
    x = whole["x"][:]
    started = [
        processes().Process(target=campaign, args=(str(path), rows, 4e-3)) for _ in range(3)
    ]
    for process in started:
        process.start()
    lengths = set()
    while any(process.is_alive() for process in started):
        time.sleep(0.02)
        try:
            dataset = Dataset(path)
        except DatasetError as error:
            assert "no dataset" in str(error) or "no simgen dataset" in str(error)
            continue
        n = len(dataset)
        assert n % SHARD == 0 and np.array_equal(dataset["x"][:], x[:n], equal_nan=True)
        lengths.add(n)
    assert len(lengths) > 3 and max(lengths) <= rows
    assert sorted(process.exitcode or 0 for process in started) == [0, 3, 3]
    (worker,) = [p.pid for p in started if p.exitcode == 0]
    told = [file.read_text() for file in tmp_path.glob("*.txt")]
    assert len(told) == 2 and all(f"process {worker} on " in text for text in told)
    assert Dataset(path).verify() == []


def test_a_shard_that_is_there_is_kept(tmp_path) -> None:
    """A worker of a killed run may commit after another has planned the same shard."""
    path, theirs = tmp_path / "a", tmp_path / "b"
    peace(theirs, 320)
    late = f"shard-{2 * SHARD:08d}.h5"

    class Orphan(type(walk(0.0))):
        def simulate(self, theta, rng):
            if not (path / late).exists() and (path / "shard-00000000.h5").exists():
                os.link(theirs / late, path / late)
            return super().simulate(theta, rng)

    orphan = walk(0.0)
    orphan.__class__ = Orphan
    dataset = simulate(orphan, 320, path, block=32, shard_size=SHARD)
    assert (path / late).stat().st_ino == (theirs / late).stat().st_ino
    assert dataset.verify() == []


@linux
def test_rows_that_end_their_process_are_recorded_however_they_do(tmp_path) -> None:
    def quit_(row):
        os._exit(7)

    def crash(row):
        ctypes.string_at(0)

    def starve(row):  # as the kernel does where memory runs out
        os.kill(os.getpid(), signal.SIGKILL)

    deadly = {3: quit_, 17: crash, 22: starve}

    @simgen.simulator(prior=PRIOR)
    def function(theta, rng):
        u = rng.random()
        for row, end in deadly.items():
            if u == stream(2, 2, row).random():
                end(row)
        return np.array([u])

    dataset = simulate(function, 32, tmp_path / "d", seed=2, workers=2, block=8)
    assert {f.row for f in dataset.failures} == set(deadly)
    for failure in dataset.failures:
        assert failure.kind == "killed" and failure.seed == (2, 2, failure.row)
        assert np.array_equal(failure.theta, dataset["theta"][failure.row])
        how = {3: "exit code 7", 17: "SIGSEGV", 22: "SIGKILL, perhaps for want of memory"}
        assert failure.message.endswith(f": {how[failure.row]}")
    assert np.isfinite(dataset["x"][:]).sum() == 29


def test_failures_say_how_to_repeat_them(tmp_path) -> None:
    def inner(u):
        if u > 0.9:
            raise ArithmeticError(f"u is {u:.6f}")

    @simgen.simulator(prior=PRIOR)
    def rows(theta, rng):
        inner(rng.random())
        return theta

    dataset = simulate(rows, 300, tmp_path / "rows", seed=4)
    assert len(dataset.failures) > 10
    for failure in dataset.failures:
        seed, purpose, index = failure.seed
        assert (seed, purpose, index) == (4, 2, failure.row)
        with pytest.raises(ArithmeticError, match=failure.message):
            rows.run(failure.theta, stream(*failure.seed))
        lines = failure.trace.splitlines()
        assert lines[-1] == f"ArithmeticError: {failure.message}"
        assert sum("test_campaigns.py" in line for line in lines) == 2  # ours are left out
        assert not any("workers.py" in line for line in lines)

    @simgen.simulator(prior=PRIOR, batched=True)
    def blocks(theta, rng):
        u = rng.random()
        if u > 0.6:
            raise ArithmeticError(f"u is {u:.6f}")
        return theta

    dataset = simulate(blocks, 640, tmp_path / "blocks", seed=4, block=64)
    assert dataset.failures
    for failure in dataset.failures:
        assert failure.seed == (4, 1, failure.row // 64)
        assert f"{stream(*failure.seed).random():.6f}" in failure.message


@pytest.mark.parametrize("batched", [False, True])
def test_a_simulator_that_always_fails_is_stopped_at_once(tmp_path, batched) -> None:
    calls = []

    @simgen.simulator(prior=PRIOR, batched=batched)
    def never(theta, rng):
        calls.append(1)
        raise RuntimeError("no licence")

    with pytest.raises(DatasetError, match=r"row 0 failed with RuntimeError: no licence") as told:
        simulate(never, 1_000_000, tmp_path / "d")
    assert len(calls) == (4 if batched else 32)
    assert "Traceback" in str(told.value) and "in never" in str(told.value)
    assert not (tmp_path / "d").exists()
    calls.clear()
    with pytest.raises(DatasetError, match="more than max_failures allows"):
        simulate(never, 1_000_000, tmp_path / "d", max_failures=20)
    assert len(calls) == (1 if batched else 32)


def test_a_simulator_that_seldom_succeeds_may_go_on_where_that_is_said(tmp_path) -> None:
    @simgen.simulator(prior=PRIOR)
    def seldom(theta, rng):
        if rng.random() > 0.01:
            raise RuntimeError("not selected")
        return theta

    u = np.array([stream(11, 2, row).random() for row in range(1000)])
    assert not (u < 0.01)[:32].any() and (u < 0.01)[:512].any()
    with pytest.raises(DatasetError, match="none of the first 32 rows"):
        simulate(seldom, 1000, tmp_path / "d", seed=11)
    dataset = simulate(seldom, 1000, tmp_path / "d", seed=11, max_failures=1000)
    assert np.array_equal(dataset.status == 0, u <= 0.01)


def test_the_first_error_is_told_where_others_follow(tmp_path) -> None:
    @simgen.simulator(prior=PRIOR)
    def worse(theta, rng):
        u = rng.random()
        if u < 0.1:
            raise KeyError("first") if u < 0.02 else ValueError("often")
        return theta

    u = np.array([stream(0, 2, row).random() for row in range(600)])
    first = int(np.flatnonzero(u < 0.1)[0])
    with pytest.raises(DatasetError, match=f"often; row {first} failed with") as told:
        simulate(worse, 600, tmp_path / "d", max_failures=0.05)
    assert "more than max_failures allows (30)" in str(told.value)
    assert "in worse" in str(told.value)


def test_what_is_at_work_missing_and_failed_is_shown(tmp_path) -> None:
    from simgen.console.inspection import inspect

    path = tmp_path / "d"
    for part in ("1/3", "3/3"):
        simulate(walk(0.0), 640, path, part=part, block=32, shard_size=SHARD)
    with Lock(path / ".part-2-of-3.lock"):
        facts = dict(inspect(path)[0].rows)
    assert facts["rows"] == "64 of 640 planned"
    assert facts["shards"] == "7 of 10, 448 rows"
    assert facts["missing rows"] == "192: 64 to 127, 256 to 319, 448 to 511"
    assert facts["at work"].startswith(f"part 2/3: process {os.getpid()} on ")
    simulate(walk(0.0), 640, path, part="2/3")
    facts, failed = dict(inspect(path)[0].rows), Dataset(path).failures
    assert facts["missing rows"] == "0" and "at work" not in facts
    assert facts["failed rows"].startswith(f"{len(failed)}: ")


def test_the_index_shows_what_the_shards_hold(tmp_path) -> None:
    import h5py

    dataset = peace(tmp_path / "d", 640)
    with h5py.File(tmp_path / "d" / "index.h5") as index:
        for name in (*dataset.stored, "status"):
            wanted = dataset.status if name == "status" else dataset[name][:]
            assert index[name].dtype == wanted.dtype
            assert np.array_equal(index[name][()], wanted, equal_nan=name != "status")


def test_a_plan_of_many_shards_takes_time_in_proportion(tmp_path) -> None:
    """Ten times the shards take about ten times as long, to plan and to open."""
    import json

    peace(tmp_path / "d", 64)
    values = json.loads((tmp_path / "d" / "dataset.json").read_text())
    times = []
    for shards in (1000, 10_000):
        values.pop("crc32", None)
        values |= {"block": 1, "shard_size": 1, "plans": [shards], "rows": shards}
        (tmp_path / "d" / "dataset.json").write_text(json.dumps(values))
        best = np.inf
        for _ in range(3):
            began = time.perf_counter()
            assert len(Manifest.load(tmp_path / "d").layout(tmp_path / "d")) == shards
            Dataset(tmp_path / "d")
            best = min(best, time.perf_counter() - began)
        times.append(best)
    assert times[1] < 40 * times[0]  # quadratic would be a hundred
    assert times[1] < 5.0
