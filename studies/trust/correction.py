"""`python -m studies.trust.correction`: learned posteriors, corrected, against exact ones.

Of two tasks of sbibm a posterior and a surrogate likelihood are learned from the same 10,000
simulations. How good is each alone, the posterior's draws weighted by the surrogate, and the two
pooled? And what does the cross-check of the two say, which knows no reference? Of the Pantheon
supernovae the exact likelihood and evidence are known: a learned posterior is corrected by them.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import simgen
from simgen.agreement import cross_check
from simgen.answers.posterior import ApproximateWarning
from simgen.calibration.c2st import c2st
from simgen.pooling import pool
from simulators.benchmarks import TASKS
from simulators.supernovae import Supernovae
from studies.sbibm.measure import read_problem

FOLDER = Path(__file__).parent
DATA = Path(__file__).parents[3] / "shared" / "data"
DRAWS = 10_000
PARTICLES = 200_000
METHODS = ("posterior", "surrogate", "corrected", "pooled")


def learned(expression: str, dataset: Any, path: Path, seed: int) -> Any:
    """A flow; that of an earlier run, if it is there."""
    if path.is_file():
        return simgen.load(path)
    found = simgen.fit(expression, dataset, simgen.Flow(), seed=seed, progress=False)
    found.save(path)
    return found


def benchmark(
    task: str, numbers: list[int], n: int, folder: Path, data: Path, seed: int, known: list[Any]
) -> dict[str, Any]:
    """One task of sbibm: every observation, by every method.

    Arguments:
        task: Its name.
        numbers: Observations, counted from 1.
        n: Simulations.
        folder: Where simulations and models are, or will be.
        data: Where the reference posteriors are.
        seed: Of everything.
        known: Observations that an earlier run has judged.
    """
    problem = read_problem(task, data / "sbibm", numbers, seed)
    dataset = simgen.simulate(TASKS[task](), n, folder / task, seed=seed, progress=False)
    posterior = learned("theta | x", dataset, folder / f"{task}-posterior.st", seed)
    surrogate = learned("x | theta", dataset, folder / f"{task}-surrogate.st", seed)
    both = pool(posterior, surrogate, dataset, seed=seed)
    rows = {row["observation"]: row for row in known}
    for number, x, reference in zip(numbers, problem.observations, problem.references):
        row = observed(both, torch.as_tensor(x), torch.as_tensor(reference), seed)
        rows[number] = {"observation": number, **row}
        print(task, rows[number], flush=True)
    return {
        "simulations": n,
        "share": both.share,
        "gain": [round(v, 4) for v in both.gain],
        "scores": [round(v, 4) for v in both.scores],
        "observations": [rows[k] for k in sorted(rows)],
    }


def observed(both: Any, x: Tensor, reference: Tensor, seed: int) -> dict[str, Any]:
    """C2ST of each method for one observation, effective draws, and the cross-check."""
    q = both.posterior(x)
    answers = {
        "surrogate": simgen.infer(both.prior, both.surrogate, x, method="smc", seed=seed),
        "corrected": simgen.infer(
            both.prior, both.surrogate, x, proposal=q, particles=PARTICLES, seed=seed
        ),
        "pooled": both(x, particles=PARTICLES, seed=seed),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximateWarning)
        draws = {k: v.sample((DRAWS,), seed=seed) for k, v in answers.items()}
    draws["posterior"] = q.sample((DRAWS,), seed=seed)
    check = cross_check(both.posterior, both.surrogate, x, seed=seed)
    found = {k: round(c2st(reference[:DRAWS], draws[k]), 4) for k in METHODS}
    return {
        "c2st": found,
        "ess": {k: round(v.ess) for k, v in answers.items()},
        "pareto_k": {k: round(answers[k].notes["pareto_k"], 2) for k in ("corrected", "pooled")},
        "spread": round(check.spread, 3),
        "evidence": {
            "surrogate": [round(float(v), 3) for v in answers["surrogate"].log_evidence()],
            "corrected": [round(float(v), 3) for v in answers["corrected"].log_evidence()],
        },
        "check": check.verdict,
    }


def supernovae(n: int, folder: Path, data: Path, seed: int) -> dict[str, Any]:
    """The real Pantheon magnitudes: learned, corrected by the exact likelihood, and exact."""
    simulator = Supernovae(data / "supernovae" / "pantheon")
    assert simulator.observed is not None
    x = torch.as_tensor(simulator.observed)
    dataset = simgen.simulate(simulator, n, folder / "supernovae", seed=seed, progress=False)
    posterior = learned("theta | x", dataset, folder / "supernovae-posterior.st", seed)

    def likelihood(x: Tensor, theta: Tensor) -> Tensor:
        parts = theta.double().split(2_000)
        return torch.cat(
            [torch.as_tensor(simulator.log_likelihood(x.numpy(), t.numpy())) for t in parts]
        )

    start = time.process_time()
    answer = simgen.infer(
        simulator.prior, likelihood, x, proposal=posterior(x), particles=50_000, seed=seed
    )
    corrected = answer.sample((DRAWS,), seed=seed)
    value, error = answer.log_evidence()
    correcting = time.process_time() - start
    check = cross_check(posterior, likelihood, x, simulator.prior, seed=seed)
    exact, evidence = exactly(simulator)
    reference = exact.sample(DRAWS, np.random.default_rng(seed))
    draws = posterior(x).sample((DRAWS,), seed=seed)
    another = exact.sample(DRAWS, np.random.default_rng(seed + 1))
    return {
        "simulations": n,
        "correcting_seconds": round(correcting, 1),
        "c2st": {
            "posterior": round(c2st(reference, draws), 4),
            "corrected": round(c2st(reference, corrected), 4),
            "exact": round(c2st(reference, another), 4),
        },
        "evidence": {
            "exact": round(evidence, 4),
            "corrected": round(value, 4),
            "error": round(error, 4),
            "difference": round(value - evidence, 4),
        },
        "efficiency": round(answer.notes["efficiency"], 3),
        "pareto_k": round(answer.notes["pareto_k"], 2),
        "spread": round(check.spread, 3),
        "check": check.verdict,
    }


def exactly(simulator: Supernovae, cells: int = 400) -> tuple[Any, float]:
    """The posterior on its grid, and log p(x): the mean of the likelihood over the prior's box."""
    exact = simulator.exact_posterior(simulator.observed, cells)
    at = np.unravel_index(exact.mass.argmax(), exact.mass.shape)
    theta = np.array([axis[i] for axis, i in zip(exact.axes, at)])
    most = float(simulator.log_likelihood(simulator.observed, theta))
    # the mass is the likelihood over its sum, whose mean over cells is the evidence
    return exact, most - math.log(float(exact.mass.max())) - math.log(exact.mass.size)


