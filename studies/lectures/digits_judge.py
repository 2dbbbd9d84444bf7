r"""How good drawn digits are: their distance from real ones, copies, and whether they can be read.

.. math::
    E^2 = 2\, \mathbb{E} |x - y| - \mathbb{E} |x - x'| - \mathbb{E} |y - y'|

the energy distance of draws x and real rows y, without bias: 0 if both have one distribution.

References:
    | Energy statistics (Székely & Rizzo, 2013), https://doi.org/10.1016/j.jspi.2013.03.018
"""

from __future__ import annotations

__all__ = ["Judge", "Judgement", "apart", "energy_distance"]

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy import ndarray as Array

from simgen import Dataset


def apart(x: Array) -> float:
    """E |x - x'|: mean distance of different rows (n, ...)."""
    return float(_distances(x, x).sum() / (len(x) * (len(x) - 1)))


def energy_distance(x: Array, y: Array) -> float:
    """E^2 of rows x (n, ...) and y (m, ...), grey levels."""
    return 2 * float(_distances(x, y).mean()) - apart(x) - apart(y)


def _distances(x: Array, y: Array) -> torch.Tensor:
    a, b = (torch.from_numpy(np.reshape(v, (len(v), -1))).double() for v in (x, y))
    return torch.cdist(a, b)


@dataclass(frozen=True)
class Judgement:
    """What is found of draws.

    Attributes:
        distance: Energy distance from rows that were not trained on, in grey levels.
        error: Its standard error, over draws in ten parts.
        copies: Median distance to the nearest training row, over that of held-out rows: 1 is
            right, 0 is a copy.
        doubt: Share of draws whose ten nearest training rows have fewer than eight of one class.
    """

    distance: float
    error: float
    copies: float
    doubt: float

    @property
    def cells(self) -> list[str]:
        """As cells of a table."""
        distance = f"{self.distance:.2f} ± {self.error:.2f}"
        return [distance, f"{self.copies:.2f}", f"{100 * self.doubt:.1f} %"]


class Judge:
    """Judges draws by the held-out rows of a dataset of digits, and reads them.

    It reads a digit as most of its ten nearest training rows are.

    Attributes:
        accuracy: Share of held-out rows that are read right.
    """

    HEADS = ("energy distance", "copies", "in doubt")

    def __init__(self, dataset: Dataset) -> None:
        self.rows = dataset.train.read(["x", "digit"])
        held_out = [v.read(["x", "digit"]) for v in (dataset.validation, dataset.test)]
        self.real = np.concatenate([v["x"] for v in held_out])
        classes = np.concatenate([v["digit"].argmax(1) for v in held_out])
        self.accuracy = float((self.read(self.real) == classes).mean())
        self._own = float(np.median(self._nearest(self.real)[0][:, 0]))

    def read(self, images: Array) -> Array:
        """The class of each image (n, ...), (n,)."""
        return self._votes(images).argmax(1)

    def __call__(self, images: Array, parts: int = 10) -> Judgement:
        """Judges images (n, 8, 8) of whole grey levels."""
        distances = [energy_distance(p, self.real) for p in np.array_split(images, parts)]
        nearest = self._nearest(images)[0][:, 0]
        return Judgement(
            distance=float(np.mean(distances)),
            error=float(np.std(distances, ddof=1) / np.sqrt(parts)),
            copies=float(np.median(nearest)) / self._own,
            doubt=float((self._votes(images).max(1) < 8).mean()),
        )

    def chance(self) -> Judgement:
        """Of the held-out rows: its distance is that of training rows from them."""
        own = self(self.real)
        fresh = self(np.random.default_rng(0).permutation(self.rows["x"]))
        return replace(own, distance=fresh.distance, error=fresh.error)

    def _nearest(self, images: Array) -> tuple[Array, Array]:
        """Distances and indices of the ten nearest training rows, (n, 10)."""
        flat = np.reshape(images, (len(images), -1)).astype(np.float32)
        distances = torch.cdist(torch.from_numpy(flat), torch.from_numpy(self.rows["x"]))
        found = distances.topk(10, largest=False)
        return found.values.numpy(), found.indices.numpy()

    def _votes(self, images: Array) -> Array:
        """How many of the ten nearest training rows are of each class, (n, 10)."""
        return self.rows["digit"][self._nearest(images)[1]].sum(1)
