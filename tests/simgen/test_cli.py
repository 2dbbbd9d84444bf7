"""The command: every verb on real files, bad input in one line, interruptions."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import simgen
from simgen.cli import main

SIMULATORS = """
import simgen
from torch.distributions import Uniform

prior = simgen.Prior(mu=Uniform(-1.0, 1.0))
calls = 0


@simgen.simulator(prior=prior)
def fine(theta, rng):
    return theta + 0.3 * rng.standard_normal(2)


@simgen.simulator(prior=prior)
def failing(theta, rng):
    if theta["mu"] > 0.5:
        raise RuntimeError("too large")
    return theta + 0.3 * rng.standard_normal(2)


@simgen.simulator(prior=prior)
def interrupted(theta, rng):
    global calls
    calls += 1
    if calls == 900:
        raise KeyboardInterrupt
    return theta + 0.3 * rng.standard_normal(2)


number = 3
"""


def command(*words):
    """Runs the command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with simulators, a dataset and a model of it."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "cli_simulators.py").write_text(SIMULATORS)
    name = f"{folder / 'cli_simulators.py'}:fine"
    assert command("simulate", name, "-n", 1500, "-o", folder / "data", "--seed", 1) == 0
    words = ["fit", "theta | x", folder / "data", "-o", folder / "model.safetensors"]
    words += ["--max-epochs", 30, "--set", "transforms=1", "--set", "hidden=32"]
    assert command(*words, "--split", "0.7,0.1,0.2", "--seed", 0) == 0
    return folder


def test_simulate_and_fit_leave_what_was_asked_for_and_nothing_else(work):
    assert len(simgen.Dataset(work / "data")) == 1500
    model = simgen.load(work / "model.safetensors")
    assert model.family == simgen.Flow(transforms=1, hidden=(32,))
    assert model.provenance["dataset"]["split"] == pytest.approx([0.7, 0.1, 0.2])
    kept = {"cli_simulators.py", "data", "model.safetensors", "__pycache__"}
    assert {p.name for p in work.iterdir()} - {"out"} <= kept


def test_samples_are_the_posterior(work, capsys):
    x = np.array([0.35, 0.25], dtype=np.float32)
    out = work / "out" / "draws.csv"
    code = command(
        "sample", work / "model.safetensors", "--given", "0.35,0.25", "-n", 4000, "-o", out
    )
    assert code == 0
    assert "mu" in capsys.readouterr().out
    draws = np.loadtxt(out, delimiter=",", skiprows=1)
    assert out.read_text().splitlines()[0] == "mu"
    # the likelihood is normal with sd 0.3/sqrt(2) around the mean of x; the bounds are 3 sd away
    assert draws.mean() == pytest.approx(x.mean(), abs=0.1)
    assert draws.std() == pytest.approx(0.212, rel=0.3)


def test_sample_knows_the_truth_of_a_row_of_a_dataset(work, capsys):
    words = ["sample", work / "model.safetensors", "-n", 200, "-o", work / "out" / "draws.h5"]
    assert command(*words, "--given", f"{work / 'data'}:7") == 0
    text = capsys.readouterr().out
    truth = simgen.Dataset(work / "data")["mu"][7]
    assert f"{truth:.4g}" in text and "pull" in text
    assert len(simgen.Samples.load(work / "out" / "draws.h5")) == 200


def test_calibrate_prints_and_stores_the_verdict(work, capsys):
    model = work / "model.safetensors"
    assert command("calibrate", model, work / "data", "--no-store") == 0
    assert simgen.load(model).verdict is None
    assert command("calibrate", model, work / "data") == 0
    text = capsys.readouterr().out
    verdict = simgen.load(model).verdict
    assert verdict is not None and "test rows" in verdict["source"]
    assert simgen.Verdict.from_dict(verdict).headline in text
    code = command("calibrate", model, work / "data", "--no-store", "--strict")
    assert code == (0 if verdict["passed"] else 1)
    assert command("calibrate", model, work / "data", "--no-store", "--near", "0.3,0.2") == 0
    assert "near" in capsys.readouterr().out
    assert command("inspect", model) == 0
    text = capsys.readouterr().out
    assert "corrected p" in text and "c2st" in text and "local" in text


