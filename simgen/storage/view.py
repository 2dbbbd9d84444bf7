"""Views: fields of a dataset as lazy arrays, and the rows of one side of its split."""

from __future__ import annotations

__all__ = ["Column", "View"]

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..field import Field

if TYPE_CHECKING:
    from ..dataset import Dataset


class Column:
    """One field of some rows, read when sliced: `column[:100]`, `column[[3, 1]]`, "
    "`np.asarray(column)`.

    Arguments:
        dataset: Where the rows are.
        name: The field, or a parameter's name.
        rows: The row numbers that the column has, increasing; None for all.
    """

    def __init__(self, dataset: Dataset, name: str, rows: np.ndarray | None = None) -> None:
        self.dataset, self.name, self.rows = dataset, name, rows
        self.field = dataset.fields[name]

    def __len__(self) -> int:
        return len(self.dataset) if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, *shape of an entry)."""
        return (len(self), *self.field.shape)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """The type of an entry."""
        return np.dtype(self.field.dtype or "float32")

    def __getitem__(self, key: Any) -> np.ndarray:
        if isinstance(key, tuple):
            head, rest = (key[0], key[1:]) if key else (slice(None), ())
            block = self[head]
            one = isinstance(head, int | np.integer)
            return block[rest] if one else block[(slice(None), *rest)]
        n = len(self)
        if key is Ellipsis:
            key = slice(None)
        if isinstance(key, slice):
            start, stop, step = key.indices(n)
            if step == 1:
                return self._range(start, max(start, stop))
            return self._rows(np.arange(start, stop, step))
        if isinstance(key, int | np.integer):
            if not -n <= key < n:
                raise IndexError(f"row {key} of {n}")
            return self._range(int(key) % n, int(key) % n + 1)[0]
        index = np.asarray(key)
        if index.dtype == bool:
            if index.shape != (n,):
                raise IndexError(f"a mask of shape {index.shape} for {n} rows")
            index = np.flatnonzero(index)
        if index.size == 0:
            index = index.astype(np.int64)
        if index.dtype.kind not in "iu" or index.ndim != 1:
            raise IndexError(
                "rows are chosen by an integer, a slice, whole numbers (m,) or a mask"
            )
        if index.size and not (-n <= index.min() and index.max() < n):
            raise IndexError(f"rows {index.min()} to {index.max()} of {n}")
        return self._rows(np.where(index < 0, index + n, index))

    def _range(self, start: int, stop: int) -> np.ndarray:
        if self.rows is None:
            return self.dataset._read_range(self.name, start, stop)
        return self.dataset.read_rows(self.name, self.rows[start:stop])

    def _rows(self, index: np.ndarray) -> np.ndarray:
        order, back = np.unique(index, return_inverse=True)
        rows = order if self.rows is None else self.rows[order]
        return self.dataset.read_rows(self.name, rows)[back]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self[:]
        return array if dtype is None else array.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"Column({self.name!r}, shape={self.shape}, dtype={self.dtype})"


class View:
    """The good rows of a dataset, or those of one side of its split.

    Attributes:
        dataset: The dataset.
        name: "train", "validation", "test" or "good".
        rows: Their row numbers in the dataset, increasing, shape (n,).
    """

    def __init__(self, dataset: Dataset, name: str, rows: np.ndarray) -> None:
        self.dataset, self.name, self.rows = dataset, name, rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fields(self) -> dict[str, Field]:
        """The dataset's fields."""
        return self.dataset.fields

    @property
    def identity(self) -> str:
        """The dataset's identity."""
        return self.dataset.identity

    def __getitem__(self, name: str) -> Column:
        self.dataset._check(name)
        return Column(self.dataset, name, self.rows)

    def read(self, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Fields as arrays (n, ...) in memory; those that are stored unless said."""
        chosen = self.dataset.stored if names is None else names
        return {name: self[name][:] for name in ([chosen] if isinstance(chosen, str) else chosen)}

    def __repr__(self) -> str:
        return f"View({self.name}: {len(self)} rows of {str(self.dataset.path)!r})"
