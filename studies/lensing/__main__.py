"""`python -m studies.lensing`: posteriors of lensed sources, and whether they are right."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from simgen.plots.inverse import inverse_pictures

from .figure import rank_histograms
from .parts import PARTS, Settings, example
from .text import text

FOLDER = Path(__file__).parent
PICTURES = {"picture, field": "field", "picture, galaxy": "galaxy"}


def main() -> None:
    """Runs parts of the study, and writes result.json, result.md and figures beside itself: parts
    that are not asked for stay as they were.
    """
    options = argparse.ArgumentParser(prog="python -m studies.lensing", description=__doc__)
    options.add_argument("--parts", default=";".join((*PARTS, *PICTURES)), help="by semicolon")
    default = Settings()
    for name in ("truths", "few", "draws", "particles", "steps", "simulations", "seed"):
        options.add_argument(f"--{name}", type=int, default=getattr(default, name), metavar="N")
    options.add_argument("--budget", default=default.budget, help="of training the prior")
    options.add_argument("--model", type=Path, help="file of the learned prior, kept")
    arguments = vars(options.parse_args())
    names = arguments.pop("parts").split(";")
    if unknown := [n for n in names if n not in (*PARTS, *PICTURES)]:
        options.error(f"no part {unknown[0]!r}; there are {'; '.join((*PARTS, *PICTURES))}")
    settings = Settings(**arguments)
    said = " ".join(
        f"--{k} {v}" for k, v in arguments.items() if v != getattr(default, k) and k != "model"
    )
    path = FOLDER / "result.json"
    stored: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        if name in PICTURES:
            figure = inverse_pictures(**example(settings, PICTURES[name]))
            figure.savefig(FOLDER / f"{PICTURES[name]}.png", dpi=110)
            continue
        found = PARTS[name](settings)
        command = f"python -m studies.lensing --parts '{name}' {said}".strip()
        stored[name] = {"command": command, "torch": torch.__version__, **found}
        ordered = {k: stored[k] for k in PARTS if k in stored}
        path.write_text(json.dumps(ordered, indent=1) + "\n")
        (FOLDER / "result.md").write_text(text(ordered))
    ranked = {k: v for k, v in stored.items() if "ranks" in v}
    if ranked:
        rank_histograms(ranked, FOLDER / "ranks.png")


if __name__ == "__main__":
    main()