def test_report_writes_one_page(work):
    page = work / "out" / "page.html"
    words = ["report", page, "--model", work / "model.safetensors", "--data", work / "data"]
    words += ["--observation", f"{work / 'data'}:3"]
    assert command(*words, "--simulator", f"{work / 'cli_simulators.py'}:fine") == 0
    text = page.read_text()
    assert "theta | x" in text
    assert "<svg" in text or "data:image/png" in text


@pytest.mark.parametrize(
    "path, words",
    [
        ("data", ["1500 of 1500 planned", "cli_simulators:fine", "mu"]),
        ("model.safetensors", ["theta | x", "Flow(", "transforms=1", "epochs"]),
    ],
)
def test_inspect_says_what_there_is(work, capsys, path, words):
    assert command("inspect", work / path) == 0
    text = capsys.readouterr().out
    assert [word for word in words if word not in text] == []


def test_inspect_lists_failures_and_verifies(work, tmp_path, capsys):
    name = f"{work / 'cli_simulators.py'}:failing"
    assert command("simulate", name, "-n", 300, "-o", tmp_path / "d") == 0
    dataset = simgen.Dataset(tmp_path / "d")
    assert f"{len(dataset.failures)} failed" in capsys.readouterr().out
    assert command("inspect", tmp_path / "d", "--failures") == 0
    text = capsys.readouterr().out
    assert all(str(failure.row) in text for failure in dataset.failures)
    assert text.count("too large") == len(dataset.failures) > 20
    assert command("inspect", tmp_path / "d", "--verify") == 0
    next((tmp_path / "d").glob("shard-*.h5")).unlink()
    assert command("inspect", tmp_path / "d", "--verify") == 1
    assert "is missing" in capsys.readouterr().out


def test_check_passes_good_simulators_and_names_what_fails(work, capsys):
    assert command("check", "two_moons", "-n", 64) == 0
    assert "batch = loop" in capsys.readouterr().out
    assert command("check", f"{work / 'cli_simulators.py'}:failing", "-n", 64) == 1
    assert "too large" in capsys.readouterr().out


def test_simulators_lists_every_preset(capsys):
    import simulators

    assert command("simulators") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in simulators.PRESETS)


def test_import_makes_a_dataset(tmp_path, capsys):
    theta = np.random.default_rng(0).uniform(size=(40, 2)).astype(np.float32)
    np.savez(tmp_path / "a.npz", params=theta, maps=theta.repeat(3, 1))
    words = ["import", tmp_path / "a.npz", tmp_path / "d", "--field", "theta=params"]
    assert command(*words, "--field", "x=maps") == 0
    assert np.array_equal(simgen.Dataset(tmp_path / "d")["theta"][:], theta)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["params"] = theta
        file["maps"] = theta.repeat(3, 1)
    words[1:3] = [tmp_path / "a.h5", tmp_path / "e"]
    assert command(*words, "--field", "x=maps") == 0
    assert np.array_equal(simgen.Dataset(tmp_path / "e")["theta"][:], theta)
    words[1:3] = [tmp_path / "a.npz", tmp_path / "f"]
    assert command(*words, "--field", "x=images") == 2
    assert "it holds params (40, 2), maps (40, 6)" in capsys.readouterr().err


