"""Scripts of job arrays: run job by job, they make the dataset that one command makes."""

import os
import subprocess

import numpy as np
import pytest

import simgen
from simgen.cli import main
from simgen.console.scripts import array_script

SIMULATOR = """
import simgen
from torch.distributions import Uniform

@simgen.simulator(prior=simgen.Prior(mu=Uniform(-1.0, 1.0)))
def mine(theta, rng):
    return theta + rng.standard_normal(2)
"""


def command(*words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return end.value.code


def test_the_jobs_of_a_slurm_array_fill_one_dataset(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script_simulators.py").write_text(SIMULATOR)
    words = ["simulate", "script_simulators.py:mine", "-n", 400, "--seed", 3, "--block", 32]
    words += ["--shard-size", 64]
    assert command(*words, "-o", "one") == 0
    capsys.readouterr()
    assert command(*words, "-o", "my data", "-w", 1, "--jobs", 3, "--script", "slurm") == 0
    script = capsys.readouterr().out
    assert not (tmp_path / "my data").exists()
    assert script.startswith("#!/bin/bash\n") and "#SBATCH --array=1-3\n" in script
    (tmp_path / "job.sh").write_text(script)
    jobs = [  # as Slurm may start them: at once, in any order
        subprocess.Popen(
            ["bash", str(tmp_path / "job.sh")],
            cwd="/",
            env={**os.environ, "SLURM_ARRAY_TASK_ID": str(k), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )
        for k in (2, 3, 1)
    ]
    assert [job.wait(timeout=120) for job in jobs] == [0, 0, 0]
    one, shared = simgen.Dataset(tmp_path / "one"), simgen.Dataset(tmp_path / "my data")
    assert len(shared) == 400 and shared.verify() == []
    assert np.array_equal(one["x"][:], shared["x"][:]) and one.identity == shared.identity


def test_a_script_takes_the_number_of_jobs_from_part(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["simulate", "two_moons", "-n", 100, "-o", "d", "--part", "1/20", "-w", 4]
    assert command(*words, "--script", "slurm") == 0
    script = capsys.readouterr().out
    assert "--array=1-20\n" in script and "--cpus-per-task=4\n" in script
    assert '--part "$SLURM_ARRAY_TASK_ID/20"' in script and "1/20" not in script
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_a_script_of_another_kind_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["simulate", "two_moons", "-n", 100, "-o", "d"]
    assert command(*words, "--script", "pbs") == 2
    assert "no script for 'pbs'; there are slurm" in capsys.readouterr().err
    with pytest.raises(ValueError, match="at least one job"):
        array_script("slurm", [], 0, 1, tmp_path, tmp_path)