def table(result: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    about = result["about"]
    lines = [
        "# Correction",
        "",
        f"`{about['command']}` ({about['versions']})",
        "",
        "C2ST by sbibm's definition, 10,000 draws against 10,000 reference draws; 0.5 is best. "
        'Posterior: `fit("theta | x")` with `Flow()`. Surrogate: `fit("x | theta")` and '
        "`infer` by particles. Corrected: "
        f"{PARTICLES:,} draws of the posterior weighted by the surrogate, which has the "
        "surrogate's answer as its limit. Pooled: the mean of the logarithms of the two, the "
        "surrogate's share chosen by the density of held-out parameters. Spread: what "
        "`cross_check` says of the two without a reference, in nats. k: the Pareto shape of the "
        "weights, above 0.7 no answer.",
    ]
    for task, r in result["tasks"].items():
        gain = "{:+.3f} ± {:.3f}".format(*r["gain"])
        lines += [
            "",
            f"## {task}, {r['simulations']:,} simulations",
            "",
            f"The surrogate's share is {r['share']:.2f}: {gain} nats of held-out log-density over "
            f"the posterior alone ({r['scores'][-1] - r['scores'][0]:+.3f} for the surrogate "
            "alone).",
            "",
            "| observation | posterior | surrogate | corrected | pooled | spread, nats | "
            "effective draws, corrected | k | effective draws, pooled | k |",
            "| ---: " * 10 + "|",
        ]
        for row in r["observations"]:
            values = " | ".join(f"{row['c2st'][k]:.3f}" for k in METHODS)
            lines.append(
                f"| {row['observation']} | {values} | {row['spread']:.2f} | "
                f"{row['ess']['corrected']:,} | {row['pareto_k']['corrected']} | "
                f"{row['ess']['pooled']:,} | {row['pareto_k']['pooled']} |"
            )
        means = [np.mean([row["c2st"][k] for row in r["observations"]]) for k in METHODS]
        lines.append("| mean | " + " | ".join(f"{v:.3f}" for v in means) + " | | | | | |")
    if (found := result.get("supernovae")) is not None:
        c, e = found["c2st"], found["evidence"]
        lines += [
            "",
            f"## Pantheon supernovae, {found['simulations']:,} simulations",
            "",
            "| | C2ST against exact | log-evidence |",
            "| --- | ---: | ---: |",
            f"| learned posterior | {c['posterior']:.3f} | |",
            f"| corrected by the exact likelihood | {c['corrected']:.3f} | "
            f"{e['corrected']:.4f} ± {e['error']:.4f} |",
            f"| exact, on a grid | {c['exact']:.3f} | {e['exact']:.4f} |",
            "",
            f"The correction takes {found['correcting_seconds']:g} s and keeps "
            f"{found['efficiency']:.0%} of the draws effective (k = {found['pareto_k']}); "
            f"cross-check: {found['check']}.",
        ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs the study and writes correction.json and correction.md beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.trust.correction")
    options.add_argument("--tasks", default="slcp,two_moons,supernovae", help="by comma")
    options.add_argument("--observations", default="1,2,3", help="from 1 to 10, by comma")
    options.add_argument("--simulations", type=int, default=10_000, metavar="N")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--data", type=Path, default=DATA, help="folder of sbibm and supernovae")
    options.add_argument("--models", type=Path, help="keep simulations and models here")
    options.add_argument("--out", type=Path, default=FOLDER, metavar="DIR")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    numbers = [int(v) for v in arguments.observations.split(",")]
    path = arguments.out / "correction.json"
    found = json.loads(path.read_text()) if path.is_file() else {"tasks": {}}
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.models or Path(scratch)
        folder.mkdir(exist_ok=True, parents=True)
        for name in arguments.tasks.split(","):
            seed, n = arguments.seed, arguments.simulations
            found["about"] = {
                "command": f"python -m studies.trust.correction --simulations {n} --seed {seed}",
                "versions": f"simgen {simgen.__version__}, torch {torch.__version__}, "
                f"Python {platform.python_version()}",
            }
            if name == "supernovae":
                found["supernovae"] = supernovae(20_000, folder, arguments.data, seed)
                print(name, found["supernovae"], flush=True)
                keep(found, path)
                continue
            for number in numbers:
                known = found["tasks"].get(name, {}).get("observations", [])
                found["tasks"][name] = benchmark(
                    name, [number], n, folder, arguments.data, seed, known
                )
                keep(found, path)


def keep(found: Mapping[str, Any], path: Path) -> None:
    """Writes what there is so far."""
    path.write_text(json.dumps(found, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(found))


if __name__ == "__main__":
    main()
