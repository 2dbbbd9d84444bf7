"""simulate(): the same rows whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from torch.distributions import Normal, Uniform

import simgen
from simgen import DatasetError, Field, Prior, simulate
from simgen.campaign.coordinator import draw_theta
from simgen.forward import BLOCK, ROW, stream

ROOT = Path(__file__).parents[2]
PRIOR = Prior(mu=Uniform(-1.0, 1.0), tau=Normal(0.0, 2.0))


def one(theta, rng):
    if rng.random() < 0.02:
        raise ArithmeticError("unlucky")
    x = theta + rng.standard_normal(2)
    if rng.random() < 0.02:
        x[1] = np.inf
    return {"x": x, "z_n": int(rng.poisson(4))}


def many(theta, rng):
    return {
        "x": theta[:, :1] + rng.standard_normal((len(theta), 3)),
        "z_n": rng.poisson(4, len(theta)),
    }


def rowwise(batched):
    return simgen.simulator(many if batched else one, prior=PRIOR, batched=batched)


def content(path):
    """Every stored byte of every field, row by row."""
    out: dict[str, list[bytes]] = {}
    for file in sorted(path.glob("shard-*.h5")):
        with h5py.File(file) as shard:
            for name in ("theta", "x", "z_n", "row", "round", "status"):
                out.setdefault(name, []).append(shard[name][()].tobytes())
    return {name: b"".join(parts) for name, parts in out.items()}


def script(tmp_path, body, n=3000, workers=1, path="data", rest=""):
    """A plain script without a guard, whose simulator is defined at its top level."""
    file = tmp_path / "script.py"
    head = f"""
        import os, sys, time
        import numpy as np
        import simgen
        from torch.distributions import Normal, Uniform
        prior = simgen.Prior(mu=Uniform(-1.0, 1.0), tau=Normal(0.0, 2.0))
        offset = 0.0
        {textwrap.indent(textwrap.dedent(body), " " * 8).strip()}
        d = simgen.simulate(mine, {n}, {str(tmp_path / path)!r}, workers={workers}{rest})
        """
    file.write_text(textwrap.dedent(head))
    return [sys.executable, str(file)]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
MINE = """
@simgen.simulator(prior=prior, name="mine")
def mine(theta, rng):
    return {"x": theta + offset + rng.standard_normal(2), "z_n": int("torch" in sys.modules)}
"""


SLOW = """
@simgen.simulator(prior=prior, name="mine")
def mine(theta, rng):
    time.sleep(1e-3)
    return {"x": theta + rng.standard_normal(2), "z_n": 0}
"""


@pytest.mark.parametrize("batched", [False, True])
def test_rows_are_a_function_of_their_number_alone(tmp_path, batched) -> None:
    once = simulate(rowwise(batched), 1300, tmp_path / "a", seed=3, shard_size=512)
    with ThreadPoolExecutor(2) as executor:
        simulate(rowwise(batched), 1300, tmp_path / "b", seed=3, shard_size=512, executor=executor)
    simulate(rowwise(batched), 300, tmp_path / "c", seed=3, shard_size=512)
    simulate(rowwise(batched), 700, tmp_path / "c", seed=3)
    simulate(rowwise(batched), 1300, tmp_path / "c", seed=3)
    names = sorted(p.name for p in (tmp_path / "c").glob("shard*"))
    assert names == [f"shard-{i:08d}.h5" for i in (0, 300, 512, 700, 1024)]
    wanted = content(tmp_path / "a")
    assert content(tmp_path / "b") == wanted
    assert content(tmp_path / "c") == wanted
    assert once.verify() == []
    assert simgen.Dataset(tmp_path / "c").verify() == []
    assert simgen.Dataset(tmp_path / "c").identity == once.identity
    # the streams are those that the design names
    theta = once["theta"][:]
    assert np.array_equal(theta[256:512], draw_theta(PRIOR, 3, 1, 256))
    if batched:
        x = many(theta[512:768].astype(float), stream(3, BLOCK, 2))["x"]
        assert np.array_equal(once["x"][512:768], x.astype(np.float32))
    else:
        row = int(once.good.rows[700])
        x = one(theta[row].astype(float), stream(3, ROW, row))["x"]
        assert np.array_equal(once["x"][row], x.astype(np.float32))


def test_processes_of_an_unguarded_script_write_the_same_bytes_without_torch(tmp_path) -> None:
    body = (
        MINE
        + """
