"""ROOT files: branches of trees, by uproot, as arrays of rows."""

from __future__ import annotations

__all__ = ["Root"]

from pathlib import Path
from typing import Any

import numpy as np

from .foreign import Arrays

_ROWS = 1 << 16


class Root(Arrays):
    """A ROOT file: "tree/branch"; of a file with one tree, "branch" is enough.

    Raises:
        ImportError: If uproot is not installed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        import uproot

        self.file = uproot.open(path, handler=uproot.MemmapSource)
        kinds = ("TTree", "ROOT::RNTuple", "ROOT::Experimental::RNTuple")
        found = self.file.classnames(recursive=True)
        trees = sorted({k.split(";")[0] for k, kind in found.items() if kind in kinds})
        self.branches = {f"{tree}/{k}": (tree, k) for tree in trees for k in self._keys(tree)}
        if len(trees) == 1:
            self.branches |= {k: (tree, k) for tree, k in self.branches.values()}
        self._open: dict[str, Any] = {}

    def _keys(self, tree: str) -> list[str]:
        return [str(k) for k in self.file[tree].keys()]

    def names(self) -> list[str]:
        """Branches with their trees."""
        return [f"{tree}/{branch}" for tree, branch in dict.fromkeys(self.branches.values())]

    def described(self) -> str:
        """The names alone: shapes would have to be read."""
        return ", ".join(self.names()) or "no branches"

    def array(self, name: str) -> Any:
        """A branch; or, as "#branch", how many elements each of its rows has."""
        if name.startswith("#"):
            array = self.array(name[1:])
            if not hasattr(array, "lengths"):
                raise KeyError(name)
            return array.lengths
        if name not in self._open:
            tree, branch = self.branches[name]
            self._open[name] = _of(self.file[tree][branch])
        return self._open[name]

    def close(self) -> None:
        """Closes the file."""
        self._open = {}
        self.file.close()


def _of(branch: Any) -> Branch:
    """A branch, by the type of its first rows."""
    rows = branch.array(entry_stop=min(1, branch.num_entries), library="ak")
    return Jagged(branch) if "var" in str(rows.type) else Branch(branch)


class Branch:
    """A branch with as many numbers in each row."""

    def __init__(self, branch: Any) -> None:
        self.branch = branch
        head = self._read(0, min(1, branch.num_entries))
        self.shape: tuple[int, ...] = (int(branch.num_entries), *head.shape[1:])
        self.dtype: np.dtype = head.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def _rows(self, low: int, high: int) -> Any:
        return self.branch.array(entry_start=low, entry_stop=high, library="ak")

    def _read(self, low: int, high: int) -> np.ndarray:
        import awkward

        return awkward.to_numpy(self._rows(low, high))

    def __getitem__(self, rows: slice) -> np.ndarray:
        low, high, step = rows.indices(len(self))
        return self._read(low, max(low, high))[::step]


class Jagged(Branch):
    """A branch of lists of numbers (n, K): behind the end of a list stand zeros."""

    def __init__(self, branch: Any) -> None:
        import awkward

        self.branch, n = branch, int(branch.num_entries)
        counts = [
            awkward.to_numpy(awkward.num(self._rows(a, min(a + _ROWS, n)), axis=1))
            for a in range(0, n, _ROWS)
        ]
        self.lengths = np.concatenate(counts).astype(np.int32)
        self.longest = int(self.lengths.max(initial=0))
        super().__init__(branch)

    def _read(self, low: int, high: int) -> np.ndarray:
        import awkward

        padded = awkward.pad_none(self._rows(low, high), self.longest, axis=1, clip=True)
        return awkward.to_numpy(awkward.fill_none(padded, 0, axis=1))
