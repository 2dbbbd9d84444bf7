"""`python -m studies.massmap`: mass maps behind a mask, and whether their errors are right."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

from simgen import infer
from simgen.plots.inverse import inverse_pictures
from simulators.map_summaries import multipole_edges, one_point_pdf, power_spectrum
from studies.lensing.averaged import Averaged, reconstruct
from studies.lensing.calibration import judge, projections, summary
from studies.lensing.prior import learned

from .figure import summaries
from .problem import PIXELS, FixedMaps, field_prior, likelihood, mask, truths
from .text import text

FOLDER = Path(__file__).parent
SIDE = 5.0
PARTS = ("gaussian, Wiener", "lognormal, Wiener", "lognormal, learned")
VALUES = np.linspace(-0.03, 0.06, 19)


def draws_of(prior: Any, y: Tensor, n: int, a: argparse.Namespace) -> Tensor:
    """Draws (n, k, *event) of the posteriors of k maps: in closed form, or by the ancestral
    sampler with the averaged covariance.
    """
    seen = likelihood()
    if isinstance(prior, Averaged):
        unit = torch.eye(PIXELS**2, dtype=torch.float64).view(-1, 1, PIXELS, PIXELS)
        matrix = seen.predict({"x": unit}).flatten(1).mT / seen.sigma
        return reconstruct(prior, matrix, y.flatten(1) / seen.sigma, n, a.steps, a.seed).double()
    every = [infer(prior, seen, one, seed=a.seed + i).sample(n) for i, one in enumerate(y)]
    return torch.stack(every, 1).double()


def judged(prior: Any, field: str, a: argparse.Namespace) -> dict[str, Any]:
    """Calibration and summaries of posteriors of maps of a field."""
    seen, n, x = likelihood(), a.truths, truths(field, a.truths + 4, a.seed + 1)
    u, truth = projections(x[n:]), x[:n]
    y = seen.draw({"x": truth}, torch.Generator().manual_seed(50_000 + a.seed))
    start = time.process_time()
    draws = draws_of(prior, y, a.draws, a)
    each = (time.process_time() - start) / n
    readings = [judge(seen, truth[i], y[i], u, draws[:, i], seconds=each) for i in range(n)]
    found = [
        _of_maps(draws[:, i].numpy(), draws[:, i].mean(0, keepdim=True).numpy()) for i in range(n)
    ]
    means = {k: np.mean([one[k] for one in found], 0) for k in found[0]}
    true = _of_maps(truth.numpy(), truth.numpy())
    return {
        **summary(readings, a.draws, a.seed),
        "rms_truth": float(truth.std()),
        "power": (means["power"] / true["power"]).tolist(),
        "power_of_mean": (means["power_of_mean"] / true["power"]).tolist(),
        "pdf": means["pdf"].tolist(),
        "pdf_truth": true["pdf"].tolist(),
    }


def _of_maps(draws: Array, mean: Array) -> dict[str, Array]:
    """Power of draws and of their mean, and the one-point PDF of draws, each averaged."""
    edges = multipole_edges(PIXELS, SIDE, 8)
    return {
        "power": power_spectrum(draws, SIDE, edges).mean(0),
        "power_of_mean": power_spectrum(mean, SIDE, edges).mean(0),
        "pdf": one_point_pdf(draws, VALUES).mean(0),
    }


def main() -> None:
    """Runs parts of the study, and writes result.json, result.md and figures beside itself: parts
    that are not asked for stay as they were.
    """
    options = argparse.ArgumentParser(prog="python -m studies.massmap", description=__doc__)
    options.add_argument("--parts", default=";".join(PARTS), help="by semicolon")
    options.add_argument("--truths", type=int, default=64, metavar="N")
    options.add_argument("--draws", type=int, default=63, help="31 or 63")
    options.add_argument("--steps", type=int, default=12, help="noise levels", metavar="N")
    options.add_argument("--simulations", type=int, default=20_000, metavar="N")
    options.add_argument("--budget", default="12min", help="of training the prior")
    options.add_argument("--model", type=Path, help="file of the learned prior, kept")
    options.add_argument("--seed", type=int, default=0)
    a = options.parse_args()
    names = a.parts.split(";")
    if unknown := [n for n in names if n not in PARTS]:
        options.error(f"no part {unknown[0]!r}; there are {'; '.join(PARTS)}")
    path = FOLDER / "result.json"
    stored: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        prior: Any = field_prior()
        said = f"--truths {a.truths} --draws {a.draws} --seed {a.seed}"
        if name.endswith("learned"):
            maps = FixedMaps("lognormal")
            fitted = learned(maps, a.model, a.simulations, a.budget, a.seed, periodic=True)
            prior = Averaged(fitted())
            said += f" --steps {a.steps} --simulations {a.simulations} --budget {a.budget}"
        field = name.split(",")[0]
        found = judged(prior, field, a)
        command = f"python -m studies.massmap --parts '{name}' {said}"
        stored[name] = {"command": command, "torch": torch.__version__, **found}
        ordered = {k: stored[k] for k in PARTS if k in stored}
        path.write_text(json.dumps(ordered, indent=1) + "\n")
        (FOLDER / "result.md").write_text(text(ordered))
        summaries(ordered, VALUES, FOLDER / "summaries.png")
        picture(prior, field, name, a)


def picture(prior: Any, field: str, name: str, a: argparse.Namespace) -> None:
    """A map, observed and inferred."""
    seen, truth = likelihood(), truths(field, 1, a.seed + 9)
    y = seen.draw({"x": truth}, torch.Generator().manual_seed(60_000 + a.seed))
    x = draws_of(prior, y, a.draws, a)[:, 0]
    where = torch.as_tensor(mask())
    whole = torch.full((2, PIXELS, PIXELS), torch.nan, dtype=torch.float64)
    whole[0, where], whole[1, where] = y[0, 0], seen.predict({"x": x}).mean(0)[0]
    figure = inverse_pictures(whole[0], x[:, 0], truth[0, 0], whole[1][None], seen.sigma)
    figure.savefig(FOLDER / f"{name.replace(', ', '-')}.png", dpi=110)


if __name__ == "__main__":
    main()
