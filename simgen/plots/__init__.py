"""Figures: corner plots, training curves, verdicts, predictive checks, likelihoods, coverage.

Every function returns a matplotlib Figure of its own and touches no global state:
`figure.savefig(path)` writes it, a notebook shows it. Matplotlib is imported on first use.
"""

from __future__ import annotations

__all__ = [
    "as_array",
    "confidence_figure",
    "corner",
    "coverage_figure",
    "image_predictive",
    "inverse_pictures",
    "learning_figure",
    "loss_curves",
    "picture_rows",
    "posterior_predictive",
    "profile_figure",
    "set_predictive",
    "tex",
    "vector_predictive",
    "verdict_figure",
]

from .confidence import confidence_figure
from .coverage import coverage_figure
from .curves import loss_curves, verdict_figure
from .inverse import inverse_pictures
from .learning import learning_figure
from .likelihood import profile_figure
from .marginals import corner
from .pictures import picture_rows
from .predictive import (
    image_predictive,
    posterior_predictive,
    set_predictive,
    vector_predictive,
)
from .style import as_array, tex
