r"""Field: what one named array of a dataset is, row by row.

A dataset is a table of rows (theta, x, latents ...). A field says the shape of one row's entry,
how its axes are to be read (layout), where its values may lie (support), and what they are
called. It imports no torch, so that the worker processes of a NumPy simulator need not either.
"""

from __future__ import annotations

__all__ = ["LAYOUTS", "Field", "infer_field"]

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

LAYOUTS = ("vector", "set", "series", "image")
_AXES = {"vector": (0, 1), "set": (2,), "series": (2,), "image": (3, 4)}

Bound = float | None


def _bound(value: Any, missing: float) -> Bound | tuple[Bound, ...]:
    """A bound as a plain number, None where there is none, or a tuple of these."""
    array = np.asarray(missing if value is None else value, dtype=float)
    if array.ndim == 0:
        return float(array) if np.isfinite(array) else None
    return tuple(float(v) if np.isfinite(v) else None for v in array.ravel())


def _interval(support: Any) -> tuple[Any, Any] | None:
    """(low, high) from a pair or from a torch constraint (duck-typed: no torch here)."""
    if support is None:
        return None
    if isinstance(support, Sequence) and not isinstance(support, str) and len(support) == 2:
        low, high = support
    elif hasattr(support, "lower_bound") or hasattr(support, "upper_bound"):
        low = getattr(support, "lower_bound", None)
        high = getattr(support, "upper_bound", None)
    elif type(support).__name__ == "_Real":
        return None
    else:
        raise ValueError(
            "support must be (low, high), with None for no bound, or a torch interval; "
            f"got {support!r}"
        )
    bounds = _bound(low, -np.inf), _bound(high, np.inf)
    low_, high_ = (np.array(b, dtype=float) for b in bounds)
    if np.any(low_ >= high_):
        raise ValueError(f"support needs low < high, got low={bounds[0]} and high={bounds[1]}")
    return None if bounds == (None, None) else bounds


@dataclass(frozen=True)
class Field:
    """One named array of a dataset, described per row.

    Arguments:
        shape: The shape of one row's entry, without the row axis; () for one number.
        layout: How the axes are read: "vector" (d,), "set" (K, features) of exchangeable
            elements, "series" (K, features) in order, "image" (channels, height, width) or with
            a third spatial axis.
        support: (low, high), None for no bound; numbers, or one number an entry. As a target,
            the field is modelled behind a bijection to this interval.
        discrete: Whether the values are whole numbers (or booleans).
        zeros: Whether values are positive or exactly zero, with a probability of its own: as a
            target, a point mass at zero is modelled beside a density of what is positive.
        names: One name per entry of a vector, per feature of a set or series, or per channel of
            an image.
        labels: The same in LaTeX, for figures.
        units: The same as units.
        iid: Of a set: its elements are independent draws, so that one element can be modelled.
        dtype: The stored type; floating fields are float32.

    Raises:
        ValueError: If the layout is unknown, does not fit the shape, or the bounds or names do
            not match.
    """

    shape: tuple[int, ...]
    layout: str = "vector"
    support: Any = None
    discrete: bool = False
    zeros: bool = False
    names: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    units: tuple[str, ...] | None = None
    iid: bool = False
    dtype: str | None = None

    def __post_init__(self) -> None:
        shape = (self.shape,) if isinstance(self.shape, int) else tuple(int(k) for k in self.shape)
        object.__setattr__(self, "shape", shape)
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; got {self.layout!r}")
        if len(shape) not in _AXES[self.layout]:
            wanted = " or ".join(map(str, _AXES[self.layout]))
            raise ValueError(
                f"a field of layout {self.layout!r} has {wanted} axes a row; got shape {shape}"
            )
        if self.iid and self.layout != "set":
            raise ValueError(
                f"iid=True is for a set of independent elements; got layout {self.layout!r}"
            )
        object.__setattr__(self, "support", _interval(self.support))
        if self.zeros and (self.discrete or self.support is not None):
            raise ValueError(
                "zeros=True says the support, zero and what is positive: leave out support, and "
                "discrete"
            )
        for what in ("names", "labels", "units"):
            value = getattr(self, what)
            if value is not None:
                value = (value,) if isinstance(value, str) else tuple(str(v) for v in value)
                if len(value) != self.columns:
                    raise ValueError(
                        f"{what} must be {self.columns} for shape {shape}; "
                        f"got {len(value)}: {value}"
                    )
                object.__setattr__(self, what, value)

    @property
    def columns(self) -> int:
        """How many quantities have a name of their own: entries, features or channels."""
        if not self.shape:
            return 1
        return self.shape[-1] if self.layout in ("set", "series") else self.shape[0]

    @property
    def size(self) -> int:
        """How many numbers one row holds."""
        return int(np.prod(self.shape, dtype=int))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {k: v for k, v in asdict(self).items() if v is not None and v is not False}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Field:
        """The inverse of to_dict."""
        return cls(**values)


def infer_field(array: np.ndarray, declared: Field | None = None, length: bool = False) -> Field:
    """The field that a block of rows (n, ...) shows; what was declared is kept and checked.

    One axis a row is a vector; two are a series (a set where the rows have lengths of their
    own); three or four are an image, channels first.

    Raises:
        ValueError: If the block's shape is not the declared one, or no layout fits.
    """
    shape, dtype = tuple(array.shape[1:]), str(array.dtype)
    if declared is not None:
        if shape != declared.shape:
            raise ValueError(f"declared with shape {declared.shape} a row, found {shape}")
        return replace(declared, dtype=dtype)
    layouts = {0: "vector", 1: "vector", 2: "set" if length else "series", 3: "image", 4: "image"}
    if len(shape) not in layouts:
        raise ValueError(
            f"no layout for {len(shape)} axes a row (shape {shape}); declare a Field, or reshape"
        )
    return Field(shape, layouts[len(shape)], discrete=array.dtype.kind in "iub", dtype=dtype)
