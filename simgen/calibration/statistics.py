r"""Quantities of a target to be ranked: its columns, given statistics, random projections.

.. math:: g_j(y) = w_j \cdot \frac{y - m}{s}, \qquad w_j \sim \mathcal N(0, I / d)

Ranking thousands of columns would correct the p-values away; a few projections see a wrong mean or
covariance.
"""

from __future__ import annotations

__all__ = ["Statistics"]

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

LARGEST = 50
PROJECTIONS = 8


class Statistics:
    """Maps targets (..., *event) to k quantities (..., k).

    Attributes:
        names: Of the quantities.
        truth: Their true values, shape (n, k).
        notes: What should be known about the choice.
    """

    def __init__(
        self,
        truth: np.ndarray,
        names: tuple[str, ...],
        functions: Mapping[str, Callable[[Tensor], Tensor]] | None,
        seed: int,
    ) -> None:
        self.axes = truth.ndim - 1
        size = int(np.prod(truth.shape[1:]))
        self.functions = functions
        self.notes: tuple[str, ...] = ()
        self.names = names if len(names) == size else tuple(f"y_{i}" for i in range(size))
        if functions is not None:
            self.names = tuple(functions)
        elif size > LARGEST:
            flat = torch.as_tensor(truth.reshape(len(truth), -1), dtype=torch.float32)
            generator = torch.Generator().manual_seed(seed)
            self.center, scale = flat.mean(0), flat.std(0)
            weights = torch.randn(size, PROJECTIONS, generator=generator) / size**0.5
            self.weights = weights / torch.where(scale > 0, scale, 1.0)[:, None]
            self.names = tuple(f"projection_{i}" for i in range(PROJECTIONS))
            self.notes = (
                f"the target has {size} numbers: {PROJECTIONS} random projections were ranked",
            )
        self.truth = self(torch.as_tensor(np.ascontiguousarray(truth))).double().numpy()

    def __call__(self, y: Tensor) -> Tensor:
        """The quantities of targets (..., *event), shape (..., k)."""
        if self.functions is not None:
            lead = y.shape[: y.dim() - self.axes]
            columns = []
            for name, function in self.functions.items():
                value = torch.as_tensor(function(y))
                if value.shape != lead:
                    raise ValueError(
                        f"statistic {name!r} must map (..., *event) to (...): of "
                        f"{tuple(y.shape)} it made {tuple(value.shape)}, not {tuple(lead)}"
                    )
                columns.append(value)
            return torch.stack(columns, -1)
        flat = y.reshape(*y.shape[: y.dim() - self.axes], -1)
        if flat.shape[-1] <= LARGEST:
            return flat
        return (flat.float() - self.center) @ self.weights
