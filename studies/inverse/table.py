"""The study's page, from all that is recorded."""

from __future__ import annotations

__all__ = ["mean", "text"]

import math
from typing import Any

Results = dict[str, Any]

NAMES = {
    "smc": 'method="smc"',
    "noise-denoise": 'method="noise-denoise"',
    "ancestral": "ancestral (the same steps, unweighted)",
    "moment-matching": "moment matching",
    "pigdm": "ΠGDM",
    "diffpir": "DiffPIR",
    "dps": "DPS",
}

_HEAD = """# Inverse problems with known answers

Posteriors that are known in closed form, and how far from them each method's draws are. Samplers
see the denoiser's mean and covariance, never what is behind it. Seconds are CPU-seconds on one
thread.
"""

_GAUSSIAN = """## 1. Linear and Gaussian

KL divergence of the moments of draws from the exact posterior, over that of as many exact draws:
1 is perfect, up to 2 is asked for. Each cell is the worst of the operators (matrix, mask, blur,
downsample, Radon). 4,096 to 8,192 draws; of 1,024 numbers, 1,024 draws in 16 random directions of
the space in which the posterior is white. `closed-form` has no steps; `smc` draws what `ancestral`
draws where, as here, all weights are equal; moment matching, which steps by the mean alone, is
there to compare.
"""

_MIXTURE = """## 2. 25 Gaussians

Sliced W1 (1,000 directions, 2,000 draws) from exact draws, with the exact denoiser: mean over n
problems, or as many as a cell says, ± 1.96 standard errors. The floor is that of a second set of
exact draws; the number in brackets is the ratio to it, on the same problems. To reach: 1.5 at
dx = 8 and 80, 3 at 800. {peers}
"""

_EVIDENCE = """## 3. Evidence

log p(y) less the exact one in units of the reported standard error: z² should be 1 in the mean,
|z| at most about 3. For a Gaussian prior the weights of `smc` are equal and its evidence is exact:
the largest difference over all of gate 1 is {nats:.1e} nats.
"""

_LEARNED = """## 6. A learned denoiser

`simgen.fit("x", dataset, model=simgen.Diffusion())` on {rows:,} draws of the prior of gate 2 at
dx = 8, {seconds:.0f} CPU-seconds: its own draws are {w1:.3f} from the prior in sliced W1, exact
ones {floor:.3f}. Then as in 2.
"""

_CORRUPTED = """## Priors from corrupted data alone

Three random directions of each x in five dimensions, noise 0.1, {rows:,} rows, no x; `fit_prior`.

Gaussian: relative error of the covariance, and nats a row of log p(y) lost to the true prior
(negative: the fit is above it, as a maximum is). {rows:,} rows of x itself would give {whole:.3f}.
"""


def mean(cell: Results, key: str = "w1", seeds: Any = None) -> tuple[float, float]:
    """Mean over problems, and its standard error."""
    values = [v[key] for k, v in cell.items() if (seeds is None or k in seeds)]
    values = [math.nan if v is None else v for v in values]
    if not values:
        return math.nan, math.nan
    m = sum(values) / len(values)
    spread = sum((v - m) ** 2 for v in values) / max(len(values) - 1, 1)
    return m, math.sqrt(spread / len(values))


def text(results: Results) -> str:
    """The page in Markdown."""
    parts = [_HEAD]
    if "gaussian" in results:
        parts += [_GAUSSIAN, _gaussian(results["gaussian"])]
    if "mixture" in results:
        why = results.get("missing")
        peers = f"azula is left out: {why}." if why else "azula's methods are its own code."
        parts += [_MIXTURE.format(peers=peers), _cells(results["mixture"])]
        parts += [_cost(results["mixture"])]
    if "gaussian" in results or "mixture" in results:
        exact = [v["smc"]["nats"] for v in results.get("gaussian", {}).values()]
        parts += [_EVIDENCE.format(nats=max(map(abs, exact), default=math.nan))]
        parts += [_evidence(results.get("mixture", {}))]
    if "learned" in results:
        found = {k: v for k, v in results["learned"].items() if k != "prior"}
        parts += [_LEARNED.format(**results["learned"]["prior"]), _cells(found)]
    if "corrupted" in results:
        parts.append(_corrupted(results["corrupted"]))
    parts.append("![figure](figure.png)\n")
    ran = [f"- `{k}` ({v} CPU-seconds)" for k, v in results.get("commands", {}).items()]
    parts.append("\n".join([f"Run with {results.get('versions', '')}:", "", *ran]) + "\n")
    return "\n".join(parts)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def _gaussian(found: Results) -> str:
    sizes = sorted({int(k.split(", ")[2]) for k in found})
    kinds = list(dict.fromkeys(k.split(", ")[0] for k in found))
    rows = []
    for method in next(iter(found.values())):
        for kind in kinds:
            row = [method, kind]
            for size in sizes:
                part = [v for k, v in found.items() if _is(k, kind, size)]
                ratios = [v[method]["kl"] / v[method]["floor"] for v in part]
                row.append(f"{max(ratios):.2f}" if ratios else "")
            rows.append(row)
    steps = {int(k.split(", ")[2]): v["smc"]["steps"] for k, v in found.items()}
    head = ["method", "covariance", *(f"d = {d}, {steps[d]} steps" for d in sizes)]
    return _table(head, rows)


