"""`python -m studies.pythia`: alpha_s from Pythia's events, two ways, and trends with it."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import simgen
from simulators.parton_shower import PartonShower
from simulators.pythia import PythiaEvents

from .figure import draw
from .judge import judge, moments
from .posterior import SurrogatePosterior, augment
from .trend import SHAPES, Means, growth, means

FOLDER = Path(__file__).parent
METHODS = {"posterior": "theta | x", "surrogate": "x | theta, on a grid"}


def trends(events: int, seed: int) -> dict[str, Means]:
    """Means of shapes by generator."""
    generators = {
        "PartonShower, 1.5 GeV": PartonShower("shapes", events=events, cutoff=1.5, record=[]),
        "PartonShower, 1 GeV": PartonShower("shapes", events=events, record=[]),
        "Pythia, partons": PythiaEvents(events, hadrons=False),
        "Pythia, hadrons": PythiaEvents(events),
    }
    return {name: means(simulator, seed) for name, simulator in generators.items()}


def learn(
    dataset: simgen.Dataset, epochs: int, seed: int
) -> dict[str, tuple[Callable[[Any], Any], float]]:
    """Both ways to a posterior given a set of events, and CPU seconds of training."""
    start = time.process_time()
    posterior = simgen.fit("theta | x", dataset, max_epochs=2 * epochs, batch_size=64, seed=seed)
    between = time.process_time()
    surrogate = simgen.fit(
        "x | theta", dataset, augment=augment, max_epochs=epochs, batch_size=32, seed=seed
    )
    end = time.process_time()
    return {
        "posterior": (posterior, between - start),
        "surrogate": (SurrogatePosterior(surrogate, seed=seed), end - between),
    }


def trend_lines(found: dict[str, Means]) -> list[str]:
    """The first table."""
    lines = [
        "| generator | " + " | ".join(f"{s} at 0.12 | growth" for s in SHAPES) + " |",
        "| --- |" + " ---: | ---: |" * len(SHAPES),
    ]
    for name, one in found.items():
        cells = [f"{a:.3g} | {b:.3f} ± {e:.3f}" for a, b, e in zip(*growth(one))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def posterior_lines(results: dict[str, Any]) -> list[str]:
    """The second table."""
    lines = [
        "| fit | 68 % interval | 95 % interval | contraction | information, nats | mean error, sd "
        "| calibrate | training, CPU s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for name, r in results.items():
        method = METHODS[name].replace("|", "\\|")
        lines.append(
            f"| {method} | {100 * r['coverage_68']:.1f} % | {100 * r['coverage_95']:.1f} % "
            f"| {r['contraction']:.3f} | {r['information_nats']:.3f} | "
            f"{r['bias_sd']:+.3f} ± {r['bias_sd_error']:.3f} | "
            f"{'passed' if r['passed'] else 'failed'} | {r['training_s']:.0f} |"
        )
    return lines


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(prog="python -m studies.pythia", description=__doc__)
    out.add_argument("--out", metavar="DIR", help="keep the simulations here")
    out.add_argument("--simulations", type=int, default=1536, metavar="N", help="sets")
    out.add_argument("--truths", type=int, default=256, metavar="N", help="sets to judge by")
    out.add_argument("--events", type=int, default=100, metavar="N", help="events in a set")
    out.add_argument("--trend", type=int, default=4000, metavar="N", help="events at each alpha_s")
    out.add_argument("--epochs", type=int, default=20, metavar="N", help="of the surrogate")
    out.add_argument("--seed", type=int, default=0)
    return out


def main() -> None:
    """Runs the study and writes result.json, result.md and the figure beside itself."""
    options = parser().parse_args()
    seed, simulator = options.seed, PythiaEvents(options.events)
    found = trends(options.trend, seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.out or scratch)
        dataset = simgen.simulate(simulator, options.simulations, folder / "rows", seed=seed)
        fresh = simgen.simulate(simulator, options.truths, folder / "fresh", seed=seed + 1)
        truth, x = np.asarray(fresh["theta"][:])[:, 0], np.asarray(fresh["x"][:])
        results, places, ranks = {}, {}, {}
        for name, (conditional, seconds) in learn(dataset, options.epochs, seed).items():
            results[name], ranks[METHODS[name]] = judge(conditional, fresh, seed)
            mean, sd = places[METHODS[name]] = moments(conditional, x, seed)
            pull = (mean - truth) / sd
            results[name] |= {
                "bias_sd": round(float(pull.mean()), 4),
                "bias_sd_error": round(float(pull.std(ddof=1) / len(pull) ** 0.5), 4),
                "mean_sd": round(float(sd.mean()), 6),
                "training_s": round(seconds, 1),
            }
            print(name, json.dumps(results[name]), flush=True)
    (m_1, s_1), (m_2, s_2) = places.values()
    agreement = {
        "difference_sd": round(float(np.abs(m_1 - m_2).mean() / s_2.mean()), 4),
        "sd_ratio": round(float((s_1 / s_2).mean()), 4),
    }
    about = {
        "command": f"python -m studies.pythia --simulations {options.simulations} --truths "
        f"{options.truths} --events {options.events} --trend {options.trend} --epochs "
        f"{options.epochs} --seed {seed}",
        "versions": f"torch {torch.__version__}, zuko {version('zuko')}, "
        f"Pythia {version('pythia8mc')}",
        **vars(options),
    }
    del about["out"]
    text = [
        "# The strong coupling from Pythia's events",
        "",
        f"`{about['command']}` ({about['versions']})",
        "",
        "Electrons and positrons become hadrons at the Z. Means of event shapes of "
        f"{options.trend:,} events at each of five values of alpha_s between 0.10 and 0.14, and "
        "their growth b = d ln mean / d ln alpha_s. Jets are anti-kt, R = 0.7, pT above 5 GeV. "
        "Particles are partons, of hadrons the charged ones. Pythia's showers end at 1.5 GeV, in "
        "a scale of its own definition; PartonShower's momenta have been through a detector.",
        "",
        *trend_lines(found),
        "",
        f"The posterior of alpha_s, uniform from 0.10 to 0.14, given (1 - thrust, jets, charged "
        f"particles) of {options.events} events with hadrons, learned from "
        f"{options.simulations:,} sets by `simgen.Flow()`: directly (batches of 64 sets, "
        f"{2 * options.epochs} epochs), and by a surrogate of one event (32 sets, "
        f"{options.epochs} epochs), whose likelihood of the set is put on a grid. Judged by "
        f"{options.truths} fresh sets: how often central intervals hold the truth (by chance "
        f"± {100 * (0.68 * 0.32 / options.truths) ** 0.5:.1f} and "
        f"± {100 * (0.95 * 0.05 / options.truths) ** 0.5:.1f} %), the share of the prior's "
        "variance that is gone, and the error of the mean in posterior deviations.",
        "",
        *posterior_lines(results),
        "",
        f"Means of the two posteriors differ by {agreement['difference_sd']:.2f} deviations on "
        f"average; the ratio of their deviations is {agreement['sd_ratio']:.2f}.",
        "",
        "![trends, posteriors and coverage](pythia.png)",
        "",
    ]
    draw(found, truth, places, ranks, FOLDER / "pythia.png")
    growths = {
        name: {k: np.round(v, 4).tolist() for k, v in zip(("level", "b", "error"), growth(one))}
        for name, one in found.items()
    }
    record = {**about, "trend_growth": growths, "results": results, "agreement": agreement}
    (FOLDER / "result.json").write_text(json.dumps(record, indent=1) + "\n")
    (FOLDER / "result.md").write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
