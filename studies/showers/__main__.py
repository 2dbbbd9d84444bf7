"""`python -m studies.showers`: what the judge says of simulated showers, and of learned ones."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array

from simulators.calorimeter import CalorimeterShower

from .figure import draw
from .judge import OBSERVABLES, Judgement, Sampler, draw_showers, judge
from .surrogates import STAGES, Surrogate
from .training import FAMILIES, SHARED, Trainer

FOLDER = Path(__file__).parent


def simulated(**settings: Any) -> Sampler:
    """The simulator with other settings, as a sampler."""
    simulator = CalorimeterShower(**settings, record=())

    def sample(theta: Array, seed: int) -> Array:
        return simulator(theta, seed=seed)["x"]

    return sample


SAMPLERS: dict[str, Sampler] = {
    "simulator": simulated(),
    "resolution 0.19": simulated(sampling=0.19),
}


def best_of(results: dict[str, Any]) -> str:
    """The family whose observables are hardest to tell from the simulator's; "" of none."""
    learned = [k for k in results if k in FAMILIES]
    return min(learned, key=lambda k: results[k]["high"][0], default="")


def row(name: str, r: dict[str, Any]) -> str:
    """A line of the table."""
    cells = [f"{1e3 * r['separation'][k]:.2f}" for k in OBSERVABLES]
    areas = [f"{value:.3f} ± {error:.3f}" for value, error in (r["high"], r["low"])]
    cost = f"{r['milliseconds_a_shower']:.3g}"
    ends = [f"{r['correlation']:.4f}", *areas, cost, f"{r.get('training_s', 0) or '':}"]
    return f"| {name} | {' | '.join(cells + ends)} |"


def table(results: dict[str, Any], about: dict[str, Any]) -> str:
    """The result in Markdown."""
    n = about["showers"]
    columns = [*(f"S {k}" for k in OBSERVABLES), "correlation", "AUC high", "AUC low", "ms"]
    columns.append("training, s")
    best = best_of(results)
    lines = [
        "# Calorimeter showers",
        "",
        f"`{about['command']}` ({about['versions']}; {about['threads']} threads)",
        "",
        f"{n:,} showers of each sampler against {n:,} of the simulator, both over the prior. "
        "S: separation power of the observable, 50 bins (voxels: 80 and zero), averaged over "
        "layers, times 1000: chance alone gives two independent samples "
        f"{1e3 * 49 / (2 * n):.2f}. "
        "Correlation: root mean square difference of the layers' Pearson correlations. AUC: of a "
        "classifier of three hidden layers of 256 that sees log10 E and the observables (high), "
        "or the voxels over E (low), on a fifth of the showers that it has not seen. ms: time of "
        "the processor a shower, in batches of 1,000. The simulator against itself is the floor; "
        "a sampling resolution of 0.19 in place of 0.17 shows what is noticed.",
        "",
        *_about_surrogates(about, best, sum(k in FAMILIES for k in results)),
        f"| sampler | {' | '.join(columns)} |",
        f"| --- |{' ---: |' * len(columns)}",
        *(row(name, r) for name, r in results.items()),
        "",
        "![showers and their observables](showers.png)",
        "",
    ]
    return "\n".join(lines)


def _about_surrogates(about: dict[str, Any], best: str, families: int) -> list[str]:
    """What the learned samplers are, where there are some."""
    if not best:
        return []
    return [
        f"The learned samplers are chains of four conditionals, of {about['simulations']:,} "
        "simulations: the longitudinal profile (T, alpha) given theta, a latent that the "
        "simulator records, and the energies of layers given both, by the same flows for all; "
        "then the rings of a layer, and the cells of a ring, each given its state (energies, what "
        "the profile expects, place along and off the axis), by the family that the row names. A "
        "part is its ratio to those before it, zero with a probability of its own; log_prob is "
        "the density of ln T, ln alpha and ratios with respect to counting on zeros and Lebesgue "
        "measure on what is positive (VAE: a bound; diffusion: by its ordinary differential "
        "equation). "
        "The time of training is that of all four, on a machine with other work."
        + (f" **Best family: {best}.**" if families > 1 else ""),
        "",
    ]


def record(found: Judgement, milliseconds: float) -> dict[str, Any]:
    """A judgement as JSON values."""
    return {
        "separation": {k: round(v, 6) for k, v in found.separation.items()},
        "correlation": round(found.correlation, 6),
        "high": [round(v, 5) for v in found.high],
        "low": [round(v, 5) for v in found.low],
        "milliseconds_a_shower": round(milliseconds, 4),
    }


def cost(sampler: Sampler) -> dict[str, Any]:
    """Of a learned sampler: its family, and seconds of training."""
    if not isinstance(sampler, Surrogate):
        return {}
    trained = [getattr(sampler, stage).provenance["training"] for stage in STAGES]
    return {
        "family": repr(sampler.cells.family),
        "training_s": round(sum(t["seconds"] for t in trained)),
        "parameters": sum(t["parameters"] for t in trained),
    }


def main() -> None:
    """Runs the study and writes result.json, result.md and the figure beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.showers", description=__doc__)
    options.add_argument("--samplers", default=",".join((*SAMPLERS, *FAMILIES)), help="by comma")
    options.add_argument("--showers", type=int, default=20_000, metavar="N")
    options.add_argument("--simulations", type=int, default=180_000, help="to learn from")
    options.add_argument("--models", metavar="DIR", help="where trained ones are, or go")
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    names = arguments.samplers.split(",")
    known = (*SAMPLERS, *FAMILIES)
    if unknown := [n for n in names if n not in known]:
        options.error(f"no sampler {unknown[0]!r}; there are {', '.join(known)}")
    n, seed = arguments.showers, arguments.seed
    scratch = tempfile.TemporaryDirectory()
    models = Path(arguments.models or scratch.name)
    trainer = Trainer(models, arguments.simulations, seed)
    prior = CalorimeterShower().prior
    # Two draws of parameters: a classifier must not know a row by its energy.
    theta, other = (prior.sample((n,), seed=seed + k).numpy() for k in (1, 2))
    energy, at = (1e3 * 10 ** v[:, 0].astype(np.float64) for v in (theta, other))
    reference, _ = draw_showers(SAMPLERS["simulator"], other, seed=seed + 1_000_000)
    shown, results = {"simulator": (reference[: n // 4], at[: n // 4])}, {}
    for k, name in enumerate(names):
        sampler = SAMPLERS.get(name) or trainer(name)
        x, milliseconds = draw_showers(sampler, theta, seed=seed + (k + 2) * 1_000_000)
        found = judge(x, energy, reference, at, seed)
        results[name] = record(found, milliseconds) | cost(sampler)
        if name != "simulator":
            shown[name] = (x[: n // 4], energy[: n // 4])
        print(row(name, results[name]), flush=True)
    about = {
        "command": f"python -m studies.showers --samplers '{arguments.samplers}' "
        f"--showers {n} --simulations {arguments.simulations} "
        f"--seed {seed}",
        "versions": f"torch {torch.__version__}, numpy {np.__version__}",
        "threads": torch.get_num_threads(),
        "showers": n,
        "simulations": arguments.simulations,
        "shared": {stage: repr(family) for stage, family in SHARED.items()},
    }
    draw(shown, FOLDER / "showers.png", best_of(results))
    (FOLDER / "result.json").write_text(json.dumps({**about, "results": results}, indent=1) + "\n")
    (FOLDER / "result.md").write_text(table(results, about))
    print(table(results, about))


if __name__ == "__main__":
    main()
