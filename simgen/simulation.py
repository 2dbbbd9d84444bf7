r"""simulate(): fill a dataset in parallel, crash-safe and resumable.

.. math::
    \vartheta_i \sim p(\vartheta), \qquad x_i \sim p(x \mid \vartheta_i), \qquad i = 0 \dots n - 1

Row i is a function of simulator, prior, seed, block and i alone: parameters are drawn a block at a time from the
stream (seed, 0, block), a batched simulator runs on whole blocks with the stream (seed, 1, block), one that takes a
row at a time with (seed, 2, row). Workers, restarts and extensions change nothing.
"""

from __future__ import annotations

__all__ = ["simulate"]

import inspect
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from .dataset import Dataset, default_shard_size, theta_field, write_error
from .field import Field, infer_field
from .forward import THETA, Simulator
from .locking import Lock, LockHeld, holder
from .manifest import (
    FILE,
    Manifest,
    behaviour,
    committed,
    identity_of,
    index_fits,
    plain,
    write_index,
)
from .pool import Inline, Pool
from .progress import Bar
from .shard import (
    COLUMNS,
    GOOD,
    DatasetError,
    Failure,
    Segment,
    Segments,
    write_shard,
)
from .workers import Result, Task, join, killed

logger = logging.getLogger("simgen")

