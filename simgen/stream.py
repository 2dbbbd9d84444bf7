r"""Mini-batches of tensors, shuffled, from memory or from disk.

In memory a batch is a slice of a permutation, gathered once a field. From disk, rows are cut
into chunks of neighbours; each epoch permutes the chunks, reads as many as fit a window, one
contiguous read each, and permutes the rows within it. One window is served while a thread fills
the other; both are filled again and again, as fresh memory costs more than reading into it.
Either way an epoch's order is a function of seed and epoch, and every row comes exactly once.
"""

from __future__ import annotations

__all__ = ["Batches"]

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
        extents = np.array([_extent(chunk) for chunk in chunks])
        ends, most = np.cumsum(extents[order]), max(budget // self._width, int(extents.max()))
        self._capacity = min(most, int(ends[-1]))
        out, k = [], 0
        while k < count:
            before = int(ends[k - 1]) if k else 0
            end = max(k + 1, int(np.searchsorted(ends, before + most, side="right")))
            seed = int(generator.integers(1 << 62))
            out.append(_Window([chunks[i] for i in np.sort(order[k:end])], seed))
            k = end
        return out

    def _buffer(self) -> dict[str, np.ndarray]:
        """Room for a window's rows: one that is not in use, or a new one."""
        while self._spare:
            spare = self._spare.pop()
            if len(next(iter(spare.values()))) >= self._capacity:
                return spare
        return {
            name: np.empty((self._capacity, *column.field.shape), column.dtype)
            for name, column in self._fields.items()
        }

    def _load(
        self, window: _Window, buffer: dict[str, np.ndarray]
    ) -> tuple[dict[str, np.ndarray], Tensor]:
        """A window's rows, as they lie on disk, and the places in which to serve them."""
        places, end = [], 0
        for rows in window.chunks:
            start, extent = end, _extent(rows)
            end += extent
            first, whole = int(rows[0]), int(rows[-1] - rows[0]) + 1 == extent
            places.append(start + (rows - first if whole else np.arange(len(rows))))
            for name, array in buffer.items():
                if whole:  # the span, with the few rows in it that are not wanted
                    self.view.dataset._read_range(name, first, first + extent, array[start:end])
                else:
                    self.view.dataset.read_rows(name, rows, array[start:end])
        order = np.concatenate(places)
        if self.shuffle:
            order = np.random.default_rng(window.seed).permutation(order)
        return buffer, torch.from_numpy(order)

    def _from_disk(
        self, generator: np.random.Generator, start: int
    ) -> Iterator[dict[str, Tensor]]:
        windows = self._windows(generator)
        ends = np.cumsum([sum(len(chunk) for chunk in w.chunks) for w in windows])
        position = self._bounds(start)[0] if start < self.steps else len(self.rows)
        w = int(np.searchsorted(ends, position, side="right"))
        following = iter(windows[w:])
        buffers = [self._buffer() for _ in range(min(2, len(windows) - w))]
        spare = list(buffers)
        with ThreadPoolExecutor(1, thread_name_prefix="simgen-read") as reader:

            def submit() -> Any:
                window = next(following, None)
                return window and reader.submit(self._load, window, spare.pop())

            ahead = submit()
            held: dict[str, np.ndarray] = {}
            order = torch.empty(0, dtype=torch.int64)
            low = high = 0
            try:
                for step in range(start, self.steps):
                    parts: list[dict[str, Tensor]] = []
                    position, end = self._bounds(step)
                    while position < end:
                        if position >= high:
                            if held:
                                spare.append(held)
                            held, order = ahead.result()
                            low, high = int(ends[w - 1]) if w else 0, int(ends[w])
                            w, ahead = w + 1, submit()
                        stop = min(end, high)
                        index = order[position - low : stop - low]
                        parts.append({k: _taken(v, index) for k, v in held.items()})
                        position = stop
                    yield {k: self._joined([part[k] for part in parts]) for k in self.names}
            finally:
                if ahead:
                    ahead.cancel()
                    with suppress(Exception):
                        ahead.result()
                self._spare = buffers

    def _joined(self, parts: list[Tensor]) -> Tensor:
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.pinned:
            whole = whole.pin_memory()
        return whole.to(self.device, non_blocking=self.pinned)


def _extent(rows: np.ndarray) -> int:
    """How many rows are read for these: the span that they lie in, if they fill most of it."""
    span = int(rows[-1] - rows[0]) + 1
    return span if span <= _DENSE * len(rows) else len(rows)


def _taken(array: np.ndarray, index: Tensor) -> Tensor:
    """Rows of an array, as a tensor of their own."""
    if array.dtype.name in _UNSIGNED:
        return _tensor(array[index.numpy()])
    return torch.from_numpy(array).index_select(0, index)


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor of a type that torch computes with."""
    wider: Any = _UNSIGNED.get(array.dtype.name)
    if wider is not None:
        array = array.astype(str(wider).removeprefix("torch."))
    return torch.from_numpy(array)
