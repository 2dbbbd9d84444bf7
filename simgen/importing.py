"""Importing: a dataset from the arrays of a foreign HDF5 or NumPy file."""

from __future__ import annotations

__all__ = ["import_arrays", "read_npz"]

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .dataset import Dataset, DatasetError

if TYPE_CHECKING:
    from .prior import Prior


def import_arrays(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    fields: Mapping[str, str],
    prior: Prior | None = None,
) -> Dataset:
    """Makes a dataset of arrays in a file.

    Arguments:
        source: A .npz file, or an HDF5 file.
        path: The directory to make.
        fields: Names of arrays in the file by the names of the fields they become, {"x": "maps"};
            of a .npz file all arrays by their own names, if none is named.
        prior: The prior that theta was drawn from.

    Raises:
        DatasetError: If the file cannot be read, lacks an array, or its arrays do not fit.
    """
    source = Path(source)
    if not source.is_file():
        raise DatasetError(f"there is no file {source}")
    arrays: dict[str, Any] = (
        _npz(source, fields) if source.suffix == ".npz" else _hdf5(source, fields, prior)
    )
    return Dataset.create(Path(path), prior=prior, **arrays)


def _npz(source: Path, fields: Mapping[str, str]) -> dict[str, np.ndarray]:
    try:
        arrays = read_npz(source)
    except ValueError as error:
        raise DatasetError(str(error)) from None
    chosen = dict(fields) or {k: k for k in arrays}
    if missing := [k for k in chosen.values() if k not in arrays]:
        raise DatasetError(f"{source} has no array {missing[0]!r}; it has {', '.join(arrays)}")
    return {name: arrays[array] for name, array in chosen.items()}


def read_npz(source: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by name.

    Raises:
        ValueError: If the file is damaged or something else.
    """
    try:
        with open(source, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {k: arrays[k] for k in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{source} cannot be read as .npz: {error}") from None


def _hdf5(source: Path, fields: Mapping[str, str], prior: Prior | None) -> dict[str, np.ndarray]:
    dataset = Dataset(source, fields=dict(fields) or None, prior=prior)
    try:
        return {name: dataset[name][:] for name in dataset.stored}
    finally:
        dataset.close()
