"""CommandSimulator: a compiled program by every way in and out, its failures, and no shell."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from torch.distributions import Uniform

import simgen
from simgen import CommandError, CommandSimulator, Prior, simulate
from simgen.campaign.program import _sweep, _swept

PRIOR = Prior(mu=Uniform(-1.0, 1.0), tau=Uniform(1.0, 2.0))
PROGRAM = r"""
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* x = (mu, tau, seed mod 1000) in double precision; what goes wrong is the last argument's */
static void emit(FILE *f, double mu, double tau, long seed) {
    fprintf(f, "%.17g,%.17g,%ld\n", mu, tau, seed % 1000);
}
int main(int argc, char **argv) {
    double mu, tau; long seed; char line[256];
    if (argc > 1 && !strcmp(argv[1], "table")) {             /* table FILE SEED OUT */
        FILE *in = fopen(argv[2], "r"), *out = fopen(argv[4], "w");
        seed = atol(argv[3]);
        if (!fgets(line, sizeof line, in) || strncmp(line, "mu,tau", 6)) return 5;
        while (fgets(line, sizeof line, in) && sscanf(line, "%lf,%lf", &mu, &tau) == 2) {
            if (argc > 5 && mu > atof(argv[5])) { fprintf(stderr, "mu is %g\n", mu); return 4; }
            emit(out, mu, tau, seed);
        }
        return fclose(out);
    }
    if (argc > 1 && !strcmp(argv[1], "card")) {              /* a card on standard input */
        if (scanf(" mu = %lf tau = %lf seed = %ld", &mu, &tau, &seed) != 3) return 6;
        emit(stdout, mu, tau, seed);
        return 0;
    }
    mu = atof(argv[1]); tau = atof(argv[2]); seed = atol(argv[3]);
    const char *mode = argc > 5 ? argv[5] : "";
    if (!strcmp(mode, "fail") && mu > 0.5) { fprintf(stderr, "no root for mu\n"); return 3; }
    if (!strcmp(mode, "crash")) raise(SIGSEGV);
    if (!strcmp(mode, "hang")) { if (!fork()) { sleep(60); } sleep(60); }
    if (!strcmp(mode, "silent")) return 0;
    FILE *out = argc > 4 && strcmp(argv[4], "-") ? fopen(argv[4], "w") : stdout;
    if (!strcmp(mode, "garbage")) fprintf(out, "1,2\n3\n"); else emit(out, mu, tau, seed);
    return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> str:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    folder = tmp_path_factory.mktemp("a folder with $(touch pwned) ; & spaces")
    (folder / "program.c").write_text(PROGRAM)
    out = folder / "program"
    subprocess.run(["gcc", "-O1", "-o", out, folder / "program.c", "-lm"], check=True)
    return str(out)


def command(program, *arguments, **options) -> CommandSimulator:
    argv = [program, *(arguments or ("{mu}", "{tau}", "{seed}", "{out}"))]
    return CommandSimulator(argv, PRIOR, **{"read": "csv", **options})


THETA = np.array([[0.1, 1.5], [-0.3, 1.25], [0.7, 1.0 / 3.0 + 1]])


def seeds(n: int, seed: int = 0, largest: int = 2**31 - 1) -> list[int]:
    streams = [simgen.forward.stream(seed, simgen.forward.ROW, i) for i in range(n)]
    return [int(rng.integers(1, largest, endpoint=True)) for rng in streams]


CARD = "mu = {mu}\ntau = {tau}\nseed = {seed}\n"


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), {}),
        (("{mu}", "{tau}", "{seed}"), {}),  # from standard output
        (("{mu}", "{tau}", "{seed}", "result.txt"), {"output": "result.txt"}),
        (("card",), {"template": CARD, "stdin": "input"}),
    ],
)
def test_parameters_go_in_and_numbers_come_out(program, tmp_path, arguments, options) -> None:
    simulator = command(program, *arguments, scratch=tmp_path, **options)
    x = simulator(THETA, seed=3)["x"]
    assert np.array_equal(x[:, :2], THETA.astype("f4"))
    assert x[:, 2].tolist() == [s % 1000 for s in seeds(3, 3)]
    assert not list(tmp_path.iterdir())  # nothing is left


