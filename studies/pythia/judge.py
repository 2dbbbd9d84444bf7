"""Judge: calibration, coverage and moments of a posterior of alpha_s."""

from __future__ import annotations

__all__ = ["judge", "moments"]

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import ndarray as Array

import simgen

from .posterior import SurrogatePosterior

DRAWS = 255


def judge(
    conditional: Callable[[Any], Any], truths: simgen.Dataset, seed: int
) -> tuple[dict[str, Any], Array]:
    """Calibration on all rows of a dataset, and ranks of the truths as shares."""
    verdict = simgen.calibrate(
        conditional, truths, n=len(truths), draws=DRAWS, seed=seed, progress=False
    )
    ranks = (np.asarray(verdict.ranks["ranks"]["alpha_s"]) + 0.5) / (DRAWS + 1)
    within = np.abs(ranks - 0.5)
    rows = {row["check"]: row for row in verdict.table}
    return {
        "passed": verdict.passed,
        "headline": verdict.headline,
        "coverage_68": round(float((within <= 0.34).mean()), 4),
        "coverage_95": round(float((within <= 0.475).mean()), 4),
        "contraction": round(rows["contraction"]["statistic"], 4),
        "information_nats": round(rows["information"]["statistic"], 4),
        "p_values": {
            check: float(f"{row['p_value']:.3g}")
            for check, row in rows.items()
            if row["p_value"] is not None
        },
    }, ranks


def moments(conditional: Callable[[Any], Any], x: Array, seed: int) -> tuple[Array, Array]:
    """Posterior means and deviations (n,) of alpha_s."""
    if isinstance(conditional, SurrogatePosterior):
        grid = conditional.grid(x)
        return grid.mean[:, 0], grid.sd[:, 0]
    draws = conditional(x).sample((1000,), seed=seed).double().numpy()[..., 0]
    return draws.mean(0), draws.std(0, ddof=1)
