"""Coordinator: hands out the rows that a dataset lacks, gathers what comes back, commits shards.

A task is a whole shard while many are left, which a worker may write itself once a probe file of
its host has been seen; then pieces of shards, the smaller the fewer rows are left, so that workers
end together.
"""

from __future__ import annotations

__all__ = ["Coordinator", "Options", "draw_theta"]

import os
import re
import time
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..field import Field
from ..forward import THETA, Simulator
from ..progress import Bar
from ..storage.locking import Lock
from ..storage.manifest import FILE, Manifest, committed, index_fits, write_index
from ..storage.shard import (
    GOOD,
    DatasetError,
    Failure,
    Segment,
    Segments,
    abandoned,
    shard_name,
    write_shard,
)
from .identity import compare_fields, compare_origin, compare_rows, new_manifest
from .pool import Inline, Pool
from .timing import Journal
from .workers import Result, Task, join

_CHECK_SECONDS = 5.0  # of repeating the first rows of a simulator that takes them one at a time
_UNIT_SECONDS = (0.02, 4.0)  # the least and most that a task should take
_WHOLE = 0.7  # the share of a shard from which a task takes all of it
_FEW, _TRIES = 32, 4  # rows, or blocks of a batched simulator, of which one must succeed
_WRITERS = 3  # shards on their way to disk: some are flushed while another is written
_BLOCKS = 64  # of parameters to remember


@dataclass(frozen=True)
class Options:
    """The settled options of one run."""

    part: int
    parts: int
    block: int
    shard_size: int | None
    strict: bool
    retries: int
    limit: float
    timeout: float | None
    keep: tuple[str, ...] | None
    check: bool
    proposal: Any = None
    quantile: float = 1e-4


@dataclass
class _Open:
    """A shard of which some rows are still to come."""

    segment: Segment
    columns: dict[str, np.ndarray]
    status: np.ndarray
    failures: list[Failure] = field(default_factory=list)
    done: int = 0

    @classmethod
    def of(cls, segment: Segment, fields: Mapping[str, Field]) -> _Open:
        """An empty one."""
        n = segment.rows
        columns = {k: np.empty((n, *f.shape), f.dtype or "float32") for k, f in fields.items()}
        return cls(segment, columns, np.empty(n, np.uint8))

    def add(self, start: int, columns: Mapping[str, np.ndarray], result: Result) -> None:
        """Puts rows in their place."""
        rows = slice(start - self.segment.first, start - self.segment.first + len(result.status))
        for name, column in self.columns.items():
            column[rows] = columns[name]
        self.status[rows] = result.status
        self.failures += result.failures
        self.done += len(result.status)


