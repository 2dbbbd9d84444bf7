"""Pictures in the report: what the simulator draws, and beside it what a surrogate does."""

from __future__ import annotations

__all__ = ["show_rows"]

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import plots
from .diagnosis import draw
from .field import Field
from .page import Page

_ROWS, _FIELDS = 4, 4
_LAYOUTS = ("image", "set", "series")


def show_rows(page: Page, conditional: Any, simulator: Any, seed: int, missing: list[str]) -> None:
    """Adds a few simulations at parameters drawn from the prior: x and latents that have a
    picture, and draws of the model where one of them is its target.

    Arguments:
        page: The page to add to.
        conditional: A Conditional.
        simulator: Runs at draws of its prior.
        seed: Of parameters, simulations and draws.
        missing: Where to say what was left out, and why.
    """
    try:
        theta = draw(simulator, _ROWS)
        rows = dict(simulator(theta, seed=seed))
    except Exception as error:  # the simulator is the user's: its failure is a finding, not ours
        missing.append(f"pictures of simulations: the simulator raised {error!r}")
        return
    fields = {name: _field(simulator, name, value) for name, value in rows.items()}
    shown = [name for name, field in fields.items() if field.layout in _LAYOUTS][:_FIELDS]
    if shown:
        page.heading("Simulations at draws of the prior")
    for name in shown:
        field, lengths = fields[name], rows.get(f"{name}_length")
        pictures = {"simulated": rows[name]}
        learned = _learned(conditional, name, theta, rows, simulator, seed)
        if learned is not None:
            pictures["learned"] = learned
        text = f"{name} of {_ROWS} simulations"
        page.figure(
            plots.picture_rows(pictures, field.layout, lengths, field.labels, field.units),
            f"{text}, and draws of the model given the same."
            if learned is not None
            else f"{text}.",
        )


def _field(simulator: Any, name: str, rows: np.ndarray) -> Field:
    declared = simulator.fields.get(name)
    if declared is not None:
        return declared
    return Field(rows.shape[1:], layout="image" if rows.ndim == 4 else "vector")


def _learned(
    conditional: Any,
    name: str,
    theta: np.ndarray,
    rows: Mapping[str, np.ndarray],
    simulator: Any,
    seed: int,
) -> np.ndarray | None:
    """Draws of the model where the field is its target, else None."""
    if tuple(conditional.target) != (name,):
        return None
    known = {**rows, "theta": theta, **dict(zip(simulator.names, theta.T))}
    if set(conditional.given) - set(known):
        return None
    if not conditional.given:
        return conditional().sample((len(theta),), seed=seed).numpy()
    return conditional(**{k: known[k] for k in conditional.given}).sample((), seed=seed).numpy()
