r"""Rounds: simulations where the posterior of one observation lives, in the same dataset.

.. math::
    \vartheta \sim p(\vartheta) \;\; (\text{round } 0), \qquad
    \vartheta \sim p(\vartheta)\, 1[\vartheta \in R_k] / Z_k \;\; (\text{round } k), \qquad
    R_1 \supset R_2 \supset \dots

Inside R_k every round up to k is proportional to the prior: of these rows together, those inside
are draws of the truncated prior, and need no weights.
"""

from __future__ import annotations

__all__ = ["add_round", "first_round", "inside", "rows_following", "rows_for", "truncated"]

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..expression import Expression
from ..models.settings import describe_family
from ..prior import Prior
from ..storage.shard import DatasetError, put
from .region import density_of, described, load_region, region_bytes
from .truncation import QUANTILE, TruncatedPrior, measure

if TYPE_CHECKING:
    from ..dataset import Dataset
    from ..storage.manifest import Manifest

_CHUNK = 1 << 18  # rows of theta to look at together


def add_round(
    manifest: Manifest,
    directory: Path,
    prior: Prior | None,
    proposal: Any,
    n: int,
    quantile: float = QUANTILE,
) -> Manifest:
    """The manifest with a round more, whose region is stored; as it is if it has that round.

    Arguments:
        manifest: Of the dataset.
        directory: Where it is.
        prior: The simulator's.
        proposal: A posterior for one observation, `posterior(x)`.
        n: How many rows the dataset is to have.
        quantile: The share of the posterior's draws that its region leaves out.

    Raises:
        TypeError, ValueError: If the proposal is none that can be stored.
        DatasetError: If there are n rows already, or rounds for another observation.
    """
    if prior is None:
        raise ValueError("a proposal is for theta; this simulator has no prior")
    content = region_bytes(proposal)
    if tuple(proposal.names) != tuple(prior.names):
        raise ValueError(
            f"the proposal is over {', '.join(proposal.names)}; the prior over "
            f"{', '.join(prior.names)}"
        )
    digest, observation = hashlib.sha256(content).hexdigest(), described(proposal.observed or {})
    later = manifest.rounds[1:]
    if any(entry["proposal"]["sha256"] == digest for entry in later[:-1]):
        return manifest
    if later and later[-1]["proposal"]["sha256"] == digest:
        return manifest.extended(n)
    if later and later[0]["observation"] != observation:
        raise DatasetError(
            f"the rounds of {directory} are for another observation: one dataset follows one; "
            "use another path"
        )
    if n <= manifest.rows:
        raise DatasetError(
            f"{directory} has {manifest.rows} rows already, and this proposal is new: n counts "
            f"all rows of the dataset, so a round of m takes n={manifest.rows} + m"
        )
    name = f"round-{len(manifest.rounds)}.safetensors"
    stored: dict[str, Any] = {
        "kind": "the prior inside log q(theta | x) > threshold, and inside the regions before",
        "file": name,
        "sha256": digest,
        "quantile": quantile,
    }
    before = [load_region(directory, entry["proposal"]) for entry in later]
    found = measure(prior, density_of(content), before, quantile, manifest.seed or 0)
    stored |= {**asdict(found), "model": _about(proposal.conditional)}
    put(directory / name, content)
    entry = {"first": manifest.rows, "observation": observation, "proposal": stored}
    return replace(manifest, rounds=[*manifest.rounds, entry]).extended(n)


def _about(conditional: Any) -> dict[str, Any]:
    """What a round records of the model that proposed it."""
    training = conditional.provenance.get("training", {})
    return {
        "family": describe_family(conditional.family),
        "rows": training.get("rows"),
        "held_out_loss": training.get("best_validation_loss"),
    }


def _truncation(path: Path, rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Where the regions of rounds are, as JSON values; None where there are none."""
    proposals = [dict(entry["proposal"]) for entry in rounds[1:]]
    return {"path": str(path.absolute()), "proposals": proposals} if proposals else None


def truncated(prior: Prior, path: Path, rounds: Sequence[Mapping[str, Any]]) -> Prior:
    """The prior that the last of some rounds draws from."""
    stored = _truncation(path, rounds)
    return prior if stored is None else TruncatedPrior.of_rounds(prior, stored)


def inside(stored: Mapping[str, Any], theta: np.ndarray) -> np.ndarray:
    """Which parameters (n, d) lie in every region, (n,).

    Raises:
        DatasetError: If the file of a region is missing or damaged.
    """
    regions = [load_region(Path(stored["path"]), p) for p in stored["proposals"]]
    out = np.ones(len(theta), dtype=bool)
    for region in reversed(regions):
        at = np.flatnonzero(out)
        for start in range(0, len(at), _CHUNK):
            part = at[start : start + _CHUNK]
            out[part] = region.contains(torch.from_numpy(theta[part])).numpy()
    return out


def rows_for(dataset: Dataset, expression: Expression) -> Dataset:
    """The same dataset with the rows that an expression can be learned from.

    With a parameter as target those inside the last region, and the prior truncated to it; with
    all parameters given every row, as p(x | theta) knows no prior; else those of round 0.
    """
    rounds = dataset.rounds
    theta = dataset.fields.get("theta")
    if len(rounds) < 2 or theta is None:
        return dataset
    names = set(theta.names or ())
    if {"theta", *names} & set(expression.target):
        return _within(dataset)
    if "theta" in expression.given or names <= set(expression.given):
        return dataset
    return first_round(dataset)


def first_round(dataset: Dataset) -> Dataset:
    """The same dataset with the rows of round 0, which follow the prior."""
    rounds = dataset.rounds
    if len(rounds) < 2:
        return dataset
    return _chosen(dataset, np.arange(len(dataset)) < rounds[1]["first"])


def rows_following(
    dataset: Dataset, stored: Mapping[str, Any] | None, same: bool = True
) -> Dataset:
    """The same dataset with the rows whose theta follows the prior of a model.

    Arguments:
        dataset: Any.
        stored: The truncation of the model's prior; None for none: those of round 0.
        same: Whether the model was trained on this dataset, whose rounds it then knew.
    """
    rounds = dataset.rounds
    if stored is None:
        return first_round(dataset)
    known = len(stored["proposals"]) + 1 if same else 1
    end = rounds[known]["first"] if len(rounds) > known else len(dataset)
    kept = np.arange(len(dataset)) < end
    kept[:end] = inside(stored, dataset["theta"][:end])
    return _chosen(dataset, kept)


def _within(dataset: Dataset) -> Dataset:
    """The same dataset with the rows inside the last region; its prior is truncated to it.

    Rows of the last round are there as they were drawn; of those before, by later regions.
    """
    rounds = [entry for entry in dataset.rounds if entry["first"] < len(dataset)]
    stored = _truncation(dataset.path, rounds)
    if stored is None:
        return dataset
    last = int(rounds[-1]["first"])
    kept = np.ones(len(dataset), dtype=bool)
    kept[:last] = inside(stored, dataset["theta"][:last])
    out = _chosen(dataset, kept)
    out.truncation = stored
    try:
        out._prior = TruncatedPrior.of_rounds(dataset.prior, stored) if dataset.prior else None
    except DatasetError:  # a prior that only its user has
        out._prior = None
    return out


def _chosen(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """A dataset whose sides hold only some of its rows, by a mask (n,)."""
    out = copy.copy(dataset)
    for side in ("train", "validation", "test", "good", "prior"):
        vars(out).pop(side, None)
    out.chosen = rows
    return out
