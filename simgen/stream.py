r"""Mini-batches of tensors, shuffled, from memory or from disk.

In memory a batch is a slice of a permutation, gathered once a field. From disk, rows are cut
into chunks of neighbours; each epoch permutes the chunks, reads as many as fit a window, one
contiguous read each, and permutes the rows within it. Either way an epoch's order is a function
of seed and epoch, and every row comes exactly once.
"""

from __future__ import annotations

__all__ = ["Batches"]

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset, DatasetError, View

SHUFFLE = 4  # purpose of a random stream, beside those of a simulation
_CHUNK = 4 << 20  # bytes of one contiguous read, at most
_UNSIGNED = {"uint16": torch.int32, "uint32": torch.int64, "uint64": torch.int64}


class Batches:
    """Batches of some fields of a view.

    Arguments:
        view: The rows: a view of a dataset (a dataset means its good rows), or tensors by name.
        names: The fields.
        batch_size: Rows a batch, about: batches of an epoch differ by at most one row.
        seed: Of the order of rows.
        memory: Bytes to hold; what is larger streams from disk within that.
        device: Where batches go.
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

    def _windows(self, generator: np.random.Generator) -> list[tuple[list[np.ndarray], int]]:
        """The windows of an epoch: the rows of their chunks, a seed for the order within."""
        budget = self.memory // 3  # one in use, one on its way, and what reading takes
        size = max(1, min(_CHUNK, max(budget // 16, min(budget // 4, 1 << 18))) // self._width)
        count = -(-len(self.rows) // size)
        chunks = [self.rows[i * size : (i + 1) * size] for i in range(count)]
        order = generator.permutation(count) if self.shuffle else np.arange(count)
        each = max(1, budget // (size * self._width))
        return [
            ([chunks[i] for i in np.sort(order[k : k + each])], int(generator.integers(1 << 62)))
            for k in range(0, count, each)
        ]

    def _load(self, window: tuple[list[np.ndarray], int]) -> tuple[dict[str, Tensor], Tensor]:
        """A window's rows as they lie on disk, and the order in which to serve them."""
        chunks, seed = window
        ends = np.cumsum([len(chunk) for chunk in chunks])
        out = {}
        for name, column in self._fields.items():
            array = np.empty((int(ends[-1]), *column.field.shape), column.dtype)
            for chunk, end in zip(chunks, ends):
                self.view.dataset.read_rows(name, chunk, array[end - len(chunk) : end])
            out[name] = _tensor(array)
        n = int(ends[-1])
        order = np.random.default_rng(seed).permutation(n) if self.shuffle else np.arange(n)
        return out, torch.from_numpy(order)

    def _from_disk(
        self, generator: np.random.Generator, start: int
    ) -> Iterator[dict[str, Tensor]]:
        windows = self._windows(generator)
        ends = np.cumsum([sum(len(chunk) for chunk in chunks) for chunks, _ in windows])
        position = self._bounds(start)[0] if start < self.steps else len(self.rows)
        w = int(np.searchsorted(ends, position, side="right"))
        with ThreadPoolExecutor(1, thread_name_prefix="simgen-read") as reader:
            ahead = reader.submit(self._load, windows[w]) if w < len(windows) else None
            held: dict[str, Tensor] = {}
            order = torch.empty(0, dtype=torch.int64)
            low = high = 0
            for step in range(start, self.steps):
                parts: list[dict[str, Tensor]] = []
                position, end = self._bounds(step)
                while position < end:
                    if position >= high:
                        assert ahead is not None
                        held = {}
                        held, order = ahead.result()
                        low, high = int(ends[w - 1]) if w else 0, int(ends[w])
                        w += 1
                        ahead = reader.submit(self._load, windows[w]) if w < len(windows) else None
                    stop = min(end, high)
                    index = order[position - low : stop - low]
                    parts.append({k: v.index_select(0, index) for k, v in held.items()})
                    position = stop
                yield {k: self._joined([part[k] for part in parts]) for k in self.names}

    def _joined(self, parts: list[Tensor]) -> Tensor:
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(self.device)


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor of a type that torch computes with."""
    wider: Any = _UNSIGNED.get(array.dtype.name)
    if wider is not None:
        array = array.astype(str(wider).removeprefix("torch."))
    return torch.from_numpy(array)
