r"""Mini-batches of tensors, shuffled, from memory or from disk.

In memory a batch is a slice of a permutation, gathered once a field. From disk, rows are cut
into chunks of neighbours; each epoch permutes the chunks, reads as many as fit a window, one
contiguous read each, and puts every row where its turn in the window is: batches are slices, and
a row crosses the memory bus once, as a chunk stays in the processor's cache. One window is served
while a thread fills the other; both are filled again and again, as fresh memory costs more than
reading into it, unless somebody still holds a batch of theirs. Either way an epoch's order is a
function of seed and epoch, and every row comes exactly once.
"""

from __future__ import annotations

__all__ = ["Batches"]

import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset, DatasetError, View

SHUFFLE = 4  # purpose of a random stream, beside those of a simulation
_CHUNK = 4 << 20  # bytes of one contiguous read, at most
_DENSE = 1.5  # rows of a span for each row that is wanted, up to which it is read whole
_UNSIGNED = {"uint16": torch.int32, "uint32": torch.int64, "uint64": torch.int64}


class _Window(NamedTuple):
    """Chunks of rows to hold at a time, and the seed of the order within."""

    chunks: list[np.ndarray]
    seed: int

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(map(len, self.chunks))


class Batches:
    """Batches of some fields of a view.

    Arguments:
        view: The rows: a view of a dataset (a dataset means its good rows), or tensors by name.
        names: The fields.
        batch_size: Rows a batch, about: batches of an epoch differ by at most one row.
        seed: Of the order of rows.
        memory: Bytes to hold; what is larger streams from disk within that.
        device: Where batches go; those for a GPU leave from pinned memory.
        shuffle: Whether rows are in random order, else in their own.

    Attributes:
        rows: The row numbers in the dataset, (n,).
        steps: Batches an epoch.
        in_memory: Whether all rows are held in memory.

    Raises:
        DatasetError: If there are no rows, or not the fields.
        ValueError: If the batch size is not positive.
    """

    def __init__(
        self,
        view: View | Dataset | Mapping[str, Tensor],
        names: Sequence[str],
        batch_size: int,
        *,
        seed: int = 0,
        memory: int = 1 << 30,
        device: str | torch.device = "cpu",
        shuffle: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is at least 1; got {batch_size}")
        self.names, self.batch_size, self.seed = tuple(names), int(batch_size), seed
        self.memory, self.device, self.shuffle = memory, torch.device(device), shuffle
        self.pinned = self.device.type == "cuda"
        self._spare: list[dict[str, np.ndarray]] = []
        self._tensors: dict[str, Tensor] | None = None
        if isinstance(view, Mapping):
            self._tensors = {k: view[k].to(self.device) for k in self.names}
            self.rows = np.arange(len(self._tensors[self.names[0]]))
        else:
            self.view = view.good if isinstance(view, Dataset) else view
            self.rows = self.view.rows
            self._fields = {name: self.view[name] for name in self.names}
        n = len(self.rows)
        if n == 0:
            raise DatasetError("there are no good rows to make batches of")
        self.steps = max(1, round(n / self.batch_size))
        self.ends = np.arange(1, self.steps + 1) * n // self.steps
        if self._tensors is None:
            self._width = sum(
                column.field.size * column.dtype.itemsize for column in self._fields.values()
            )
            if n * self._width <= memory:
                self._tensors = {
                    name: _tensor(column[:]).to(self.device)
                    for name, column in self._fields.items()
                }

    @property
    def in_memory(self) -> bool:
        """Whether all rows are held in memory."""
        return self._tensors is not None

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch.

        Arguments:
            epoch: Which; its order follows from it and the seed.
            start: The step to start from.
        """
        generator = np.random.default_rng(
            np.random.SeedSequence(self.seed, spawn_key=(SHUFFLE, epoch))
        )
        if self._tensors is not None:
            return self._from_memory(self._tensors, generator, start)
        return self._from_disk(generator, start)

    def _from_memory(
        self, tensors: dict[str, Tensor], generator: np.random.Generator, start: int
    ) -> Iterator[dict[str, Tensor]]:
        n = len(self.rows)
        order = (
            torch.from_numpy(generator.permutation(n)).to(self.device) if self.shuffle else None
        )
        for step in range(start, self.steps):
            low, high = self._bounds(step)
            if order is None:
                yield {k: v[low:high] for k, v in tensors.items()}
            else:
                index = order[low:high]
                yield {k: v.index_select(0, index) for k, v in tensors.items()}

    def _bounds(self, step: int) -> tuple[int, int]:
        return (int(self.ends[step - 1]) if step else 0), int(self.ends[step])

    def _windows(self, generator: np.random.Generator) -> list[_Window]:
        """The windows of an epoch."""
        budget = self.memory // 3  # one in use, one on its way, and what reading takes
        size = max(1, min(_CHUNK, max(budget // 16, min(budget // 8, 1 << 18))) // self._width)
        count = -(-len(self.rows) // size)
        chunks = [self.rows[i * size : (i + 1) * size] for i in range(count)]
        order = generator.permutation(count) if self.shuffle else np.arange(count)
        self._longest = max(map(_extent, chunks))
        ends = np.cumsum([len(chunks[i]) for i in order])
        most = max(budget // self._width - 1, size)
        self._capacity = min(most, len(self.rows))
        out, k = [], 0
        while k < count:
            before = int(ends[k - 1]) if k else 0
            end = max(k + 1, int(np.searchsorted(ends, before + most, side="right")))
            seed = int(generator.integers(1 << 62))
            out.append(_Window([chunks[i] for i in np.sort(order[k:end])], seed))
            k = end
        return out

    def _empty(self, rows: int) -> dict[str, np.ndarray]:
        """Room for so many rows."""
        return {
            name: np.empty((rows, *column.field.shape), column.dtype)
            for name, column in self._fields.items()
        }

    def _buffer(self) -> dict[str, np.ndarray]:
        """Room for a window's rows, and one of no use: what no batch is a part of any more, or
        new.
        """
        for i, spare in enumerate(self._spare):
            if len(next(iter(spare.values()))) > self._capacity and _unused(spare):
                return self._spare.pop(i)
        return self._empty(self._capacity + 1)

    def _load(
        self, window: _Window, buffer: dict[str, np.ndarray], chunk: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """A window's rows, in the order in which they are served, by way of a chunk."""
        n, at = window.rows, 0
        if self.shuffle:
            places = np.random.default_rng(window.seed).permutation(n)
        else:
            places = np.arange(n)
        for rows in window.chunks:
            extent, first = _extent(rows), int(rows[0])
            to, at = places[at : at + len(rows)], at + len(rows)
            whole = int(rows[-1]) - first + 1 == extent
            if whole and extent > len(rows):  # the few rows in the span that are not wanted
                wanted, to = to, np.full(extent, n)
                to[rows - first] = wanted
            for name, array in buffer.items():
                piece = chunk[name][:extent]
                if whole:
                    self.view.dataset._read_range(name, first, first + extent, piece)
                else:
                    self.view.dataset.read_rows(name, rows, piece)
                array[to] = piece
        return buffer

    def _from_disk(
        self, generator: np.random.Generator, start: int
    ) -> Iterator[dict[str, Tensor]]:
        windows = self._windows(generator)
        ends = np.cumsum([window.rows for window in windows])
        position = self._bounds(start)[0] if start < self.steps else len(self.rows)
        w = int(np.searchsorted(ends, position, side="right"))
        following, chunk = iter(windows[w:]), self._empty(self._longest)
        with ThreadPoolExecutor(1, thread_name_prefix="simgen-read") as reader:

            def submit() -> Any:
                window = next(following, None)
                return window and reader.submit(self._load, window, self._buffer(), chunk)

            ahead = submit()
            held: dict[str, np.ndarray] = {}
            low = high = 0
            try:
                for step in range(start, self.steps):
                    parts: list[dict[str, Tensor]] = []
                    position, end = self._bounds(step)
                    while position < end:
                        if position >= high:
                            self._put_back(held)
                            held = ahead.result()
                            low, high = int(ends[w - 1]) if w else 0, int(ends[w])
                            w, ahead = w + 1, submit()
                        stop = min(end, high)
                        part = {
                            k: _tensor(v[position - low : stop - low]) for k, v in held.items()
                        }
                        end_of_next = int(self.ends[min(step + 1, self.steps - 1)])
                        if stop == high or end_of_next > high:  # the last leave it free
                            part = {k: v.clone() for k, v in part.items()}
                        parts.append(part)
                        position = stop
                    batch = {k: self._joined([part[k] for part in parts]) for k in self.names}
                    del parts, part
                    yield batch
                    del batch
            finally:
                if ahead:
                    ahead.cancel()
                    with suppress(Exception):
                        self._put_back(ahead.result())
                self._put_back(held)

    def _put_back(self, buffer: dict[str, np.ndarray]) -> None:
        """Keeps a buffer for another window."""
        if buffer:
            self._spare = [*self._spare, buffer][-2:]

    def _joined(self, parts: list[Tensor]) -> Tensor:
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.pinned:
            whole = whole.pin_memory()
        return whole.to(self.device, non_blocking=self.pinned)


def _extent(rows: np.ndarray) -> int:
    """How many rows are read for these: the span that they lie in, if they fill most of it."""
    span = int(rows[-1] - rows[0]) + 1
    return span if span <= _DENSE * len(rows) else len(rows)


def _unused(buffer: dict[str, np.ndarray]) -> bool:
    """Whether nothing but the buffer itself holds its arrays."""
    return all(sys.getrefcount(buffer[name]) <= 2 for name in buffer)


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor of a type that torch computes with."""
    wider: Any = _UNSIGNED.get(array.dtype.name)
    if wider is not None:
        array = array.astype(str(wider).removeprefix("torch."))
    return torch.from_numpy(array)
