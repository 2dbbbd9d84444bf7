"""Identity: whether a simulator is the one that wrote a dataset.

Name, settings, prior, seed and fields must be the same, and the first committed block,
simulated again, must agree to 1e-5: code that changed under its name, or draws from another
source than its `rng`, would mix two distributions.
"""

from __future__ import annotations

__all__ = ["compare_fields", "compare_origin", "compare_rows", "new_manifest", "origin"]

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..field import Field, infer_field
from ..forward import Simulator
from ..storage.arrays import default_shard_size, theta_field
from ..storage.manifest import Manifest, behaviour, identity_of, plain
from ..storage.shard import COLUMNS, DatasetError

_TOLERANCE = 1e-5


def origin(simulator: Simulator) -> dict[str, Any]:
    """What a manifest records of a simulator, as JSON values."""
    return {
        "name": simulator.name,
        "settings": plain(simulator.settings),
        "batched": bool(simulator.batched),
    }


def new_manifest(
    simulator: Simulator,
    columns: Mapping[str, np.ndarray],
    n: int,
    seed: int,
    block: int,
    shard_size: int | None,
    keep: Sequence[str] | None,
) -> Manifest:
    """The manifest of a new dataset, with the fields that its first good block shows.

    Raises:
        DatasetError: If a field has a name that is taken, `keep` names one that is not there, or a
            declaration does not fit.
    """
    prior = simulator.prior
    taken = (*COLUMNS, "errors", "theta", *simulator.names)
    if clash := [k for k in columns if k in taken]:
        raise DatasetError(
            f"the simulator returns a field {clash[0]!r}: that name is taken, rename it"
        )
    if keep is not None and (unknown := [k for k in keep if k != "theta" and k not in columns]):
        raise DatasetError(
            f"keep names {unknown[0]!r}; the simulator returns {', '.join(columns)}"
        )
    chosen = set(columns) if keep is None else {"x", *keep}
    fields: dict[str, Field] = {}
    if prior is not None:
        fields["theta"] = theta_field(len(prior.names), prior)
    for name, array in columns.items():
        if name in chosen or name.removesuffix("_length") in chosen:
            declared = simulator.fields.get(name)
            try:
                fields[name] = infer_field(array, declared, f"{name}_length" in columns)
            except ValueError as error:
                raise DatasetError(f"field {name!r}: {error}") from None
    described = None if prior is None else plain(prior.to_dict())
    return Manifest(
        kind="simulated",
        simulator=origin(simulator),
        prior=described,
        fields=fields,
        seed=seed,
        block=block,
        shard_size=shard_size or default_shard_size(fields, block),
        plans=(n,),
        identity=identity_of(origin(simulator), described, seed, block),
        keep=None if keep is None else sorted(chosen - {"theta"}),
    )


def compare_origin(
    manifest: Manifest,
    simulator: Simulator,
    seed: int,
    keep: Sequence[str] | None,
    where: Path,
) -> None:
    """Refuses a dataset of another simulator, prior, seed, or choice of fields.

    Raises:
        DatasetError: Naming what differs.
    """
    if manifest.simulator is None:
        raise DatasetError(f"{where} was made from arrays, not by simulate(): use another path")
    here = origin(simulator)
    for key, what in (("name", "simulator"), ("settings", "settings"), ("batched", "batched")):
        if manifest.simulator[key] != here[key]:
            raise DatasetError(
                f"{where} was simulated with {what} {manifest.simulator[key]!r}; this is "
                f"{here[key]!r}: "
                "use another path"
            )
    if manifest.seed != seed:
        raise DatasetError(
            f"{where} was simulated with seed {manifest.seed}, not {seed}: give that seed, or "
            f"another path"
        )
    prior = None if simulator.prior is None else simulator.prior.to_dict()
    if behaviour(manifest.prior) != behaviour(prior):
        raise DatasetError(
            f"{where} was simulated with another prior, {_described(manifest.prior)}; this is "
            f"{_described(prior)}: use another path"
        )
    stored = set(manifest.fields) - {"theta"}
    if keep is not None and {"x", *keep} - {"theta"} != set(manifest.keep or stored):
        raise DatasetError(
            f"{where} stores {', '.join(manifest.fields)}; keep= asks for {', '.join(keep)}: "
            "leave keep= out, or use another path"
        )


def _described(prior: Mapping[str, Any] | None) -> str:
    if prior is None:
        return "none"
    factors = prior.get("factors")
    return str(factors if factors is not None else list(prior["names"]))


def compare_fields(manifest: Manifest, columns: Mapping[str, np.ndarray], where: Path) -> None:
    """Refuses fields that are not those of the dataset.

    Raises:
        DatasetError: Naming a field that is missing or has another shape.
    """
    for name, field in manifest.fields.items():
        if name == "theta":
            continue
        found = columns[name].shape[1:] if name in columns else "no such field"
        if found != field.shape:
            raise DatasetError(
                f"{where} has the field {name!r} with shape {field.shape} a row; the simulator "
                f"returns "
                f"{found}: it has changed since; use another path"
            )
    new = set(columns) - set(manifest.fields)
    if manifest.keep is None and new:
        raise DatasetError(
            f"the simulator returns a field {min(new)!r} that {where} does not have: it has "
            f"changed since; "
            "use another path, or keep="
        )


def compare_rows(
    stored: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], where: Path
) -> None:
    """Refuses rows that do not come out as they were stored, to 1e-5 of a value or of its "
    "field's size.

    Raises:
        DatasetError: Naming a field that differs, and the two possible causes.
    """
    for name, was in stored.items():
        now = found[name]
        if was.dtype.kind == "f":
            scale = float(np.sqrt(np.mean(np.square(was, dtype=np.float64)))) if was.size else 0.0
            same = np.isclose(now, was, rtol=_TOLERANCE, atol=_TOLERANCE * scale)
        else:
            same = now == was
        if not same.all():
            raise DatasetError(
                f"{where}: field {name!r} of the first block does not come out as it was stored: "
                f"the "
                "simulator's code has changed, or it draws random numbers that are not from rng; "
                "use another "
                "path, or check=False if you know that the rows belong together"
            )
