"""Importing: a dataset of ours from foreign files, a shard at a time."""

from __future__ import annotations

__all__ = ["import_arrays", "read_npz"]

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..dataset import Dataset, DatasetError

if TYPE_CHECKING:
    from ..prior import Prior


def import_arrays(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    fields: Mapping[str, str | Sequence[str]],
    prior: Prior | None = None,
) -> Dataset:
    """Makes a dataset of arrays in foreign files; memory holds one shard of them.

    Arguments:
        source: A file (HDF5, .npy, .npz, ROOT, FITS), or a folder of .npy or .npz files.
        path: The directory to make.
        fields: Names of arrays there by the names of the fields they become, {"x": "maps"}; of
            NumPy files all arrays by their own names, if none is named.
        prior: The prior that theta was drawn from.

    Raises:
        DatasetError: If a file cannot be read, lacks an array, or its arrays do not fit.
    """
    source = Path(source)
    if not source.exists():
        raise DatasetError(f"there is no file {source}")
    foreign = Dataset(source, fields=dict(fields) or None, prior=prior)
    if foreign.manifest is not None:
        raise DatasetError(f"{source} is a dataset already: open it as it is")
    try:
        columns = {name: foreign[name] for name in foreign.stored}
        return Dataset.create(Path(path), prior=prior, **columns)  # type: ignore[arg-type]
    finally:
        foreign.close()


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
