"""The picture in the README, from what `simgen quickstart` leaves in its folder."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

import simgen
from simgen import plots
from simgen.console.quickstart import TRUTH

GAP = 60
OUT = Path(__file__).with_name("quickstart.png")


def drawn(figure: Figure, height: int) -> Image.Image:
    """A figure in pixels of a given height."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=200, bbox_inches="tight")
    image = Image.open(buffer).convert("RGB")
    return image.resize(
        (round(image.width * height / image.height), height), Image.Resampling.LANCZOS
    )


def picture(folder: Path, out: Path = OUT) -> None:
    """Posterior of the held-out observation on the left, the checks of the model on the right."""
    posterior = simgen.load(folder / "posterior.safetensors")
    samples = simgen.Samples.load(folder / "samples.h5")
    assert posterior.prior is not None
    prior = simgen.Samples.draw(posterior.prior, 20_000, seed=0)
    corner = drawn(plots.corner(samples, truth=TRUTH, prior=prior), 760)
    checks = drawn(simgen.Verdict.from_dict(posterior.verdict or {}).plot(), 460)
    size = (corner.width + GAP + checks.width, max(corner.height, checks.height))
    page = Image.new("RGB", size, "white")
    page.paste(corner, (0, (size[1] - corner.height) // 2))
    page.paste(checks, (corner.width + GAP, (size[1] - checks.height) // 2))
    page.quantize(128, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    picture(Path(sys.argv[1] if len(sys.argv) > 1 else "quickstart"))