SCRIPT = """
import json, os, sys
import numpy as np
out, how = sys.argv[1:3]
given = json.load(sys.stdin)
x = np.array([given["mu"], given["tau"], given["seed"] % 1000]).T
if x.ndim == 1 and how == "json":
    json.dump({"x": x.tolist(), "z_s": given["seed"]}, open(out, "w"))
elif how == "npy":
    np.save(out, x)
elif how == "npz":
    np.savez(out, x=x, z_s=given["seed"])
else:
    import h5py
    h5py.File(out, "w").create_dataset("a/b", data=x)
print("chatter")
"""


@pytest.mark.parametrize("read", ["npy", "npz", "json", "hdf5:/a/b", "own"])
def test_every_reader(tmp_path, read) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    how = "npy" if read == "own" else read[:4]
    reader = np.load if read == "own" else read
    argv = [sys.executable, "{here}/script.py", "{out}", how]
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        simulator = CommandSimulator(argv, PRIOR, read=reader, stdin="json")
    finally:
        os.chdir(before)
    if read == "own":  # it saves as out, and NumPy adds the ending
        simulator = CommandSimulator(
            [sys.executable, str(tmp_path / "script.py"), "out.npy", "npy"],
            PRIOR,
            read=np.load,
            output="out.npy",
            stdin="json",
        )
    fields = simulator(THETA[:2], seed=1)
    wanted = np.concatenate([THETA[:2], [[s % 1000] for s in seeds(2, 1)]], 1)
    assert np.array_equal(fields["x"], wanted.astype("f4"))
    if read in ("npz", "json"):
        assert fields["z_s"].tolist() == seeds(2, 1)


def test_standard_output_by_a_function_and_a_format(program) -> None:
    simulator = command(
        program,
        "{mu:.1f}",
        "{tau:08.3f}",
        "{seed}",
        read=lambda content: np.array([float(v) for v in content.decode().split(",")]),
        largest_seed=5,
    )
    x = simulator(THETA, seed=0)["x"]
    assert np.allclose(x[:, 0], np.round(THETA[:, 0], 1)) and x[2, 1] == np.float32(1.333)
    assert x[:, 2].tolist() == seeds(3, 0, 5)


def test_batched_programs_take_a_table(program, tmp_path) -> None:
    table = ("table", "{table}", "{seed}", "{out}")
    simulator = command(program, *table, batched=True, scratch=tmp_path / "s")
    dataset = simulate(simulator, 300, tmp_path / "d", seed=2, block=100)
    x = dataset["x"][:]
    assert np.array_equal(x[:, :2], dataset["theta"][:])
    for b in range(3):
        rng = simgen.forward.stream(2, simgen.forward.BLOCK, b)
        seed = int(rng.integers(1, 2**31 - 1, endpoint=True))
        assert set(x[100 * b : 100 * b + 100, 2].tolist()) == {seed % 1000}
    # a table that fails is done row by row, or fails as a whole
    simulator = command(program, *table, "0.99", batched=True)
    dataset = simulate(simulator, 300, tmp_path / "rows", block=100)
    bad = dataset["mu"][:] > 0.99
    assert 0 < bad.sum() < 20 and np.array_equal(dataset.status != 0, bad)
    assert dataset.failures[0].message.endswith(f"mu is {dataset.failures[0].theta[0]:g}")
    whole = command(program, *table, "0.99", batched=True, rowwise=False)
    status = simulate(whole, 300, tmp_path / "blocks", block=100).status
    assert np.array_equal(status != 0, np.repeat(bad.reshape(3, 100).any(1), 100))


