"""`python -m studies.trust.misspecification`: observations that the simulator cannot make.

A posterior is learned from each simulator; observations then come from a detector with another
noise, a background, a dead part or another scale. How often is p <= 0.01, and does it matter: how
often are the parameters within their central 90 % intervals?
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array
from scipy.stats import binomtest

import simgen
import simulators
from simgen.networks import PowerSpectrum
from simgen.typicality import SUSPECT, p_values

FOLDER = Path(__file__).parent
NOMINAL = 0.9
DRAWS = 500
Change = Callable[[Any, Array, float, np.random.Generator], Array]


@dataclass(frozen=True)
class Trouble:
    """A misspecification.

    Arguments:
        kind: "noise", "background", "mask" or "scale".
        what: In words, with the strength as {}.
        change: Maps a simulator, x (n, ...), a strength and a generator to other x.
        strengths: From weak to strong.
    """

    kind: str
    what: str
    change: Change
    strengths: tuple[float, ...]


@dataclass(frozen=True)
class Setting:
    """A simulator, how many rows to learn from, and its troubles."""

    rows: int
    troubles: tuple[Trouble, ...]
    embedding: Callable[[], Any] = lambda: None


def scaled(simulator: Any, x: Array, k: float, rng: np.random.Generator) -> Array:
    """All numbers times k."""
    return x * k


def gaussian_noise(simulator: Any, x: Array, k: float, rng: np.random.Generator) -> Array:
    """Noise of k times the deviation."""
    return x + np.sqrt((k * k - 1) * simulator.variance) * rng.standard_normal(x.shape)


def gaussian_offset(simulator: Any, x: Array, k: float, rng: np.random.Generator) -> Array:
    """An offset of k deviations of the noise in each column."""
    return x + k * np.sqrt(simulator.variance)


def dead_columns(simulator: Any, x: Array, k: float, rng: np.random.Generator) -> Array:
    """Zero in k columns of each row, at random."""
    place = rng.random(x.shape).argsort(1).argsort(1)
    return np.where(place < k, 0.0, x)


def magnitude_noise(simulator: Any, x: Array, k: float, rng: np.random.Generator) -> Array:
    """Errors of k times their size, with the same correlations."""
    root = np.linalg.cholesky(simulator.covariance)
    return x + np.sqrt(k * k - 1) * rng.standard_normal(x.shape) @ root.T


def low_redshift_offset(simulator: Any, x: Array, k: float, rng: np.random.Generator) -> Array:
    """k magnitudes more at z < 0.1: surveys that are calibrated apart."""
    return x + k * (simulator.z < 0.1)


def smeared_energy(simulator: Any, x: Array, k: float, rng: np.random.Generator) -> Array:
    """A further resolution k of the energy."""
    factor = np.exp(k * rng.standard_normal(x.shape[:2]))
    return np.concatenate([x[..., :1] * factor[..., None], x[..., 1:]], -1)


def background_events(simulator: Any, x: Array, k: float, rng: np.random.Generator) -> Array:
    """A share k of events is background: flat in angle and low in energy, with a wide tau."""
    n = x.shape[:2]
    flat = [rng.uniform(100, 200, n), rng.uniform(-1, 1, n), rng.poisson(4, n)]
    other = np.stack([*flat, rng.uniform(0, 0.4, n)], -1)
    return np.where((rng.random(n) < k)[..., None], other, x)


def dead_sector(simulator: Any, x: Array, k: float, rng: np.random.Generator) -> Array:
    """No emission is counted in a range of the angle of width k."""
    dead = (x[..., 1] > 0) & (x[..., 1] < k)
    out = x.copy()
    out[..., 2][dead] = 0
    return out


def energy_scale(simulator: Any, x: Array, k: float, rng: np.random.Generator) -> Array:
    """Energies times k."""
    return x * np.array([k, 1.0, 1.0, 1.0])


def pixel_noise(simulator: Any, x: Array, k: float, rng: np.random.Generator) -> Array:
    """Pixel noise of k times the deviation."""
    return x + np.sqrt(k * k - 1) * simulator.sigma_pix * rng.standard_normal(x.shape)


def gradient(simulator: Any, x: Array, k: float, rng: np.random.Generator) -> Array:
    """A slope across the map, of +- k deviations of a pixel's noise at its edges."""
    return x + k * simulator.sigma_pix * np.linspace(-1, 1, x.shape[-1])