_TOLERANCE = 1e-5
_CHECK_SECONDS = 5.0  # of repeating the first rows of a simulator that takes them one at a time
_UNIT_SECONDS = (0.02, 4.0)
_TRIES = 4  # blocks in which a good row must be found


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
        executor: Any `concurrent.futures.Executor` to use instead.
        part: "K/N" or (K, N): simulate only the shards s ≡ K − 1 (mod N), of a run that N commands share.
        block: Rows a block; of a dataset that is there, its own is used.
        shard_size: Rows a shard, a multiple of the block; by the size of a row unless said. It is what a crash
            may lose for each shard in flight: for seconds a row, choose a small block and shard.
        on_error: "record" failed rows, or "raise" at the first.
        retries: How often a call that raises is repeated, with the same random stream.
        max_failures: Stop when more rows than this fail in this run; a number, or below 1 a share of n.
        timeout: Seconds that one call (a row, or a block if batched) may take. Calls then run in workers.
        keep: The fields to store; all unless said. theta and x always are.
        check: Whether to simulate the first committed block again, and refuse to go on if it differs.
        progress: Whether to show progress, on a terminal.

    Returns:
        The dataset, as far as its rows are there without a gap.

    Raises:
        ValueError, TypeError: If an argument does not fit.
        DatasetError: If the directory holds another simulator's or seed's rows, another process is at work on
            it, the disk is full, or too many rows failed. What is committed is kept.
        KeyboardInterrupt: At Ctrl-C; what is committed is kept.
    """
    simulator = _checked_simulator(simulator)
    k, of = _checked_part(part)
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
    options = _Options(k, of, block, shard_size, on_error == "raise", retries, limit, timeout, check)
    there = directory.exists()
    run: _Run | None = None
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            _lock(stack, directory, k, of)
            inline = workers == 1 and executor is None and timeout is None
            pool = Inline(simulator) if inline else Pool(simulator, workers, executor)
            stack.callback(pool.close)
            run = _Run(simulator, directory, int(n), int(seed), options, pool, keep)
            run.prepare()
            with Bar(run.missing_rows, progress) as bar:
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


@dataclass(frozen=True)
class _Options:
    """The settled options of one run."""

    part: int
    parts: int
    block: int
    shard_size: int | None
    strict: bool
    retries: int
    limit: float
    timeout: float | None
    check: bool


@dataclass
class _Open:
    """A shard of which some rows are still to come."""

    segment: Segment
    columns: dict[str, np.ndarray]
    status: np.ndarray
    failures: list[Failure] = field(default_factory=list)
    done: int = 0

    def add(self, start: int, result: Result) -> None:
        at = start - self.segment.first
        for name, column in self.columns.items():
            column[at : at + len(result.status)] = result.columns[name]
        self.status[at : at + len(result.status)] = result.status
        self.failures += result.failures
        self.done += len(result.status)


class _Run:
    """The coordinator: hands out tasks, gathers rows, commits shards."""

    manifest: Manifest

    def __init__(
        self,
        simulator: Simulator,
        directory: Path,
        n: int,
        seed: int,
        options: _Options,
        pool: Inline | Pool,
        keep: Sequence[str] | None,
    ) -> None:
        self.simulator, self.directory, self.n, self.seed = simulator, directory, n, seed
        self.options, self.pool, self.keep = options, pool, keep
        self.rate = np.nan  # seconds a row
        self.failed: Counter[str] = Counter()
        self.seen: frozenset[str] = frozenset()
        self.token = f"{os.getpid()}-{time.time_ns()}"
        self.returning: set[str] = set()  # hosts whose shards were not to be seen here
        self.again: deque[Task] = deque()
        self.opened: dict[int, _Open] = {}
        self.ahead: dict[int, Result] = {}  # rows simulated before their shard was begun
        self.missing: deque[Segment] = deque()
        self.left = 0
        self._position = 0
        self._theta: dict[int, np.ndarray] = {}

    # what is there, and what is to be done

    def prepare(self) -> None:
        """Opens or creates the dataset, extends its plan, checks its identity; lists what is missing."""
        self._clean()
        if (self.directory / FILE).exists():
            self.manifest = Manifest.load(self.directory)
            self._compare()
            self._repeat()
        else:
            first = self._first_block()
            created = self._manifest(first)
            self.manifest = created.create(self.directory)
            if self.manifest is not created:
                self._compare()
            names = self.manifest.fields
            first.columns = {k: v for k, v in first.columns.items() if k in names}
            self.ahead[0] = first
        with Lock(self.directory / ".plan.lock", wait=60.0):
            manifest = Manifest.load(self.directory).extended(self.n)
            if manifest.rows != self.manifest.rows:
                manifest.save(self.directory)
            if not index_fits(self.directory, manifest):
                write_index(self.directory, manifest)
            self.manifest = manifest
        layout = [s for s in manifest.layout(self.directory) if s.first < self.n]
        done = {s.first for s in committed(self.directory, layout)}
        size, parts = manifest.shard_size, self.options.parts
        own = [s for s in layout if s.first // size % parts == self.options.part - 1]
        self.missing = deque(s for s in own if s.first not in done)
        self.left = self.missing_rows

    @property
    def missing_rows(self) -> int:
        """How many rows are to be simulated."""
        return sum(segment.rows for segment in self.missing)

    def kept(self) -> str:
        """How much is committed, in words."""
        try:
            layout = Manifest.load(self.directory).layout(self.directory)
            rows = sum(segment.rows for segment in committed(self.directory, layout))
        except (DatasetError, OSError):
            rows = 0
        return f"kept {rows} of {self.n} rows in {self.directory}"

    def _clean(self) -> None:
        """Removes temporary files that a killed run left behind."""
        for file in self.directory.glob(".*.tmp"):
            with suppress(OSError):
                if time.time() - file.stat().st_mtime > 3600:
                    file.unlink()
        for file in self.directory.glob(".probe-*"):
            with suppress(OSError):
                file.unlink()

    def _origin(self) -> dict[str, Any]:
        s = self.simulator
        return {"name": s.name, "settings": plain(s.settings), "batched": bool(s.batched)}

    def _manifest(self, first: Result) -> Manifest:
        """The manifest of a new dataset, whose fields are those of its first good block."""
        prior = self.simulator.prior
        found = first.columns
        if clash := [k for k in found if k in (*COLUMNS, "errors", "theta", *self.simulator.names)]:
            raise DatasetError(
                f"the simulator returns a field {clash[0]!r}: rename it, the dataset has that name already"
            )
        chosen = set(found)
        if self.keep is not None:
            if unknown := [k for k in self.keep if k not in found and k != "theta"]:
                raise DatasetError(
                    f"keep names {unknown[0]!r}; the simulator returns {', '.join(found)}"
                )
            chosen = {"x", *self.keep}
        fields: dict[str, Field] = {}
        if prior is not None:
            fields["theta"] = theta_field(len(prior.names), prior)
        for name, array in found.items():
            if name in chosen or name.removesuffix("_length") in chosen:
                declared = self.simulator.fields.get(name)
                try:
                    fields[name] = infer_field(array, declared, f"{name}_length" in found)
                except ValueError as error:
                    raise DatasetError(f"field {name!r}: {error}") from None
        o = self.options
        origin, described = self._origin(), prior and plain(prior.to_dict())
        return Manifest(
            kind="simulated",
            simulator=origin,
            prior=described,
            fields=fields,
            seed=self.seed,
            block=o.block,
            shard_size=o.shard_size or default_shard_size(fields, o.block),
            plans=(self.n,),
            identity=identity_of(origin, described, self.seed, o.block),
            keep=None if self.keep is None else sorted(chosen),
        )

    def _first_block(self) -> Result:
        """The first block, or where it has no good row a later one, of which only the fields count."""
        block = self.options.block
        fault = None
        for b in range(min(_TRIES, -(-self.n // block))):
            rows = range(b * block, min((b + 1) * block, self.n))
            result = self._block(rows)
            self._raise_if_strict(result)
            if any(result.status == GOOD):
                if b:
                    result = self._empty(rows, result)
                return result
            fault = fault or result
        assert fault is not None
        failure = fault.failures[0]
        raise DatasetError(
            f"no row succeeded in the first {rows.stop}: {_described(failure, fault)}; nothing was written"
        )

    def _empty(self, rows: range, result: Result) -> Result:
        """Nothing of a later block but the types of its fields."""
        columns = {k: v[:0] for k, v in result.columns.items()}
        return Result(columns, result.status[:0], seconds=0.0)

    def _block(self, rows: range, seconds: float | None = None) -> Result:
        """Rows of one block without a known layout, in parallel where they can be."""
        o, base = self.options, rows.start // self.options.block * self.options.block
        pieces = 1 if self.simulator.batched or seconds is not None else 4 * self.pool.workers
        step = -(-len(rows) // pieces)
        starts = deque(range(rows.start, rows.stop, step))

        def following() -> Task | None:
            if not starts:
                return None
            start = starts.popleft()
            return replace(self._task(start, min(start + step, rows.stop)), layout=None, seconds=seconds)

        block = o.block
        assert base + block >= rows.stop
        outcomes = sorted(
            self.pool.run(following, lambda task: killed(task, {})), key=lambda pair: pair[0].start
        )
        result = join(outcomes)
        if len(result.status) and self.rate != self.rate:
            self.rate = result.seconds / len(result.status)
        return result

    # identity

    def _compare(self) -> None:
        """Refuses a dataset of another simulator, prior or seed."""
        m, where = self.manifest, self.directory
        if m.kind != "simulated" or m.simulator is None:
            raise DatasetError(f"{where} was made from arrays, not by simulate(): use another path")
        origin, prior = self._origin(), self.simulator.prior
        for key in ("name", "settings", "batched"):
            if m.simulator[key] != origin[key]:
                raise DatasetError(
                    f"{where} was simulated with {key} {m.simulator[key]!r}, this simulator has "
                    f"{origin[key]!r}: use another path"
                )
        if m.seed != self.seed:
            raise DatasetError(
                f"{where} was simulated with seed {m.seed}, not {self.seed}: use that seed, or another path"
            )
        wanted = None if prior is None else behaviour(prior.to_dict())
        if behaviour(m.prior) != wanted:
            raise DatasetError(
                f"{where} was simulated with another prior: there {behaviour(m.prior)}, here {wanted}; "
                "use another path"
            )
        if self.keep is not None and {"x", *self.keep} - {"theta"} != set(m.keep or m.fields) - {"theta"}:
            raise DatasetError(
                f"{where} stores {', '.join(m.fields)}; keep asks for {', '.join(self.keep)}: use another path"
            )
        self.options = replace(self.options, block=m.block)

    def _repeat(self) -> None:
        """Simulates the first committed block again and compares; without one, its fields alone."""
        m, block = self.manifest, self.manifest.block
        if not self.options.check:
            return
        there = committed(self.directory, m.layout(self.directory))
        first = there[0] if there else Segment(0, m.rows, self.directory)
        stop = min((first.first // block + 1) * block, first.first + first.rows)
        rows = range(first.first, stop)
        result = self._block(rows, None if self.simulator.batched else _CHECK_SECONDS)
        if not there and any(result.status == GOOD) or not result.columns:
            self._compare_fields(result)
            return
        segments = Segments([replace_first(first)], {k: k for k in (*m.fields, *COLUMNS)})
        try:
            count = len(result.status)
            good = (segments.read("status", 0, count) == GOOD) & (result.status == GOOD)
            stored = {k: segments.read(k, 0, count) for k in m.fields}
        finally:
            segments.close()
        ...
