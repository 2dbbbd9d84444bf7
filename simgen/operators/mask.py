r"""A mask: only some of the numbers are seen.

.. math:: y_j = x_{i_j}, \qquad \{i_1 < \dots < i_m\} = \{i : \text{mask}_i\}
"""

from __future__ import annotations

__all__ = ["Mask"]

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .constant import Constant, check_axes


@dataclass(frozen=True, eq=False)
class Mask:
    """Keeps the m entries where a mask is true, in C order: (..., *mask.shape) to (..., m).

    Arguments:
        mask: Booleans of the event's shape, true where it is seen. Of the last axes only, all
            before them are kept: with (H, W), images (n, C, H, W) become (n, C, m).

    Raises:
        ValueError: If the mask is not boolean, or nowhere true.

    Examples:
        >>> Mask(torch.eye(3, dtype=torch.bool))(torch.arange(18.0).view(2, 3, 3))
        tensor([[ 0.,  4.,  8.],
                [ 9., 13., 17.]])
    """

    mask: Any
    _seen: Constant = field(init=False, repr=False)

    def __post_init__(self) -> None:
        mask = torch.as_tensor(self.mask)
        if mask.dtype != torch.bool:
            raise ValueError(f"mask must be boolean, say mask > 0; got {mask.dtype}")
        if not mask.any():
            raise ValueError(f"the mask {tuple(mask.shape)} is nowhere true: nothing is seen")
        object.__setattr__(self, "mask", mask)
        object.__setattr__(self, "_seen", Constant(mask.flatten().nonzero()[:, 0]))

    def __call__(self, x: Tensor) -> Tensor:
        """The seen numbers (..., m) of x (..., *mask.shape)."""
        check_axes("Mask", x, self.mask.shape)
        flat = x.reshape(*x.shape[: x.ndim - self.mask.ndim], self.mask.numel())
        return flat.index_select(-1, self._seen.like(x))
