"""Rows: which of a block are good, and what stands in the place of those that are not.

A failed row holds NaN in floating and 0 in other fields, so that it cannot pass for data.
"""

from __future__ import annotations

__all__ = ["blank", "finite_rows", "screen"]

from collections.abc import Mapping

import numpy as np

from .shard import GOOD, Failure, status_code


def finite_rows(array: np.ndarray) -> np.ndarray:
    """Which rows of an array (n, ...) hold no NaN and no infinity, shape (n,)."""
    if array.dtype.kind != "f" or not array.size:
        return np.ones(len(array), dtype=bool)
    flat = array.reshape(len(array), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        good = np.isfinite(flat.sum(1))
    bad = np.flatnonzero(~good)  # a sum of finite numbers may overflow: look closer
    good[bad] = np.isfinite(flat[bad]).all(1)
    return good


def screen(
    columns: dict[str, np.ndarray], first: int
) -> tuple[dict[str, np.ndarray], np.ndarray, list[Failure]]:
    """Rows with NaN or infinity as failed ones: the columns, status, failures."""
    finite = {k: finite_rows(v) for k, v in columns.items()}
    good = np.logical_and.reduce(list(finite.values()))
    status = np.where(good, GOOD, status_code("nonfinite")).astype(np.uint8)
    failures = []
    bad = np.flatnonzero(~good)
    for i in bad:
        names = ", ".join(k for k, v in finite.items() if not v[i])
        failures.append(Failure(first + int(i), "nonfinite", f"NaN or infinity in {names}"))
    return blank(columns, bad), status, failures


def blank(columns: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """The columns without the values of failed rows; theta stays."""
    if not len(rows):
        return dict(columns)
    out = {}
    for name, array in columns.items():
        if name != "theta":
            array = array.copy()
            array[rows] = np.nan if array.dtype.kind == "f" else 0
        out[name] = array
    return out
