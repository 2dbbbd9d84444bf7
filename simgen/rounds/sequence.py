r"""sequential(): the posterior of one observation, in rounds of simulations.

.. math::
    \vartheta \sim \tilde p_k(\vartheta), \; x \sim p(x \mid \vartheta)
    \;\longrightarrow\; q_k(\vartheta \mid x) \;\longrightarrow\;
    \tilde p_{k+1}(\vartheta) \propto p(\vartheta)\, 1[\log q_k(\vartheta \mid x_o) > \tau_k]

Each round simulates where the posterior of the round before lives, and learns from all rows that
lie there. Rounds that are complete are not simulated again, and a fit goes on where it stopped.
"""

from __future__ import annotations

__all__ = ["outline", "round_table", "sequential"]

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..conditional import Conditional
from ..dataset import Dataset
from ..field import infer_field
from ..forward import Simulator
from ..simulation import simulate
from ..storage.manifest import FILE, Manifest
from ..storage.shard import DatasetError
from ..training import fit
from .region import described
from .truncation import QUANTILE

log = logging.getLogger("simgen")

_FITS = "fits"  # the folder of checkpoints in the dataset


def sequential(
    simulator: Simulator | type[Simulator],
    observation: Any,
    n_per_round: int | Sequence[int],
    path: str | Path,
    *,
    rounds: int = 4,
    model: Any = None,
    expression: str = "theta | x",
    quantile: float = QUANTILE,
    seed: int = 0,
    workers: int = 1,
    simulation: Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> Conditional:
    """The posterior of one observation by truncated sequential posterior estimation.

    The result is for this observation: called with another it is the posterior under the
    truncated prior, `posterior.prior`. `calibrate` judges it by simulations inside that.

    Arguments:
        simulator: The forward model.
        observation: What was observed: x, without a batch axis; or the given fields by name.
        n_per_round: Rows of each round, or a number for each.
        path: The dataset's directory. One that is there is resumed, where simulator, seed and
            observation are the same; a round that is there may be larger.
        rounds: How many, that from the prior included.
        model: A family with its settings; `Flow()` unless said.
        expression: The posterior; its target is theta.
        quantile: The share of a posterior's draws that its region leaves out.
        seed: Of simulations and fits.
        workers: Worker processes.
        simulation: More arguments of `simulate`, {"executor": ..., "timeout": 60}.
        progress: Whether to show progress.
        **options: More arguments of `fit`: embedding, max_epochs, budget, device ...

    Returns:
        The posterior of the last round; `round_table(Dataset(path), posterior)` says how it went.

    Raises:
        ValueError: If an argument does not fit.
        DatasetError: If the directory holds another simulator's rows or those of another
            observation, or there are fewer rounds than it holds already.

    References:
        | Truncated proposals for scalable and hassle-free simulation-based inference (Deistler,
        | Gonçalves & Macke, 2022), algorithm 1
        | https://arxiv.org/abs/2210.04815
    """
    sizes = [n_per_round] * rounds if isinstance(n_per_round, int) else list(n_per_round)
    if rounds < 1 or len(sizes) != rounds or min(sizes) < 1:
        raise ValueError(
            f"rounds is at least 1, and n_per_round a positive number for each of the {rounds} "
            f"rounds, or one for all; got {n_per_round}"
        )
    given = dict(observation) if isinstance(observation, Mapping) else {"x": observation}
    directory = Path(path)
    about: dict[str, Any] = {"seed": seed, "workers": workers, "progress": progress}
    about |= dict(simulation or {})
    begun, planned = _begun(directory, given, rounds)
    posterior: Conditional | None = None
    start = begun[-1] if begun else 0
    for k in range(max(len(begun) - 1, 0), rounds):
        n = max(start + sizes[k], planned)
        proposal = None if posterior is None else posterior(**given)
        dataset = simulate(simulator, n, directory, proposal=proposal, quantile=quantile, **about)
        start = len(dataset)
        log.info("round %d of %d: %d rows", k + 1, rounds, start)
        posterior = fit(
            expression,
            dataset,
            model,
            seed=seed,
            checkpoint=_checkpoint(directory, k),
            progress=progress,
            **options,
        )
        for old in range(k):
            _checkpoint(directory, old).unlink(missing_ok=True)
    assert posterior is not None
    posterior.provenance["rounds"] = round_table(dataset, posterior)
    return posterior


def outline(simulator: Simulator) -> Any:
    """What a simulator's posterior will be given, before there is one: its expression, `given`,
    `target`, and the fields as two rows show them.

    Raises:
        ValueError: If the simulator has no prior.
    """
    if simulator.prior is None:
        raise ValueError("there is no posterior of theta: this simulator has no prior")
    found = simulator(simulator.prior.sample((2,), seed=0).numpy(), seed=0)
    fields = {
        k: infer_field(np.asarray(v), simulator.fields.get(k), f"{k}_length" in found)
        for k, v in found.items()
    }
    said = {"expression": "theta | x", "target": ("theta",), "given": ("x",)}
    return SimpleNamespace(fields=fields, **said)


def _checkpoint(directory: Path, k: int) -> Path:
    folder = directory / _FITS
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"round-{k}.checkpoint"


def _begun(directory: Path, given: Mapping[str, Any], rounds: int) -> tuple[list[int], int]:
    """First rows of the rounds that a dataset has begun, none where there is no dataset, and how
    many rows are planned.

    Raises:
        DatasetError: If they are for another observation, or more than there are to be.
    """
    if not (directory / FILE).exists():
        return [], 0
    manifest = Manifest.load(directory)
    begun = manifest.rounds
    if len(begun) > rounds:
        raise DatasetError(
            f"{directory} has {len(begun)} rounds already: ask for rounds={len(begun)} or more"
        )
    if len(begun) > 1 and begun[1]["observation"] != described(given):
        raise DatasetError(
            f"the rounds of {directory} are for another observation: use another path"
        )
    return [entry["first"] for entry in begun], manifest.rows


def round_table(dataset: Dataset, posterior: Conditional | None = None) -> list[dict[str, Any]]:
    """What each round was, one dict a round.

    Arguments:
        dataset: With its rounds.
        posterior: That of the last round, for its loss.

    Returns:
        Dicts of round, first (row), rows, volume (share of the prior inside the region), drawn
        (the draws that were tried: of the "prior" or the "posterior"), acceptance, training_rows
        and held_out_loss (of the posterior that was learned after it; None where not known).
    """
    rounds = dataset.rounds
    ends = [*(entry["first"] for entry in rounds[1:]), len(dataset)]
    learned = [entry["proposal"]["model"] for entry in rounds[1:]]
    if posterior is not None:
        training = posterior.provenance["training"]
        loss = training["best_validation_loss"]
        learned = [*learned, {"rows": training["rows"], "held_out_loss": loss}]
    table = []
    for k, (entry, end) in enumerate(zip(rounds, ends)):
        proposal = entry["proposal"] or {"volume": 1.0, "origin": "prior", "acceptance": 1.0}
        after = learned[k] if k < len(learned) else {"rows": None, "held_out_loss": None}
        table.append(
            {
                "round": k,
                "first": entry["first"],
                "rows": end - entry["first"],
                "volume": proposal["volume"],
                "drawn": proposal["origin"],
                "acceptance": proposal["acceptance"],
                "training_rows": after["rows"],
                "held_out_loss": after["held_out_loss"],
            }
        )
    return table
