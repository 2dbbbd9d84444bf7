"""`python -m studies.supernovae --data DIR`: the posterior of (Omega_m, w_0) given Pantheon.

DIR holds lcparam_DS17f.txt and sys_DS17f.txt of https://github.com/dscolnic/Pantheon.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array

import simgen
from simgen.calibration.c2st import c2st
from simgen.conditional import ConditionalDistribution
from simulators.supernovae import GridPosterior, Supernovae

from .figure import contours, on_grid

FOLDER = Path(__file__).parent
DRAWS = 10_000
PUBLISHED = {
    "wCDM": (np.array([0.316, -1.090]), np.array([0.072, 0.220])),
    "LCDM": (np.array([0.298]), np.array([0.022])),
}
"""Means and standard deviations by Scolnic et al. (2018), table 8, supernovae with systematics."""
TITLES = {"wCDM": "flat wCDM", "LCDM": "flat ΛCDM (w_0 = -1)"}


def learn(
    simulator: Supernovae, observed: Array, n: int, folder: Path, seed: int
) -> tuple[ConditionalDistribution, float, float]:
    """The posterior given the real magnitudes, and seconds to simulate and to fit."""
    start = time.perf_counter()
    dataset = simgen.simulate(simulator, n, folder, seed=seed)
    simulated = time.perf_counter()
    posterior = simgen.fit("theta | x", dataset, model=simgen.Flow(), seed=seed)
    fitted = time.perf_counter()
    return posterior(observed), simulated - start, fitted - simulated


def compare(model: str, exact: GridPosterior, draws: Array, seed: int) -> dict[str, Any]:
    """Exact, learned and published moments, and how well the learned posterior does."""
    reference = exact.sample(DRAWS, np.random.default_rng(seed))
    mean, sd = draws.mean(0), draws.std(0, ddof=1)
    published_mean, published_sd = PUBLISHED[model]
    rows = {
        "exact_mean": exact.mean,
        "exact_sd": exact.sd,
        "learned_mean": mean,
        "learned_sd": sd,
        "published_mean": published_mean,
        "published_sd": published_sd,
        "mean_error_in_sd": (mean - exact.mean) / exact.sd,
        "sd_ratio": sd / exact.sd,
    }
    result = {name: np.round(value, 4).tolist() for name, value in rows.items()}
    return {"c2st": round(c2st(reference, draws), 4), **result}


def table(
    results: dict[str, dict[str, Any]], names: tuple[str, ...], about: dict[str, Any]
) -> str:
    """The result in Markdown."""
    lines = [
        "# Dark energy from Pantheon supernovae",
        "",
        f"`{about['command']}` ({about['versions']})",
        "",
        "Posterior of a flat universe given the 40 binned Pantheon magnitudes, learned by "
        f"`simgen.Flow()` from {about['simulations']:,} simulations with default settings (seed "
        f"{about['seed']}), against the exact posterior on a grid and the published analysis "
        "(Scolnic et al. 2018, table 8). C2ST by sbibm's definition, 10,000 learned against "
        "10,000 exact draws; 0.5 is best. Priors: " + about["prior"] + ".",
        "",
        "| model | parameter | published | exact | learned | mean error, sd | sd ratio | C2ST |",
        "| --- | --- | --- | --- | --- | ---: | ---: | ---: |",
    ]
    for model, r in results.items():
        for i in range(len(r["exact_mean"])):
            pairs = (
                f"{r[f'{k}_mean'][i]:.3f} ± {r[f'{k}_sd'][i]:.3f}"
                for k in ("published", "exact", "learned")
            )
            lines.append(
                f"| {TITLES[model]} | {names[i]} | {' | '.join(pairs)} | "
                f"{r['mean_error_in_sd'][i]:+.3f} | {r['sd_ratio'][i]:.3f} | {r['c2st']:.3f} |"
            )
    seconds = ", ".join(
        f"{TITLES[m]}: {r['simulate_s']:.1f} s to simulate, {r['fit_s']:.0f} s to fit"
        for m, r in results.items()
    )
    lines += ["", f"Wall time, one process: {seconds}.", "", "![contours](contours.png)", ""]
    return "\n".join(lines)


def prior_text(simulator: Supernovae) -> str:
    """The box of the prior, and that of the offset, in words."""
    prior = simulator.prior
    bounds = zip(prior.names, prior.low.tolist(), prior.high.tolist())
    parts = [f"{name} uniform from {low:.3g} to {high:.3g}" for name, low, high in bounds]
    offset = f"absolute magnitude {simulator.M_mean} ± {simulator.M_sd} mag, marginalised"
    return ", ".join([*parts, offset])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="python -m studies.supernovae",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--data", required=True, metavar="DIR", help="folder of the Pantheon files")
    out.add_argument("--out", metavar="DIR", help="keep the simulations here")
    out.add_argument("--simulations", type=int, default=20_000, metavar="N")
    out.add_argument("--seed", type=int, default=0)
    return out


def main() -> None:
    """Runs the study and writes result.json, result.md and the figure beside itself."""
    options = parser()
    arguments = options.parse_args()
    n, seed = arguments.simulations, arguments.seed
    try:
        simulators = {
            "wCDM": Supernovae(arguments.data),
            "LCDM": Supernovae(arguments.data, w_0=-1.0),
        }
    except ValueError as error:
        options.error(str(error))
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for model, simulator in simulators.items():
            observed = simulator.observed
            assert observed is not None
            exact = simulator.exact_posterior(observed)
            folder = Path(arguments.out or scratch) / model
            learned, simulating, fitting = learn(simulator, observed, n, folder, seed)
            draws = learned.sample((DRAWS,), seed=seed).double().numpy()
            results[model] = compare(model, exact, draws, seed)
            results[model] |= {"simulate_s": round(simulating, 2), "fit_s": round(fitting, 1)}
            print(TITLES[model], json.dumps(results[model]), flush=True)
            if model == "wCDM":
                paths = [FOLDER / f"contours.{extension}" for extension in ("png", "svg")]
                contours(exact, on_grid(learned, exact.axes), PUBLISHED[model], paths)
    about = {
        "command": f"python -m studies.supernovae --data DIR --simulations {n} --seed {seed}",
        "versions": f"torch {torch.__version__}, zuko {version('zuko')}",
        "prior": prior_text(simulators["wCDM"]),
        "simulations": n,
        "seed": seed,
    }
    names = simulators["wCDM"].names
    text = table(results, names, about)
    (FOLDER / "result.json").write_text(json.dumps({**about, "results": results}, indent=1) + "\n")
    (FOLDER / "result.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
