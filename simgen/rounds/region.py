r"""Region: the highest-density region of a posterior for one observation.

.. math::
    R = \{\vartheta : \log q(\vartheta \mid x_o) > \tau\}, \qquad
    Q\bigl(\log q(\vartheta \mid x_o) \le \tau\bigr) = \epsilon

A later process must be able to tell whether any theta is inside: the file of a region holds the
density, embedded observation included, and needs neither the embedding nor the dataset.
"""

from __future__ import annotations

__all__ = ["Region", "density_of", "described", "load_region", "region_bytes"]

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..distribution import ConditionalDistribution
from ..expression import parse
from ..field import Field
from ..fitting.head import Head
from ..fitting.pipeline import Pipeline
from ..fitting.source import members
from ..models import FAMILIES
from ..models.settings import describe_family, rebuild_family
from ..storage.manifest import plain
from ..storage.shard import DatasetError

_KEY = "simgen-region"
_THETA = parse("theta")


@dataclass(frozen=True)
class Region:
    """Where a density of theta is above a threshold.

    Arguments:
        q: The density, over theta (d,).
        threshold: Of its logarithm.
    """

    q: Any
    threshold: float

    def log_q(self, theta: Tensor) -> Tensor:
        """log q (n,) of theta (n, d) as float32 holds it, so that stored rows stay inside."""
        with torch.no_grad():
            return self.q.log_prob(theta.float().double())

    def contains(self, theta: Tensor) -> Tensor:
        """Whether theta (n, d) is inside, (n,)."""
        return self.log_q(theta) > self.threshold


def region_bytes(q: ConditionalDistribution) -> bytes:
    """The file of a posterior for one observation: everything that its density needs.

    Raises:
        TypeError: If it is no fitted posterior called with an observation.
        ValueError: If its density cannot be stored: it is a batch, is not over theta, has no
            density, or is of a family or a joint model that this file cannot rebuild.
    """
    if not isinstance(q, ConditionalDistribution):
        raise TypeError(
            'a proposal is a fitted "theta | x" called with the observation, posterior(x); got '
            f"{type(q).__name__}"
        )
    pipeline = q._pipeline
    if pipeline.expression.target != ("theta",):
        raise ValueError(
            f"a proposal is over theta, 'theta | x'; got {str(pipeline.expression)!r}"
        )
    if q.batch_shape.numel() != 1:
        raise ValueError(f"a proposal is for one observation; got {tuple(q.batch_shape)} of them")
    if q.density is None:
        raise ValueError("a proposal needs a density: use a model that has one, such as Flow()")
    contexts = [context for context, _ in q._given]
    made = q.conditional
    if made is None or made._joint is not None or any(c is None for c in contexts):
        raise ValueError(
            "a proposal is what a fitted posterior returns for an observation, posterior(x); of a "
            "joint model its density cannot be stored"
        )
    family = describe_family(made.family)
    unknown = [f for f in _families(family) if f not in FAMILIES]
    if unknown or "module" in json.dumps(family):
        raise ValueError(
            f"the density of a proposal is stored in the dataset, and {made.family} is "
            "not one of simgen's own families: use one of these for the posterior"
        )
    slim = _slim(copy.deepcopy(pipeline.target), pipeline.fields["theta"], len(q._heads))
    for head, model in zip(slim.heads, q._heads):
        head.model = copy.deepcopy(model.model)
    slim = slim.cpu()
    tensors = {k: v.detach().clone().contiguous() for k, v in slim.state_dict().items()}
    tensors |= {f"context.{i}": c.detach().cpu().clone() for i, c in enumerate(contexts)}  # type: ignore[union-attr]
    header = {
        "schema": 1,
        "pipeline": slim.config,
        "family": family,
        "columns": {k: list(v) for k, v in q._columns.items()},
    }
    return safetensors.torch.save(tensors, metadata={_KEY: json.dumps(header, sort_keys=True)})


def described(observed: Mapping[str, Any]) -> dict[str, Any]:
    """An observation as a dataset's rounds record it: as JSON values, large ones as a digest."""
    arrays = {
        k: v.detach().cpu().numpy() if isinstance(v, Tensor) else v for k, v in observed.items()
    }
    return {k: plain(_rounded(v)) for k, v in sorted(arrays.items())}


def _rounded(value: Any) -> Any:
    """Numbers as the networks see them, float32: the type that they come in does not count."""
    return torch.as_tensor(value).float().numpy()


def _families(family: Mapping[str, Any]) -> list[str]:
    """The names of a family and of those inside of it."""
    inner = [f for v in family.values() if isinstance(v, Mapping) for f in _families(v)]
    return [*([str(family["name"])] if "name" in family else []), *inner]


def _slim(target: Any, field: Field, heads: int) -> Pipeline:
    """A pipeline of theta alone, whose heads take their context as it is."""
    return Pipeline(_THETA, {"theta": field}, target, {}, [Head(_THETA, {}) for _ in range(heads)])


def load_region(directory: Path, proposal: Mapping[str, Any]) -> Region:
    """The region of a round.

    Arguments:
        directory: The dataset.
        proposal: What its dataset.json says of the round's proposal.

    Raises:
        DatasetError: If its file is missing, or is not what was written.
    """
    path = directory.absolute() / str(proposal["file"])
    q = _load(path, str(proposal["sha256"]), _stamp(path))
    return Region(q, float(proposal["threshold"]))


def _stamp(path: Path) -> int:
    """When a file was last written; 0 where there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


@lru_cache(maxsize=32)
def _load(path: Path, sha256: str, stamp: int) -> ConditionalDistribution:
    advice = (
        "it says where the simulations of that round were; put back the file, or use the rows of "
        'round 0 alone (fit "x" or "x | theta" do without it)'
    )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"the region {path} is missing ({error.strerror}): {advice}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DatasetError(f"the region {path} is damaged, or of another round: {advice}")
    return density_of(content)


def density_of(content: bytes) -> ConditionalDistribution:
    """The density that a region's file holds."""
    tensors = safetensors.torch.load(content)
    size = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][_KEY])
    family, count = members(rebuild_family(header["family"], FAMILIES, {}))
    contexts = [tensors.pop(f"context.{i}") for i in range(count)]
    empty: Sequence[dict[str, Any]] = [{} for _ in range(count)]
    pipeline = Pipeline.from_config(header["pipeline"], empty, tensors["target.constant"])
    shape = pipeline.modelled_shape
    target = Field(tuple(shape), names=("theta",) * shape.numel())
    for head, context in zip(pipeline.heads, contexts):
        head.model = family.build(target, {"context": Field((context.shape[-1],))})
    pipeline.load_state_dict(tensors)
    columns = {k: tuple(v) for k, v in header["columns"].items()}
    given: Any = [(context, None) for context in contexts]
    pipeline.eval().requires_grad_(False)
    return ConditionalDistribution(pipeline, given, torch.Size(), columns, torch.device("cpu"))
