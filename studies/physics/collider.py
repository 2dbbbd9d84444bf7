r"""The collider chain against its exact marginal: gold identities and the joint law of (n, tau).

.. math::
    \mathbb E[r] = 1, \qquad \mathbb E[t] = 0, \qquad \mathbb E[(t - t_x)\, t_x] = 0, \qquad
    \mathbb E[r \mid B] = \mathbb E[r_x \mid B]

with r(x, z) and t(x, z) the joint ratio and score, r_x and t_x the exact ones of the marginal, B a
bin of r_x. The bins of the histogram of (n, tau) are integrated by quadrature.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray as Array
from scipy.stats import chi2, norm

from simulators import contact
from simulators.collider import ColliderShower

from .collider_figure import draw

FOLDER = Path(__file__).parent
POINTS = (
    ("coarse", (0.4, 0.118), (0.8, 0.122)),
    ("coarse", (-0.5, 0.10), (-0.1, 0.104)),
    ("sharp", (0.4, 0.118), (0.8, 0.122)),
)
"""Detector, theta, and the theta of the ratio's numerator."""
CHUNK, BINS, ROWS, LIMIT = 20_000, 8, 12, 3.0


class Moments:
    """Sums of k columns and of their squares, chunk by chunk."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.n = list(names), 0
        self.sums = np.zeros((2, len(self.names)))

    def add(self, values: Array) -> None:
        """Takes rows (n, k)."""
        self.n += len(values)
        self.sums += values.sum(0), (values**2).sum(0)

    def compare(self, expected: Sequence[float]) -> list[dict[str, Any]]:
        """Mean, standard error and deviation in standard errors of each column."""
        mean = self.sums[0] / self.n
        error = np.sqrt((self.sums[1] / self.n - mean**2) / self.n)
        rows = zip(self.names, mean, error, (mean - np.array(expected)) / error, expected)
        return [
            {"name": n, "mean": m, "error": e, "expected": x, "sigmas": z}
            for n, m, e, z, x in rows
        ]


def chunks(
    simulator: ColliderShower, theta: Array, n: int, seed: int
) -> Iterator[dict[str, Array]]:
    """Events at one theta, CHUNK at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, n, CHUNK):
        yield simulator.simulate(np.tile(theta, (min(CHUNK, n - start), 1)), rng)


def expected_counts(simulator: ColliderShower, theta: Array, edges: Array) -> Array:
    """The exact probability of each n below ROWS and bin of tau, (ROWS, bins)."""
    x, w = np.polynomial.legendre.leggauss(40)
    u = 0.6 + 0.4 * x
    p_m = 0.4 * w * u**-3 * ((1 + theta[0] * u**2) ** 2 + 1) * 8 / 3
    p_m /= np.exp(contact.log_norm(theta[0]))
    t, by_t = np.polynomial.legendre.leggauss(24)
    half = np.diff(edges)[:, None] / 2
    tau = edges[:-1, None] + half * (1 + t)
    n = np.arange(ROWS)[:, None, None, None]
    log_p = simulator.marginal.table.log_prob(n, tau[..., None], 1000 * u, theta[1])
    return (np.exp(log_p) @ p_m * half) @ by_t


def chi_squared(observed: Array, probability: Array, n: int) -> dict[str, Any]:
    """Chi-squared of the cells that expect more than 20, the others together."""
    expected = n * probability
    large = expected > 20
    expected = np.append(expected[large], n - expected[large].sum())
    observed = np.append(observed[large], n - observed[large].sum())
    statistic = float(((observed - expected) ** 2 / expected).sum())
    cells = len(expected)
    return {"chi2": statistic, "cells": cells, "p": float(chi2.sf(statistic, cells - 1))}


def check(detector: str, theta: Array, other: Array, n: int, seed: int) -> dict[str, Any]:
    """All identities at one theta, from n events."""
    simulator = ColliderShower(detector, record=["z_p", "z_s", "joint_score"])
    exact, start = simulator.marginal, time.process_time()
    pilot = next(chunks(simulator, theta, CHUNK, seed + 1))["x"]
    quantiles = np.linspace(0, 1, BINS + 1)[1:-1]
    found = exact.integrals(pilot)
    cuts = np.quantile(exact.log_prob(found, other) - exact.log_prob(found, theta), quantiles)
    edges = np.quantile(pilot[:, 3], np.linspace(0, 1, 33))
    edges[[0, -1]] = -5.9 * exact.detector.thrust, 1.49
    gold = Moments(["E[r]", "E[r_x]", "E[t_eps]", "E[t_alpha]", "E[t_x,eps]", "E[t_x,alpha]"])
    pairs = [f"E[(t - t_x)_{i} t_x,{j}]" for i in ("eps", "alpha") for j in ("eps", "alpha")]
    orthogonal = Moments(pairs)
    in_bins = np.zeros((4, BINS))
    counts = np.zeros((ROWS, len(edges) - 1))
    spread = np.zeros((2, 2))
    sample: dict[str, Array] = {}
    for fields in chunks(simulator, theta, n, seed):
        events = exact.integrals(fields["x"])
        log_r = exact.log_prob(events, other) - exact.log_prob(events, theta)
        r, r_x = np.exp(simulator.joint_log_ratio(fields, other, theta)), np.exp(log_r)
        t, t_x = fields["joint_score"], exact.score(events, theta)
        gold.add(np.column_stack([r, r_x, t, t_x]))
        orthogonal.add(((t - t_x)[:, :, None] * t_x[:, None]).reshape(-1, 4))
        spread += (t**2).sum(0), (t_x**2).sum(0)
        place = np.digitize(log_r, cuts)
        sums = (np.ones_like(r), r, r_x, (r - r_x) ** 2)
        in_bins += np.stack([np.bincount(place, v, BINS) for v in sums])
        counts += np.histogram2d(
            fields["x"][:, 2], fields["x"][:, 3], [np.arange(ROWS + 1) - 0.5, edges]
        )[0]
        sample = sample or {"r": r, "r_x": r_x, "t": t, "t_x": t_x}
    probability = expected_counts(simulator, theta, edges)
    ratio, error = in_bins[1] / in_bins[2], np.sqrt(in_bins[3]) / in_bins[2]
    binned = [
        {"name": f"E[r given bin {b + 1}] / r_x", "mean": m, "error": e, "expected": 1.0}
        | {"sigmas": (m - 1) / e, "r_x": x}
        for b, (m, e, x) in enumerate(zip(ratio, error, in_bins[2] / in_bins[0]))
    ]
    return {
        "detector": detector,
        "theta": theta.tolist(),
        "other": other.tolist(),
        "events": n,
        "rows": gold.compare([1, 1, 0, 0, 0, 0]) + orthogonal.compare([0] * 4) + binned,
        "histogram": chi_squared(counts, probability, n),
        "variance_ratio": (spread[0] / spread[1]).tolist(),
        "cpu_s": time.process_time() - start,
        "figure": {"edges": edges, "counts": counts, "expected": n * probability, **sample},
    }