def test_workers_restarts_and_the_record(program, tmp_path) -> None:
    simulator = command(program, scratch=tmp_path / "s", env={"CARD": "7"}, timeout=60)
    one = simulate(simulator, 60, tmp_path / "one", block=20)
    two = simulate(simulator, 40, tmp_path / "two", block=20, shard_size=20, workers=2)
    two = simulate(simulator, 60, tmp_path / "two", workers=2)
    assert np.array_equal(one["x"][:], two["x"][:]) and one.verify() == two.verify() == []
    settings = json.loads((tmp_path / "one" / "dataset.json").read_text())["simulator"]
    assert settings["name"] == "simgen.command:CommandSimulator"
    assert settings["settings"]["argv"] == [program, "{mu}", "{tau}", "{seed}", "{out}"]
    assert settings["settings"]["env"] == {"CARD": "7"}
    with pytest.raises(simgen.DatasetError, match="settings"):
        simulate(command(program, "{mu}", "0", "{seed}", "{out}"), 80, tmp_path / "one")
    assert not list((tmp_path / "s").iterdir())
    copy = pickle.loads(pickle.dumps(simulator))
    assert copy.prior is None and copy.argv == simulator.argv


@pytest.mark.parametrize(
    ("mode", "kind", "message"),
    [
        ("fail", CommandError, r"exit code 3: no root for mu$"),
        ("crash", CommandError, r"ended with SIGSEGV"),
        ("silent", CommandError, r"wrote no out\.csv"),
        ("garbage", CommandError, r"out\.csv cannot be read as csv"),
        ("hang", TimeoutError, r"longer than 0\.3 s"),
    ],
)
def test_what_goes_wrong_is_told(program, tmp_path, mode, kind, message) -> None:
    arguments = ("{mu}", "{tau}", "{seed}", "{out}", mode)
    timeout = 0.3 if mode == "hang" else None
    simulator = command(program, *arguments, scratch=tmp_path, timeout=timeout)
    began = time.monotonic()
    with pytest.raises(kind, match=message):
        simulator(THETA[2])
    assert time.monotonic() - began < 20 and not list(tmp_path.iterdir())
    kept = command(program, *arguments, scratch=tmp_path, timeout=timeout, keep_failed=True)
    with pytest.raises(kind, match=message) as error:
        kept(THETA[2])
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("failed-simgen-") and str(folder) in str(error.value)
    assert {"stdin", "stdout", "stderr"} <= {f.name for f in folder.iterdir()}


def test_a_program_that_hangs_leaves_no_process(program, tmp_path) -> None:
    simulator = command(program, "{mu}", "{tau}", "77123", "{out}", "hang", timeout=0.3)
    with pytest.raises(TimeoutError):
        simulator(THETA[0])
    needle = b"\x0077123\x00"
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_bytes())
        except OSError:
            continue
    assert not any(needle in line for line in lines)


def test_failures_become_data(program, tmp_path) -> None:
    simulator = command(program, "{mu}", "{tau}", "{seed}", "{out}", "fail")
    dataset = simulate(simulator, 60, tmp_path / "d", block=20, workers=2)
    bad = dataset["mu"][:] > 0.5
    assert 0 < bad.sum() < 30 and np.array_equal(dataset.status != 0, bad)
    assert {f.kind for f in dataset.failures} == {"CommandError"}
    assert all("exit code 3: no root" in f.message for f in dataset.failures)


def test_retries_use_the_same_seed(tmp_path) -> None:
    code = (
        "import os, sys; print(sys.argv[1]); d = sys.argv[2]; n = len(os.listdir(d)); "
        "open(f'{d}/{n}-{sys.argv[1]}', 'w'); sys.exit(n < 2)"
    )
    (tmp_path / "tries").mkdir()
    argv = [sys.executable, "-c", code.replace("{", "{{").replace("}", "}}"), "{seed}"]
    argv.append(str(tmp_path / "tries"))
    assert CommandSimulator(argv, PRIOR, read="csv", retries=2)(THETA[0])["x"] > 0
    names = sorted(p.name for p in (tmp_path / "tries").iterdir())
    assert len(names) == 3 and len({name.split("-")[1] for name in names}) == 1
    shutil.rmtree(tmp_path / "tries")
    (tmp_path / "tries").mkdir()
    with pytest.raises(CommandError, match="exit code 1"):
        CommandSimulator(argv, PRIOR, read="csv", retries=1)(THETA[0])


