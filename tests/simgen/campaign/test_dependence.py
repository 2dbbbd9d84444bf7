"""Whether failures and run times depend on the parameters: truth, and the law of the p-value."""

import logging
import time

import numpy as np
import pytest
from scipy.stats import kstest
from torch.distributions import Uniform

import simgen
from simgen.campaign.dependence import dependence, shares_by_interval
from simgen.campaign.timing import RECORD, Journal, read_times

PRIOR = simgen.Prior(a=Uniform(0.0, 1.0), b=Uniform(-1.0, 1.0))


def timed(seconds):
    times = np.zeros(len(seconds), RECORD)
    times["row"], times["rows"], times["seconds"] = np.arange(len(seconds)), 1, seconds
    return times


@pytest.mark.parametrize("failures", [8, 100])
def test_of_chance_alone_the_p_values_are_uniform(failures):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        failed = np.zeros(1000, bool)
        failed[rng.choice(1000, failures, replace=False)] = True
        times = timed(rng.lognormal(size=1000))
        found += dependence(rng.random((1000, 1)), ["a"], failed, times)
    # that of Kolmogorov and Smirnov is asymptotic: too large, rather, for eight failures
    side = "two-sided" if failures > 50 else "less"
    assert kstest([d.p_failure for d in found], "uniform", alternative=side).pvalue > 1e-3
    assert kstest([d.p_time for d in found], "uniform").pvalue > 1e-3
    assert min(d.p_failure for d in found) > 1e-5


@pytest.mark.parametrize(
    "low, high", [(0.7, np.inf), (-np.inf, 0.1), (0.4, 0.5)], ids=["above", "below", "between"]
)
def test_the_interval_where_rows_fail_is_found(low, high):
    rng = np.random.default_rng(1)
    theta = rng.random((4000, 2))
    a = theta[:, 0]
    failed = rng.random(4000) < np.where((a > low) & (a < high), 0.6, 0.02)
    first, second = dependence(theta, ["a", "b"], failed, np.empty(0, RECORD))
    assert first.p_failure < 1e-20 and second.p_failure > 1e-3
    for found, true in zip(first.interval, (low, high)):
        assert found == true or abs(found - true) < 0.03  # a fortieth, and chance
    assert first.inside == pytest.approx(0.6, abs=0.1)
    assert first.outside == pytest.approx(0.02, abs=0.02)
    assert first.where.split()[1] == {0.7: "above", 0.4: "from"}.get(low, "below")
    assert first.p_time is None and first.seconds == ()


def test_the_scan_is_the_best_of_all_intervals():
    """By brute force over every pair of quantiles."""
    rng = np.random.default_rng(2)
    column = rng.random(400)
    failed = rng.random(400) < np.where(column > 0.6, 0.3, 0.1)
    edges = np.quantile(column, np.linspace(0, 1, 41))[1:-1]
    ends = [-np.inf, *edges, np.inf]

    def likelihood(f, n):
        return sum(k * np.log(k / n) for k in (f, n - f) if k)

    best, where = -np.inf, None
    for i, low in enumerate(ends):
        for high in ends[i + 1 :]:
            inside = (column >= low) & (column < high)
            if inside.all() or failed[inside].mean() <= failed[~inside].mean():
                continue
            gain = likelihood(failed[inside].sum(), inside.sum())
            gain += likelihood(failed[~inside].sum(), (~inside).sum())
            if gain > best:
                best, where = gain, (low, high)
    interval, share, _ = shares_by_interval(column, failed)
    assert interval == where
    inside = (column >= interval[0]) & (column < interval[1])
    assert share == failed[inside].mean()


def test_run_times_that_grow_with_a_parameter_are_seen():
    rng = np.random.default_rng(3)
    theta = rng.random((2000, 2))
    times = timed((1 + theta[:, 0]) * rng.lognormal(0, 0.3, 2000))
    first, second = dependence(theta, ["a", "b"], np.zeros(2000, bool), times)
    assert first.p_time < 1e-20 and second.p_time > 1e-3
    assert first.seconds[-1] / first.seconds[0] == pytest.approx(1.95 / 1.05, rel=0.15)
    assert first.p_failure is None


