"""`python -m studies.dimuon --data DIR`: the Z in 500 real muon pairs.

DIR holds dimuon.h5, made of uproot-Zmumu.root of https://github.com/scikit-hep/scikit-hep-testdata.
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
from scipy.stats import kstest

import simgen
from simgen.calibration.c2st import c2st
from simulators.dimuon import M_Z, WIDTH, WINDOW, Dimuon
from simulators.grid_posterior import GridPosterior

from .figure import panels
from .histogram import Histogram

FOLDER = Path(__file__).parent
DRAWS = 10_000
TARGET = 0.55
EVENTS = 10  # of a set that one event's likelihood is learned from
WAYS = {
    "events": "The likelihood p(x given theta) of one event, learned by `simgen.Flow()` from {} "
    f"sets of {EVENTS} events in {{}} epochs, and `infer` with all events",
    "histogram": "The posterior learned by `simgen.Flow()` with a histogram of 100 bins as "
    "embedding from {} sets of as many events in {} epochs",
    "set": "The posterior learned by `simgen.Flow()` with the default embedding of a set from {} "
    "sets of as many events in {} epochs",
}
TITLES = {"peak": "free peak", "scale": f"m_Z = {M_Z} GeV, free scale"}


def learn(
    simulator: Dimuon,
    observed: Array,
    n: int,
    way: str,
    epochs: int,
    folder: Path,
    seed: int,
) -> tuple[Array, dict[str, float]]:
    """Draws (DRAWS, 3) of the learned posterior, and seconds of each step."""
    times = [time.perf_counter()]
    if way == "events":
        simulator = Dimuon(EVENTS, simulator.parameters, record=[])
    dataset = simgen.simulate(simulator, n, folder, seed=seed)
    times.append(time.perf_counter())
    expression = "x | theta" if way == "events" else "theta | x"
    network = Histogram(bins=100) if way == "histogram" else None
    learned = simgen.fit(expression, dataset, embedding=network, seed=seed, max_epochs=epochs)
    times.append(time.perf_counter())
    if way == "events":
        draws = simgen.infer(simulator.prior, learned, observed, seed=seed).sample(DRAWS)
    else:
        draws = learned(observed).sample((DRAWS,), seed=seed)
    times.append(time.perf_counter())
    steps = ("simulate_s", "fit_s", "infer_s")
    seconds = {k: round(b - a, 1) for k, a, b in zip(steps, times, times[1:])}
    return draws.double().numpy(), seconds


def compare(exact: GridPosterior, draws: Array, seed: int) -> dict[str, Any]:
    """Exact and learned moments, and how well the learned posterior does."""
    mean, sd = draws.mean(0), draws.std(0, ddof=1)
    rows = {
        "exact_mean": exact.mean,
        "exact_sd": exact.sd,
        "learned_mean": mean,
        "learned_sd": sd,
        "mean_error_in_sd": (mean - exact.mean) / exact.sd,
        "sd_ratio": sd / exact.sd,
    }
    result = {name: np.round(value, 5).tolist() for name, value in rows.items()}
    return {"c2st": round(c2st(exact.sample(DRAWS, seed), draws), 4), **result}


def goodness(simulator: Dimuon, theta: Array, observed: Array) -> float:
    """The p-value of a Kolmogorov-Smirnov test of the masses (k, 1) against the model at theta."""
    edges = np.linspace(*WINDOW, 20_001)
    p = simulator.density((edges[1:] + edges[:-1]) / 2, theta)
    cdf = np.concatenate([[0.0], p.cumsum() / p.sum()])
    return float(kstest(observed[:, 0], lambda m: np.interp(m, edges, cdf)).pvalue)


def table(
    results: dict[str, dict[str, Any]], names: dict[str, tuple[str, ...]], about: dict[str, Any]
) -> str:
    """The result in Markdown."""
    end = _end(about["way"])
    learned = WAYS[about["way"]].format(f"{about['simulations']:,}", about["epochs"])
    worst = max(r["c2st"] for r in results.values())
    lines = [
        "# The Z in real muon pairs",
        "",
        f"`{about['command']}` ({about['versions']})",
        "",
        f"{about['events']} of 500 real events (CMS 2010) lie between 70 and 110 GeV. The model: "
        f"a Breit-Wigner of width {WIDTH} GeV seen with a Gaussian resolution, and a flat "
        "background (Kolmogorov-Smirnov test of the real masses at the exact posterior mean: "
        f"p = {about['ks_p']:.2f}). {learned}, otherwise default settings (seed {about['seed']}), "
        "against the exact one on a grid. C2ST by sbibm's definition, 10,000 learned against "
        f"10,000 exact draws; 0.5 is best. The aim of {TARGET} is "
        f"{'reached' if worst <= TARGET else 'missed'}. Priors: {about['prior']}.",
        "",
        "| model | parameter | exact | learned | mean error, sd | sd ratio | C2ST |",
        "| --- | --- | --- | --- | ---: | ---: | ---: |",
    ]
    for model, r in results.items():
        for i, name in enumerate(names[model]):
            digits = 4 if name in ("scale", "background") else 3
            pairs = (
                f"{r[f'{k}_mean'][i]:.{digits}f} ± {r[f'{k}_sd'][i]:.{digits}f}"
                for k in ("exact", "learned")
            )
            lines.append(
                f"| {TITLES[model]} | {name} | {' | '.join(pairs)} | "
                f"{r['mean_error_in_sd'][i]:+.3f} | {r['sd_ratio'][i]:.3f} | {r['c2st']:.3f} |"
            )
    seconds = ", ".join(
        f"{TITLES[m]}: {r['simulate_s']:.1f} s to simulate, {r['fit_s']:.0f} s to fit, "
        f"{r['infer_s']:.0f} s to draw"
        for m, r in results.items()
    )
    scale, sd = results["scale"]["exact_mean"][0], results["scale"]["exact_sd"][0]
    lines += [
        "",
        f"The momenta of these muons are not calibrated: read {(1 - scale) * 100:.2f} ± "
        f"{sd * 100:.2f} % too low.",
        "",
        f"Wall time, one process: {seconds}.",
        "",
        f"![masses and posteriors](posterior{end}.png)",
        "",
    ]
    return "\n".join(lines)


def _end(way: str) -> str:
    """What the names of a way's files end with."""
    return "" if way == "events" else f"_{way}"