def test_there_is_no_shell(program, tmp_path) -> None:
    """Neither a path nor an argument is ever a command: they arrive as they are."""
    nasty = "a b'; touch pwned; `touch pwned` $(touch pwned) \" > pwned & | \\ *"
    root = tmp_path / nasty.replace("/", "")
    code = "import sys, json; json.dump([len(sys.argv[1]), 1], open(sys.argv[2], 'w'))"
    simulator = CommandSimulator(
        [sys.executable, "-c", code, nasty, "{out}"],
        PRIOR,
        read="json",
        scratch=root,
        keep_failed=True,
    )
    assert simulator(THETA[0])["x"].tolist() == [len(nasty), 1]
    assert not list(root.iterdir()) and not list(tmp_path.rglob("pwned"))
    simulator = command(program, scratch=root)  # the program's own folder is no better
    assert simulator(THETA[0])["x"][0] == np.float32(0.1)
    assert not list(Path(program).parent.rglob("pwned")) and not Path("pwned").exists()
    with pytest.raises(CommandError, match="cannot be started"):
        CommandSimulator(["echo 1; echo 2"], PRIOR, read="csv")(THETA[0])


def test_a_relative_program_is_found_from_here(program, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(Path(program).parent)
    simulator = command("./program")
    monkeypatch.chdir(tmp_path)
    assert simulator(THETA[0])["x"][0] == np.float32(0.1) and simulator.argv[0] == "./program"


def test_a_template_of_a_file_keeps_its_name(tmp_path) -> None:
    (tmp_path / "run.card").write_text("{mu} {{literal}}\n")
    simulator = CommandSimulator(
        ["cat", "{input}"],
        PRIOR,
        read=lambda content: float(content.split()[0]) if b"{literal}" in content else None,
        template=tmp_path / "run.card",
    )
    assert simulator(THETA[0])["x"] == np.float32(0.1)
    assert simulator.settings["template"] == "{mu} {{literal}}\n"
    assert simulator._input_name == "run.card"


def test_what_dead_processes_left_is_removed(tmp_path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    from simgen.campaign.program import _host

    dead = tmp_path / f"simgen-{_host()}-{child.pid}-abc"
    alive = tmp_path / f"simgen-{_host()}-{os.getpid()}-abc"
    fresh = tmp_path / f"simgen-{_host()}-{child.pid}-def"
    other = tmp_path / f"simgen-elsewhere-{child.pid}-abc"
    for folder in (dead, alive, fresh, other):
        folder.mkdir()
    for folder in (dead, alive, other):
        os.utime(folder, (0, 0))
    _swept.discard(str(tmp_path))
    _sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([alive, fresh, other])


@pytest.mark.parametrize(
    ("argv", "options", "message"),
    [
        (["run", "{mass}"], {}, "{mass} is no placeholder; there are here, mu, out"),
        (["run", "{mu"], {}, "a brace itself is doubled"),
        (["run", "{mu.real}"], {}, "no placeholder"),
        (["run", "{mu!r}"], {}, "no placeholder"),
        (["run", "{mu:{tau}}"], {}, "no placeholder"),
        (["run", "{input}"], {}, "{input} is no placeholder"),
        (["run", "{mu}"], {"batched": True}, "{mu} is no placeholder"),
        (["run", "{out}"], {"output": "a.txt"}, "{out} is no placeholder"),
        (["run"], {"output": "../a.txt"}, "without folders"),
        (["run"], {"stdin": "input"}, "needs a template"),
        (["run"], {"stdin": "yaml"}, "stdin is"),
        (["run"], {"read": "xml"}, "read is npy"),
        (["run"], {"read": "hdf5:"}, "read is npy"),
        (["run"], {"timeout": 0}, "positive"),
        ("run {mu}", {}, "list of texts"),
        ([], {}, "list of texts"),
        (["run"], {"prior": Prior(seed=Uniform(0.0, 1.0))}, "'seed' is a name"),
    ],
)
def test_bad_settings_are_told_at_once(argv, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        CommandSimulator(argv, **{"prior": PRIOR, **options})