def table(results: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """The result in Markdown."""
    sigmas = np.array([row["sigmas"] for result in results for row in result["rows"]])
    worst = np.abs(sigmas).max()
    chance = 1 - (1 - 2 * norm.sf(worst)) ** len(sigmas)
    lines = [
        "# The collider chain against its exact marginal",
        "",
        f"`{about['command']}` ({about['versions']})",
        "",
        f"{about['events']:,} single events at each theta. The numerator of the ratios r is at "
        "theta_1. Mean ± standard error, and the deviation from what it must be in standard "
        "errors (sd). The histogram is the joint one of n_det and tau, against the exact "
        f"probability of its cells. The largest of the {len(sigmas)} deviations is {worst:.2f} "
        f"sd; of as many independent ones it would be larger with probability {chance:.2f}. What "
        "is beyond 3 sd is measured again with fresh events.",
        "",
        "| | " + " | ".join(f"{r['detector']}, theta = {tuple(r['theta'])}" for r in results),
        "| --- |" + " --- |" * len(results),
    ]
    lines[-2] += " |"
    for i, row in enumerate(results[0]["rows"]):
        cells = (
            f"{r['rows'][i]['mean']:.5g} ± {r['rows'][i]['error']:.2g} "
            f"({r['rows'][i]['sigmas']:+.1f} sd)"
            for r in results
        )
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    cells = (
        f"{r['histogram']['chi2']:.1f} / {r['histogram']['cells'] - 1}, "
        f"p = {r['histogram']['p']:.2f}"
        for r in results
    )
    lines.append("| histogram of (n, tau), χ² | " + " | ".join(cells) + " |")
    cells = ("{:.2f}, {:.2f}".format(*r["variance_ratio"]) for r in results)
    lines.append("| var t / var t_x for eps, alpha_s | " + " | ".join(cells) + " |")
    cells = (f"{tuple(r['other'])}" for r in results)
    lines.append("| theta_1 | " + " | ".join(cells) + " |")
    cells = (f"{1e6 * r['cpu_s'] / r['events']:.1f}" for r in results)
    lines.append("| CPU-µs an event, all told | " + " | ".join(cells) + " |")
    again = [
        f"- {r['detector']}, theta = {tuple(r['theta'])}, {old['name']}: {old['sigmas']:+.1f} sd; "
        f"with as many fresh events {new['sigmas']:+.1f} sd."
        for r in results
        for old, new in zip(r["rows"], r.get("again", []))
        if abs(old["sigmas"]) > LIMIT
    ]
    lines += ["", *again] if again else []
    lines += ["", "![identities](collider.png)", ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the checks and writes collider.json, collider.md and collider.png beside itself."""
    parser = argparse.ArgumentParser(prog="python -m studies.physics collider")
    parser.add_argument("--events", type=int, default=2_000_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    results = []
    for i, (detector, theta, other) in enumerate(POINTS):
        points, seed = (np.array(theta), np.array(other)), options.seed + 2 * i
        found = check(detector, *points, options.events, seed)
        if any(abs(row["sigmas"]) > LIMIT for row in found["rows"]):
            found["again"] = check(detector, *points, options.events, seed + 1000)["rows"]
        results.append(found)
        worst = max(abs(row["sigmas"]) for row in found["rows"])
        print(detector, theta, f"largest deviation {worst:.2f} sigma,", found["histogram"])
    about = {
        "command": f"python -m studies.physics collider --events {options.events} "
        f"--seed {options.seed}",
        "versions": f"numpy {version('numpy')}, scipy {version('scipy')}",
        "events": options.events,
    }
    draw([result.pop("figure") for result in results], results, FOLDER / "collider.png")
    text = table(results, about)
    out = json.dumps({**about, "results": results}, indent=1, default=float)
    (FOLDER / "collider.json").write_text(out + "\n")
    (FOLDER / "collider.md").write_text(text)
    print(text)
