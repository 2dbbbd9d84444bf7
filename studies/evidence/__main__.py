"""`python -m studies.evidence`: naive Monte-Carlo evidence fails with the number of latents, the
ELBO and IWAE do not.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from .figure import draw
from .model import DIMENSIONS, FITS, ROWS, SIGMA, Shortfall, fit, shortfalls

FOLDER = Path(__file__).parent


def table(
    short: dict[int, list[Shortfall]],
    fits: dict[int, dict[str, float]],
    command: str,
    seconds: float,
) -> str:
    """The result in Markdown."""
    first = next(iter(short.values()))
    heads = [s.name if s.name == "ELBO" else f"{s.name}, K = {s.draws:,}" for s in first]
    lines = [
        "# Evidence of a latent-variable model against the number of latents",
        "",
        f"`{command}` (torch {torch.__version__}, {seconds:.0f} s on one core)",
        "",
        "z ~ N(0, I) of l numbers, x = W z + sigma eps of 2 l numbers, the rows of W of length 1, "
        f"sigma = {SIGMA}: log p(x) is known in closed form. The naive estimate averages p(x | z) "
        "over K draws of the prior; ELBO and IWAE take one and K draws from q(z | x), a diagonal "
        "Gaussian by a linear network, trained on 5,000 other rows.",
        "",
        f"## log p(x) less its estimate, in nats a row, at the true parameters ({ROWS} rows)",
        "",
        f"| l | {' | '.join(heads)} |",
        "| ---: |" + " ---: |" * len(heads),
    ]
    for latent, rows in short.items():
        cells = (f"{r.mean:.3f} ± {r.error:.3f}".replace("-0.000", "0.000") for r in rows)
        lines.append(f"| {latent} | {' | '.join(cells)} |")
    names = list(next(iter(fits.values())))
    lines += [
        "",
        "## Parameters fitted in each way",
        "",
        "What the exact log-evidence of 2,000 fresh rows lacks to that of the true parameters, in "
        "nats a row and observed number; 1,000 training rows, 1,500 steps from the same start.",
        "",
        f"| l | {' | '.join(names)} |",
        "| ---: |" + " ---: |" * len(names),
    ]
    for latent, lost in fits.items():
        lines.append(f"| {latent} | {' | '.join(f'{lost[n]:.4f}' for n in names)} |")
    return "\n".join([*lines, "", "![shortfall](shortfall.png)", ""])


def main() -> None:
    """Runs the study and writes result.json, result.md and the figure beside itself."""
    parser = argparse.ArgumentParser(prog="python -m studies.evidence", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    start = time.perf_counter()
    short = {latent: shortfalls(latent, seed) for latent in DIMENSIONS}
    fits = {latent: fit(latent, seed) for latent in FITS}
    text = table(
        short, fits, f"python -m studies.evidence --seed {seed}", time.perf_counter() - start
    )
    result = {
        "seed": seed,
        "shortfalls": {str(k): [asdict(s) for s in v] for k, v in short.items()},
        "fits": {str(k): v for k, v in fits.items()},
    }
    (FOLDER / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (FOLDER / "result.md").write_text(text)
    draw(short, fits, [FOLDER / f"shortfall.{extension}" for extension in ("png", "svg")])
    print(text)


if __name__ == "__main__":
    main()
