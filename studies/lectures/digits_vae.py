r"""A variational auto-encoder of handwritten digits, step by step: its latent's length, and beta.

.. math::
    \mathcal{L}_\beta = \mathbb{E}_{q(z \mid x)}[\log p(x \mid z)]
        - \beta\, \mathrm{KL}(q(z \mid x) \,\|\, \mathcal{N}(0, I))

References:
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014), eq. 3 and appendix A
    | https://arxiv.org/abs/1312.6114
    | beta-VAE (Higgins et al., 2017), eq. 4, https://openreview.net/forum?id=Sy2fzU9gl
"""

from __future__ import annotations

__all__ = ["main"]

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array

import simgen
from simgen.conditional import Conditional
from simgen.plots.style import COLOURS, GREY, new_figure, styled

from .digits import Batch, digits, pixels, spread, spread_rows
from .digits_bounds import Bounds, bounds, mean
from .digits_judge import Judge
from .digits_page import Page, show, table

LATENTS, BETAS = (2, 5, 10, 20), (0.1, 1.0, 4.0)
RATE = 4e-3
SIDE = 15  # images along the manifold


def learn(latent: int, beta: float, dataset: simgen.Dataset, seed: int) -> Conditional:
    """A VAE with the prior N(0, I)."""
    family = simgen.VAE(latent=latent, prior="normal", beta=beta)
    return simgen.fit(
        "x", dataset, family, augment=spread, seed=seed, learning_rate=RATE, progress=False
    )


def manifold(model: Conditional) -> Array:
    """E[x | z] on the grid of quantiles of two latents, (SIDE^2, 8, 8)."""
    u = (torch.arange(SIDE) + 0.5) / SIDE
    grid = torch.special.ndtri(torch.stack(torch.meshgrid(-u + 1, u, indexing="ij"), -1))
    with torch.no_grad():
        z = model.pipeline.heads[0].model.decode(grid.flip(-1).reshape(-1, 2))
        return pixels(model.pipeline.target.inverse(z))


def codes(model: Conditional, rows: Batch) -> tuple[Array, Array]:
    """Means and deviations of q(z | x), (n, latent)."""
    with torch.no_grad():
        z, _ = model.pipeline.target(rows["x"].double())
        q = model.pipeline.heads[0].model.encode(z)
    return q.loc.numpy(), q.scale.numpy()


def same_class(z: Array, classes: Array, k: int = 10) -> float:
    """Share of rows whose class most of their k neighbours in the latent space have."""
    distances = torch.cdist(torch.from_numpy(z), torch.from_numpy(z)).fill_diagonal_(np.inf)
    near = distances.topk(k, largest=False).indices.numpy()
    votes = np.eye(10)[classes][near].sum(1)
    return float((votes.argmax(1) == classes).mean())


@styled
def draw_latents(
    real: Array, draws: dict[int, Array], plane: Array, found: dict[str, dict[int, Bounds]]
) -> Any:
    """Draws of each model, the manifold, and the bounds against the latent's length."""
    figure: Any = new_figure(12.0, 5.0)
    left, middle, right = figure.subfigures(1, 3, width_ratios=(4.4, 4.4, 3.4))
    rows = left.subplots(1 + len(draws), 1)
    show(rows[0], real, 12, label="real")
    for axes, (latent, images) in zip(rows[1:], draws.items()):
        show(axes, images, 12, label=f"{latent} latents")
    show(middle.subplots(), plane, SIDE, title=r"$E[x\,|\,z]$ of two latents, by quantiles of $z$")
    axes = right.subplots()
    marks = {
        "held-out, 64 draws": ("importance", COLOURS[1], "s", "held-out"),
        "held-out ELBO": ("elbo", COLOURS[0], "o", "held-out"),
        "training ELBO": ("elbo", GREY, "o", "training"),
    }
    for label, (what, colour, marker, rows_) in marks.items():
        points = [mean(getattr(b, what)) for b in found[rows_].values()]
        values, errors = zip(*points)
        axes.errorbar(LATENTS, values, errors, color=colour, marker=marker, ms=4, label=label)
    axes.set(xlabel="latents", ylabel=r"bound of $\log\,P(x)$, nats an image")
    axes.set_xticks(LATENTS)
    axes.legend(loc="lower right")
    return figure


