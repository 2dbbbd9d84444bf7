"""What the pages of the digits share: command line, mosaics of images, the written page."""

from __future__ import annotations

__all__ = ["Page", "ink", "mosaic", "show", "table"]

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray as Array
from torch import Tensor

from .digits import WHITE

FOLDER = Path(__file__).parent


@dataclass
class Page:
    """One example: its settings, and what it writes beside itself.

    Arguments:
        name: As on the command line, "digits-vae".
        title: Of the page.
        seed: Of everything.
    """

    name: str
    title: str
    seed: int
    start: float = field(default_factory=time.process_time)

    @classmethod
    def open(cls, name: str, title: str, arguments: Sequence[str] | None) -> Page:
        """Reads the command line; the example runs on one thread."""
        options = argparse.ArgumentParser(
            prog=f"python -m studies.lectures {name}", description=title
        )
        options.add_argument("--seed", type=int, default=0)
        torch.set_num_threads(1)
        return cls(name, title, options.parse_args(arguments).seed)

    @property
    def stem(self) -> str:
        """Of its files."""
        return self.name.replace("-", "_")

    def save(self, figure: Figure, suffix: str = "") -> str:
        """Writes a figure; returns its line on the page."""
        file = f"{self.stem}{suffix}.png"
        figure.savefig(FOLDER / file, dpi=130)
        return f"![{self.title}]({file})"

    def write(self, lines: Sequence[str], numbers: dict[str, Any]) -> None:
        """Writes and prints the page and its numbers."""
        command = f"python -m studies.lectures {self.name} --seed {self.seed}"
        seconds = round(time.process_time() - self.start)
        versions = f"torch {torch.__version__}"
        head = [f"# {self.title}", "", f"`{command}` ({versions}, {seconds} s of one core)", ""]
        text = "\n".join([*head, *lines, ""])
        about = {"command": command, "versions": versions, "seconds": seconds}
        numbers = json.loads(json.dumps(about | numbers), parse_float=lambda v: round(float(v), 4))
        (FOLDER / f"{self.stem}.json").write_text(json.dumps(numbers, indent=1) + "\n")
        (FOLDER / f"{self.stem}.md").write_text(text)
        print(text)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown; the first column is text."""
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 1)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def mosaic(images: Array, columns: int, gap: int = 1) -> Array:
    """Images (n, h, w) side by side, `columns` in a row, on a white ground."""
    n, h, w = images.shape
    rows = -(-n // columns)
    out = np.zeros((rows * (h + gap) - gap, columns * (w + gap) - gap))
    for i, image in enumerate(images):
        y, x = (i // columns) * (h + gap), (i % columns) * (w + gap)
        out[y : y + h, x : x + w] = image
    return out


def show(
    axes: Axes,
    images: Array,
    columns: int,
    title: str = "",
    label: str = "",
    heads: Sequence[str] = (),
    sides: Sequence[str] = (),
) -> None:
    """Draws images (n, 8, 8) as a mosaic, ink on paper.

    Arguments:
        axes: Where.
        images: The images.
        columns: In a row.
        title: Above all.
        label: To the left of all.
        heads: Above the columns, evenly spread.
        sides: To the left of the rows.
    """
    picture = mosaic(images, columns)
    axes.imshow(picture, cmap="gray_r", vmin=0, vmax=WHITE, aspect="equal")
    for axis, names, length in (
        (axes.xaxis, heads, picture.shape[1]),
        (axes.yaxis, sides, picture.shape[0]),
    ):
        step = (length + 1) / max(len(names), 1)  # a gap between images, and none after the last
        axis.set_ticks([(i + 0.5) * step - 1 for i in range(len(names))], names)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title)
    if label:
        axes.set_ylabel(label, rotation=0, ha="right", va="center")


def ink(z: Tensor) -> Array:
    """States of a diffusion of standardised images (n, 1, 8, 8), as grey levels for `show`."""
    return (WHITE * (z[:, 0] + 1.2) / 3.2).clamp(0, WHITE).numpy()
