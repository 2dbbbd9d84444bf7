r"""Naive Monte-Carlo evidence against the number of latents: its error, and the error it admits.

.. math::
    \hat p(x) = \frac1N \sum_k w_k, \qquad
    \frac{\mathrm{Var}\, \hat p}{p(x)^2} = \frac1N \bigl( r^d - 1 \bigr), \qquad
    \log p(x) - \mathrm{ELBO} = d \, \kappa

with r and kappa of one latent, and so of the proposal: r = 2.6 of the prior. The draws that an
error needs grow exponentially with d, at a rate that the proposal sets; the gap of the ELBO grows
linearly. The weights cannot warn: the error that they admit is at most one, however wrong it is.
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from simgen.plots.style import COLOURS, TRUTH, new_figure, styled

from .densities_weights import SHIFT, SIGMA, WIDTH, Problem, Reading, elbo, measure

STEM = Path(__file__).with_suffix("")
DIMENSIONS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
BUDGETS = (100, 10_000)
REPEATS = 100
WANTED = 0.1  # relative standard error


@styled
def draw(problems: Sequence[Problem], readings: Sequence[Reading], path: Path) -> None:
    """Draws the estimates, the errors and the draws that are needed, a panel each."""
    figure = new_figure(11.5, 3.6)
    value, error, needed = figure.subplots(1, 3)
    d = [p.model.latent for p in problems]
    colours = {"naive": COLOURS[1], "importance": COLOURS[0]}
    value.plot(d, [p.evidence for p in problems], color=TRUTH, lw=4, alpha=0.25, label="exact")
    bound = [p.evidence - p.gap("importance") for p in problems]
    value.plot(d, bound, "--", color=COLOURS[2], label="ELBO")
    for name, draws, marker in (
        ("naive", 100, "o"),
        ("naive", 10_000, "s"),
        ("importance", 100, "o"),
    ):
        some = [r for r in readings if (r.name, r.draws) == (name, draws)]
        heights = [p.evidence + r.error for p, r in zip(problems, some)]
        label = f"{name}, N = {draws:,}"
        shared = {"color": colours[name], "marker": marker, "ms": 3.5, "lw": 1, "capsize": 2}
        value.errorbar(d, heights, [r.sd for r in some], label=label, **shared)
    value.set(ylabel=r"$\log \hat p(x)$, nats", title="the estimate")
    for name, colour in colours.items():
        some = [r for r in readings if (r.name, r.draws) == (name, BUDGETS[-1])]
        error.plot(d, [r.true for r in some], color=colour, label=f"{name}: true")
        error.plot(
            d, [r.admitted for r in some], "o", color=colour, ms=4, label=f"{name}: admitted"
        )
        enough = [math.expm1(p.moment(name)) / WANTED**2 for p in problems]
        needed.plot(d, enough, color=colour, marker="o", ms=3.5, label=name)
    error.axhline(1, color=TRUTH, lw=0.7, ls=":")
    error.set(yscale="log", ylabel=r"relative standard error of $\hat p(x)$")
    error.set(title=f"its error with N = {BUDGETS[-1]:,}", ylim=(1e-3, 1e12))
    needed.set(yscale="log", ylabel="N", title=f"draws for an error of {100 * WANTED:.0f} %")
    for axis in (value, error, needed):
        axis.set_xlabel("latents $d$")
        axis.legend(fontsize=8)
    figure.savefig(path)


def table(
    problems: Sequence[Problem],
    readings: Sequence[Reading],
    bounds: Sequence[float],
    about: dict[str, Any],
) -> str:
    """The result in Markdown."""
    found = {(r.latents, r.name, r.draws): r for r in readings}
    kinds = [(name, draws) for name in ("naive", "importance") for draws in BUDGETS]
    lines = [
        "# Naive Monte-Carlo evidence against the number of latents",
        "",
        f"`{about['command']}` (torch {torch.__version__}, {about['cpu_s']:.0f} CPU seconds)",
        "",
        f"z ~ N(0, I) of d numbers, x = z + {SIGMA} eps, one observation with x_i^2 = 1 + sigma^2 "
        "throughout. Naive draws z from p(z); importance sampling and the ELBO take the exact "
        f"posterior with its mean moved by {SHIFT} of its standard deviations and {WIDTH} times "
        f"as wide. Estimates are made {REPEATS} times. The ELBO is in closed form, in brackets by "
        "the mean of 10,000 draws.",
        "",
        "## log of the estimate less log p(x): mean ± standard deviation, nats",
        "",
        f"| d | log p(x) | {' | '.join(f'{k}, N = {n:,}' for k, n in kinds)} | ELBO |",
        "| ---: |" + " ---: |" * (len(kinds) + 2),
    ]
    for p, bound in zip(problems, bounds):
        d = p.model.latent
        some = (found[(d, *kind)] for kind in kinds)
        cells = (f"{r.error:+.3f} ± {r.sd:.3f}".replace("-0.000", "+0.000") for r in some)
        last = f"{-p.gap('importance'):+.3f} ({bound:+.3f})"
        lines.append(f"| {d} | {p.evidence:.3f} | {' | '.join(cells)} | {last} |")
    n = BUDGETS[-1]
    lines += [
        "",
        f"## Relative standard error of the estimate with N = {n:,}, and draws for an error of "
        f"{100 * WANTED:.0f} %",
        "",
        "True: in closed form. Admitted: what the weights of the same draws say, median.",
        "",
        "| d | naive, true | admitted | needed | importance, true | admitted | needed |",
        "| ---: |" + " ---: |" * 6,
    ]
    for p in problems:
        numbers: list[str] = []
        for name in ("naive", "importance"):
            r = found[p.model.latent, name, n]
            needed = math.expm1(p.moment(name)) / WANTED**2
            numbers += [f"{r.true:.2g}", f"{r.admitted:.2g}", f"{needed:.2g}"]
        lines.append(f"| {p.model.latent} | {' | '.join(numbers)} |")
    return "\n".join([*lines, "", f"![evidence against dimension]({STEM.name}.png)", ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study and writes its figure, table and numbers beside itself."""
    options = argparse.ArgumentParser(prog="python -m studies.lectures evidence-dimension")
    options.add_argument("--seed", type=int, default=0)
    seed = options.parse_args(arguments).seed
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    start = time.process_time()
    problems = [Problem.of(d) for d in DIMENSIONS]
    readings = [
        measure(p, name, draws, REPEATS)
        for p in problems
        for name in p.proposals
        for draws in BUDGETS
    ]
    bounds = [elbo(p, "importance") for p in problems]
    about = {
        "command": f"python -m studies.lectures evidence-dimension --seed {seed}",
        "cpu_s": round(time.process_time() - start, 1),
    }
    numbers = {
        **about,
        "evidence": {p.model.latent: p.evidence for p in problems},
        "elbo": {p.model.latent: p.evidence - p.gap("importance") for p in problems},
        "elbo_measured": {p.model.latent: p.evidence + b for p, b in zip(problems, bounds)},
        "readings": [asdict(r) for r in readings],
    }
    STEM.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")
    draw(problems, readings, STEM.with_suffix(".png"))
    text = table(problems, readings, bounds, about)
    STEM.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
