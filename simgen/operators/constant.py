"""A constant of an operator, on the device and in the precision of what it is applied to."""

from __future__ import annotations

__all__ = ["Constant", "as_floating", "check_axes"]

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor and its copies by device and precision, each made when it is first asked for.

    A tensor that asks for a gradient is copied anew each time, and keeps its gradient.
    """

    tensor: Tensor
    copies: dict[tuple[torch.device, torch.dtype], Tensor] = field(default_factory=dict)

    def like(self, x: Tensor) -> Tensor:
        """The tensor on the device of x; in the precision of x if it is floating."""
        dtype = x.dtype if self.tensor.is_floating_point() else self.tensor.dtype
        if self.tensor.requires_grad or (self.tensor.device, self.tensor.dtype) == (
            x.device,
            dtype,
        ):
            return self.tensor.to(x.device, dtype)
        if (x.device, dtype) not in self.copies:
            # a copy made in inference mode could not be saved for a later backward pass
            with torch.inference_mode(False):
                self.copies[x.device, dtype] = self.tensor.to(x.device, dtype)
        return self.copies[x.device, dtype]


def as_floating(value: Any) -> Tensor:
    """A floating tensor: numbers and lists in float64, tensors and arrays in their precision."""
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    return tensor if tensor.is_floating_point() else tensor.double()


def check_axes(name: str, x: Tensor, shape: tuple[int, ...] | None = None) -> None:
    """Refuses x unless it is floating and ends with the axes of a shape.

    Arguments:
        name: Names the operator in the message.
        x: What it is applied to.
        shape: Lengths of the last axes; None for an image of any size.

    Raises:
        TypeError: If x is not floating.
        ValueError: If its last axes are others.
    """
    if not x.is_floating_point():
        raise TypeError(f"{name} acts on floating tensors; got {x.dtype}")
    axes = 2 if shape is None else len(shape)
    if x.ndim < axes or (shape is not None and x.shape[x.ndim - axes :] != shape):
        wanted = "H, W" if shape is None else ", ".join(map(str, shape))
        raise ValueError(f"{name} acts on x (..., {wanted}); got {tuple(x.shape)}")