def dead_square(simulator: Any, x: Array, k: float, rng: np.random.Generator) -> Array:
    """A square of a share k of the map is zero, anywhere."""
    side = round(np.sqrt(k) * x.shape[-1])
    out = x.copy()
    for row, (i, j) in zip(out, rng.integers(0, x.shape[-1] - side + 1, (len(x), 2))):
        row[:, i : i + side, j : j + side] = 0
    return out


SETTINGS = {
    "gaussian_linear": Setting(
        10_000,
        (
            Trouble("noise", "noise x {}", gaussian_noise, (2, 3, 4, 6)),
            Trouble("background", "offset of {} sd in each column", gaussian_offset, (1, 2, 3, 4)),
            Trouble("mask", "{} of 10 columns zero", dead_columns, (1, 3, 5)),
            Trouble("scale", "x times {}", scaled, (1.5, 2, 3, 4)),
        ),
    ),
    "supernovae": Setting(
        10_000,
        (
            Trouble("noise", "errors x {}", magnitude_noise, (1.25, 1.5, 1.75, 2)),
            Trouble("background", "{} mag at z < 0.1", low_redshift_offset, (0.05, 0.1, 0.2, 0.3)),
            Trouble("mask", "{} of 40 bins zero", dead_columns, (1, 4)),
            Trouble("scale", "magnitudes times {}", scaled, (1.01, 1.02, 1.05, 1.1)),
        ),
    ),
    "collider": Setting(
        6_000,
        (
            Trouble("noise", "energy smeared by {} more", smeared_energy, (0.1, 0.2, 0.3, 0.4)),
            Trouble("background", "{} of events", background_events, (0.02, 0.05, 0.1, 0.2)),
            Trouble("mask", "dead for 0 < cos < {}", dead_sector, (0.1, 0.2, 0.4, 0.8)),
            Trouble("scale", "energy times {}", energy_scale, (1.05, 1.1, 1.2, 1.3)),
        ),
    ),
    "map-quick": Setting(
        5_000,
        (
            Trouble("noise", "pixel noise x {}", pixel_noise, (1.1, 1.2, 1.5, 2)),
            Trouble("background", "gradient of +- {} sd", gradient, (0.5, 1, 2, 4)),
            Trouble("mask", "{} of the map zero", dead_square, (0.01, 0.03, 0.1)),
            Trouble("scale", "map times {}", scaled, (1.1, 1.2, 1.5, 2, 3)),
        ),
        lambda: PowerSpectrum(1, (64, 64)),
    ),
}


def share(hits: Array) -> list[float]:
    """A share with its 95 % interval."""
    test = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return [round(float(v), 4) for v in (hits.mean(), test.low, test.high)]


def covered(model: Any, x: Array, theta: Array) -> float:
    """How often a parameter is within its central interval of the nominal probability."""
    draws = model(x).sample((DRAWS,), seed=0).numpy()
    low, high = np.quantile(draws, [(1 - NOMINAL) / 2, (1 + NOMINAL) / 2], axis=0)
    return round(float(((theta > low) & (theta < high)).mean()), 4)


def study(name: str, fresh: int, observations: int, budget: str, data: str) -> dict[str, Any]:
    """What one simulator shows.

    Arguments:
        name: A preset.
        fresh: Well-specified observations.
        observations: Of each trouble.
        budget: Wall time of training.
        data: The folder of the Pantheon sample.
    """
    setting = SETTINGS[name]
    simulator = simulators.get(name, **({"data": data} if name == "supernovae" else {}))
    with tempfile.TemporaryDirectory() as folder:
        dataset = simgen.simulate(simulator, setting.rows, folder, seed=1, progress=False)
        model = simgen.fit(
            "theta | x",
            dataset,
            simgen.Flow(transforms=3, hidden=(64, 64)),
            embedding=setting.embedding(),
            budget=budget,
            device="cpu",
            progress=False,
        )
    theta = np.asarray(simulator.prior.sample((fresh,), seed=2))
    x = simulator(theta, seed=3)["x"]
    assert model.typicality is not None
    start = time.process_time()
    p = p_values(model, x).numpy()
    milliseconds = 1e3 * (time.process_time() - start) / len(x)
    stored = sum(v.nbytes for v in model.typicality.save()[1].values())
    found: dict[str, Any] = {
        "rows": setting.rows,
        "null": len(model.typicality.null),
        "false_alarms": share(p <= SUSPECT),
        "covered": covered(model, x[:observations], theta[:observations]),
        "milliseconds": round(milliseconds, 3),
        "kilobytes": round(stored / 1e3),
        "epochs": model.provenance["training"]["epochs"],
        "troubles": [],
    }
    theta, x = theta[:observations], x[:observations].astype(np.float64)
    for trouble in setting.troubles:
        for strength in trouble.strengths:
            rng = np.random.default_rng(4)
            other = trouble.change(simulator, x, strength, rng).astype(np.float32)
            row = {
                "kind": trouble.kind,
                "what": trouble.what.format(f"{strength:g}"),
                "strength": strength,
                "detected": share(p_values(model, other).numpy() <= SUSPECT),
                "covered": covered(model, other, theta),
            }
            print(name, row, flush=True)
            found["troubles"].append(row)
    return found


