"""`python -m studies.trust.coverage`: do confidence sets cover, everywhere?

A surrogate likelihood is learned from simulations of two moons; sets of theta are calibrated on
others (Neyman's construction). At points all over the prior fresh simulations say how often 68 %
and 95 % sets hold the truth, beside those of Wilks's theorem, whose two degrees of freedom are one
too many: along a crescent the likelihood is flat.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2

import simgen
import simulators
from simgen.frequentist import CalibratedTest, Coverage, calibrate_test, confidence_set
from simgen.frequentist.coverage import coverage_of
from simgen.frequentist.profiles import LEVELS
from simgen.plots import coverage_figure

FOLDER = Path(__file__).parent
TASK = "two_moons"


def calibrated(rows: int, pairs: int, budget: str, epochs: int | None = None) -> CalibratedTest:
    """A test by a surrogate learned from some simulations, calibrated on others.

    Arguments:
        rows: Simulations to learn from.
        pairs: Simulations to calibrate on.
        budget: Wall time of training.
        epochs: Of training, at most.
    """
    simulator = simulators.get(TASK)
    with tempfile.TemporaryDirectory() as folder:
        first = simgen.simulate(simulator, rows, f"{folder}/a", seed=1, progress=False)
        surrogate = simgen.fit(
            "x | theta",
            first,
            simgen.Flow(transforms=3, hidden=(64, 64)),
            budget=budget,
            max_epochs=epochs,
            device="cpu",
            progress=False,
        )
        second = simgen.simulate(simulator, pairs, f"{folder}/b", seed=2, progress=False)
        return calibrate_test(surrogate, second, n=pairs)


def measured(test: CalibratedTest, points: int, trials: int) -> dict[str, Coverage]:
    """Coverage at points of the prior, calibrated and by Wilks's theorem."""
    simulator = simulators.get(TASK)
    theta = np.asarray(simulator.prior.sample((points,), seed=3), float)
    p, wilks = [], []
    for i, point in enumerate(theta):
        truth = np.tile(point, (trials, 1))
        x = test.statistic.rows(simulator(truth, seed=1_000 + i)["x"])
        t, at = test.statistic(x, torch.as_tensor(truth), torch.arange(trials))
        p.append(test.p_of(t, at).numpy())
        wilks.append(chi2.sf(t.numpy(), len(point)))
    names = simulator.prior.names
    return {
        "calibrated": coverage_of(p, theta, names, LEVELS),
        "Wilks": coverage_of(wilks, theta, names, LEVELS),
    }


def table(result: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    about = result["about"]
    lines = [
        "# Coverage of confidence sets",
        "",
        f"`{about['command']}` ({about['versions']}; {about['seconds']} CPU seconds, one thread)",
        "",
        f"{TASK}: a flow `x | theta` learned from {about['rows']:,} simulations; its likelihood "
        f"ratio calibrated on {about['pairs']:,} others, of which {about['neighbours']:,} have a "
        f"say at each theta. At {about['points']} points of the prior, {about['trials']} fresh "
        "simulations each: the share of sets that hold the truth. The band is binomial and holds "
        "at all points at once (95 %).",
        "",
        "| sets | level | mean | lowest | highest | band | points below | points above |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, rows in result["coverage"].items():
        for r in rows:
            lines.append(
                f"| {name} | {r['level']:.0%} | {r['mean']:.3f} | {r['lowest']:.3f} | "
                f"{r['highest']:.3f} | {r['band_low']:.3f} to {r['band_high']:.3f} | "
                f"{r['below']} | {r['above']} |"
            )
    return "\n".join([*lines, "", "![Coverage by point](coverage.png)", ""])


def picture(test: CalibratedTest, path: Path) -> None:
    """A set of one observation, the exact posterior beside it."""
    simulator = simulators.get(TASK)
    truth = np.array([[0.3, -0.4]])
    x = simulator(truth, seed=5)["x"][0]
    posterior = simulator.sample_posterior(x, 4_000, np.random.default_rng(0))
    figure = confidence_set(test, x).plot(posterior=posterior, truth=truth[0])
    figure.savefig(path)


def main() -> None:
    """Runs the study and writes coverage.json, coverage.md and its figures beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.trust.coverage")
    options.add_argument("--rows", type=int, default=10_000, help="simulations to learn from")
    options.add_argument("--pairs", type=int, default=60_000, help="simulations to calibrate on")
    options.add_argument("--points", type=int, default=200)
    options.add_argument("--trials", type=int, default=400, help="at each point")
    options.add_argument("--budget", default="2min", help="wall time of training")
    options.add_argument("--epochs", type=int, default=None, help="of training, at most")
    options.add_argument("--out", type=Path, default=FOLDER, metavar="DIR")
    o = options.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    test = calibrated(o.rows, o.pairs, o.budget, o.epochs)
    print(test, flush=True)
    coverage = measured(test, o.points, o.trials)
    result = {
        "about": {
            "command": f"python -m studies.trust.coverage --rows {o.rows} --pairs {o.pairs} "
            f"--points {o.points} --trials {o.trials} --budget {o.budget}",
            "versions": f"simgen {simgen.__version__}, torch {torch.__version__}, "
            f"Python {platform.python_version()}",
            "seconds": round(time.process_time() - start),
            "rows": o.rows,
            "pairs": o.pairs,
            "points": o.points,
            "trials": o.trials,
            "neighbours": test.quantiles.neighbours,
        },
        "coverage": {k: c.rows() for k, c in coverage.items()},
        "points": {
            "theta": coverage["calibrated"].theta.tolist(),
            **{k: c.covered.tolist() for k, c in coverage.items()},
        },
    }
    for name, c in coverage.items():
        print(name, c, sep="\n", flush=True)
    path = o.out / "coverage.json"
    path.write_text(json.dumps(result) + "\n")
    path.with_suffix(".md").write_text(table(result))
    coverage_figure(coverage).savefig(path.with_suffix(".png"))
    picture(test, o.out / "confidence_set.png")


if __name__ == "__main__":
    main()
