"""The package as a whole: what importing costs, and that the README says what is true."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import simgen

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
SETUP = ["pip install -e . && simgen quickstart", "pip install -e '.[test]' && pytest"]


def blocks(language=None):
    """The fenced blocks of the README, of one language or all."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
    return [body for name, body in found if language is None or name == language]


def imported_by(code):
    """Top-level modules that a fresh interpreter has after running the code."""
    show = "import sys; print('modules:', *sorted({m.partition('.')[0] for m in sys.modules}))"
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    return set(run.stdout.rpartition("modules:")[2].split())


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", simgen.__version__)
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'version = "{simgen.__version__}"' in text
    assert f"## {simgen.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_installed_command_is_this_one():
    try:
        entries = importlib.metadata.distribution("simgen").entry_points
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("simgen is not installed")
    assert [e.value for e in entries if e.name == "simgen"] == ["simgen.cli:main"]


def test_importing_simgen_is_light():
    found = imported_by("import simgen; simgen.Field; simgen.Simulator; simgen.simulator")
    assert not found & {"torch", "sbi", "matplotlib", "h5py", "scipy", "zuko"}


def test_public_names_load_neither_sbi_nor_matplotlib():
    found = imported_by("import simgen\nfor name in simgen.__all__: getattr(simgen, name)")
    assert "torch" in found
    assert not found & {"sbi", "matplotlib"}


def test_what_workers_import_is_free_of_torch():
    code = "import simgen.campaign.workers, simgen.simulation, simgen.dataset, simulators.collider"
    assert "torch" not in imported_by(code)


def test_help_is_light():
    code = "import simgen.cli\ntry: simgen.cli.main(['--help'])\nexcept SystemExit: pass"
    assert not imported_by(code) & {"torch", "numpy", "h5py", "sbi", "matplotlib", "simulators"}


def test_every_verb_of_the_command_has_a_help(capsys):
    from simgen.cli import main

    verbs = ["simulate", "fit", "sample", "calibrate", "report", "inspect", "check"]
    for verb in [*verbs, "sequential", "simulators", "import", "repair", "quickstart"]:
        with pytest.raises(SystemExit) as end:
            main([verb, "--help"])
        assert end.value.code == 0
        assert verb in capsys.readouterr().out


def test_the_readme_has_exactly_two_set_up_blocks():
    assert [body.strip() for body in blocks() if "pip " in body] == SETUP
    assert [body.strip() for body in blocks() if "pytest" in body] == SETUP[1:]


def test_ci_runs_the_test_command_of_the_readme():
    shown = subprocess.run(
        [ROOT / ".ci" / "run", "--show"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == SETUP[1]


def test_what_the_readme_links_to_is_there():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert "docs/quickstart.png" in links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_python_in_the_readme_compiles_and_names_what_there_is():
    examples = blocks("python")
    assert len(examples) == 8
    for body in examples:
        compile(body, "README.md", "exec")
        used = set(re.findall(r"simgen\.(\w+)", body))
        assert used <= set(dir(simgen))


def test_verbs_in_the_readme_exist():
    from simgen.cli import app

    lines = [line for body in blocks() for line in body.splitlines()]
    used = {line.split()[1] for line in lines if line.startswith("simgen ")}
    known = {command.name for command in app.registered_commands}
    assert used and used <= known


def test_the_custom_simulator_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    (body,) = [body for body in blocks("python") if "@simgen.simulator" in body]
    assert len([line for line in body.splitlines() if line.strip()]) <= 15
    small, count = re.subn(r"10_000, \"throws\"", '1_500, "throws", progress=False', body)
    small, fits = re.subn(
        r'fit\("theta \| x", dataset\)',
        'fit("theta | x", dataset, max_epochs=25, progress=False)',
        small,
    )
    assert count == fits == 1
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    exec(compile(small, "README.md", "exec"), names)
    assert "'name': 'g'" in capsys.readouterr().out
    rows = simgen.Samples.draw(names["q"], 4000, seed=0).summary([9.81, 3.0])
    # sd of a least-squares fit of v and g to four points with noise 0.02
    t = np.array([0.1, 0.2, 0.3, 0.4])
    design = np.stack([-(t**2) / 2, t], 1)
    exact = 0.02 * np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    assert all(abs(row["pull"]) < 4 for row in rows)
    assert rows[1]["sd"] == pytest.approx(exact[1], rel=0.5)
