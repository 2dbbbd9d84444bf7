"""Figures: corner plots, training curves, verdicts, posterior-predictive checks.

Every function returns a matplotlib Figure of its own and touches no global state:
`figure.savefig(path)` writes it, a notebook shows it. Matplotlib is imported on first use.
"""

from __future__ import annotations

__all__ = [
    "as_array",
    "corner",
    "image_predictive",
    "inverse_pictures",
    "loss_curves",
    "picture_rows",
    "posterior_predictive",
    "set_predictive",
    "tex",
    "vector_predictive",
    "verdict_figure",
]

from .curves import loss_curves, verdict_figure
from .inverse import inverse_pictures
from .marginals import corner
from .pictures import picture_rows
from .predictive import (
    image_predictive,
    posterior_predictive,
    set_predictive,
    vector_predictive,
)
from .style import as_array, tex
