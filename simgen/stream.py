r"""Mini-batches of tensors, shuffled, from memory or from disk.

In memory a batch is a slice of a permutation, gathered once a field. From disk an epoch is a few
windows, each of chunks from all over the rows: whatever the order of the file, a window is a fair
sample. One is read while batches are gathered at random from the other, by two threads that work
ahead. Either way an epoch's order is a function of seed and epoch, and every row comes exactly
once.
"""

from __future__ import annotations

__all__ = ["Batches"]

import sys
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset, DatasetError, View
from .storage.view import Column
from .storage.window import Arrays, Window, Windows, empty, width_of

SHUFFLE = 4  # purpose of a random stream, beside those of a simulation
_WINDOW = 3 / 8  # of the memory there is: one in use, one on its way, and batches
_BATCHES = 1 / 16  # of it, to those under way
_THREADS = 2
_AHEAD = 4  # jobs under way
_JOB = 2 << 20  # bytes gathered in one, about
_Job = tuple[Future[list[Arrays]], list[Arrays]]
_UNSIGNED = {"uint16": torch.int32, "uint32": torch.int64, "uint64": torch.int64}


class Batches:
    """Batches of some fields of a view.

    Arguments:
        view: The rows: a view of a dataset (a dataset means its good rows), or tensors by name.
        names: The fields.
        batch_size: Rows a batch, about: batches of an epoch differ by at most one row.
        seed: Of the order of rows.
        memory: Bytes to hold; what is larger streams from disk within that, or with a few batches
            where those are large.
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
            self._width = sum(map(width_of, self._fields.values()))
            if n * self._width <= memory:
                self._tensors = {
                    name: _tensor(column[:]).to(self.device)
                    for name, column in self._fields.items()
                }
            else:
                budget = int(_WINDOW * memory)
                self._windows = Windows(self.view, self._fields, budget, self.shuffle)
                batch = max(1, self.batch_size * self._width)
                under_way = int(_BATCHES * memory)
                self._together = max(1, min(_JOB, under_way // _AHEAD) // batch)
                self._ahead = max(1, min(_AHEAD, under_way // batch))

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

    def _size(self, step: int) -> int:
        low, high = self._bounds(step)
        return high - low

    def _from_disk(
        self, generator: np.random.Generator, start: int
    ) -> Iterator[dict[str, Tensor]]:
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="simgen-read")
        rooms = [self._windows.room() for _ in range(2)]
        largest = int(np.diff(self.ends, prepend=0).max())
        spare = _Buffers(self._fields, min(largest, self._windows.capacity))
        jobs = self._jobs(pool, rooms, spare, generator, start)
        under_way: deque[_Job] = deque()
        parts: list[Arrays] = []
        step = start
        try:
            under_way.extend(islice(jobs, self._ahead))
            while under_way:
                future, buffers = under_way.popleft()
                pieces = future.result()[::-1]
                spare.put_back(buffers)
                under_way.extend(islice(jobs, 1))
                while pieces:
                    parts.append(pieces.pop())
                    if sum(len(part[self.names[0]]) for part in parts) == self._size(step):
                        batch = {k: self._joined([part[k] for part in parts]) for k in self.names}
                        parts.clear()
                        step += 1
                        yield batch
                        del batch
        finally:
            jobs.close()
            pool.shutdown(cancel_futures=True)
            for room in rooms:
                self._windows.put_back(room)

    def _jobs(
        self,
        pool: ThreadPoolExecutor,
        rooms: list[Arrays],
        spare: _Buffers,
        generator: np.random.Generator,
        start: int,
    ) -> Generator[_Job, None, None]:
        """What is under way: the pieces of one batch after the other, several at a time.

        A window is read when all is gathered from the one before the last, into its room.
        """
        hands = self._windows.deal(generator)
        seeds = generator.integers(1 << 62, size=len(hands)).tolist()
        ends = np.cumsum([self._windows.size(hand) for hand in hands])
        begin = self._bounds(start)[0] if start < self.steps else len(self.rows)
        cuts = np.union1d(ends, self.ends)
        cuts = np.union1d(cuts[cuts > begin], [begin])
        before = int(np.searchsorted(ends, begin, side="right"))

        def read(w: int) -> list[Future[Window]]:
            if w >= len(hands):
                return []
            return [pool.submit(self._windows.read, hands[w], seeds[w], rooms[w % 2])]

        ahead = read(before)
        last: deque[Future[Any]] = deque(maxlen=self._ahead)
        for w in range(before, len(hands)):
            first = int(ends[w - 1]) if w else 0
            inside = cuts[(cuts >= first) & (cuts <= ends[w])] - first
            window, previous = ahead.pop().result(), list(last)
            groups = range(0, len(inside) - 1, self._together)
            for i, g in enumerate(groups):
                bounds = list(pairwise(inside[g : g + self._together + 1].tolist()))
                buffers = [spare.take() for _ in bounds]
                last.append(pool.submit(_pieces, window, bounds, buffers))
                if i == min(self._ahead, len(groups) - 1):
                    wait(previous)
                    previous.clear()
                    ahead = read(w + 1)
                yield last[-1], buffers

    def _joined(self, parts: list[np.ndarray]) -> Tensor:
        tensors = [_tensor(part) for part in parts]
        whole = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        if self.pinned:
            whole = whole.pin_memory()
        return whole.to(self.device, non_blocking=self.pinned)


class _Buffers:
    """Memory for batches, which is used again and again: new memory costs more than filling it.

    Arguments:
        columns: The fields.
        rows: Of a batch, at most.
    """

    def __init__(self, columns: Mapping[str, Column], rows: int) -> None:
        self.columns, self.rows = columns, rows
        self._spare: deque[Arrays] = deque()

    def take(self) -> Arrays:
        """Room for a batch, of which nobody holds any, or new."""
        for _ in range(len(self._spare)):
            arrays = self._spare.popleft()
            if all(sys.getrefcount(arrays[k]) <= 2 for k in arrays):
                return arrays
            self._spare.append(arrays)
        return empty(self.columns, self.rows)

    def put_back(self, taken: list[Arrays]) -> None:
        """For when nobody holds a batch of it any more; what is held for long is forgotten."""
        self._spare.extend(taken)
        while len(self._spare) > 4 * max(_AHEAD, len(taken)):
            self._spare.popleft()


def _pieces(window: Window, bounds: list[tuple[int, int]], buffers: list[Arrays]) -> list[Arrays]:
    """What lies between places of a window, gathered into room for it."""
    out = [{k: v[: high - low] for k, v in a.items()} for (low, high), a in zip(bounds, buffers)]
    for (low, high), arrays in zip(bounds, out):
        window.take(low, high, arrays)
    return out


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor of a type that torch computes with."""
    wider: Any = _UNSIGNED.get(array.dtype.name)
    if wider is not None:
        array = array.astype(str(wider).removeprefix("torch."))
    return torch.from_numpy(array)