def prior_text() -> str:
    """Both priors in words."""
    low, high = (bound.tolist() for bound in (Dimuon().prior.low, Dimuon().prior.high))
    units = (" GeV", " GeV", "")
    parts = [
        f"{name} uniform from {a:.3g} to {b:.3g}{unit}"
        for name, a, b, unit in zip(Dimuon().names, low, high, units)
    ]
    return ", ".join([*parts, "scale N(1, 0.01²)"])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="python -m studies.dimuon",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--data", required=True, metavar="DIR", help="folder of dimuon.h5")
    out.add_argument("--out", metavar="DIR", help="keep the simulations here")
    out.add_argument("--simulations", type=int, default=100_000, metavar="N", help="sets")
    out.add_argument("--epochs", type=int, default=15)
    out.add_argument("--way", choices=tuple(WAYS), default="events", help="what is learned")
    out.add_argument("--seed", type=int, default=0)
    return out


def main() -> None:
    """Runs the study and writes result.json, result.md and the figure beside itself."""
    options = parser()
    arguments = options.parse_args()
    n, way, seed = arguments.simulations, arguments.way, arguments.seed
    try:
        observed = Dimuon.observed(arguments.data)
    except ValueError as error:
        options.error(str(error))
    simulators = {name: Dimuon(len(observed), name, record=[]) for name in TITLES}
    exact = {name: simulator.exact_posterior(observed) for name, simulator in simulators.items()}
    results, draws = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for model, simulator in simulators.items():
            folder = Path(arguments.out or scratch) / model
            draws[model], seconds = learn(
                simulator, observed, n, way, arguments.epochs, folder, seed
            )
            results[model] = compare(exact[model], draws[model], seed) | seconds
            print(TITLES[model], json.dumps(results[model]), flush=True)
    end = _end(way)
    paths = [FOLDER / f"posterior{end}.{extension}" for extension in ("png", "svg")]
    panels(observed, simulators, exact, draws, paths)
    about = {
        "command": f"python -m studies.dimuon --data DIR --simulations {n} --epochs "
        f"{arguments.epochs} --way {way} --seed {seed}",
        "versions": f"torch {torch.__version__}, zuko {version('zuko')}",
        "events": len(observed),
        "prior": prior_text(),
        "simulations": n,
        "epochs": arguments.epochs,
        "way": way,
        "ks_p": round(goodness(simulators["peak"], exact["peak"].mean, observed), 4),
        "seed": seed,
    }
    text = table(results, {name: s.names for name, s in simulators.items()}, about)
    (FOLDER / f"result{end}.json").write_text(
        json.dumps({**about, "results": results}, indent=1) + "\n"
    )
    (FOLDER / f"result{end}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
