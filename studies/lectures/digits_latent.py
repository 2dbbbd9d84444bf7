r"""Latent diffusion of handwritten digits beside pixel diffusion: what its draws cost and lose.

.. math::
    x = D(z), \qquad z \sim p(z) \text{ by a diffusion model of } 4 \times 4 \text{ codes}

References:
    | High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., 2022)
    | https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

__all__ = ["main"]

import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
from numpy import ndarray as Array

import simgen
from simgen.conditional import Conditional
from simgen.plots.style import new_figure, styled

from .digits import Batch, digits, pixels, spread, spread_rows
from .digits_chains import standardised
from .digits_diffusion import EPOCHS, FAMILY
from .digits_judge import Judge
from .digits_page import Page, show, table

FAMILIES: dict[str, Any] = {
    "pixels": FAMILY,
    "codes": simgen.LatentDiffusion(latent=2),
}
DRAWS = 1_000
"""Of each model, and in a batch."""
HEADS = ("diffusion of", "numbers", "training, s", "a draw, ms", "restored, rms")


def restored(model: Conditional, rows: Batch) -> Array:
    """Rows through encoder and decoder, (n, 8, 8)."""
    coder = model.pipeline.heads[0].model.autoencoder
    with torch.no_grad():
        _, code = coder.loss(standardised(model, rows))
        return pixels(model().to_physical(coder.decode(code)))


def clock(model: Conditional, seed: int) -> tuple[Array, float]:
    """Draws, and seconds of one core that each takes."""
    start = time.process_time()
    draws = pixels(model().sample((DRAWS,), seed=seed))
    return draws, (time.process_time() - start) / DRAWS


@styled
def draw(rows: dict[str, Array]) -> Any:
    """Real images, restored ones, and draws."""
    figure = new_figure(10.0, 0.75 * len(rows))
    for axes, (name, images) in zip(figure.subplots(len(rows), 1), rows.items()):
        show(axes, images, 24, label=name)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the example."""
    page = Page.open("digits-latent", "Latent diffusion of handwritten digits", arguments)
    seed = page.seed
    models, training = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        dataset = digits(f"{folder}/digits")
        for name, family in FAMILIES.items():
            start = time.process_time()
            models[name] = simgen.fit(
                "image",
                dataset,
                family,
                augment=spread,
                seed=seed,
                max_epochs=EPOCHS,
                progress=False,
            )
            training[name] = time.process_time() - start
        judge = Judge(dataset)
        test = dataset.test.read(["image"])
    real, held_out = test["image"][:, 0], spread_rows(test, seed)
    pictures, rows, results = {"real": real[:24]}, [], {}
    for name, model in models.items():
        images, seconds = clock(model, seed)
        found = judge(images)
        module = model.pipeline.heads[0].model
        codes = getattr(module, "diffusion", module).event_shape.numel()
        lost = None
        if module is not getattr(module, "diffusion", module):
            again = restored(model, held_out)
            lost = float(((again - real) ** 2).mean() ** 0.5)
            pictures[f"{name}: restored"] = again[:24]
        pictures[f"{name}: drawn"] = images[:24]
        results[name] = {
            "numbers": codes,
            "training_s": training[name],
            "a_draw_ms": 1e3 * seconds,
            "restored_rms": lost,
            **vars(found),
        }
        rows.append(
            [
                name,
                str(codes),
                f"{training[name]:.0f}",
                f"{1e3 * seconds:.2f}",
                "" if lost is None else f"{lost:.2f}",
                *found.cells,
            ]
        )
    chance = judge.chance()
    lines = [
        f"`LatentDiffusion(latent=2)` and `Diffusion(hidden={FAMILY.hidden})`, {EPOCHS} "
        f"epochs of {len(judge.rows['x']):,} images, the default solver. {DRAWS:,} draws at once, "
        "seconds of one core; held-out images through encoder and decoder, root mean square "
        "difference in grey levels of 0 to 16. Draws judged as on the page of the [diffusion "
        "model](digits_diffusion.md): training images have the energy distance "
        f"{chance.cells[0]}, of held-out images {chance.cells[2]} are in doubt.",
        "",
        *table((*HEADS, *judge.HEADS), rows),
        "",
        page.save(draw(pictures)),
    ]
    page.write(lines, {"models": results})
