r"""A diffusion model of handwritten digits: forward and reverse chains, and the probability flow.

.. math::
    dx = \bigl( f x - g^2 \nabla \log p(x_t) \bigr) dt + g\, d\bar w \qquad \text{or} \qquad
    dx = \bigl( f x - \tfrac12 g^2 \nabla \log p(x_t) \bigr) dt

Both lead from x_T to the same distribution; the second without noise on the way, so that x_T says
which digit it becomes.

References:
    | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2021)
    | https://arxiv.org/abs/2011.13456, eqs. 6 and 13
"""

from __future__ import annotations

__all__ = ["FAMILY", "main"]

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from numpy import ndarray as Array
from torch import Tensor

import simgen
from simgen.plots.style import new_figure, styled

from .digits import digits, pixels, spread, spread_rows
from .digits_bounds import mean
from .digits_chains import Watched, first_noise, forward, solve, standardised
from .digits_judge import Judge, apart
from .digits_page import Page, ink, show, table

FAMILY = simgen.Diffusion(hidden=32)
EPOCHS = 45
SOLVERS = {"adams": (8, 16, 32), "dpm++": (16,), "heun": (32,), "ddim": (32,), "ddpm": (32, 128)}
TIMES = torch.linspace(0.05, 1.0, 12, dtype=torch.float64)
UP = [f"{t:.2f}" for t in (0.0, *TIMES.tolist())]
DENSITY_ROWS = 64


@styled
def draw_chains(ahead: Tensor, back: Watched, end: Tensor) -> Any:
    """The forward chain, and the reverse chain with its denoised means below."""
    figure: Any = new_figure(11.0, 2.9)
    at = back.nearest(TIMES.flip(0))
    rows = {
        "forward $x_t$": (ahead[:, 0], UP),
        "reverse $x_t$": (torch.stack([*(back.states[i][0] for i in at), end[0]]), UP[::-1]),
        r"$E[x_0\,|\,x_t]$": (torch.stack([*(back.means[i][0] for i in at), end[0]]), ()),
    }
    for axes, (name, (images, times)) in zip(figure.subplots(len(rows), 1), rows.items()):
        show(axes, ink(images), len(images), label=name, heads=[f"$t = {t}$" for t in times])
    return figure


@styled
def draw_paths(paths: dict[str, Watched], ends: dict[str, Tensor], chosen: int) -> Any:
    """Paths from one noise, and the ends of many."""
    figure: Any = new_figure(11.0, 1.0 + 0.62 * len(paths))
    left, right = figure.subfigures(1, 2, width_ratios=(7.5, 4.2))
    heads = UP[::-1]
    for axes, (name, path) in zip(left.subplots(len(paths), 1), paths.items()):
        at = path.nearest(TIMES.flip(0))
        images = torch.stack([*(path.states[i][chosen] for i in at), ends[name][chosen]])
        show(axes, ink(images), len(images), "$t$" if heads else "", name, heads)
        heads = []
    panels = right.subplots(len(paths), 1)
    for axes, end in zip(panels, ends.values()):
        show(axes, ink(end[:8]), 8)
    panels[0].set_title("eight noises, a column each")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the example."""
    page = Page.open("digits-diffusion", "A diffusion model of handwritten digits", arguments)
    seed = page.seed
    with tempfile.TemporaryDirectory() as folder:
        dataset = digits(f"{folder}/digits")
        model = simgen.fit(
            "image", dataset, FAMILY, augment=spread, seed=seed, max_epochs=EPOCHS, progress=False
        )
        judge = Judge(dataset)
        test = dataset.test.read(["image"])
    module = model.pipeline.heads[0].model
    process, denoiser = module.process, module.denoiser((None, None), 1)
    x_0 = standardised(model, spread_rows(test, seed))
    ahead = torch.cat([x_0[None, :1], forward(process, x_0[:1], TIMES, seed)])
    x_T = first_noise(process, (64, 1, 8, 8), seed)
    paths, ends = {}, {}
    for name, solver, count, draw in (
        ("probability flow", "ddim", 128, 0),
        *((f"stochastic {i}", "ddpm", 128, i) for i in (1, 2, 3)),
    ):
        paths[name] = Watched(denoiser, process)
        ends[name] = solve(paths[name], process, x_T, solver, count, seed + draw)
    back = paths["stochastic 1"]
    lines = [
        page.save(draw_chains(ahead, back, ends["stochastic 1"])),
        page.save(draw_paths(paths, ends, 0), "_paths"),
    ]
    stochastic = torch.stack([ends[f"stochastic {i}"] for i in (1, 2, 3)])
    between = (stochastic[0] - stochastic[1]).flatten(1).norm(dim=1).mean()
    memory = {
        "same noise": float(between),
        "other noise": apart(stochastic[0].numpy()),
        "flow and stochastic": float(
            (ends["probability flow"] - stochastic[0]).flatten(1).norm(dim=1).mean()
        ),
    }
    rows, results = [], {}
    for name, counts in SOLVERS.items():
        for count in counts:
            start = first_noise(process, (500, 1, 8, 8), seed + 1)
            found = judge(drawn(model, solve(denoiser, process, start, name, count, seed)))
            results[f"{name} {count}"] = vars(found)
            rows.append([name, str(count), *found.cells])
    log_p = model().log_prob(spread_rows(test, seed)["image"][:DENSITY_ROWS])
    nats = mean(log_p.double().numpy())
    numbers = {"solvers": results, "distances": memory, "held_out_log_p": nats}
    page.write(page_lines(judge, rows, memory, nats, lines), numbers)


def drawn(model: Any, z: Tensor) -> Array:
    """Images of whole grey levels of z in the model's space."""
    return pixels(model().to_physical(z))


def page_lines(
    judge: Judge,
    rows: list[list[str]],
    memory: dict[str, float],
    nats: tuple[float, float],
    figures: list[str],
) -> list[str]:
    """The page."""
    chance = judge.chance()
    return [
        f"`Diffusion(hidden={FAMILY.hidden})`, a U-Net and the process vp-cosine, {EPOCHS} epochs "
        f"of {len(judge.rows['x']):,} images. 500 draws of each solver from the same noise, "
        "judged as on the page of the [variational auto-encoders](digits_vae.md): training images "
        f"have the energy distance {chance.cells[0]}, of held-out images {chance.cells[2]} are in "
        "doubt. By the probability flow, the log-density of "
        f"{DENSITY_ROWS} held-out images (spread over their unit cells) is "
        "{:.1f} ± {:.1f} nats an image.".format(*nats),
        "",
        *table(("solver", "evaluations", *judge.HEADS), rows),
        "",
        "## Chains",
        "",
        "Times are evenly spaced. The reverse chain is ancestral sampling (128 steps); below it "
        "what the model takes each x_t for.",
        "",
        figures[0],
        "",
        "## The probability flow beside stochastic paths, from the same noise",
        "",
        "The flow (DDIM, 128 steps) leads from x_T to one digit; noise on the way makes it "
        f"forget. Mean distance of the ends of two stochastic paths: {memory['same noise']:.2f} "
        f"from the same x_T, {memory['other noise']:.2f} from different ones; of the flow's end "
        f"from a stochastic one of the same x_T: {memory['flow and stochastic']:.2f} (in the "
        "model's space, 64 numbers of variance one).",
        "",
        figures[1],
    ]
