r"""Emulator: a trained surrogate in the place of its simulator.

.. math:: x \sim q(x \mid \vartheta) \approx p(x \mid \vartheta)

A surrogate draws thousands of rows while a simulator draws one, so that what takes many rows is
learned from it: a posterior of many times the rows overfits less, and has what is easier to learn
of a likelihood than of a posterior. What the surrogate has wrong, it hands on: calibrate on rows
of the simulator itself.
"""

from __future__ import annotations

__all__ = ["Emulator"]

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .domain import check_domain
from .field import Field
from .forward import Simulator
from .prior import Prior

if TYPE_CHECKING:
    from .conditional import Conditional


class Emulator(Simulator):
    """A simulator of x that draws from a fitted "x | theta".

    Arguments:
        surrogate: The model; its target are the fields of a row, x among them.
        prior: Over theta, nowhere wider than that of training; the latter unless said.

    Raises:
        ValueError: If the model has another given field than theta, does not draw x, or knows no
            prior and none is said; or a prior is wider than what it was trained on.

    Examples:
        posterior = simgen.fit(
            "theta | x", simgen.simulate(simgen.Emulator(surrogate), 200_000, "emulated")
        )
    """

    def __init__(self, surrogate: Conditional, prior: Prior | None = None) -> None:
        if surrogate.given != ("theta",) or "x" not in surrogate.target:
            raise ValueError(
                "an emulator draws x from a model such as 'x | theta', with theta alone given; "
                f"got {surrogate.expression!r}"
            )
        trained = surrogate.prior
        if prior is None and trained is None:
            raise ValueError(
                f"{surrogate.expression!r} knows no prior to draw theta from: say prior="
            )
        if prior is not None and trained is not None:
            check_domain(prior, trained, "the one that the surrogate was trained with")
        self.surrogate, self.prior = surrogate, prior or trained

    @property
    def fields(self) -> Mapping[str, Field]:  # type: ignore[override]
        """The fields of a row."""
        return {name: self.surrogate.fields[name] for name in self.surrogate.target}

    @cached_property
    def digest(self) -> str:
        """Of the surrogate's weights: a dataset goes on by the same surrogate alone."""
        found = hashlib.sha256(self.surrogate.expression.encode())
        for name, value in sorted(self.surrogate.pipeline.state_dict().items()):
            found.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    @property
    def settings(self) -> dict[str, Any]:
        """What a dataset records of it."""
        return {"surrogate": self.surrogate.expression, "digest": self.digest}

    def simulate(self, theta: np.ndarray, rng: np.random.Generator) -> Any:
        """Draws the target given theta (n, d)."""
        given = torch.from_numpy(np.asarray(theta, np.float64))
        rows = self.surrogate(given).sample(seed=int(rng.integers(2**62))).cpu().numpy()
        fields = self.fields
        if len(fields) == 1:
            return {name: rows for name in fields}
        sizes = np.cumsum([field.size for field in fields.values()])[:-1]
        parts = np.split(rows, sizes, axis=1)
        return {
            name: part.reshape(len(rows), *field.shape)
            for (name, field), part in zip(fields.items(), parts)
        }
