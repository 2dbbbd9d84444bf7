"""Arrays: what they say about the fields of a dataset."""

from __future__ import annotations

__all__ = ["as_stored", "default_shard_size", "fields_of", "theta_field"]

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..field import Field, infer_field
from .shard import COLUMNS, DatasetError

if TYPE_CHECKING:
    from ..prior import Prior

SHARD_BYTES, SHARD_ROWS = 32 << 20, 2048
"""A shard holds at most so many bytes of fields and so many rows, but at least one block."""


def default_shard_size(fields: Mapping[str, Field], block: int) -> int:
    """Rows a shard: a multiple of the block, by the size of a row alone."""
    width = sum(f.size * np.dtype(f.dtype or "float32").itemsize for f in fields.values())
    rows = min(SHARD_ROWS, SHARD_BYTES // max(1, width))
    return max(1, rows // block) * block


def theta_field(d: int, prior: Prior | None, names: Sequence[str] | None = None) -> Field:
    """The field theta (d,): names, labels, units and bounds from the prior."""
    if prior is None:
        names = tuple(names) if names else tuple(f"theta_{i}" for i in range(d))
        return Field((d,), names=names, dtype="float32")
    if len(prior.names) != d:
        raise DatasetError(
            f"theta has {d} columns, the prior {len(prior.names)} parameters: "
            f"{', '.join(prior.names)}"
        )
    support = (tuple(prior.low.tolist()), tuple(prior.high.tolist()))
    return Field(
        (d,),
        support=support,
        names=tuple(prior.names),
        labels=tuple(prior.labels),
        units=tuple(prior.units),
        dtype="float32",
    )


def as_stored(array: np.ndarray, name: str = "") -> np.ndarray:
    """An array in the type that it is stored in: floats as float32, bytes in native order."""
    if array.dtype.kind == "f" and array.dtype != np.float32:
        with np.errstate(over="ignore"):
            return array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise DatasetError(
            f"field {name!r} has type {array.dtype}; fields are numbers or booleans"
        )
    if name == "theta" and array.dtype != np.float32:
        return array.astype(np.float32)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def fields_of(
    columns: Mapping[str, np.ndarray],
    prior: Prior | None,
    where: str,
    declared: Mapping[str, Field] | None = None,
) -> dict[str, Field]:
    """The fields that arrays show."""
    out = {}
    if reserved := [k for k in columns if k in (*COLUMNS, "errors")]:
        raise DatasetError(f"{where}: {reserved[0]!r} is a name that datasets use themselves")
    if prior is not None and (clash := [k for k in columns if k in prior.names]):
        raise DatasetError(f"{where}: {clash[0]!r} is a parameter; give the field another name")
    for name, array in columns.items():
        if name == "theta":
            if array.ndim not in (1, 2):
                raise DatasetError(f"{where}: theta must be (n, d); got {array.shape}")
            out[name] = theta_field(1 if array.ndim == 1 else array.shape[1], prior)
            continue
        try:
            first = as_stored(array[:1], name)
            out[name] = infer_field(first, (declared or {}).get(name), f"{name}_length" in columns)
        except ValueError as error:
            raise DatasetError(f"{where}: field {name!r}: {error}") from None
    return out
