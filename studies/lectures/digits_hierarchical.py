r"""A hierarchical variational auto-encoder of handwritten digits, against one with one latent.

.. math::
    p(x, z_{1:3}) = p(z_3)\, p(z_2 \mid z_3)\, p(z_1 \mid z_2)\, p(x \mid z_1)

Both have the decoder of a latent of the same length; the hierarchy has a learned prior of it.

References:
    | Understanding Diffusion Models: A Unified Perspective (Luo, 2022), eqs. 23 to 28
    | https://arxiv.org/abs/2208.11970
"""

from __future__ import annotations

__all__ = ["main"]

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from numpy import ndarray as Array

import simgen
from simgen.conditional import Conditional
from simgen.plots.style import new_figure, styled

from .digits import digits, pixels, spread, spread_rows
from .digits_bounds import bounds, mean
from .digits_judge import Judge
from .digits_page import Page, show, table

LATENTS = (20, 10, 5)
RATE = 4e-3
FAMILIES: dict[str, Any] = {
    "one latent of 20": simgen.VAE(latent=20, prior="normal"),
    "20 ← 10 ← 5": simgen.HierarchicalVAE(latents=LATENTS, prior="normal"),
    "20 ← 10 ← 5, bottom-up": simgen.HierarchicalVAE(
        latents=LATENTS, prior="normal", inference="bottom-up"
    ),
}
HEADS = ("model", "held-out, 64 draws", "held-out ELBO", "of it KL", "ELBO more than the first")


def variations(model: Conditional, shared: int, seed: int, shown: int = 4) -> Array:
    """E[x | z_1], (shown * shown, 8, 8): rows share what is above latent `shared`, z_{shared+1}
    and on, and each draws the rest anew.

    Arguments:
        model: A `HierarchicalVAE`.
        shared: How many of the lowest latents are drawn anew.
        seed: Of the draws.
        shown: Rows and columns.
    """
    module = model.pipeline.heads[0].model
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shown, shown, *module.noise_shape, generator=generator)
    first = sum(module.latents[:shared])
    noise[:, :, first : module.latent] = noise[:, :1, first : module.latent]
    noise[:, :, module.latent :] = 0  # a Gaussian decoder's mean
    with torch.no_grad():
        return pixels(model().transport(noise.flatten(0, 1)))


@styled
def draw(real: Array, draws: dict[str, Array], levels: dict[str, Array]) -> Any:
    """Draws of each model, and of the hierarchy with its upper latents held."""
    figure: Any = new_figure(11.0, 4.6)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.35, 1))
    rows = top.subplots(1 + len(draws), 1)
    show(rows[0], real, 24, label="real")
    for axes, (name, images) in zip(rows[1:], draws.items()):
        show(axes, images, 24, label=name)
    for axes, (name, images) in zip(bottom.subplots(1, len(levels)), levels.items()):
        show(axes, images, 4, name)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the example."""
    page = Page.open("digits-hierarchical", "Hierarchical auto-encoders of digits", arguments)
    seed = page.seed
    with tempfile.TemporaryDirectory() as folder:
        dataset = digits(f"{folder}/digits")
        models = {
            name: simgen.fit(
                "x", dataset, f, augment=spread, seed=seed, learning_rate=RATE, progress=False
            )
            for name, f in FAMILIES.items()
        }
        judge = Judge(dataset)
        test = dataset.test.read(["x"])
    found = {k: bounds(m, spread_rows(test, seed), seed) for k, m in models.items()}
    draws = {k: pixels(m().sample((1_000,), seed=seed)) for k, m in models.items()}
    judged = {k: judge(v) for k, v in draws.items()}
    chain = models["20 ← 10 ← 5"]
    levels = {
        "rows share nothing": variations(chain, 3, seed),
        "rows share $z_3$": variations(chain, 2, seed),
        "rows share $z_3, z_2$": variations(chain, 1, seed),
    }
    real = pixels(torch.from_numpy(test["x"][:24]))
    line = page.save(draw(real, {k: v[:24] for k, v in draws.items()}, levels))
    one = next(iter(found.values()))
    results, rows = {}, []
    for name, b in found.items():
        parts = {"importance": b.importance, "elbo": b.elbo, "kl": b.kl, "more": b.elbo - one.elbo}
        results[name] = {k: mean(v) for k, v in parts.items()} | {"draws": vars(judged[name])}
        cells = ["{:.1f} ± {:.1f}".format(*mean(v)) for v in parts.values()]
        cells[-1] = "" if b is one else cells[-1]
        rows.append([name, *cells, *judged[name].cells])
    chance = judge.chance()
    lines = [
        f"Bounds of log P(x) of {len(test['x'])} held-out images in nats an image, and 1,000 "
        "draws judged, as on the page of the [variational auto-encoders](digits_vae.md); the "
        "difference is that of the same images. Inference from the top down unless said. Training "
        "images "
        f"have the energy distance {chance.cells[0]}, of held-out images {chance.cells[2]} are in "
        "doubt.",
        "",
        *table((*HEADS, *Judge.HEADS), rows),
        "",
        "Below the draws: images of one row share their upper latents and draw the lower ones "
        "anew; the mean E[x | z_1] is shown.",
        "",
        line,
    ]
    page.write(lines, {"models": results})