class Coordinator:
    """The coordinator: hands out tasks, gathers rows, commits shards."""

    manifest: Manifest

    def __init__(
        self,
        simulator: Simulator,
        directory: Path,
        n: int,
        seed: int,
        options: Options,
        pool: Inline | Pool,
    ) -> None:
        self.simulator, self.directory, self.n, self.seed = simulator, directory, n, seed
        self.options, self.pool, self.block = options, pool, options.block
        self.rate = np.nan  # seconds a row
        self.failed: Counter[str] = Counter()
        self.first: Failure | None = None
        self.journal = Journal(directory / f"times-{options.part}-of-{options.parts}.bin")
        self.seen: frozenset[str] = frozenset()
        self.unseen: set[str] = set()  # hosts whose shards do not appear here
        self.token = f"{os.getpid()}-{time.time_ns()}"
        self.again: deque[Task] = deque()
        self.opened: dict[int, _Open] = {}
        self.ahead: Result | None = None  # rows from 0 on, simulated before their shard was begun
        self.missing: deque[Segment] = deque()
        self.position: int | None = None
        self.layout: dict[str, tuple[tuple[int, ...], str]] | None = None
        self.rounds: list[dict[str, Any]] = []  # until the manifest is known, of one
        self._drawn: dict[tuple[int, int], np.ndarray] = {}
        self._priors: dict[int, Any] = {}

    def prepare(self) -> None:
        """Opens or creates the dataset, checks and extends it, lists what is missing."""
        self.clean()
        if (self.directory / FILE).exists():
            self.manifest = Manifest.load(self.directory)
            self.rounds = self.manifest.rounds
            self._compare()
            if self.options.check:
                self._repeat()
        elif self.options.proposal is not None:
            raise DatasetError(
                f"there is no dataset at {self.directory}: a proposal appends a round to one, so "
                "simulate without it first"
            )
        else:
            self._create()
        with Lock(self.directory / ".plan.lock", wait=60.0):
            manifest = self._planned(Manifest.load(self.directory))
            if manifest.rows != self.manifest.rows:
                manifest.save(self.directory)
            if not index_fits(self.directory, manifest):
                write_index(self.directory, manifest)
        self.manifest, self.rounds = manifest, manifest.rounds
        self.layout = {
            k: (f.shape, f.dtype or "float32") for k, f in manifest.fields.items() if k != "theta"
        }
        planned = manifest.layout(self.directory)
        done = {segment.first for segment in committed(self.directory, planned)}
        turn, size = self.options.part - 1, manifest.shard_size
        self.missing = deque(
            s
            for s in planned
            if s.first < self.n
            and s.first // size % self.options.parts == turn
            and s.first not in done
        )
        self.firsts = [segment.first for segment in planned]
        self.planned = planned
        self.left = sum(segment.rows for segment in self.missing)

    def _planned(self, manifest: Manifest) -> Manifest:
        """The manifest with all rows that are asked for, in a new round if one is proposed."""
        o = self.options
        if o.proposal is None:
            return manifest.extended(self.n)
        from ..rounds.proposals import add_round

        prior = self.simulator.prior
        return add_round(manifest, self.directory, prior, o.proposal, self.n, o.quantile)

    def clean(self) -> None:
        """Removes what killed processes left behind, and our workers' probes."""
        with suppress(OSError):
            for file in self.directory.glob(".*.tmp"):
                if abandoned(file):
                    file.unlink(missing_ok=True)
            for file in self.directory.glob(".probe-*"):
                if file.read_text() == self.token or abandoned(file):
                    file.unlink(missing_ok=True)

    def _create(self) -> None:
        o, first = self.options, self._first_block()
        created = new_manifest(
            self.simulator, first.columns, self.n, self.seed, self.block, o.shard_size, o.keep
        )
        self.manifest = created.create(self.directory)
        if self.manifest is not created:  # another part was faster
            self._compare()
            compare_fields(self.manifest, first.columns, self.directory)
        if self.manifest.block == o.block:
            self.ahead = first

    def _compare(self) -> None:
        compare_origin(self.manifest, self.simulator, self.seed, self.options.keep, self.directory)
        self.block = self.manifest.block

    def _repeat(self) -> None:
        """Simulates the first committed block again and compares; without one, fields alone."""
        there = committed(self.directory, self.manifest.layout(self.directory))
        if not there:
            first = self._first_block()
            compare_fields(self.manifest, first.columns, self.directory)
            self.ahead = first
            return
        start = there[0].first
        stop = min((start // self.block + 1) * self.block, start + there[0].rows)
        result = self._block(start, stop, None if self.simulator.batched else _CHECK_SECONDS)
        stop = start + len(result.status)
        names = self.manifest.fields
        segments = Segments(there[:1], {k: k for k in (*names, "status")})
        try:
            was = segments.read("status", start, stop) == GOOD
            stored = {k: segments.read(k, start, stop) for k in names}
        finally:
            segments.close()
        good = was & (result.status == GOOD)
        if was.any() and not good.any():
            raise DatasetError(
                f"{self.directory}: rows that are stored as good fail now: "
                f"{_described(result.failures[0])}"
            )
        if good.any():
            compare_fields(self.manifest, result.columns, self.directory)
            found = {**result.columns, "theta": self._theta(start, stop)}
            compare_rows(
                {k: v[good] for k, v in stored.items()},
                {k: found[k][good] for k in stored},
                self.directory,
            )

    def _first_block(self) -> Result:
        """The first block; if it has no good row, the fields of a later one.

        The first rows run alone: a simulator that always fails is stopped after these, or after
        as many as `max_failures` allows.
        """
        o, batched, block = self.options, self.simulator.batched, self.block
        few = _TRIES * block if batched else _FEW
        end = self.rounds[1]["first"] if len(self.rounds) > 1 else self.n
        end = min(self.n, end)
        most = min(end, few if np.isinf(o.limit) else max(few, o.limit))
        first: Failure | None = None
        start = 0
        while start < most:
            stop = min(start + block, end)
            middle = stop if start or batched else min(_FEW, stop)
            result = join(outcomes := self._outcomes(start, middle))
            if middle < stop and ((result.status == GOOD).any() or middle < most):
                result = join([*outcomes, *self._outcomes(middle, stop)])
            if result.failures and (o.strict or len(result.failures) > o.limit):
                self._count(result)  # which stops here
            if (result.status == GOOD).any():
                self.rate = result.seconds / len(result.status)
                if start:
                    result.columns = {k: v[:0] for k, v in result.columns.items()}
                    result.status, result.failures = result.status[:0], []
                return result
            first, start = first or result.failures[0], start + len(result.status)
        assert first is not None
        raise DatasetError(
            f"none of the first {start} rows succeeded (where that can be, max_failures says how "
            f"many may fail): {_described(first)}"
        )

    def _block(self, start: int, stop: int, seconds: float | None = None) -> Result:
        """Rows of one block without a known layout."""
        result = join(self._outcomes(start, stop, seconds))
        self.rate = result.seconds / len(result.status)
        return result

    def _outcomes(
        self, start: int, stop: int, seconds: float | None = None
    ) -> list[tuple[Task, Result]]:
        """Rows of one block, in parallel where they can be."""
        pieces = 1 if self.simulator.batched or seconds is not None else 4 * self.pool.workers
        step = -(-(stop - start) // pieces)
        starts = iter(range(start, stop, step))

        def following() -> Task | None:
            a = next(starts, None)
            if a is None:
                return None
            return replace(self._task(a, min(a + step, stop)), seconds=seconds)

        return sorted(self.pool.run(following), key=lambda pair: pair[0].start)

    # parameters and tasks

    def _round(self, row: int) -> int:
        """The round that a row belongs to."""
        firsts = [entry["first"] for entry in self.rounds]
        return max(0, bisect_right(firsts, row) - 1)

    def _theta(self, start: int, stop: int, round: int | None = None) -> np.ndarray:
        """Parameters of rows start ... stop - 1, float32 (rows, d); of the first row's round."""
        round = self._round(start) if round is None else round
        first, last = start // self.block, -(-stop // self.block)
        blocks = np.concatenate([self._draw(b, round) for b in range(first, last)])
        return blocks[start - first * self.block : stop - first * self.block]

    def _draw(self, b: int, round: int) -> np.ndarray:
        key = (b, round)
        if key not in self._drawn:
            if len(self._drawn) >= _BLOCKS:
                self._drawn.pop(next(iter(self._drawn)))
            self._drawn[key] = draw_theta(self._prior(round), self.seed, b, self.block, round)
        return self._drawn[key]

    def _prior(self, round: int) -> Any:
        """What a round draws its parameters from."""
        if round and round not in self._priors:
            from ..rounds.proposals import truncated

            rounds = self.rounds[: round + 1]
            self._priors[round] = truncated(self.simulator.prior, self.directory, rounds)  # type: ignore[arg-type]
        return self._priors[round] if round else self.simulator.prior

    def _task(self, start: int, stop: int, whole: bool = False) -> Task:
        low, high = start, stop
        if self.simulator.batched:
            low, high = start // self.block * self.block, -(-stop // self.block) * self.block
        round = self._round(start)
        return Task(
            start,
            stop,
            self._theta(low, high, round),
            self.seed,
            self.block,
            layout=self.layout,
            retries=self.options.retries,
            timeout=self.options.timeout,
            directory=str(self.directory.absolute()) if whole else None,
            stored=self.simulator.prior is not None,
            seen=self.seen,
            token=self.token,
            round=round,
        )

    def _following(self) -> Task | None:
        """The next task: a whole shard while many are left, then pieces of shards."""
        if self.again:
            return self.again.popleft()
        while self.missing:
            segment = self.missing[0]
            if self.position is None:
                self.position = self._begin(segment)
            start, end = self.position, segment.first + segment.rows
            if start >= end:
                self.missing.popleft()
                self.position = None
                continue
            stop = self._until(start, segment)
            self.position = stop
            self.left -= stop - start
            return self._task(start, stop, whole=stop - start == segment.rows)
        return None

    def _until(self, start: int, segment: Segment) -> int:
        """Where the task that starts with this row ends."""
        end, workers = segment.first + segment.rows, self.pool.workers
        least, most = (s / max(self.rate, 1e-9) for s in _UNIT_SECONDS)
        if isinstance(self.pool, Inline):
            wanted = most / 8
        else:
            wanted = min(most, max(least, self.left / (4 * workers)))
        if wanted != wanted:  # no rate yet
            wanted = self.block
        if start == segment.first and wanted >= _WHOLE * segment.rows:
            return end
        stop = start + max(1, int(wanted))
        if self.simulator.batched:
            stop = max(stop // self.block, start // self.block + 1) * self.block
        return end if end - stop < (stop - start) / 4 else min(stop, end)

    def _begin(self, segment: Segment) -> int:
        """The first row of a shard that is still to be simulated."""
        result, self.ahead = self.ahead, None if segment.first == 0 else self.ahead
        if segment.first or result is None or not len(result.status):
            return segment.first
        stop = min(segment.rows, len(result.status))
        result.columns = {k: v[:stop] for k, v in result.columns.items()}
        result.status = result.status[:stop]
        result.failures = [failure for failure in result.failures if failure.row < stop]
        self._take(self._task(0, stop), result)
        return stop

    # results

    def fill(self, bar: Bar) -> None:
        """Simulates what is missing, and commits each shard when it is whole."""
        self.bar = bar
        self.writes: set[Future[Path]] = set()
        with ThreadPoolExecutor(_WRITERS) as self.writer, self.journal:
            for task, result in self.pool.run(self._following):
                rows = task.stop - task.start
                if rows:
                    self.rate = float(np.nanmean([self.rate, result.seconds / rows]))
                self._take(task, result)
            self._flush()

    def _take(self, task: Task, result: Result) -> None:
        """Gathers a result, and writes its shard if that is whole now."""
        if result.probe is not None:
            self._see(result)
        if result.size is not None and not self._appeared(task, result):
            self.again.append(replace(task, directory=None))
            return
        self.journal.append(result.times)
        self._count(result)
        bad = sum(self.failed.values())
        self.bar.advance(task.stop - task.start, f"{bad} failed" if bad else "")
        if result.size is not None:
            return
        segment = self.planned[bisect_right(self.firsts, task.start) - 1]
        columns = {k: result.columns[k] for k in self.manifest.fields if k != "theta"}
        if "theta" in self.manifest.fields:
            columns = {"theta": task.own, **columns}
        shard = self.opened.get(segment.first)
        if shard is None:
            if task.stop - task.start == segment.rows:
                self._write(segment.first, columns, result.status, result.failures)
                return
            shard = self.opened[segment.first] = _Open.of(segment, self.manifest.fields)
        shard.add(task.start, columns, result)
        if shard.done == segment.rows:
            del self.opened[segment.first]
            failures = sorted(shard.failures)
            self._write(segment.first, shard.columns, shard.status, failures)

    def _see(self, result: Result) -> None:
        """Trusts a host with writing shards when its probe file appears here."""
        probe = self.directory / str(result.probe)
        with suppress(OSError):
            if probe.read_text() == self.token and result.host not in self.unseen:
                self.seen |= {result.host}
            probe.unlink()

    def _appeared(self, task: Task, result: Result) -> bool:
        path = self.directory / shard_name(task.start)
        with suppress(OSError):
            if path.stat().st_size == result.size:
                return True
        self.unseen.add(result.host)
        self.seen -= {result.host}
        return False

    def _count(self, result: Result) -> None:
        """Counts failures, and stops where there are more than were allowed."""
        if not result.failures:
            return
        self.failed.update(f"{failure.kind}: {failure.message}" for failure in result.failures)
        self.first = self.first or result.failures[0]
        total = sum(self.failed.values())
        if not self.options.strict and total <= self.options.limit:
            return
        self._flush()
        if self.options.strict:
            raise DatasetError(_described(self.first, self.kept()))
        allowed = f"{total} rows failed, more than max_failures allows ({self.options.limit:g})"
        often, times = self.failed.most_common(1)[0]
        common = f", {times} of them with {often}" if times < total else ""
        raise DatasetError(f"{allowed}{common}; {_described(self.first, self.kept())}")

    def _write(
        self,
        first: int,
        columns: dict[str, np.ndarray],
        status: np.ndarray,
        failures: Sequence[Failure],
    ) -> None:
        if len(self.writes) > _WRITERS:
            wait(self.writes, return_when=FIRST_COMPLETED)
        for write in [write for write in self.writes if write.done()]:
            self.writes.remove(write)
            write.result()
        self.writes.add(
            self.writer.submit(
                write_shard, self.directory, first, columns, status, failures, self._round(first)
            )
        )

    def _flush(self) -> None:
        while hasattr(self, "writes") and self.writes:
            self.writes.pop().result()

    def kept(self) -> str:
        """How much is committed, in words."""
        try:
            layout = Manifest.load(self.directory).layout(self.directory)
            rows = sum(segment.rows for segment in committed(self.directory, layout))
        except (DatasetError, OSError):
            rows = 0
        return f"kept {rows} of {self.n} rows in {self.directory}"


def draw_theta(prior: Any, seed: int, b: int, block: int, round: int = 0) -> np.ndarray:
    """Block b of parameters, float32 (block, d); without a prior, d = 0.

    Of a later round the prior is truncated: the stream (seed, 0, b, round) is then tried until
    the block is full.
    """
    if prior is None:
        return np.empty((block, 0), dtype=np.float32)
    if round:
        return prior.draw(block, seed, (THETA, b, round)).numpy()
    from ..bijection import inside

    state = np.random.SeedSequence(seed, spawn_key=(THETA, b)).generate_state(1, np.uint64)
    theta = prior.sample((block,), seed=int(state[0] >> np.uint64(1)))
    return inside(theta.detach().cpu().float(), prior.low, prior.high).numpy()


def _described(failure: Failure, rest: str = "") -> str:
    """A failure in a sentence, and the last lines of its error."""
    place = re.findall(r'File "(?:.*/)?([^/"]+)", line (\d+)', failure.trace)
    where = f" ({':'.join(place[-1])})" if place else ""
    said = f"row {failure.row} failed with {failure.kind}: {failure.message}{where}"
    sentence = f"{said}; {rest}" if rest else said
    return f"{sentence}\n{failure.trace}" if failure.trace else sentence
