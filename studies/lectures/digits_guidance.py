r"""Guidance of a diffusion model of handwritten digits, by a digit classifier and without one.

.. math::
    \nabla \log p(x_t) + w\, \nabla \log p(y \mid x_t)

w = 0 does not know of the digit y that is asked for, w = 1 is Bayes' rule, and more of it takes
draws to where y is plainest, at the cost of their diversity.

References:
    | Diffusion Models Beat GANs on Image Synthesis (Dhariwal & Nichol, 2021), figures 3 and 4
    | https://arxiv.org/abs/2105.05233
    | Classifier-Free Diffusion Guidance (Ho & Salimans, 2022), figures 1 and 4
    | https://arxiv.org/abs/2207.12598
"""

from __future__ import annotations

__all__ = ["main"]

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array
from sklearn.svm import SVC
from torch import Tensor

import simgen
from simgen.conditional import Conditional
from simgen.models.classifier import NoisyClassifier
from simgen.plots.style import COLOURS, GREY, new_figure, styled

from .digits import digits, pixels, spread, spread_rows
from .digits_chains import first_noise, solve, standardised
from .digits_guides import denoisers, reading, trained
from .digits_judge import Judge, Judgement, apart
from .digits_page import Page, show, table

FAMILY = simgen.Diffusion(hidden=32, drop=0.2)
EPOCHS, STEPS = 60, 2_500  # of the diffusion model, of the classifier
WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0)
EACH = 50  # draws of each digit
SOLVER, EVALUATIONS = "adams", 32
LEVELS = (0.2, 1.0, 2.0, 5.0)  # sigma / alpha
METHODS = ("classifier", "classifier-free")
Measures = dict[float, dict[str, float]]
HEADS = ("guidance", "w", "as asked", "diversity", *Judge.HEADS)


def diversity(images: Array, classes: Array) -> float:
    """Mean distance of different images of one class, averaged over classes."""
    return float(np.mean([apart(images[classes == k]) for k in np.unique(classes)]))


@styled
def draw(images: dict[str, Array], measures: dict[str, Measures], real: float) -> Any:
    """Draws (w, 20, 8, 8) of each method, and what is measured against w.

    Arguments:
        images: Two of each digit, a row for each w.
        measures: Of each method and w.
        real: Share of real images that are read right.
    """
    figure: Any = new_figure(12.0, 5.0)
    left, right = figure.subfigures(1, 2, width_ratios=(8.6, 3.4))
    heads, sides = [str(k) for k in range(10)], [f"$w = {w:g}$" for w in WEIGHTS]
    for axes, name in zip(left.subplots(2, 1), METHODS):
        columns = images[name].shape[1]
        picture = images[name].reshape(-1, 8, 8)
        show(axes, picture, columns, f"{name} guidance", heads=heads, sides=sides)
    panels = right.subplots(2, 1, sharex=True)
    for axes, what, level in zip(panels, ("as asked", "diversity"), (real, 1.0)):
        axes.axhline(level, color=GREY, lw=1, ls="--", label="real images")
        for name, colour in zip(METHODS, COLOURS):
            values = [v[what] for v in measures[name].values()]
            axes.plot(WEIGHTS, values, "o-", color=colour, ms=4, label=name)
    panels[0].set(ylabel="read as the digit asked for", ylim=(0, 1.03))
    panels[1].set(ylabel="distance within a digit,\nthat of real images = 1", xlabel="$w$")
    panels[0].legend(loc="lower right")
    return figure