BAD = {
    "no such verb": (["simulat"], "simulat"),
    "a missing option": (["simulate", "two_moons", "-n", "5"], "--out"),
    "no such preset": (["simulate", "moons", "-n", "5", "-o", "{tmp}/d"], "two_moons"),
    "no such module": (["simulate", "no_mod:a", "-n", "5", "-o", "{tmp}/d"], "no_mod"),
    "no such attribute": (["simulate", "{py}:b", "-n", "5", "-o", "{tmp}/d"], "fine"),
    "no simulator": (["check", "{py}:number"], "int"),
    "no such setting": (["check", "two_moons", "--set", "size=3"], "size"),
    "a wrong part": (
        ["simulate", "two_moons", "-n", "5", "-o", "{tmp}/d", "--part", "3/2"],
        "3/2",
    ),
    "another seed": (["simulate", "{py}:fine", "-n", "9", "-o", "{data}", "--seed", "8"], "seed"),
    "no such field": (["fit", "theta | y", "{data}", "-o", "{tmp}/m"], "theta, x, mu"),
    "no such family": (["fit", "theta | x", "{data}", "-o", "{tmp}/m", "--model", "svm"], "flow"),
    "no such hyper-parameter": (
        ["fit", "theta | x", "{data}", "-o", "{tmp}/m", "--set", "transform_count=2"],
        "transforms",
    ),
    "a wrong type": (
        ["fit", "theta | x", "{data}", "-o", "{tmp}/m", "--set", "transforms=two"],
        "whole number",
    ),
    "a wrong split": (["fit", "theta | x", "{data}", "-o", "{tmp}/m", "--split", "0.9"], "0.9"),
    "no dataset": (["fit", "theta | x", "{tmp}/none", "-o", "{tmp}/m"], "none"),
    "no model": (["calibrate", "{tmp}/none", "{data}"], "none"),
    "no observation": (["sample", "{model}", "-n", "9", "-o", "{tmp}/s"], "'x'"),
    "a wrong shape": (
        ["sample", "{model}", "-n", "9", "-o", "{tmp}/s", "--given", "1,2,3"],
        "(2,)",
    ),
    "no such row": (
        ["sample", "{model}", "-n", "9", "-o", "{tmp}/s", "--given", "{data}:1500"],
        "0 to 1499",
    ),
    "a text file": (["inspect", "{py}"], "damaged"),
    "a truncated model": (["inspect", "{tmp}/cut"], "damaged"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line_and_exit_code_2(work, tmp_path, capsys, case):
    words, said = BAD[case]
    model = work / "model.safetensors"
    (tmp_path / "cut").write_bytes(model.read_bytes()[:5000])
    places = {
        "tmp": tmp_path,
        "py": work / "cli_simulators.py",
        "data": work / "data",
        "model": model,
    }
    before = sorted(p.name for p in tmp_path.iterdir())
    assert command(*(word.format(**places) for word in words)) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("simgen: ") and shown.err.count("\n") == 1
    assert said in shown.err and "Traceback" not in shown.err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="there is no"):
        main(["inspect", str(tmp_path / "none"), "--debug"])


def test_interrupted_simulations_are_kept_and_go_on(work, tmp_path, caplog):
    name = f"{work / 'cli_simulators.py'}:interrupted"
    words = ["simulate", name, "-n", 1000, "-o", tmp_path / "d", "--shard-size", 256]
    assert command(*words) == 130
    kept = len(simgen.Dataset(tmp_path / "d"))
    assert 0 < kept < 1000
    assert f"kept {kept} of 1000 rows" in caplog.text
    assert "run the same command again" in caplog.text
    assert command(*words) == 0
    rows = simgen.Dataset(tmp_path / "d")
    assert len(rows) == 1000
    module = sys.modules["cli_simulators"]
    whole = simgen.simulate(module.interrupted, 1000, tmp_path / "whole", progress=False)
    assert np.array_equal(rows["x"][:], whole["x"][:])


def test_an_interrupted_fit_goes_on_where_it_was(work, tmp_path, capsys, monkeypatch):
    from simgen.training import Training

    words = ["fit", "theta | x", work / "data", "--max-epochs", 4, "--set", "transforms=1"]
    assert command(*words, "-o", tmp_path / "whole") == 0
    update, count = Training._update, 0

    def stop(self, *arguments):
        nonlocal count
        count += 1
        if count == 8:
            raise KeyboardInterrupt
        return update(self, *arguments)

    monkeypatch.setattr(Training, "_update", stop)
    assert command(*words, "-o", tmp_path / "parts") == 130
    assert "same command again" in capsys.readouterr().err
    assert (tmp_path / "parts.checkpoint").exists() and not (tmp_path / "parts").exists()
    assert command("inspect", tmp_path / "parts.checkpoint") == 0
    assert "checkpoint" in capsys.readouterr().out
    assert command(*words, "-o", tmp_path / "parts") == 0
    assert not (tmp_path / "parts.checkpoint").exists()
    whole, parts = (simgen.load(tmp_path / name).pipeline for name in ("whole", "parts"))
    theirs = parts.state_dict()
    for key, value in whole.state_dict().items():
        assert np.array_equal(value, theirs[key], equal_nan=True)


def test_a_closed_pipe_is_no_error(tmp_path):
    script = f"{sys.executable} -m simgen.cli simulators 2>{tmp_path / 'err'} | true"
    subprocess.run(["bash", "-c", script], check=True, cwd=Path(simgen.__file__).parent.parent)
    assert "Traceback" not in (tmp_path / "err").read_text()
