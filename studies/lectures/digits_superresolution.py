r"""Super-resolution by a conditional flow: p(x_high | x_low) of digits of 8 × 8 given 4 × 4 means.

.. math::
    p(x_\mathrm{high} \mid x_\mathrm{low}) \propto p(d \mid x_\mathrm{low}), \qquad
    x_\mathrm{high} = \mathrm{unhaar}(2\, x_\mathrm{low}, d)

x_low leaves 48 of 64 numbers open, the differences d within the blocks, in an orthonormal basis;
each draw has exactly the means that are given. The mode is found by gradient ascent of the exact
density from the best of many draws.

References:
    | Wavelet Flow (Yu, Derpanis & Brubaker, 2020), eq. 7, https://arxiv.org/abs/2010.13821
    | Learning Likelihoods with Conditional Normalizing Flows (Winkler et al., 2019)
    | https://arxiv.org/abs/1912.00042
"""

from __future__ import annotations

__all__ = ["climb", "main"]

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal

import simgen
from simgen.plots.style import COLOURS, GREY, new_figure, styled

from .digits import digits, joined, pixels, spread, spread_rows
from .digits_bounds import mean
from .digits_judge import Judge
from .digits_page import Page, show, table

AFFINE = simgen.Flow("coupling")
FAMILIES = {
    "spline couplings": simgen.Flow(),
    "affine couplings": AFFINE,
    "five affine flows": simgen.Ensemble(AFFINE, 5),
}
DRAWS = 200  # of each held-out row
SHOWN = 8  # rows in the figure
CONTENTS = (0.5, 0.9)
HEADS = (
    "density",
    "held-out log p",
    "more than linear",
    *(f"in {100 * c:.0f} %" for c in CONTENTS),
)


def climb(q: Distribution, start: Tensor, steps: int = 200, rate: float = 0.05) -> Tensor:
    """Values (n, 48) of higher density than the start's, by Adam; the best on the way.

    Arguments:
        q: A distribution with a batch of n.
        start: (n, 48).
        steps: Of the ascent.
        rate: Of Adam, in grey levels.
    """
    value = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([value], lr=rate)
    best, highest = start.clone(), q.log_prob(start).detach()
    for _ in range(steps):
        optimiser.zero_grad()
        log_q = q.log_prob(value)
        (-log_q.sum()).backward()
        better = log_q.detach() > highest
        best[better], highest[better] = value.detach()[better], log_q.detach()[better]
        optimiser.step()
    return best


def gaussian(known: Tensor, details: Tensor, low: Tensor, truth: Tensor) -> Array:
    """log p(truth | low), (n,), of a Gaussian whose mean is linear in x_low, by least squares on
    rows of both that are known.
    """

    def design(x: Tensor) -> Tensor:
        return torch.cat([x.new_ones(len(x), 1), x], 1).double()

    slope = torch.linalg.lstsq(design(known), details.double()).solution
    left = details - design(known) @ slope
    zero = left.new_zeros(left.shape[1])
    return MultivariateNormal(zero, left.T.cov()).log_prob(truth - design(low) @ slope).numpy()


def rank(q: Distribution, draws: Tensor, truth: Tensor) -> Array:
    """Share of draws (s, n, 48) denser than the truth (n, 48), (n,): uniform if p is right."""
    with torch.no_grad():
        return (q.log_prob(draws) > q.log_prob(truth)).double().mean(0).numpy()


