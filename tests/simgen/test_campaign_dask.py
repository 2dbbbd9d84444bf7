"""A campaign on a dask cluster of worker processes, which are killed and join in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
from torch.distributions import Uniform

import simgen
from simgen import Prior, simulate

distributed = pytest.importorskip("dask.distributed")

PRIOR = Prior(mu=Uniform(-1.0, 1.0))
pytestmark = pytest.mark.filterwarnings("ignore")  # of dask's own


def slow(pause=1e-3):
    def function(theta, rng):
        time.sleep(pause)
        return theta + rng.standard_normal(3)

    return simgen.simulator(function, prior=PRIOR, name="slow")


@pytest.fixture(scope="module")
def client():
    options = {"processes": True, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(n_workers=2, silence_logs=50, **options) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_workers_that_are_killed_and_added_change_no_row(tmp_path, client) -> None:
    pids = list(client.run(os.getpid).values())
    path = tmp_path / "d"
    executor = client.get_executor()
    returned = []
    submit = executor.submit

    def watched(*arguments):
        future = submit(*arguments)
        future.add_done_callback(returned.append)
        return future

    executor.submit = watched

    def disturb():
        while len(list(path.glob("shard-*"))) < 3:
            time.sleep(0.01)
        os.kill(pids[0], signal.SIGKILL)
        client.cluster.scale(3)

    thread = threading.Thread(target=disturb)
    thread.start()
    dataset = simulate(slow(), 6000, path, shard_size=256, executor=executor)
    thread.join()
    assert dataset.verify() == [] and not dataset.status.any()
    whole = simulate(slow(0.0), 6000, tmp_path / "here", shard_size=256)
    assert np.array_equal(dataset["x"][:], whole["x"][:])
    now = set(client.run(os.getpid).values())
    assert pids[0] not in now and len(now) == 3
    # most shards were written by workers: no rows came back, but for the first and last ones
    written = [f.result() for f in returned if not f.cancelled() and f.result().size is not None]
    assert len(written) >= 12
    assert all(not result.columns for result in written)


def test_rows_that_kill_their_worker_or_hang_are_recorded(tmp_path, client) -> None:
    @simgen.simulator(prior=PRIOR)
    def deadly(theta, rng):
        u = rng.random()
        if u < 0.02:
            os._exit(9)
        if u > 0.98:
            time.sleep(30)
        return np.array([u])

    before = set(client.run(os.getpid).values())
    dataset = simulate(
        deadly, 100, tmp_path / "d", seed=5, timeout=0.5, block=50, executor=client.get_executor()
    )
    u = np.array([simgen.forward.stream(5, 2, i).random() for i in range(100)])
    wanted = {i: "killed" for i in np.flatnonzero(u < 0.02)}
    wanted |= {i: "timeout" for i in np.flatnonzero(u > 0.98)}
    assert {f.row: f.kind for f in dataset.failures} == wanted
    assert set(wanted.values()) == {"killed", "timeout"}
    assert set(client.run(os.getpid).values()) == before  # not one worker was lost
