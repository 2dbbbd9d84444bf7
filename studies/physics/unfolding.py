r"""Unfolding: latents and stages of the collider chain, learned, against their exact densities.

.. math::
    \mathbb E_{p(y, g)} \left[ \log p(y \mid g) - \log q(y \mid g) \right]
        = \mathbb E_{p(g)} \, \mathrm{KL} \left( p(\cdot \mid g) \,\|\, q(\cdot \mid g) \right)

for three conditionals of one dataset of single events: the hard process given what is seen,
:math:`p(z_p \mid x)`; the detector's stage, :math:`p(x \mid z_d)`; and the shower's stage seen
through the detector, :math:`p(n, \tau \mid z_p, \vartheta)`. Of x, z_d fixes n, which is left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy import ndarray as Array

import simgen
from simgen.plots.style import COLOURS, GREY
from simulators import contact
from simulators.collider import ColliderShower

FOLDER = Path(__file__).parent
Fields = dict[str, Array]


def hard(simulator: ColliderShower, rows: Fields) -> Array:
    """Log p(z_p | x)."""
    return simulator.log_unfolding(rows["z_p"], rows["x"])


def stage_of_detector(simulator: ColliderShower, rows: Fields) -> Array:
    """Log p(x | z_d), of which z_d fixes n_det."""
    return simulator.detector_log_likelihood(rows["x"], rows["z_d"])


def stage_of_shower(simulator: ColliderShower, rows: Fields) -> Array:
    """Log p(n, tau | z_p, theta)."""
    n, tau = rows["n_det"], rows["tau"]
    return simulator.marginal.table.log_prob(n, tau, rows["z_p"][:, 0], rows["theta"][:, 1])


EXACT: dict[str, Callable[[ColliderShower, Fields], Array]] = {
    "z_p | x": hard,
    "energy, axis, tau | z_d": stage_of_detector,
    "n_det, tau | z_p, theta": stage_of_shower,
}
"""What is learned, and the exact log-density of rows."""


def events(simulator: ColliderShower, n: int, seed: int) -> Fields:
    """Single events at theta from the prior; n_det apart from the rest of x, as a whole number."""
    theta = simulator.prior.sample((n,), seed=seed).numpy()
    rows = {"theta": theta, **simulator(theta, seed=seed)}
    energy, axis, n_det, tau = rows["x"].T
    seen = {"energy": energy, "axis": axis, "n_det": n_det.astype(np.int64), "tau": tau}
    return {name: rows[name] for name in ("theta", "x", "z_p", "z_d")} | seen


def judge(
    expression: str, dataset: simgen.Dataset, held_out: Fields, options: argparse.Namespace
) -> tuple[simgen.Conditional, dict[str, Any]]:
    """A learned conditional, and its gap to the exact one over held-out rows."""
    simulator = ColliderShower(options.detector)
    target, given = (side.split(", ") for side in expression.split(" | "))
    start = time.process_time()
    learned = simgen.fit(
        expression, dataset, simgen.Flow(), seed=options.seed, max_epochs=options.epochs
    )
    trained = time.process_time()
    q = learned(**{name: held_out[name] for name in given})
    columns = [held_out[name].reshape(len(held_out[name]), -1) for name in target]
    log_q = q.log_prob(torch.as_tensor(np.concatenate(columns, 1).astype(float))).numpy()
    log_p = EXACT[expression](simulator, held_out)
    gap = log_p - log_q
    return learned, {
        "expression": expression,
        "exact": -float(log_p.mean()),
        "learned": -float(log_q.mean()),
        "gap": float(gap.mean()),
        "error": float(gap.std() / len(gap) ** 0.5),
        "training_cpu_s": round(trained - start, 1),
        "epochs": learned.provenance["training"]["epochs"],
    }


def draw(learned: simgen.Conditional, simulator: ColliderShower, held_out: Fields) -> None:
    """Draws p(m | x) of a few events, exact and learned."""
    m = np.linspace(contact.M_LOW + 1, contact.M_HIGH - 1, 120)
    c, by_c = np.polynomial.legendre.leggauss(24)
    z_p = np.stack(np.meshgrid(m, c, indexing="ij"), -1)
    order = np.argsort(held_out["x"][:40, 0])[4::8]
    figure = Figure(figsize=(12.5, 2.6), layout="constrained")
    for panel, i in zip(figure.subplots(1, len(order)), order):
        x = held_out["x"][i]
        exact = np.exp(simulator.log_unfolding(z_p, x)) @ by_c
        log_q = learned(x).log_prob(torch.as_tensor(z_p.reshape(-1, 2))).numpy()
        panel.plot(m, exact, color=GREY, lw=3, label="exact")
        found = np.exp(log_q).reshape(len(m), -1) @ by_c
        panel.plot(m, found, color=COLOURS[0], lw=1, label="learned")
        panel.axvline(held_out["z_p"][i, 0], color=COLOURS[1], lw=0.8, label="truth")
        panel.set(xlabel="$m$ / GeV", yticks=[], title=f"$E$ = {x[0]:.0f} GeV")
    panel.legend(frameon=False, fontsize=8)
    figure.savefig(FOLDER / "unfolding.png", dpi=110)


def table(results: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """The result in Markdown."""
    lines = [
        "# Unfolding the collider chain",
        "",
        f"`{about['command']}` ({about['versions']})",
        "",
        f"Conditionals of {about['rows']:,} single events (detector {about['detector']!r}), "
        f"learned by `simgen.Flow()` in at most {about['epochs']} epochs. Cross-entropies over "
        f"{about['held_out']:,} fresh events in nats; the gap is the expected KL divergence of "
        "the learned from the exact density. Of x, energy, axis and tau are modelled given z_d, "
        "which fixes n_det.",
        "",
        "| conditional | exact | learned | gap | epochs | training, CPU-s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {r['expression'].replace('|', 'given')} | {r['exact']:.4f} | {r['learned']:.4f} "
            f"| {r['gap']:.4f} ± {r['error']:.4f} | {r['epochs']} | {r['training_cpu_s']:.0f} |"
            for r in results
        ),
        "",
        "p(m | x) of five fresh events:",
        "",
        "![masses](unfolding.png)",
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fits and judges; writes unfolding.json, unfolding.md and unfolding.png beside itself."""
    parser = argparse.ArgumentParser(prog="python -m studies.physics unfolding")
    parser.add_argument("--rows", type=int, default=50_000, metavar="N")
    parser.add_argument("--held-out", type=int, default=10_000, metavar="N")
    parser.add_argument("--epochs", type=int, default=10, metavar="N")
    parser.add_argument("--detector", choices=("coarse", "sharp"), default="coarse")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    simulator = ColliderShower(options.detector)
    rows = events(simulator, options.rows, options.seed)
    held_out = events(simulator, options.held_out, options.seed + 1)
    models, results = {}, []
    with tempfile.TemporaryDirectory() as folder:
        dataset = simgen.Dataset.create(
            f"{folder}/events",
            prior=simulator.prior,
            declared={"z_p": simulator.fields["z_p"]},
            **rows,
        )
        for expression in EXACT:
            models[expression], result = judge(expression, dataset, held_out, options)
            results.append(result)
            print(result, flush=True)
    draw(models["z_p | x"], simulator, held_out)
    about = {
        "command": f"python -m studies.physics unfolding --rows {options.rows} --held-out "
        f"{options.held_out} --epochs {options.epochs} --detector {options.detector} "
        f"--seed {options.seed}",
        "versions": f"torch {torch.__version__}, zuko {version('zuko')}",
        "rows": options.rows,
        "held_out": options.held_out,
        "epochs": options.epochs,
        "detector": options.detector,
    }
    text = table(results, about)
    out = json.dumps({**about, "results": results}, indent=1)
    (FOLDER / "unfolding.json").write_text(out + "\n")
    (FOLDER / "unfolding.md").write_text(text)
    print(text)
