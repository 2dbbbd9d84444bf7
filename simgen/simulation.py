r"""simulate(): fill a dataset in parallel, crash-safe and resumable.

.. math::
    \vartheta_i \sim p(\vartheta), \qquad x_i \sim p(x \mid \vartheta_i), \qquad i = 0 \dots n - 1

Row i is a function of simulator, prior, seed, block and i alone: parameters are drawn a block
at a time from the stream (seed, 0, block), a batched simulator runs on whole blocks with the
stream (seed, 1, block), one that takes a row at a time with (seed, 2, row). Workers, restarts
and extensions change nothing. Of a later round theta is drawn from the prior truncated to where
the posterior of one observation lives, by the stream (seed, 0, block, round).
"""

from __future__ import annotations

__all__ = ["checked_part", "simulate"]

import inspect
import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from .campaign.coordinator import Coordinator, Options
from .campaign.pool import Inline, Pool
from .dataset import Dataset, write_error
from .forward import Simulator
from .progress import Bar
from .storage.locking import Lock, LockHeld, holder
from .storage.shard import DatasetError

logger = logging.getLogger("simgen")


def simulate(
    simulator: Simulator | type[Simulator],
    n: int,
    path: str | Path,
    *,
    seed: int = 0,
    workers: int = 1,
    executor: Executor | None = None,
    part: str | tuple[int, int] | None = None,
    block: int = 256,
    shard_size: int | None = None,
    on_error: str = "record",
    retries: int = 0,
    max_failures: float | None = None,
    timeout: float | None = None,
    proposal: Any = None,
    quantile: float = 1e-4,
    keep: Sequence[str] | None = None,
    check: bool = True,
    progress: bool = True,
) -> Dataset:
    """Simulates n rows into a dataset; called again it resumes, or extends.

    Arguments:
        simulator: The forward model, an instance of a Simulator.
        n: How many rows the dataset is to have.
        path: Its directory.
        seed: Of all random streams.
        workers: Worker processes; 1 runs in this process.
        executor: Any `concurrent.futures.Executor` to use instead, a cluster's too:
            `dask.distributed.Client(...).get_executor()`, whose workers may come and go.
        part: "K/N" or (K, N): simulate only the shards s ≡ K − 1 (mod N), of a run that N commands
            share.
        block: Rows a block; of a dataset that is there, its own is used.
        shard_size: Rows a shard, a multiple of the block; by the size of a row unless said. It is
            what a crash may lose for each shard in flight: where a row takes seconds, choose a
            small block and shard.
        on_error: "record" failed rows, or "raise" at the first. A simulator that always fails is
            stopped after its first rows.
        retries: How often a call that raises is repeated, with the same random stream.
        max_failures: Stop when more rows than this fail in this run; a number, or below 1 a share
            of n. Said, it also holds for the first rows.
        timeout: Seconds that one call (a row, or a block if batched) may take. Calls then run in
            workers.
        proposal: A posterior for one observation, `posterior(x)`: the rows beyond those that are
            there are a new round, with theta from the prior inside the posterior's region of
            highest density (and those of earlier rounds). n still counts all rows. Called again
            with the same proposal it resumes, or extends the round; without one it extends the
            last round. `sequential` does several rounds.
        quantile: The share of the posterior's draws that its region leaves out.
        keep: The fields to store; all unless said. theta and x always are.
        check: Whether to simulate the first committed block again, and refuse to go on if it
            differs.
        progress: Whether to show progress, on a terminal.

    Returns:
        The dataset, as far as its rows are there without a gap.

    Raises:
        ValueError, TypeError: If an argument does not fit.
        DatasetError: If the directory holds another simulator's or seed's rows, another process is
            at work on it, the disk is full, or too many rows failed. What is committed is kept.
        KeyboardInterrupt: At Ctrl-C; what is committed is kept.
    """
    simulator = _checked_simulator(simulator)
    k, of = checked_part(part)
    if n < 1 or block < 1 or workers < 1 or seed < 0 or retries < 0:
        raise ValueError(
            "n, block and workers are at least 1, seed and retries at least 0; got "
            f"n={n}, block={block}, workers={workers}, seed={seed}, retries={retries}"
        )
    if shard_size is not None and (shard_size < 1 or shard_size % block):
        raise ValueError(f"shard_size is a multiple of block ({block}); got {shard_size}")
    if on_error not in ("record", "raise"):
        raise ValueError(f'on_error is "record" or "raise"; got {on_error!r}')
    if timeout is not None and timeout <= 0:
        raise ValueError(f"timeout is a positive number of seconds; got {timeout}")
    if max_failures is not None and max_failures < 0:
        raise ValueError(f"max_failures is a number of rows or a share of n; got {max_failures}")
    directory = Path(path)
    if directory.exists() and not directory.is_dir():
        raise DatasetError(f"{directory} is a file; a dataset is a directory")
    limit = np.inf if max_failures is None else max_failures * (n if max_failures < 1 else 1)
    chosen = None if keep is None else tuple(keep)
    strict = on_error == "raise"
    options = Options(
        k,
        of,
        block,
        shard_size,
        strict,
        retries,
        limit,
        timeout,
        chosen,
        check,
        proposal,
        quantile,
    )
    there = directory.exists()
    run: Coordinator | None = None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            _lock(stack, directory, k, of)
            inline = workers == 1 and executor is None and timeout is None
            pool = Inline(simulator) if inline else Pool(simulator, workers, executor)
            run = Coordinator(simulator, directory, int(n), int(seed), options, pool)
            stack.callback(run.clean)
            stack.callback(pool.close)
            run.prepare()
            with Bar("simulating", run.left, progress) as bar:
                run.fill(bar)
    except KeyboardInterrupt:
        if run is not None:
            logger.warning("interrupted: %s; run the same command again to go on", run.kept())
        raise
    except OSError as error:
        raise write_error(directory, error, "" if run is None else run.kept()) from error
    finally:
        if not there:
            with suppress(OSError):
                directory.rmdir()  # only if nothing has come to be in it
    return Dataset(directory, prior=simulator.prior)


