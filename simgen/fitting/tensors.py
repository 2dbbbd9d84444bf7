"""Tensor files: safetensors with a JSON header, replaced whole or not at all."""

from __future__ import annotations

__all__ = ["read_header", "read_tensors", "write_tensors"]

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

_KEY = "simgen"


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> None:
    """Writes tensors and header under a temporary name, then renames."""
    whole = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
    data = safetensors.torch.save(whole, metadata={_KEY: json.dumps(header)})
    temporary = Path(f"{os.fspath(path)}.part{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON header.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or none of simgen's.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {os.fspath(path)!r}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} is damaged or no safetensors file: {error}"
        ) from None
    if _KEY not in metadata:
        raise ValueError(f"{os.fspath(path)!r} is a safetensors file, but no model of simgen's")
    header: dict[str, Any] = json.loads(metadata[_KEY])
    return header


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors by name."""
    tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    return tensors