def _is(key: str, kind: str, size: int) -> bool:
    covariance, _, d = key.split(", ")
    return covariance == kind and int(d) == size


def _order(found: Results) -> list[str]:
    seen = dict.fromkeys(m for cell in found.values() for m in cell)
    first = [m for m in ("floor", "smc", "noise-denoise") if m in seen]
    return [*first, *(m for m in seen if m not in first)]


def _cells(found: Results) -> str:
    """Sliced W1 by method and problem."""
    rows = []
    for method in _order(found):
        row = ["exact draws (floor)" if method == "floor" else NAMES.get(method, method)]
        for cell in found.values():
            if method not in cell:
                row.append("")
                continue
            m, error = mean(cell[method])
            word = f"{m:.2f}" + (f" ± {1.96 * error:.2f}" if len(cell[method]) > 1 else "")
            if method != "floor":
                word += f" ({m / mean(cell['floor'], seeds=cell[method])[0]:.1f})"
            if len(cell[method]) != len(cell["floor"]):
                word += f", of {len(cell[method])}"
            row.append(word)
        rows.append(row)
    problems = [f"dx, dy = {k} (n = {len(v['floor'])})" for k, v in found.items()]
    return _table(["method", *problems], rows)


def _cost(found: Results) -> str:
    rows = []
    for method in _order(found)[1:]:
        row = [NAMES.get(method, method)]
        for cell in found.values():
            if method not in cell:
                row.append("")
                continue
            word = f"{mean(cell[method], 'seconds')[0]:.1f} s"
            one = next(iter(cell[method].values()))
            row.append(word + (f", {one['particles']:,}" if "particles" in one else ""))
        rows.append(row)
    return "A problem takes (with particles):\n\n" + _table(["method", *found], rows)


def _evidence(found: Results) -> str:
    rows = []
    for key, cell in found.items():
        if "smc" not in cell:
            continue
        z = [v["nats"] / v["error"] for v in cell["smc"].values()]
        error = mean(cell["smc"], "error")[0]
        square = sum(v * v for v in z) / len(z)
        inside = sum(abs(v) <= 3 for v in z)
        bias = mean(cell["smc"], "nats")[0]
        row = [key, f"{square:.2f}", f"{max(map(abs, z)):.1f}", f"{inside} of {len(z)}"]
        rows.append([*row, f"{bias:+.3f}", f"{error:.3f}"])
    head = ["dx, dy", "mean z²", "largest z", "z at most 3", "mean difference, nats", "mean error"]
    return _table(head, rows)


def _corrupted(found: Results) -> str:
    one = found["gaussian"]
    rows = [_lap("closed-form EM", one["closed"])]
    rows += [_lap(f"diffusion, lap {i + 1}", v) for i, v in enumerate(one["laps"])]
    parts = [_CORRUPTED.format(rows=one["rows"], whole=one["seen_whole"])]
    parts.append(_table(["prior", "error of C", "nats lost", "s"], rows))
    if "mixture" in found:
        two = found["mixture"]
        parts.append("Five narrow Gaussians: sliced W1 of the prior's draws from exact ones.\n")
        rows = [["exact draws", f"{two['floor']:.3f}", ""]]
        rows += [["closed-form EM, Gaussian", f"{two['gaussian']:.3f}", ""]]
        for i, lap in enumerate(two["laps"]):
            rows.append([f"diffusion, lap {i + 1}", f"{lap['w1']:.3f}", f"{lap['seconds']:.0f}"])
        parts.append(_table(["prior", "sliced W1", "s"], rows))
    return "\n".join(parts)


def _lap(name: str, one: Results) -> list[str]:
    return [name, f"{one['error']:.3f}", f"{one['nats_lost']:+.4f}", f"{one['seconds']:.0f}"]
