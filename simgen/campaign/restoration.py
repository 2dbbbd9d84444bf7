"""Restoration: missing and damaged shards of a dataset, simulated again to the same bytes.

A row is a function of simulator, prior, seed, block and row number, so what was lost can be
computed. Damaged shards are set aside, not deleted, until what takes their place is there; files
of another origin are left alone.
"""

from __future__ import annotations

__all__ = ["recorded_simulator", "restore"]

import importlib
from pathlib import Path

from ..dataset import Dataset, DatasetError
from ..forward import Simulator
from ..simulation import simulate
from ..storage.manifest import Manifest, committed, index_fits, write_index
from ..storage.shard import STRANGE, Segment, verify_shard

_ASIDE = ".damaged-"


def recorded_simulator(manifest: Manifest) -> Simulator:
    """The built-in simulator, with its settings, that a dataset was simulated with.

    Raises:
        DatasetError: If it was another simulator: it has to be given.
    """
    origin = manifest.simulator or {}
    module, _, name = str(origin.get("name", "")).partition(":")
    if not module.startswith("simulators."):
        raise DatasetError(
            f"the dataset was simulated with {origin.get('name')!r}, which is not built in: "
            "name it with --simulator module:attribute"
        )
    cls = getattr(importlib.import_module(module), name)
    return cls(**origin["settings"])


def restore(
    path: str | Path, simulator: Simulator | None = None, workers: int = 1, progress: bool = True
) -> list[str]:
    """Puts a dataset in order, and says what was wrong; empty if nothing was.

    Killed while it is at work, it does the rest when it is called again.

    Arguments:
        path: The dataset's directory.
        simulator: What it was simulated with; not needed of a built-in simulator.
        workers: Worker processes.
        progress: Whether to show progress.

    Raises:
        DatasetError: If rows are lost that cannot be simulated again, the simulator is another
            one, or something is still wrong afterwards. Damaged shards are then as they were.
    """
    path = Path(path)
    dataset = Dataset(path)
    manifest = dataset.manifest
    if manifest is None:
        raise DatasetError(
            f"{path} is a foreign file: only datasets that simgen wrote are repaired"
        )
    problems = _damage(dataset)
    dataset.close()
    if not problems:
        _forget(path)
        return []
    layout = manifest.layout(path)
    there = committed(path, layout)
    fields, identity = manifest.fields, manifest.identity
    damaged = [s for s in there if verify_shard(s.path, s.first, s.rows, fields, identity)]
    if damaged or len(there) < len(layout):
        if manifest.kind != "simulated" or manifest.seed is None:
            raise DatasetError(
                f"{path} was made from arrays, its lost rows cannot be simulated again: "
                f"{'; '.join(problems)}"
            )
        _refill(
            path, manifest, damaged, simulator or recorded_simulator(manifest), workers, progress
        )
    if not index_fits(path, manifest):
        write_index(path, manifest)
    if left := _damage(Dataset(path)):
        raise DatasetError(f"{path} is still damaged: {'; '.join(left)}")
    _forget(path)
    return problems


def _damage(dataset: Dataset) -> list[str]:
    """What is wrong, other than files that happen to lie there."""
    return [problem for problem in dataset.verify() if not problem.endswith(STRANGE)]


def _forget(path: Path) -> None:
    """Removes what an interrupted repair had set aside, once the whole is in order."""
    for backup in path.glob(f"{_ASIDE}*"):
        backup.unlink(missing_ok=True)


def _refill(
    path: Path,
    manifest: Manifest,
    damaged: list[Segment],
    simulator: Simulator,
    workers: int,
    progress: bool,
) -> None:
    """Simulates what is missing once the damaged shards are out of the way."""
    aside = [(s.path, s.path.with_name(_ASIDE + s.path.name)) for s in damaged]
    assert manifest.seed is not None
    try:
        for shard, backup in aside:
            shard.replace(backup)
        simulate(
            simulator,
            manifest.rows,
            path,
            seed=manifest.seed,
            workers=workers,
            keep=manifest.keep,
            progress=progress,
        )
    finally:
        for shard, backup in aside:
            if not backup.exists():
                continue
            if shard.exists():
                backup.unlink()
            else:
                backup.replace(shard)