def test_nothing_is_said_of_few_constant_or_joint_calls():
    theta = np.ones((100, 1))
    failed = np.arange(100) < 10
    (found,) = dependence(theta, ["a"], failed, timed(np.ones(100)))
    assert found.p_failure is None and found.p_time is None
    joint = timed(np.random.default_rng(0).random(100))
    joint["rows"] = 256
    (found,) = dependence(np.random.default_rng(1).random((100, 1)), ["a"], failed, joint)
    assert found.p_failure is not None and found.p_time is None


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """Rows that fail above a = 0.8, and take as long as b says."""

    @simgen.simulator(prior=PRIOR)
    def function(theta, rng):
        time.sleep(2e-4 + 4e-4 * (theta["b"] + 1))
        noise = rng.standard_normal(2)  # an exception would take longer
        return theta + (np.nan if theta["a"] > 0.8 else noise)

    return simgen.simulate(function, 1500, tmp_path_factory.mktemp("d") / "d", block=128)


def test_a_dataset_tells_what_its_failures_and_run_times_depend_on(campaign):
    a, b = campaign.failures.dependence()
    assert (a.name, b.name) == ("a", "b")
    assert a.p_failure < 1e-20 and b.p_failure > 1e-4
    assert b.p_time < 1e-6 and a.p_time > 1e-4
    assert a.where == f"a above {a.interval[0]:.4g}" and abs(a.interval[0] - 0.8) < 0.03
    assert f"of rows with {a.where} failed" in str(a)


@pytest.mark.parametrize(
    "expression, warned", [("theta | x", True), ("x | theta", True), ("x", True)]
)
def test_fit_warns_of_a_truncated_prior_and_says_where(campaign, caplog, expression, warned):
    with caplog.at_level(logging.WARNING, "simgen"):
        model = simgen.fit(expression, campaign, simgen.Flow(transforms=1), max_epochs=1)
    told = [r.getMessage() for r in caplog.records if "truncated" in r.getMessage()]
    assert len(told) == 1 and "a above 0.8" in told[0].replace("0.79", "0.8")
    given = any("p(x | theta, success)" in r.getMessage() for r in caplog.records)
    assert given == (expression == "x | theta")
    share = model.provenance["dataset"]["failed"]
    assert share == pytest.approx(np.mean(campaign.status != 0)) and share > 0.15


def test_fit_is_silent_where_failures_do_not_depend_on_theta(tmp_path, caplog):
    rng = np.random.default_rng(5)
    theta = PRIOR.sample((800,), seed=1).numpy()
    x = theta + rng.standard_normal((800, 2))
    x[rng.random(800) < 0.05] = np.nan
    dataset = simgen.Dataset.create(tmp_path / "d", theta=theta, x=x, prior=PRIOR)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "simgen"):
        simgen.fit("theta | x", dataset, simgen.Flow(transforms=1), max_epochs=1)
    assert not caplog.records


def test_a_journal_survives_what_kills_and_full_disks_leave(tmp_path, monkeypatch):
    file = tmp_path / "times-1-of-2.bin"
    with Journal(file) as journal:
        journal.append(timed([1.0, 2.0]))
    file.write_bytes(file.read_bytes() + b"half a rec")
    assert read_times(tmp_path, 10)["seconds"].tolist() == [1.0, 2.0]
    other = timed([9.0, 8.0, 7.0])
    other["row"] += 1
    with Journal(file) as journal:
        journal.append(other)  # a row's second time counts
    with Journal(tmp_path / "times-2-of-2.bin") as journal:
        journal.append(timed([5.0] * 9)[8:])
    assert read_times(tmp_path, 10)["row"].tolist() == [0, 1, 2, 3, 8]
    assert read_times(tmp_path, 10)["seconds"].tolist() == [1.0, 9.0, 8.0, 7.0, 5.0]
    assert read_times(tmp_path, 3)["row"].tolist() == [0, 1, 2]
    size = file.stat().st_size
    with Journal(file) as journal:
        real = __import__("os").write
        monkeypatch.setattr("os.write", lambda d, c: real(d, c[:7]))
        journal.append(other)
        monkeypatch.undo()
    assert file.stat().st_size == size and size % RECORD.itemsize == 0
    with Journal(tmp_path / "missing" / "times-1-of-1.bin") as journal:
        journal.append(other)