class Mine(simgen.Simulator):
    prior = prior
    batched = False
    def simulate(self, theta, rng):
        before = "torch" in sys.modules
        low = float(self.prior.low[0]) if rng.random() < 0.5 else 0.0
        return {"x": np.array([theta["mu"], low]), "z_n": int(before)}
path = os.path.join(os.path.dirname(__file__), "class")
simgen.simulate(Mine, 60, path, workers=2, block=20)
"""
    )
    command = script(tmp_path, body, n=2500, workers=2, rest=", shard_size=256")
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    dataset = simgen.Dataset(tmp_path / "data")
    assert len(dataset) == 2500 and dataset.verify() == []
    assert not dataset["z_n"][:].any(), "a worker of a NumPy simulator imported torch"

    simulate(mine(), 2500, tmp_path / "here", shard_size=256)
    assert content(tmp_path / "here") == content(tmp_path / "data")
    # a class takes its prior along, and torch only once it uses it
    dataset = simgen.Dataset(tmp_path / "class")
    assert set(dataset["x"][:, 1]) == {0.0, -1.0}
    assert 0 in dataset["z_n"][:]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_killed_at_any_instant_and_resumed_ends_with_the_same_bytes(tmp_path) -> None:
    body = SLOW.replace("1e-3", "2e-4")
    command = script(tmp_path, body, n=5000, workers=2, rest=", shard_size=256")
    path = tmp_path / "data"
    for shards in (2, 11):
        process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        wait_for_shards(path, shards)
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        until = time.monotonic() + 20
        while any(Path(f"/proc/{w}").exists() for w in workers) and time.monotonic() < until:
            time.sleep(0.02)
        assert workers and not any(Path(f"/proc/{w}").exists() for w in workers)
        assert list(path.glob(".part-*.lock"))  # left by the dead; taken over
        assert 0 < len(list(path.glob("shard*"))) < 20
    dataset = simulate(mine(), 5000, path)
    assert dataset.verify() == [] and len(dataset) == 5000
    simulate(mine(), 5000, tmp_path / "whole", shard_size=512)
    assert content(path) == content(tmp_path / "whole")


def children(pid):
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def wait_for_shards(path, count):
    until = time.monotonic() + 60
    while len(list(path.glob("shard*"))) < count and time.monotonic() < until:
        time.sleep(0.002)


def mine():
    @simgen.simulator(prior=PRIOR, name="mine")
    def function(theta, rng):
        return {"x": theta + rng.standard_normal(2), "z_n": 0}

    return function


def test_interrupt_keeps_what_is_committed_and_says_how_to_go_on(tmp_path) -> None:
    command = script(tmp_path, SLOW, n=100_000, workers=2, rest=", block=32, shard_size=32")
    process = subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # what runs in the background of a shell ignores it, and so would what it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    path = tmp_path / "data"
    wait_for_shards(path, 3)
    for part in (None, "1/2"):  # a second coordinator is told who is at work
        with pytest.raises(DatasetError, match=f"process {process.pid} on "):
            simulate(mine(), 200, path, part=part)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers get it too
    _, errors = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert f"of 100000 rows in {path}; run the same command again" in errors
    assert errors.count("Traceback") == 1  # the coordinator's own
    assert len(simgen.Dataset(path)) >= 32
    assert not list(path.glob(".*"))  # no lock, probe or temporary file


def test_failed_rows_are_recorded_and_only_these(tmp_path) -> None:
    dataset = simulate(rowwise(False), 2000, tmp_path / "a")
    kinds = {f.kind for f in dataset.failures}
    assert kinds == {"ArithmeticError", "nonfinite"}
    assert any(f.message == "unlucky" for f in dataset.failures)
    bad = np.array([f.row for f in dataset.failures])
    assert np.array_equal(np.flatnonzero(dataset.status), bad)
    assert np.isnan(dataset["x"][bad]).all() and not dataset["z_n"][bad].any()
    assert np.isfinite(dataset["theta"][bad]).all()
    assert np.array_equal(dataset.failures[0].theta, dataset["theta"][int(bad[0])])
    assert len(dataset.good) == 2000 - len(bad)
    # one in 50 raises, one in 50 of the rest is infinite: mean 79.2, sd 8.7
    assert 79.2 - 4 * 8.7 < len(bad) < 79.2 + 4 * 8.7


def test_a_batched_call_that_raises_fails_its_block_or_runs_row_by_row(tmp_path) -> None:
    class Picky(simgen.Simulator):
        prior = PRIOR
        rowwise = False

        def __init__(self, rowwise=False):
            self.rowwise = rowwise

        def simulate(self, theta, rng):
            if (theta[:, 1] > 4).any():
                raise ValueError("tau is too large")
            return theta

    theta = np.concatenate([draw_theta(PRIOR, 0, b, 16) for b in range(8)])
    large = theta[:, 1] > 4
    blocks = large.reshape(8, 16).any(1)
    assert 0 < blocks.sum() < 8
    dataset = simulate(Picky(), 128, tmp_path / "blocks", block=16)
    assert np.array_equal(dataset.status != 0, np.repeat(blocks, 16))
    dataset = simulate(Picky(rowwise=True), 128, tmp_path / "rows", block=16)
    assert np.array_equal(dataset.status != 0, large)


def test_strict_limits_and_retries(tmp_path) -> None:
    with pytest.raises(DatasetError, match=r"row 61 failed with nonfinite"):
        simulate(rowwise(False), 1000, tmp_path / "strict", on_error="raise")
    with pytest.raises(DatasetError, match="more than max_failures"):
        simulate(rowwise(False), 4096, tmp_path / "limit", max_failures=0.01, shard_size=256)
    assert len(simgen.Dataset(tmp_path / "limit")) >= 256
    tries: dict[int, int] = {}

    @simgen.simulator(prior=PRIOR)
    def flaky(theta, rng):
        x = rng.standard_normal(2)
        tries[hash(x.tobytes())] = tries.get(hash(x.tobytes()), 0) + 1
        if tries[hash(x.tobytes())] < 3:
            raise OSError("licence server")
        return x

    dataset = simulate(flaky, 20, tmp_path / "retries", retries=2)
    assert not dataset.status.any() and set(tries.values()) == {3}
    with pytest.raises(DatasetError, match="none of the first 20 rows"):
        simulate(simgen.simulator(lambda t, r: 1 / 0, prior=PRIOR), 20, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_killed_and_late_calls_are_recorded(tmp_path) -> None:
    @simgen.simulator(prior=PRIOR)
    def deadly(theta, rng):
        u = rng.random()
        if u < 0.01:
            os._exit(9)
        if u > 0.98:
            time.sleep(30)
        return np.array([u])

    dataset = simulate(deadly, 100, tmp_path / "d", seed=5, workers=2, timeout=0.3, block=50)
    u = np.array([stream(5, ROW, i).random() for i in range(100)])
    kinds = {f.row: f.kind for f in dataset.failures}
    wanted = {i: "killed" for i in np.flatnonzero(u < 0.01)}
    wanted |= {i: "timeout" for i in np.flatnonzero(u > 0.98)}
    assert kinds == wanted and set(kinds.values()) == {"killed", "timeout"}


def test_parts_share_a_run(tmp_path) -> None:
    simulate(rowwise(True), 2000, tmp_path / "whole")
    for part in ("2/3", "1/3", (3, 3)):
        dataset = simulate(rowwise(True), 2000, tmp_path / "parts", part=part, shard_size=256)
    assert dataset.verify() == [] and len(dataset) == 2000
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    simulate(rowwise(True), 2000, tmp_path / "gap", part="2/2", shard_size=256)
    gap = simgen.Dataset(tmp_path / "gap")
    assert len(gap) == 0 and len(list((tmp_path / "gap").glob("shard*"))) == 4
    assert sum("missing" in problem for problem in gap.verify()) == 4
    with h5py.File(tmp_path / "gap" / "index.h5") as index:
        there = np.arange(2000) // 256 % 2 == 1
        assert np.array_equal(index["status"][()] == 255, ~there)
        assert np.array_equal(np.isnan(index["x"][()]).all(1), ~there)
        assert np.array_equal(index["row"][()][there], np.flatnonzero(there))
    for wrong in ("0/2", "3/2", "a", (1,)):
        with pytest.raises(ValueError, match="part"):
            simulate(rowwise(True), 10, tmp_path / "x", part=wrong)


def test_workers_that_write_elsewhere_return_their_rows(tmp_path) -> None:
    path = tmp_path / "d"

    class Elsewhere(ThreadPoolExecutor):
        def submit(self, function, *arguments):
            def run():
                result = function(*arguments)
                if result.size is not None:
                    wrote.append(arguments[1].start)
                    (path / f"shard-{arguments[1].start:08d}.h5").unlink()
                return result

            return super().submit(run)

    wrote: list[int] = []
    with Elsewhere(1) as executor:
        dataset = simulate(rowwise(True), 30_000, path, shard_size=256, executor=executor)
    assert wrote and dataset.verify() == [] and len(dataset) == 30_000
    simulate(rowwise(True), 30_000, tmp_path / "here")
    assert content(path) == content(tmp_path / "here")


def test_a_lock_of_another_host_holds_as_long_as_its_heart_beats(tmp_path) -> None:
    simulate(rowwise(True), 100, tmp_path)
    lock = tmp_path / ".part-1-of-1.lock"
    record = {"host": "elsewhere", "pid": 1, "since": "then", "heartbeat": time.time()}
    lock.write_text(json.dumps(record))
    with pytest.raises(DatasetError, match="process 1 on elsewhere"):
        simulate(rowwise(True), 200, tmp_path)
    lock.write_text(json.dumps({**record, "heartbeat": time.time() - 1000}))
    assert len(simulate(rowwise(True), 200, tmp_path)) == 200
    assert not lock.exists()
    lock.write_text("{damaged")
    assert len(simulate(rowwise(True), 300, tmp_path)) == 300


def test_another_origin_is_refused(tmp_path) -> None:
    def build(offset=0.0, name="s", prior=PRIOR, settings=None, width=2):
        def function(theta, rng):
            return np.full(width, theta[0] + offset + rng.standard_normal())

        return simgen.simulator(prior=prior, name=name, settings=settings)(function)

    path = tmp_path / "d"
    simulate(build(), 300, path)
    before = content_of_directory(path)
    refusals = [
        (build(), {"seed": 1}, "seed 0, not 1"),
        (build(name="other"), {}, "simulator 's'"),
        (build(settings={"depth": 3}), {}, "settings"),
        (build(prior=Prior(mu=Uniform(-1.0, 2.0), tau=Normal(0.0, 2.0))), {}, "another prior"),
        (build(width=3), {}, r"shape \(2,\) a row"),
        (build(offset=1e-3), {}, "code has changed.*not from rng"),
        (build(), {"keep": ["z"]}, "keep"),
    ]
    for simulator, options, message in refusals:
        with pytest.raises(DatasetError, match=message):
            simulate(simulator, 600, path, **options)
    assert content_of_directory(path) == before
    assert len(simulate(build(offset=1e-3), 600, path, check=False)) == 600

    @simgen.simulator(prior=PRIOR)
    def careless(theta, rng):
        return np.random.default_rng().standard_normal(2)

    simulate(careless, 100, tmp_path / "careless")
    with pytest.raises(DatasetError, match="not from rng"):
        simulate(careless, 200, tmp_path / "careless")


def content_of_directory(path):
    return {p.name: p.read_bytes() for p in path.iterdir()}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_keeps_whole_shards(tmp_path, monkeypatch, workers) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    wide = simgen.simulator(
        lambda theta, rng: rng.standard_normal((len(theta), 1000)),
        prior=PRIOR,
        batched=True,
        name="wide",
    )
    try:
        with pytest.raises(DatasetError, match=r"is full \(kept [1-9]\d* of 5000 rows"):
            simulate(wide, 5000, small / "d", workers=workers, shard_size=256)
        problems = simgen.Dataset(small / "d").verify()
        assert problems and all("missing" in problem for problem in problems)
        assert not list((small / "d").glob(".*.tmp"))
        assert (
            subprocess.run(
                ["mount", "-o", "remount,size=64m", str(small)], capture_output=True
            ).returncode
            == 0
        )
        assert simulate(wide, 5000, small / "d", workers=workers).verify() == []
    finally:
        subprocess.run(["umount", str(small)], check=True, capture_output=True)


def test_fields_keep_and_variable_length(tmp_path) -> None:
    @simgen.simulator(prior=PRIOR, fields={"x": Field((8, 2), "set", iid=True)})
    def jets(theta, rng):
        k = int(rng.integers(1, 9))
        x = np.full((8, 2), 7.0)
        x[:k] = rng.standard_normal((k, 2))
        return {"x": x, "x_length": k, "z_p": rng.random(), "flag": bool(rng.random() < 0.5)}

    dataset = simulate(jets, 300, tmp_path / "a", keep=["z_p"])
    assert list(dataset.fields) == ["theta", "x", "x_length", "z_p", "mu", "tau"]
    assert dataset.fields["x"].layout == "set" and dataset.fields["x"].iid
    length = dataset["x_length"][:]
    beyond = np.arange(8) >= length[:, None]
    assert not dataset["x"][:][beyond].any() and dataset["x"][:][~beyond].all()
    assert simulate(jets, 300, tmp_path / "b")["flag"].dtype == bool
    with pytest.raises(DatasetError, match="keep names 'nothing'"):
        simulate(jets, 300, tmp_path / "c", keep=["nothing"])


def test_without_a_prior_there_is_no_theta(tmp_path) -> None:
    @simgen.simulator(batched=True)
    def noise(theta, rng):
        assert theta.shape == (256, 0)
        return rng.standard_normal((len(theta), 1, 4, 4))

    dataset = simulate(noise, 300, tmp_path / "n")
    assert list(dataset.fields) == ["x"] and dataset.prior is None
    assert dataset.fields["x"].layout == "image" and dataset["x"].shape == (300, 1, 4, 4)
    assert dataset.verify() == []


def test_bad_arguments_leave_nothing(tmp_path) -> None:
    path = tmp_path / "d"
    with pytest.raises(TypeError, match="decorate a function"):
        simulate(one, 10, path)
    for options in ({"n": 0}, {"seed": -1}, {"workers": 0}, {"retries": -1}):
        with pytest.raises(ValueError, match="at least"):
            simulate(rowwise(True), options.pop("n", 10), path, **options)
    with pytest.raises(ValueError, match="multiple of block"):
        simulate(rowwise(True), 10, path, shard_size=100)
    with pytest.raises(ValueError, match="on_error"):
        simulate(rowwise(True), 10, path, on_error="ignore")
    with pytest.raises((TypeError, ValueError), match="proposal"):
        simulate(rowwise(True), 10, path, proposal="elsewhere")
    clash = simgen.simulator(lambda t, r: {"x": t, "mu": t}, prior=PRIOR)
    with pytest.raises(DatasetError, match="'mu'"):
        simulate(clash, 10, path)
    assert not path.exists()
    simgen.Dataset.create(path, theta=np.zeros((5, 2)), x=np.ones((5, 1)))
    with pytest.raises(DatasetError, match="made from arrays"):
        simulate(rowwise(True), 10, path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match="is a file"):
        simulate(rowwise(True), 10, tmp_path / "file")


def test_the_manifest_says_what_it_is(tmp_path) -> None:
    simulate(rowwise(True), 300, tmp_path / "d", seed=7)
    values = json.loads((tmp_path / "d" / "dataset.json").read_text())
    assert values["schema"] == 1 and values["seed"] == 7 and values["rows"] == 300
    assert values["block"] == 256 and values["shard_size"] % 256 == 0
    assert values["prior"]["names"] == ["mu", "tau"] and values["versions"]["numpy"]
    with h5py.File(tmp_path / "d" / "shard-00000000.h5") as shard:
        assert shard.attrs["count"] == 300
        assert set(shard) == {"theta", "x", "z_n", "row", "round", "status", "errors"}
