"""Windows: some rows of a view at a time, in memory, each a sample of the whole."""

from __future__ import annotations

__all__ = ["Arrays", "Window", "Windows", "width_of"]

from collections.abc import Mapping

import numpy as np
import torch

from .view import Column, View

_CHUNKS = 128  # of a window
_LEAST = 64 << 10  # bytes of a chunk, where a window has enough of them
_INDEX = 8  # bytes of a row number, of a place
_DENSE = 1.5  # rows of a span for each row that is wanted, up to which it is read whole
_TYPES = ("u1", "i2", "i4", "i8")
_GRAIN = 32_768  # elements up to which a copy of torch runs on the thread that calls it

Arrays = dict[str, np.ndarray]
"""Arrays by the names of fields."""


class Window:
    """Rows at hand.

    Arguments:
        arrays: The rows as they lie in the file, with some between them that are not wanted.
        index: Which rows of the arrays are served, one after the other, shape (n,).
    """

    def __init__(self, arrays: Arrays, index: np.ndarray) -> None:
        self._index = torch.from_numpy(index)
        self._fields = {k: torch.from_numpy(_words(v)) for k, v in arrays.items() if v.size}

    def take(self, low: int, high: int, out: Arrays) -> None:
        """Copies the rows that are served from `low` on and before `high`, on this thread."""
        one = torch.get_num_threads() == 1
        for name, rows in self._fields.items():
            target = torch.from_numpy(_words(out[name]))
            step = high - low if one else max(1, _GRAIN // rows.shape[1])
            for a in range(low, high, step):
                b = min(a + step, high)
                torch.index_select(rows, 0, self._index[a:b], out=target[a - low : b - low])


class Windows:
    """The windows that a view is cut into for an epoch.

    Chunks of neighbours are dealt: of any W that follow each other, one to each of W windows, so
    that each is spread evenly over the whole. On sorted rows a window is a stratified sample.

    Arguments:
        view: The rows.
        columns: The fields.
        budget: Bytes of a window.
        shuffle: Whether rows are in random order, else in their own.

    Attributes:
        count: How many windows an epoch has.
        capacity: Rows of one, at most.
    """

    def __init__(
        self, view: View, columns: Mapping[str, Column], budget: int, shuffle: bool
    ) -> None:
        self.view, self.columns, self.shuffle = view, columns, shuffle
        rows, row = view.rows, sum(map(width_of, columns.values())) + 2 * _INDEX
        size = max(1, max(budget // _CHUNKS, min(_LEAST, budget // 8)) // row)
        self._chunks = [rows[i : i + size] for i in range(0, len(rows), size)]
        self._extents = [_extent(chunk) for chunk in self._chunks]
        most = max(self._extents)
        self.count = -(-len(self._chunks) // max(1, budget // (row * most)))
        self.capacity = min(most * -(-len(self._chunks) // self.count), sum(self._extents))
        self._spare: list[Arrays] = []

    def deal(self, generator: np.random.Generator) -> list[list[int]]:
        """Which chunks each window of an epoch has."""
        n = len(self._chunks)
        blocks = -(-n // self.count)
        if not self.shuffle:
            return [list(range(i, min(i + blocks, n))) for i in range(0, n, blocks)]
        hands = np.tile(np.arange(self.count), (blocks, 1))
        owner = generator.permuted(hands, axis=1).reshape(-1)[:n]
        dealt = [np.flatnonzero(owner == w).tolist() for w in range(self.count)]
        return [hand for hand in dealt if hand]

    def size(self, hand: list[int]) -> int:
        """The rows of some chunks."""
        return sum(len(self._chunks[i]) for i in hand)

    def room(self) -> Arrays:
        """Room for a window: of an epoch that is over, or new."""
        try:
            return self._spare.pop()
        except IndexError:
            return empty(self.columns, self.capacity)

    def put_back(self, room: Arrays) -> None:
        """Keeps room for another epoch: new memory costs more than reading into it."""
        self._spare = [*self._spare, room][-2:]

    def read(self, hand: list[int], seed: int, room: Arrays) -> Window:
        """A window of some chunks, in the order that follows from a seed.

        Raises:
            DatasetError: If a file cannot be read, or is damaged.
        """
        dataset, at = self.view.dataset, 0
        places = []
        for i in hand:
            rows, extent = self._chunks[i], self._extents[i]
            first, span = int(rows[0]), int(rows[-1] - rows[0]) + 1
            for name, array in room.items():
                if extent == span:
                    dataset._read_range(name, first, first + span, array[at : at + extent])
                else:
                    dataset.read_rows(name, rows, array[at : at + extent])
            places.append(at + (rows - first if extent == span else np.arange(extent)))
            at += extent
        index = np.concatenate(places)
        if self.shuffle:
            index = index[np.random.default_rng(seed).permutation(len(index))]
        return Window(room, index)


def empty(columns: Mapping[str, Column], rows: int) -> Arrays:
    """Room for so many rows."""
    return {k: np.empty((rows, *c.field.shape), c.dtype) for k, c in columns.items()}


def width_of(column: Column) -> int:
    """Bytes of a row."""
    return column.field.size * column.dtype.itemsize


def _words(array: np.ndarray) -> np.ndarray:
    """The same bytes as few large numbers a row, (n, k): what copies rows need not know more."""
    width = array[:1].nbytes
    size = min(8, width & -width)
    return array.reshape(len(array), -1).view(_TYPES[size.bit_length() - 1])


def _extent(rows: np.ndarray) -> int:
    """How many rows are read for these: the span that they lie in, if they fill most of it."""
    span = int(rows[-1] - rows[0]) + 1
    return span if span <= _DENSE * len(rows) else len(rows)
