"""`python -m studies.command`: alpha_s from Pythia run as an external process, and its cost."""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch.distributions import Uniform

import simgen

FOLDER = Path(__file__).parent
LARGEST_SEED = 900_000_000  # that Pythia takes
CARD = """! e+ e- at the mass of the Z, to hadrons, without radiation from the beams
Print:quiet = on
Beams:idA = 11
Beams:idB = -11
Beams:eCM = 91.1876
PDF:lepton = off
WeakSingleBoson:ffbar2gmZ = on
23:onMode = off
23:onIfAny = 1 2 3 4 5
TimeShower:pTmin = 1.5
TimeShower:alphaSvalue = {alpha_s}
"""


def pythia(events: int, **options: Any) -> simgen.CommandSimulator:
    """Pythia as a program: a card for alpha_s, a table of events back."""
    return simgen.CommandSimulator(
        [sys.executable, str(FOLDER / "generate.py"), "{input}", str(events), "{seed}", "{out}"],
        simgen.Prior(alpha_s=Uniform(0.10, 0.14), labels=[r"$\alpha_s$"]),
        read="csv",
        template=CARD,
        largest_seed=LARGEST_SEED,
        fields={
            "x": simgen.Field((events, 2), "set", iid=True, names=("tau", "n_charged")),
        },
        timeout=600,
        **options,
    )


def measure(rows: int, events: int, workers: int, folder: Path) -> dict[str, Any]:
    """A campaign in two halves, the rows beside those of another number of workers, a trend."""
    simulator = pythia(events, scratch=folder / "scratch")
    shape = {"seed": 0, "block": 8, "shard_size": 16, "progress": False}
    began = time.perf_counter()
    simgen.simulate(simulator, rows // 2, folder / "d", workers=workers, **shape)  # type: ignore
    dataset = simgen.simulate(simulator, rows, folder / "d", workers=workers, **shape)  # type: ignore
    seconds = time.perf_counter() - began
    alone = simgen.simulate(simulator, 8, folder / "alone", **shape)  # type: ignore
    x, alpha = dataset["x"][:].astype(float).mean(1), np.log(dataset["alpha_s"][:].astype(float))
    design = np.stack([np.ones(rows), alpha - np.log(0.12)], 1)
    (coefficients, _, _, _) = np.linalg.lstsq(design, x, rcond=None)
    residual = (x - design @ coefficients).std(0, ddof=2)
    error = residual / (np.sqrt(rows) * design[:, 1].std())
    failed = simgen.CommandSimulator(
        [sys.executable, str(FOLDER / "generate.py"), "{input}", "5", "{seed}", "{out}"],
        simulator.prior,
        read="csv",
        template=CARD.replace("{alpha_s}", "2{alpha_s}0 no number") + "23:onMode = perhaps\n",
        largest_seed=LARGEST_SEED,
    )
    try:
        failed([0.12])
        told = ""
    except simgen.CommandError as problem:
        told = str(problem).replace(str(FOLDER), "studies/command")[-300:]
    return {
        "rows": rows,
        "events": events,
        "workers": workers,
        "failed": int((dataset.status != 0).sum()),
        "seconds": seconds,
        "same": bool(np.array_equal(alone["x"][:], dataset["x"][:8])),
        "problems": len(dataset.verify()),
        "left": len(list((folder / "scratch").iterdir())),
        "mean": coefficients[0].tolist(),
        "growth": (coefficients[1] / coefficients[0]).tolist(),
        "error": (error / coefficients[0]).tolist(),
        "told": re.sub(r"/\S+/", "", told or ""),  # without this machine's folders
    }


def text(found: dict[str, Any], command: str) -> str:
    """The result in Markdown."""
    pairs = zip(
        ("1 - thrust", "charged particles"), found["mean"], found["growth"], found["error"]
    )
    lines = [
        "# Pythia as an external program",
        "",
        f"`{command}` (Pythia {version('pythia8mc')})",
        "",
        f"{found['rows']} simulations of {found['events']} e+ e- events at the Z each, alpha_s "
        f"uniform from 0.10 to 0.14 in a card rendered for each call, by a program that knows "
        f"nothing of simgen; {found['workers']} workers, stopped half-way and resumed.",
        "",
        "| | |",
        "| --- | ---: |",
        f"| failed rows | {found['failed']} |",
        f"| the first 8 rows by one worker are the same | {'yes' if found['same'] else 'NO'} |",
        f"| damaged shards | {found['problems']} |",
        f"| scratch directories left behind | {found['left']} |",
        f"| wall seconds a call, with Python's and Pythia's start, on a busy machine | "
        f"{found['seconds'] * found['workers'] / found['rows']:.2f} |",
        "",
        "| mean of an event | at alpha_s = 0.12 | growth d ln mean / d ln alpha_s |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {m:.4g} | {g:.3f} ± {e:.3f} |" for name, m, g, e in pairs),
        "",
        "The in-process Pythia of `studies/pythia` has 0.058 and 0.942 ± 0.059 for thrust, 18 and "
        "0.447 ± 0.020 for charged particles.",
        "",
        f"A card that Pythia refuses is told as: `{found['told'] or 'nothing'}`",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures, and writes result.json and result.md beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.command", description=__doc__)
    options.add_argument("--rows", type=int, default=64)
    options.add_argument("--events", type=int, default=200)
    options.add_argument("--workers", type=int, default=2)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments.rows, arguments.events, arguments.workers, Path(folder))
    chosen = " ".join(f"--{k} {v}" for k, v in vars(arguments).items())
    (FOLDER / "result.json").write_text(json.dumps(found, indent=1) + "\n")
    result = text(found, f"python -m studies.command {chosen}")
    (FOLDER / "result.md").write_text(result)
    print(result)


if __name__ == "__main__":
    main()
