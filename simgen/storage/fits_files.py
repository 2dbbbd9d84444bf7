"""FITS files: images and columns of tables, by astropy, as arrays of rows."""

from __future__ import annotations

__all__ = ["Fits"]

import weakref
from pathlib import Path
from typing import Any

import numpy as np

from .foreign import Arrays


class Fits(Arrays):
    """A FITS file: "hdu" is an image, "hdu/column" of a table; of one table, "column" is enough.

    An HDU goes by its name, or by its number where it has none of its own.

    Raises:
        ImportError: If astropy is not installed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        from astropy.io import fits

        # a handle of our own: astropy keeps one open as long as something is mapped
        handle = open(path, "rb")
        self._closed = weakref.finalize(self, handle.close)
        self.file = fits.open(handle, memmap=True)
        labels = [hdu.name for hdu in self.file]
        tables: dict[str, Any] = {}
        self.images: dict[str, Any] = {}
        for i, hdu in enumerate(self.file):
            label = hdu.name if hdu.name and labels.count(hdu.name) == 1 else str(i)
            if hasattr(hdu, "columns"):
                tables[label] = hdu
            elif hdu.shape:
                self.images[label] = hdu
        self.columns = {
            f"{label}/{column}": (hdu, column)
            for label, hdu in tables.items()
            for column in hdu.columns.names
        }
        self._named = list(self.images) + list(self.columns)
        if len(tables) == 1:
            self.columns |= {column: (hdu, column) for hdu, column in self.columns.values()}

    def names(self) -> list[str]:
        """Images, and columns with their tables."""
        return self._named

    def array(self, name: str) -> Any:
        """An image, or a column."""
        if name in self.images:
            return _Rows(self.images[name])
        hdu, column = self.columns[name]
        return _TableColumn(hdu, column)

    def close(self) -> None:
        """Closes the file."""
        self.images, self.columns = {}, {}
        self.file.close()
        self._closed()


class _Rows:
    """An image (n, ...), of which sections are read."""

    def __init__(self, hdu: Any) -> None:
        self.hdu, self.shape = hdu, tuple(hdu.shape)
        self.dtype = _native(hdu.section[(slice(0, 1),) * len(self.shape)]).dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        return _native(self.hdu.section[rows])


class _TableColumn:
    """A column of a table."""

    def __init__(self, hdu: Any, name: str) -> None:
        self.hdu, self.name = hdu, name
        head = self[0:1]
        self.shape, self.dtype = (len(hdu.data), *head.shape[1:]), head.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        return _native(self.hdu.data[rows][self.name])


def _native(array: Any) -> np.ndarray:
    """A copy in this machine's order of bytes, which FITS's is not."""
    array = np.asarray(array)
    return array.astype(array.dtype.newbyteorder("="))