@styled
def draw_betas(spaces: dict[float, tuple[Array, Array]], classes: Array) -> Any:
    """The latent plane of each beta, coloured by digit, and the prior's 95 % circle."""
    from matplotlib import colormaps

    figure: Any = new_figure(11.0, 3.9)
    panels = figure.subplots(1, len(spaces))
    circle = np.sqrt(-2 * np.log(0.05)) * np.exp(2j * np.pi * np.linspace(0, 1, 200))
    for axes, (beta, (loc, scale)) in zip(panels, spaces.items()):
        for digit in range(10):
            mine = classes == digit
            colour = colormaps["tab10"](digit)
            axes.scatter(*loc[mine].T, s=4, color=colour, lw=0)
            if beta == BETAS[-1]:
                axes.scatter([], [], s=25, color=colour, label=str(digit))
        axes.plot(circle.real, circle.imag, color="k", lw=0.8)
        size = np.median(scale, 0)
        axes.set(title=rf"$\beta = {beta:g}$", xlabel="$z_1$", aspect="equal")
        axes.set(xlim=(-4.2, 4.2), ylim=(-4.2, 4.2))
        axes.errorbar(-3.5, -3.5, size[1], size[0], color="k", lw=1)
    panels[0].set_ylabel("$z_2$")
    figure.legend(loc="outside right center", title="digit", handletextpad=0.1)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the example."""
    page = Page.open("digits-vae", "Variational auto-encoders of handwritten digits", arguments)
    seed = page.seed
    with tempfile.TemporaryDirectory() as folder:
        dataset = digits(f"{folder}/digits")
        models = {k: learn(k, 1.0, dataset, seed) for k in LATENTS}
        planes = {b: models[2] if b == 1 else learn(2, b, dataset, seed) for b in BETAS}
        judge = Judge(dataset)
        test, train = dataset.test.read(["x"]), dataset.train.read(["x"])
        classes = dataset.train.read(["digit"])["digit"].argmax(1)
    sides = {"held-out": spread_rows(test, seed), "training": spread_rows(train, seed)}
    found = {
        side: {k: bounds(m, rows, seed) for k, m in models.items()} for side, rows in sides.items()
    }
    draws = {k: pixels(m().sample((1_000,), seed=seed)) for k, m in models.items()}
    judged = {k: judge(v) for k, v in draws.items()}
    spaces = {b: codes(m, sides["training"]) for b, m in planes.items()}
    of_beta = {b: bounds(m, sides["held-out"], seed) for b, m in planes.items()}
    real = pixels(torch.from_numpy(test["x"][:24]))
    shown = {k: v[:24] for k, v in draws.items()}
    first = page.save(draw_latents(real, shown, manifold(models[2]), found))
    second = page.save(draw_betas(spaces, classes), "_beta")
    rows = [
        [
            str(k),
            *("{:.1f} ± {:.1f}".format(*mean(getattr(found["held-out"][k], w))) for w in ORDER),
            f"{found['training'][k].elbo.mean():.1f}",
            *judged[k].cells,
        ]
        for k in LATENTS
    ]
    effect = {
        b: {
            "reconstruction": float((v.elbo + v.kl).mean()),
            "kl": float(v.kl.mean()),
            "elbo": float(v.elbo.mean()),
            "spread": float(np.sqrt((spaces[b][0] ** 2 + spaces[b][1] ** 2).mean())),
            "deviation": float(np.median(spaces[b][1])),
            "same class": same_class(spaces[b][0], classes),
        }
        for b, v in of_beta.items()
    }
    lines = [
        *text(len(train["x"]), len(test["x"]), judge),
        *table(HEADS, rows),
        "",
        first,
        "",
        "## The effect of beta on two latents",
        "",
        *table(
            BETA_HEADS,
            [[f"{b:g}", *(f"{v:.2f}" for v in e.values())] for b, e in effect.items()],
        ),
        "",
        BETA_TEXT,
        "",
        second,
    ]
    numbers = {
        "latents": {
            k: {
                "held_out_elbo": mean(found["held-out"][k].elbo),
                "held_out_kl": mean(found["held-out"][k].kl),
                "held_out_importance": mean(found["held-out"][k].importance),
                "training_elbo": mean(found["training"][k].elbo),
                "draws": vars(judged[k]),
            }
            for k in LATENTS
        },
        "beta": effect,
        "real": {"accuracy": judge.accuracy, **vars(judge.chance())},
    }
    page.write(lines, numbers)


ORDER = ("importance", "elbo", "kl")
HEADS = (
    "latents",
    "held-out, 64 draws",
    "held-out ELBO",
    "of it KL",
    "training ELBO",
    *Judge.HEADS,
)
BETA_HEADS = (
    "beta",
    "held-out E log p(x given z)",
    "KL",
    "ELBO",
    "rms of z",
    "sd of q",
    "same class",
)
BETA_TEXT = (
    "Rms of z over the training rows, where the prior has 1; sd of q(z | x), the median; the "
    "share of training rows whose class most of their ten neighbours in the plane of the means "
    "have. The circle holds 95 % of the prior; the cross is the size of q."
)


def text(train: int, test: int, judge: Judge) -> list[str]:
    """What is measured."""
    real = judge.chance()
    return [
        f'`VAE(latent=k, prior="normal")` of the digits as vectors, {train:,} to train on, '
        f"learning rate {RATE}. Bounds of log P(x) of {test} held-out images of whole grey "
        "levels, in nats an image; 64 ln 17 = 181.3 nats is the cost of an image of which nothing "
        "is known. Of 1,000 draws: the energy distance from images that were not trained on "
        f"(training images: {real.cells[0]}), the median distance to the nearest training image "
        "over that of held-out ones (0 is a copy), and the share whose ten nearest training "
        f"images don't agree on the digit (held-out images: {real.cells[2]}).",
        "",
    ]
