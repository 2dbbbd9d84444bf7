"""`python -m studies.gold`: the gap to an exact likelihood against the number of simulations, with
joint scores and without. After a change of the code, delete the tables first.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .figure import draw
from .measure import Gap, Judge, saved
from .problems import PROBLEMS

FOLDER = Path(__file__).parent
GOLD = {"plain": None, "gold": "joint_score"}
QUANTITIES = ("gap", "posterior")
ABOUT = {
    "chain": "theta → z → x, all Gaussian, two numbers each; x is smeared by twice the deviation "
    "of z, so that a joint score is mostly noise.",
    "collider": "Single events of `ColliderShower('coarse')`: E_vis, cos theta*, tau and the "
    "number of counted emissions, whose exact likelihood is a quadrature over compound-Poisson "
    "laws.",
}

Result = dict[str, dict[int, list[Gap]]]


def mean(result: Result, kind: str, name: str) -> dict[int, float]:
    """The mean of a quantity over seeds, by the number of rows."""
    done = {n: v for n, v in sorted(result[kind].items()) if v}
    return {n: float(np.mean([getattr(g, name) for g in v])) for n, v in done.items()}


def factors(result: Result, name: str) -> dict[int, float]:
    """How many times more rows reach the same gap without gold, by the number of rows with it."""
    return saved(mean(result, "plain", name), mean(result, "gold", name))


def table(result: Result, problem: str, about: dict[str, Any]) -> str:
    """The result in Markdown."""
    lines = [
        f"# Simulations that joint scores save: {problem}",
        "",
        f"`{about['command']}` (torch {torch.__version__})",
        "",
        f"{ABOUT[problem]} One x holds {about['information']:.3f} nats about theta. Surrogates "
        "p(x | theta) by `Flow()` with its default settings, with `gold='joint_score'` and "
        f"without; means over {about['seeds']}. The gap of the likelihood is "
        f"E[log p(x | theta) / q(x | theta)] over {about['judged']:,} fresh rows; that of the "
        "posterior, which is a part of it, is the mean divergence of the surrogate's posterior "
        f"given one x from the exact one, over {about['few']:,} x. The rest of the gap is the "
        "shape of the marginal p(x), which no joint score tells. The saving is how many times "
        "more rows reach without gold the gap that these rows reach with it, by interpolation; "
        "more than the table holds: >.",
        "",
        "| rows | gap, plain | gap, gold | saving | posterior, plain | posterior, gold | saving "
        "| CPU s, plain | CPU s, gold |",
        "| ---: |" + " ---: |" * 8,
    ]
    counts = {k: mean(result, k, "gap") for k in GOLD}
    most = max(counts["plain"])
    for n in sorted({*counts["plain"], *counts["gold"]}):
        cells = []
        for name in QUANTITIES:
            plain, gold = mean(result, "plain", name), mean(result, "gold", name)
            cells += [f"{v[n]:.4f}" if n in v else "" for v in (plain, gold)]
            beyond = n in gold and gold[n] < plain[most]
            cells.append(told(factors(result, name).get(n), beyond, most / n))
        for kind in GOLD:
            seconds = mean(result, kind, "seconds").get(n)
            cells.append(f"{seconds:.0f}" if seconds else "")
        lines.append(f"| {n:,} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"![gaps]({problem}.png)", ""])


def told(factor: float | None, beyond: bool, most: float) -> str:
    """A saving in words: known, more than the most that could be seen, or not known."""
    if factor is None or (math.isnan(factor) and not beyond):
        return ""
    return f"> {most:.0f}" if math.isnan(factor) else f"{factor:.1f}"


def read(problem: str, about: dict[str, Any]) -> Result:
    """What an earlier run with the same fresh rows has done."""
    path = (FOLDER / problem).with_suffix(".json")
    known = json.loads(path.read_text()) if path.exists() else {}
    gaps = known.get("gaps", {}) if all(known.get(k) == v for k, v in about.items()) else {}
    return {
        kind: {int(n): [Gap(**g) for g in v] for n, v in gaps.get(kind, {}).items()}
        for kind in GOLD
    }


def write(result: Result, problem: str, about: dict[str, Any]) -> None:
    """Writes PROBLEM.json, PROBLEM.md and the figure beside this file."""
    done = [len(v) for rows in result.values() for v in rows.values() if v]
    low, high = min(done), max(done)
    seeds = f"{low} to {high} seeds" if low < high else "seeds" if low > 1 else "one seed"
    about = about | {"seeds": f"{low} seeds" if seeds == "seeds" else seeds}
    gaps = {k: {n: [asdict(g) for g in v] for n, v in r.items()} for k, r in result.items()}
    known = {
        name: {n: None if math.isnan(f) else f for n, f in factors(result, name).items()}
        for name in QUANTITIES
    }
    path = FOLDER / problem
    path.with_suffix(".json").write_text(
        json.dumps({**about, "gaps": gaps, "saving": known}, indent=1) + "\n"
    )
    if all(mean(result, kind, "gap") for kind in GOLD):
        path.with_suffix(".md").write_text(table(result, problem, about))
        draw(result, about["information"], path.with_suffix(".png"))


def whole(text: str) -> list[int]:
    """Whole numbers by comma."""
    return [int(v) for v in text.split(",")]


def command(options: argparse.Namespace) -> str:
    """What to type for the same."""
    said = " ".join(f"--{k} {v}" for k, v in vars(options).items())
    return f"python -m studies.gold {said}"


def main() -> None:
    """Runs the study, or goes on with it: fits that PROBLEM.json holds are not done again."""
    parser = argparse.ArgumentParser(prog="python -m studies.gold", description=__doc__)
    parser.add_argument("--problem", default="collider", choices=PROBLEMS)
    parser.add_argument("--plain", default="1000,2000,4000,8000,16000,32000", help="rows by comma")
    parser.add_argument("--gold", default="1000,2000,4000", help="rows by comma")
    parser.add_argument("--seeds", type=int, default=2, help="repetitions")
    parser.add_argument("--judged", type=int, default=8_000, help="fresh rows for the gap")
    parser.add_argument("--few", type=int, default=1_000, help="of them, for posteriors")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    judge = Judge(PROBLEMS[options.problem](), options.judged, options.few, options.seed + 1_000)
    about = {"judged": options.judged, "few": options.few, "seed": options.seed}
    result = read(options.problem, about)
    about |= {"information": judge.information, "command": command(options)}
    rows = {"plain": whole(options.plain), "gold": whole(options.gold)}
    for i in range(options.seeds):
        for kind, counts in rows.items():
            for n in counts:
                gaps = result[kind].setdefault(n, [])
                if len(gaps) > i:
                    continue
                gaps.append(judge.fit(n, GOLD[kind], options.seed + i))
                print(n, kind, gaps[-1], flush=True)
                write(result, options.problem, about)


if __name__ == "__main__":
    main()