@styled
def draw(rows: dict[str, Array], ranks: dict[str, Array]) -> Any:
    """Images (n, k, 8, 8) by column, and how often the truth is in a region of high density."""
    figure: Any = new_figure(11.0, 5.4)
    left, right = figure.subfigures(1, 2, width_ratios=(7.4, 3.4))
    panels = left.subplots(1, len(rows), width_ratios=[9 * v.shape[1] - 1 for v in rows.values()])
    for axes, (name, images) in zip(panels, rows.items()):
        show(axes, images.reshape(-1, 8, 8), images.shape[1], name)
    axes = right.subplots()
    share = np.linspace(0, 1, 200)
    axes.plot(share, share, color=GREY, lw=1)
    for (name, values), colour in zip(ranks.items(), COLOURS):
        axes.plot(share, (values[:, None] <= share).mean(0), color=colour, label=name)
    axes.set(xlabel="content of the densest region", ylabel="held-out truths inside")
    axes.set(aspect="equal", xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="lower right")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the example."""
    page = Page.open("digits-superresolution", "Super-resolution of digits by flows", arguments)
    seed = page.seed
    with tempfile.TemporaryDirectory() as folder:
        dataset = digits(f"{folder}/digits")
        models = {
            name: simgen.fit(
                "details | low", dataset, f, augment=spread, seed=seed, progress=False
            )
            for name, f in FAMILIES.items()
        }
        judge = Judge(dataset)
        train, rows = (v.read(["low", "details", "digit"]) for v in (dataset.train, dataset.test))
    test, classes = spread_rows(rows, seed), rows["digit"].argmax(1)
    low, truth = test["low"], test["details"]
    known = spread_rows(train, seed)
    log_p = {"linear-Gaussian": gaussian(known["low"], known["details"], low, truth)}
    q = {name: model(low) for name, model in models.items()}
    draws = {name: p.sample((DRAWS,), seed=seed) for name, p in q.items()}
    ranks = {name: rank(p, draws[name], truth) for name, p in q.items()}
    with torch.no_grad():
        log_p |= {name: p.log_prob(truth).double().numpy() for name, p in q.items()}
    best = max(q, key=lambda k: log_p[k].mean())
    found = modes(q[best], draws[best])
    found["truth"] = truth
    found["a draw"] = draws[best][0]
    results = {"densities": densities(log_p, ranks), "images": {}}
    for name, details in found.items():
        image = joined(low, details)
        with torch.no_grad():
            density = q[best].log_prob(details).double().numpy()
        results["images"][name] = {
            "log_p": mean(density),
            "rms": float((image - joined(low, truth)).square().mean().sqrt()),
            "read_right": float((judge.read(pixels(image)) == classes).mean()),
        }
    first = np.unique(classes, return_index=True)[1][:SHOWN]  # one row a digit
    columns = {
        "given": np.kron(low[first].numpy().reshape(-1, 1, 4, 4), np.ones((2, 2))),
        "truth": shown(low, truth[None], first),
        "mode": shown(low, found["mode, by ascent"][None], first),
        "mean": shown(low, found["mean of draws"][None], first),
        f"draws ({best})": shown(low, draws[best][:SHOWN], first),
    }
    page.write(lines(page.save(draw(columns, ranks)), results, best, len(train["low"])), results)


def modes(q: Distribution, draws: Tensor) -> dict[str, Tensor]:
    """Details (n, 48) that stand for the mode and the mean of draws (s, n, 48)."""
    with torch.no_grad():
        densest = q.log_prob(draws).argmax(0)
    start = draws[densest, torch.arange(len(densest))]
    return {
        "mode, by ascent": climb(q, start),
        f"densest of {DRAWS} draws": start,
        "mean of draws": draws.mean(0),
    }


def densities(log_p: dict[str, Array], ranks: dict[str, Array]) -> dict[str, Any]:
    """Held-out log-density of each, and how often truths lie in regions of highest density."""
    base = log_p["linear-Gaussian"]
    return {
        name: {
            "log_p": mean(values),
            "more": mean(values - base),
            "coverage": [float((ranks[name] <= c).mean()) for c in CONTENTS]
            if name in ranks
            else None,
        }
        for name, values in log_p.items()
    }


def shown(low: Tensor, details: Tensor, rows: Array) -> Array:
    """Images (rows, s, 8, 8) of details (s, n, 48)."""
    return pixels(joined(low[rows], details[:, rows])).swapaxes(0, 1)


def lines(figure: str, results: dict[str, Any], best: str, n: int) -> list[str]:
    """The page."""
    rows = []
    for name, r in results["densities"].items():
        inside = [""] * len(CONTENTS) if r["coverage"] is None else r["coverage"]
        cells = [f"{100 * v:.0f} %" if v != "" else "" for v in inside]
        more = "" if r["coverage"] is None else "{:+.1f} ± {:.1f}".format(*r["more"])
        rows.append([name, "{:.1f} ± {:.1f}".format(*r["log_p"]), more, *cells])
    images = [
        [name, "{:.1f}".format(r["log_p"][0]), f"{r['rms']:.2f}", f"{100 * r['read_right']:.0f} %"]
        for name, r in results["images"].items()
    ]
    return [
        f"`Flow` of the 48 differences within blocks given the 16 block means, {n:,} images to "
        "train on. Log-density of held-out images (spread over their unit cells) in nats; beside "
        "it a Gaussian whose mean is linear in x_low and whose covariance is that of what is left "
        "(the difference is that of the same images). Then how many truths lie in the region of "
        f"highest density that holds 50 % or 90 % of {DRAWS} draws.",
        "",
        *table(HEADS, rows),
        "",
        f"## The mode beside draws ({best})",
        "",
        "Means over held-out images: log-density under the flow, root mean square difference from "
        "the truth in grey levels, and how many are read right by their ten nearest training "
        "images. The mode is the best of 200 steps of gradient ascent from the densest draw; it "
        "need not look like a typical draw.",
        "",
        *table(("image", "log p", "rms from the truth", "read right"), images),
        "",
        figure,
    ]