def table(result: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    about = result["about"]
    lines = [
        "# Misspecified observations",
        "",
        f"`{about['command']}` ({about['versions']}; {about['seconds']} CPU seconds, one thread)",
        "",
        f"`check_observation` at p <= {SUSPECT}: the share of {about['fresh']:,} well-specified "
        f"observations that it doubts, and of {about['observations']} of each misspecification. "
        "In brackets: 95 % intervals (Wilson). Covered: how often a parameter lies in its central "
        f"{NOMINAL:.0%} interval: a trouble that leaves it there does no harm. No statistic knows "
        "of the misspecification; thresholds are those that `fit` stored. Strengths were chosen "
        "to bracket 95 %; there are weaker troubles that do harm and go unseen, as they look like "
        "another theta.",
        "",
        "| simulator | simulations | null | false alarms | covered | ms a row | kB stored |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, r in result["simulators"].items():
        lines.append(
            f"| {name} | {r['rows']:,} | {r['null']:,} | {_share(r['false_alarms'])} | "
            f"{r['covered']:.0%} | {r['milliseconds']:.2g} | {r['kilobytes']} |"
        )
    lines += [
        "",
        "| simulator | kind | observation | detected | covered |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    for name, r in result["simulators"].items():
        for t in r["troubles"]:
            lines.append(
                f"| {name} | {t['kind']} | {t['what']} | {_share(t['detected'])} | "
                f"{t['covered']:.0%} |"
            )
    return "\n".join([*lines, ""])


def _share(values: list[float]) -> str:
    value, low, high = (100 * v for v in values)
    bold = "**" if value >= 95 else ""
    return f"{bold}{value:.3g} %{bold} ({low:.2g} to {high:.3g})"


def main() -> None:
    """Runs the study and writes misspecification.json and misspecification.md beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.trust.misspecification")
    options.add_argument("--simulators", default=",".join(SETTINGS), help="by comma")
    options.add_argument("--fresh", type=int, default=2_000, metavar="N")
    options.add_argument("--observations", type=int, default=200, metavar="N")
    options.add_argument("--budget", default="2min", help="of each training")
    options.add_argument("--data", default="data", help="folder of the Pantheon sample")
    options.add_argument("--out", type=Path, default=FOLDER, metavar="DIR")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    path = arguments.out / "misspecification.json"
    names = arguments.simulators.split(",")
    found = json.loads(path.read_text())["simulators"] if path.is_file() else {}
    start = time.process_time()
    for name in names:
        found[name] = study(
            name, arguments.fresh, arguments.observations, arguments.budget, arguments.data
        )
        result = {
            "about": {
                "command": "python -m studies.trust.misspecification "
                f"--fresh {arguments.fresh} --observations {arguments.observations} "
                f"--budget {arguments.budget} --data DIR",
                "versions": f"simgen {simgen.__version__}, torch {torch.__version__}, "
                f"Python {platform.python_version()}",
                "seconds": round(time.process_time() - start),
                "fresh": arguments.fresh,
                "observations": arguments.observations,
            },
            "simulators": {k: found[k] for k in SETTINGS if k in found},
        }
        path.write_text(json.dumps(result, indent=1) + "\n")
        path.with_suffix(".md").write_text(table(result))


if __name__ == "__main__":
    main()