def _lock(stack: ExitStack, directory: Path, part: int, parts: int) -> None:
    """Locks a part for as long as the stack lasts.

    Raises:
        DatasetError: If another process is at work on it, or on parts of another division.
    """
    advice = 'wait for it, or give each command a part of its own, part="K/N"'
    for file in directory.glob(".part-*-of-*.lock"):
        if not file.name.endswith(f"-of-{parts}.lock") and (who := holder(file)) is not None:
            raise DatasetError(
                f"process {who.get('pid')} on {who.get('host')} is at work on {directory} as "
                f"{file.stem[1:]}; {advice}"
            )
    try:
        # a moment: `simgen inspect` looks at locks by trying them
        stack.enter_context(Lock(directory / f".part-{part}-of-{parts}.lock", wait=0.2))
    except LockHeld as error:
        raise DatasetError(f"{directory} is being simulated already: {error}; {advice}") from None


def _checked_simulator(simulator: Any) -> Simulator:
    if inspect.isclass(simulator) and issubclass(simulator, Simulator):
        return simulator()
    if not isinstance(simulator, Simulator):
        raise TypeError(
            f"simulate() needs a Simulator, got {type(simulator).__name__}: decorate a function "
            "with @simgen.simulator(prior=...)"
        )
    return simulator


def checked_part(part: Any) -> tuple[int, int]:
    """K and N of a part "K/N" or (K, N); the whole, 1 of 1, unless said."""
    if part is None:
        return 1, 1
    try:
        k, of = (int(v) for v in (part.split("/") if isinstance(part, str) else part))
    except (TypeError, ValueError):
        raise ValueError(f'part is "K/N" or (K, N), such as "1/4"; got {part!r}') from None
    if not 1 <= k <= of:
        raise ValueError(f"part K/N needs 1 <= K <= N; got {part!r}")
    return k, of
