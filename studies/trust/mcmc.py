"""`python -m studies.trust.mcmc`: what a thousand effective draws of a surrogate's posterior cost.

A flow learns p(x | theta), five parameters, from 10,000 simulations. Its posterior for one
observation is drawn by `simgen.infer` and by sbi's default, the vectorised slice sampler of 20
chains, from the same log-density: processor seconds for a thousand effective draws (of the worst
parameter, bulk, warm-up included), R-hat, and a classifier two-sample test between the two.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import arviz
import numpy as np
import torch
from torch import Tensor
from torch.distributions import Uniform

import simgen
import simulators
from simgen.calibration.c2st import c2st

FOLDER = Path(__file__).parent
SIZE, WANTED, COMPARED = 5, 1000, 2000
PRIOR = simgen.Prior(**{f"theta_{i}": Uniform(-3.0, 3.0) for i in range(SIZE)})


@simgen.simulator(prior=PRIOR, batched=True)
def bent(theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Eight numbers, bent: x = M theta + (N theta)^2 / 4 + noise."""
    M, N = np.random.default_rng(0).normal(size=(2, 8, SIZE)) / np.sqrt(SIZE)
    return theta @ M.T + (theta @ N.T) ** 2 / 4 + 0.5 * rng.normal(size=(len(theta), 8))


def problem(name: str) -> Any:
    """The simulator of a problem: "bent" has one mode, "slcp" four."""
    return bent if name == "bent" else simulators.get(name)


def ours(prior: Any, surrogate: Any, x: Tensor, method: str, draws: int) -> dict[str, Any]:
    """`infer` by a method: seconds of all it does, and what its draws are worth."""
    began = time.process_time()
    posterior = simgen.infer(prior, surrogate, x, method=method, particles=draws, seed=0)
    theta = posterior.sample(draws)
    seconds = time.process_time() - began
    return {
        "seconds": seconds,
        "ess": posterior.ess,
        "each": seconds * WANTED / posterior.ess,
        "rhat": posterior.notes.get("rhat"),
        "rows": posterior.evaluations,
        "draws": theta,
    }


def theirs(prior: Any, surrogate: Any, x: Tensor, sweeps: int) -> dict[str, Any]:
    """sbi's MCMCPosterior as it comes: 20 chains, 200 sweeps of warm-up, of which this counts all,
    then so many more.
    """
    from sbi.inference.posteriors import MCMCPosterior
    from sbi.utils import mcmc_transform

    rows = 0

    def potential(theta: Tensor, x_o: Any = None) -> Tensor:
        nonlocal rows
        theta = torch.atleast_2d(theta).float()
        rows += len(theta)
        with torch.no_grad():
            return surrogate(theta).log_prob(x.expand(len(theta), -1)) + prior.log_prob(theta)

    sampler = MCMCPosterior(potential, prior, mcmc_transform(prior))
    sampler.set_default_x(x[None])
    began = time.process_time()
    draws = sampler.sample((20 * sweeps,), show_progress_bars=False)
    seconds = time.process_time() - began
    chains = draws.view(20, sweeps, SIZE).numpy()
    ess = min(float(arviz.ess(chains[..., i])) for i in range(SIZE))
    return {
        "seconds": seconds,
        "ess": ess,
        "each": seconds * WANTED / ess,
        "rhat": max(float(arviz.rhat(chains[..., i])) for i in range(SIZE)),
        "rows": rows,
        "draws": draws,
    }


def study(name: str, methods: list[str], sweeps: int, seed: int) -> dict[str, Any]:
    """One problem: every method on one surrogate and one observation."""
    simulator = problem(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data"
        dataset = simgen.simulate(simulator, 10_000, path, seed=0, progress=False)
        began = time.process_time()
        surrogate = simgen.fit("x | theta", dataset, progress=False)
        training = time.process_time() - began
    theta = simulator.prior.sample((1,), seed=seed)
    x = torch.as_tensor(simulator(theta.numpy(), seed=seed)["x"][0])
    found = {m: ours(simulator.prior, surrogate, x, m, 6400) for m in methods}
    found["sbi"] = theirs(simulator.prior, surrogate, x, sweeps)
    reference = found["sbi"]["draws"]
    half = len(reference) // 2
    for key, one in found.items():
        pair = (reference[:half], reference[half:]) if key == "sbi" else (reference, one["draws"])
        few = [part[torch.randperm(len(part))[:COMPARED]] for part in pair]
        one["c2st"] = c2st(*few)
    for one in found.values():
        del one["draws"]
    return {"training": training, "methods": found}


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    about = result["about"]
    lines = [
        "# A thousand effective draws",
        "",
        f"`{about['command']}`, one thread ({about['versions']}). Seconds are the processor's. "
        "sbi: `MCMCPosterior` as it comes, on the same log-density; C2ST is against sbi's "
        "draws (sbi's own: one half of its chains against the other). To reach: a tenth of sbi's "
        "seconds.",
        "",
        "| problem | method | s for 1,000 effective draws | of sbi's | effective | s | rows of "
        "p(x given theta) | R-hat | C2ST |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, one in result["problems"].items():
        other = one["methods"]["sbi"]["each"]
        for method, m in one["methods"].items():
            rhat = "" if m["rhat"] is None else f"{m['rhat']:.3f}"
            lines.append(
                f"| {name} | {method} | {m['each']:.2f} | 1/{other / m['each']:.0f} | "
                f"{m['ess']:.0f} | {m['seconds']:.1f} | {m['rows']:,} | {rhat} | {m['c2st']:.3f} |"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs the study and writes mcmc.json and mcmc.md beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.trust.mcmc")
    options.add_argument("--problems", default="bent,slcp", help="by comma")
    options.add_argument("--methods", default="hmc,smc", help="of infer, by comma")
    options.add_argument("--sweeps", type=int, default=300, help="of sbi's chains, kept")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    path = FOLDER / "mcmc.json"
    found = json.loads(path.read_text())["problems"] if path.is_file() else {}
    for name in arguments.problems.split(","):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 (sbi's slices draw from it)
        found[name] = study(name, arguments.methods.split(","), arguments.sweeps, 1)
        print(name, json.dumps(found[name]), flush=True)
        result = {
            "about": {
                "command": f"python -m studies.trust.mcmc --problems {arguments.problems} "
                f"--methods {arguments.methods} --sweeps {arguments.sweeps}",
                "versions": f"simgen {simgen.__version__}, torch {torch.__version__}, sbi "
                f"{version('sbi')}, Python {platform.python_version()}",
            },
            "problems": found,
        }
        path.write_text(json.dumps(result, indent=1) + "\n")
        path.with_suffix(".md").write_text(table(result))


if __name__ == "__main__":
    main()
