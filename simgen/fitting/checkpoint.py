"""Checkpoint: everything a fit needs to go on as if it had not stopped, in one safetensors file
with JSON.

Weights, their average, the best so far, the optimiser's moments, step, history, and the
preprocessing that the first run estimated. The file is replaced whole, so that killing the
process leaves the last one.
"""

from __future__ import annotations

__all__ = ["Checkpoint", "read", "write"]

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..networks import build
from .pipeline import Pipeline
from .tensors import read_header, read_tensors, write_tensors

if TYPE_CHECKING:
    from ..training import Training

_STATE = ("step", "elapsed", "best_loss", "stale", "history", "total", "count")


def write(path: str | os.PathLike[str], training: Training) -> None:
    """Writes the state of a training, replacing the file whole."""
    tensors = {
        f"pipeline.{k}": v
        for k, v in training.pipeline.state_dict().items()
        if not k.startswith("heads.")
    }
    tensors |= {f"weights.{k}": v for k, v in training.members.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in training.average.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in training.best.items()}
    for i, state in training.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
    header = {
        "identity": training.identity,
        "pipeline": training.pipeline.config,
        **{k: getattr(training, k) for k in _STATE},
    }
    write_tensors(path, tensors, header)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read: JSON header and tensors."""

    header: dict[str, Any]
    tensors: dict[str, Tensor]

    def pipeline(self, embedding: Sequence[Mapping[str, nn.Module]], family: Any) -> Pipeline:
        """The pipeline as the first run had prepared it; `restore` fills in the weights.

        Arguments:
            embedding: Each head's embeddings as a first run would start from; simgen's own are
                rebuilt as they had become.
            family: The family of one member.
        """
        stored = self.header["pipeline"]["embedding"]
        rebuilt = [
            {**said, **{k: build(v) for k, v in config.items() if "class" in v}}
            for said, config in zip(embedding, stored)
        ]
        constant = self.tensors["pipeline.target.constant"]
        pipeline = Pipeline.from_config(self.header["pipeline"], rebuilt, constant)
        pipeline.attach(family).load_state_dict(self._part("pipeline"), strict=False)
        return pipeline

    def restore(self, training: Training) -> None:
        """Puts a training of that pipeline where the file says it was."""
        training.members.load_state_dict(self._part("weights"))
        training.average.load_state_dict(self._part("average"))
        device = training.device
        training.best = {k: v.to(device) for k, v in self._part("best").items()}
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in self._part("optimizer").items():
            i, name = key.split(".")
            state.setdefault(int(i), {})[name] = value
        groups = training.optimizer.state_dict()["param_groups"]
        training.optimizer.load_state_dict({"state": state, "param_groups": groups})
        for key in _STATE:
            setattr(training, key, self.header[key])

    def _part(self, name: str) -> dict[str, Tensor]:
        return {k[len(name) + 1 :]: v for k, v in self.tensors.items() if k.startswith(f"{name}.")}


def read(path: str | os.PathLike[str], identity: Mapping[str, Any]) -> Checkpoint | None:
    """Reads a checkpoint; None where there is no file.

    Raises:
        ValueError: If the file is damaged, or belongs to another fit: it says what differs.
    """
    if not os.path.exists(path):
        return None
    header, tensors = read_header(path), read_tensors(path)
    there = header.get("identity", {})
    for key, value in identity.items():
        if there.get(key) != json.loads(json.dumps(value)):
            raise ValueError(
                f"the checkpoint {os.fspath(path)!r} is of another fit: "
                f"its {key} is {there.get(key)}, "
                f"here it is {value}; name another file, or delete it to start anew"
            )
    return Checkpoint(header, tensors)