def sampled(
    model: Conditional, net: NoisyClassifier, asked: Tensor, seed: int
) -> dict[str, dict[float, Array]]:
    """Draws (n, 8, 8) of each method and w, from the same noise, of digits (n,) asked for."""
    process = model.pipeline.heads[0].model.process
    x_T = first_noise(process, (len(asked), 1, 8, 8), seed)
    out: dict[str, dict[float, Array]] = {name: {} for name in METHODS}
    for weight in WEIGHTS:
        for name, denoiser in denoisers(model, net, asked, weight).items():
            if weight == 0 and name != METHODS[0]:  # the same
                out[name][weight] = out[METHODS[0]][weight]
                continue
            z = solve(denoiser, process, x_T, SOLVER, EVALUATIONS)
            out[name][weight] = pixels(model.pipeline.target.inverse(z))
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the example."""
    page = Page.open("digits-guidance", "Guidance of a diffusion model of digits", arguments)
    seed, names = page.seed, ["x", "image", "digit"]
    with tempfile.TemporaryDirectory() as folder:
        dataset = digits(f"{folder}/digits")
        model = simgen.fit(
            "image | digit",
            dataset,
            FAMILY,
            augment=spread,
            seed=seed,
            max_epochs=EPOCHS,
            progress=False,
        )
        judge = Judge(dataset)
        train = dataset.train.read(names)
        held_out = [v.read(names) for v in (dataset.validation, dataset.test)]
    unseen = {k: np.concatenate([v[k] for v in held_out]) for k in names}
    own, truth = (v["digit"].argmax(1) for v in (train, unseen))
    net = trained(model, {k: torch.from_numpy(v) for k, v in train.items()}, STEPS, seed)
    x_0 = standardised(model, spread_rows(unseen, seed)).float()
    noisy = {r: reading(net, x_0, torch.from_numpy(truth), r, seed) for r in LEVELS}
    reader = SVC(C=10, gamma=1e-3).fit(unseen["x"], truth)
    real = {
        "rows": len(own),
        "held out": len(truth),
        "read right": float((reader.predict(train["x"]) == own).mean()),
        "diversity": diversity(train["x"], own),
    }
    asked = torch.arange(10).repeat_interleave(EACH)
    draws = sampled(model, net, asked, seed)
    order = np.random.default_rng(seed).permutation(len(asked))  # parts of the judge's are random
    measures = {
        name: {
            weight: measured(images, asked.numpy(), reader, real["diversity"])
            | vars(judge(images[order]))
            for weight, images in of_weight.items()
        }
        for name, of_weight in draws.items()
    }
    pair = torch.arange(10 * EACH).view(10, EACH)[:, :2].flatten()  # the first two of each digit
    shown = {name: np.stack([v[pair] for v in found.values()]) for name, found in draws.items()}
    figure = page.save(draw(shown, measures, real["read right"]))
    numbers = {"measures": measures, "real": real, "classifier": noisy}
    page.write(lines(measures, noisy, real, judge, figure), numbers)


def measured(images: Array, classes: Array, reader: SVC, usual: float) -> dict[str, float]:
    """How many images are read as asked, and how they differ within a class."""
    found = reader.predict(images.reshape(len(images), -1))
    share = float((found == classes).mean())
    return {"as asked": share, "diversity": diversity(images, classes) / usual}


def cells(found: dict[str, float]) -> list[str]:
    """As cells of a table."""
    judged = {k: found[k] for k in ("distance", "error", "copies", "doubt")}
    share, ratio = found["as asked"], found["diversity"]
    return [f"{100 * share:.1f} %", f"{ratio:.2f}", *Judgement(**judged).cells]


def lines(
    measures: dict[str, Measures],
    noisy: dict[float, float],
    real: dict[str, float],
    judge: Judge,
    figure: str,
) -> list[str]:
    """The page."""
    chance = judge.chance()
    rows = [["none", "0", *cells(measures[METHODS[0]][0.0])]]
    for name, found in measures.items():
        rows += [[name, f"{w:g}", *cells(v)] for w, v in found.items() if w]
    return [
        f"`Diffusion(hidden={FAMILY.hidden}, drop={FAMILY.drop})` of the image given the digit, "
        f"{EPOCHS} epochs of {real['rows']:,} images; with its null token in place of the digit "
        f"it is the unguided model. The classifier of noisy images has {STEPS:,} steps on the "
        f"same rows. {EACH} draws of each digit from the same noise for every w, by `{SOLVER}` "
        f"with {EVALUATIONS} evaluations.",
        "",
        "As asked: read as the digit asked for by a support-vector machine trained on the "
        f"{real['held out']} images that neither network was trained on; it reads "
        f"{100 * real['read right']:.1f} % of the other {real['rows']:,} right. Diversity: mean "
        "distance of two draws of one digit, over that of two real images of it. The rest as on "
        "the page of the [diffusion model](digits_diffusion.md): training images have the energy "
        f"distance {chance.cells[0]}, of held-out images {chance.cells[2]} are in doubt.",
        "",
        *table(HEADS, rows),
        "",
        "Held-out images that the classifier of noisy images reads right:",
        "",
        *table(
            ("sigma / alpha", *(f"{level:g}" for level in noisy)),
            [["share", *(f"{100 * v:.0f} %" for v in noisy.values())]],
        ),
        "",
        figure,
    ]
