r"""fit(): an expression, a dataset and a family become a Conditional.

.. math::
    \min_\phi \; -\frac{1}{\sum_i w_i} \sum_i w_i \log q_\phi(y_i \mid x_i)

AdamW with warm-up and cosine decay, clipped gradients, averaged weights, early stopping on
held-out loss with the best weights kept. Shuffle and noise are functions of (seed, step), so
that a resumed fit continues bit by bit.
"""

from __future__ import annotations

__all__ = ["Training", "fit"]

import contextlib
import copy
import datetime
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import nn

from . import __version__
from .campaign.dependence import SIGNIFICANT
from .conditional import Conditional
from .dataset import Dataset, DatasetError
from .expression import Expression, parse
from .fitting import checkpoint as checkpoints
from .fitting.masks import Masks
from .fitting.pipeline import Pipeline
from .fitting.schedule import Schedule, default_schedule, image_schedule, surrogate_schedule
from .fitting.source import Batch, Prepared, Source, embeddings, members, prepare
from .fitting.stacking import Members
from .gold import ScoreTerm, check_gold, longer
from .models import Flow
from .models.settings import describe_family
from .prior import Prior
from .progress import Bar
from .reference import fit_null
from .rounds.proposals import first_round, rows_for

log = logging.getLogger("simgen")

_CHECKPOINT_SECONDS = 600.0
_SMALL = 2_000  # given numbers a row up to which one thread is faster than two


def fit(
    expression: str,
    dataset: Dataset,
    model: Any = None,
    *,
    embedding: nn.Module | Mapping[str, nn.Module | None] | None = None,
    gold: str | None = None,
    augment: Callable[[Batch, np.random.Generator], Batch] | None = None,
    mask: Any = None,
    device: str = "auto",
    seed: int = 0,
    max_epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    budget: str | float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    memory: int = 1 << 30,
    progress: bool = True,
) -> Conditional:
    """Learns p(target | given) from a dataset.

    Arguments:
        expression: "theta | x", "x | theta", "Omega_m | x", "x".
        dataset: The simulations; rows that failed are left out.
        model: A family with its settings; `Flow()` unless said.
        embedding: A network that compresses the given field, or one a field by name; by layout
            unless said. Yours are copied, called as embedding(x), or embedding(x, mask) where
            the field has variable length.
        gold: Of "x | theta", a field of joint scores, "joint_score": the surrogate's slope by
            theta is fitted to it as well, and fewer simulations are needed, in three times the
            epochs (see `gold`).
        augment: Maps a batch of fields and a generator to a batch, anew each epoch.
        mask: Trains for missing data: which entries of the given side are observed, anew for each
            row of each step. One of `missing`, such as Random(0.3); a function mask(rng) → one
            row's boolean array, True where observed, of the given field's shape or one that
            broadcasts to it, or a dict of these by field; mask(rng, n) → n of them; the name of
            a boolean field that records the pattern; or a dict of these by given field. The model
            takes NaN as not observed. Networks see as many columns (channels, features) again,
            one where observed: so does an embedding of yours.
        device: "cpu", "cuda", or "auto".
        seed: Seeds initial weights, shuffle and noise.
        max_epochs: Passes over the data; by `default_schedule` unless said.
        batch_size: Rows a step, likewise.
        learning_rate: Peak learning rate, likewise.
        budget: Wall time over all restarts: "10min", "2h", or seconds. The decay of the rate
            follows it.
        checkpoint: A file that holds the state each epoch and every ten minutes; where it
            exists, training goes on from it.
        memory: Bytes of fields to hold in memory; larger datasets stream from disk.
        progress: Whether to show a progress bar on a terminal.

    Raises:
        ValueError: If a field is unknown, a setting makes no sense, or gold is none.
        DatasetError: If there are no rows to train on.
    """
    if isinstance(dataset, (str, os.PathLike)):
        raise TypeError(
            f"fit takes a Dataset, not its path: simgen.Dataset({os.fspath(dataset)!r})"
        )
    family = Flow() if model is None else model
    parsed = parse(expression)
    fields = parsed.resolve(dataset.fields)
    limit = _seconds(budget)
    _tell_failures(dataset, parsed)
    if gold is not None:
        if mask is not None:
            raise ValueError("gold= and mask= cannot go together: scores know the whole of theta")
        check_gold(parsed, first_round(dataset), gold)
    given = {k: fields[k] for k in parsed.given}
    gaps = None if mask is None else Masks(mask, given, dataset.fields)
    identity = {
        "expression": str(parsed),
        "family": describe_family(family),
        "dataset": dataset.identity,
        "rows": len(dataset),
        "seed": seed,
        "gold": gold,
        "mask": None if gaps is None else gaps.describe(),
        "rounds": [entry["proposal"]["sha256"] for entry in dataset.rounds[1:]],
    }
    dataset = rows_for(dataset, parsed)
    resumed = checkpoints.read(checkpoint, identity) if checkpoint else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        source = Source(parsed, fields, dataset, augment, seed, memory, gold, gaps)
        if resumed is None:
            pipeline = prepare(parsed, fields, source, embedding, family)
        else:
            member, count = members(family)
            columns, seen = source.columns, source.seen
            modules = [embeddings(parsed, seen, embedding, columns) for _ in range(count)]
            pipeline = resumed.pipeline(modules, member)
        pipeline.to(_device(device))
        said: dict[str, Any] = {
            "max_epochs": max_epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
        }
        plan = _plan(family, pipeline, len(source))
        plan = plan if gold is None else longer(plan)
        plan = replace(plan, **{k: v for k, v in said.items() if v is not None})
        term = None if gold is None else ScoreTerm.fitted(pipeline, dataset, gold)
        run = Training(pipeline, source, plan, limit, identity, checkpoint, term)
        if resumed is not None:
            resumed.restore(run)
        with _threads(pipeline):
            run(progress)
    run.members.restore(run.best, pipeline)
    null, reference = fit_null(source, pipeline.eval())
    provenance = _provenance(dataset, source, run, seed)
    made = Conditional(pipeline.to("cpu"), family, _prior(dataset), run.history, provenance)
    made.typicality, made.reference = null, reference
    return made


class Training:
    """State and loop of one fit.

    Arguments:
        pipeline: The module to train, in place.
        source: The dataset's side.
        plan: Length and rates.
        limit: Seconds that all runs together may take.
        identity: What a checkpoint must agree with.
        path: The checkpoint, None for none.
        gold: What joint scores add to the loss.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        source: Source,
        plan: Schedule,
        limit: float,
        identity: dict[str, Any],
        path: str | os.PathLike[str] | None,
        gold: ScoreTerm | None = None,
    ) -> None:
        self.pipeline, self.source, self.plan, self.gold = pipeline, source, plan, gold
        self.limit, self.identity, self.path = limit, identity, path
        self.device = pipeline.device
        self.feed = source.feed(pipeline, False, plan.batch_size)
        self.held_out = source.feed(pipeline, True, 4 * plan.batch_size)
        self.members = Members(pipeline)
        self.average = copy.deepcopy(self.members).requires_grad_(False).eval()
        self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
        pairs = zip(self.average.parameters(), self.members.parameters())
        trained = [(a, p) for a, p in pairs if p.requires_grad]
        self.averages, self.parameters = [a for a, _ in trained], [p for _, p in trained]
        self.optimizer = torch.optim.AdamW(
            self.members.decay_groups(plan.weight_decay), lr=plan.learning_rate, fused=True
        )
        self.step = 0
        self.elapsed = 0.0
        self.best_loss = [math.inf] * self.members.count
        self.stale = 0
        self.total = self.count = 0.0
        keys = ("epoch", "train_loss", "validation_loss", "learning_rate", "seconds")
        self.history: dict[str, list[float]] = {k: [] for k in keys}
        self._offset = self._mean_ladj()

    def _mean_ladj(self) -> float:
        """The mean log-determinant of held-out rows: between a loss of z and one in physical
        units.
        """
        total, rows = 0.0, 0
        for batch in self.held_out.epoch(0):
            n = len(batch.z)
            ladj = batch.ladj.reshape(n, -1).mean(1)
            total, rows = total + n * float(batch.mean(ladj)), rows + n
        return total / rows

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.plan.max_epochs * self.feed.steps

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        over = self.elapsed >= self.limit
        return self.step >= self.steps or self.stale >= self.plan.rest or over

    def __call__(self, progress: bool) -> None:
        """Trains to the end, the budget, or Ctrl-C, which leaves a checkpoint."""
        self._start = time.monotonic() - self.elapsed
        self._saved = time.monotonic()
        title = f"fit {self.source.expression}"
        try:
            with Bar(title, len(self.source) * self.plan.max_epochs, progress) as self._bar:
                self._bar.advance(round(self.step / self.steps * self._bar.total))
                if self.step == 0:  # the closed-form start may already be the best
                    self.best_loss = self._validate()
                while not self.finished:
                    self._epoch()
                    self._clock()
                    self._save()
        except KeyboardInterrupt:
            self._clock()
            self.path = self.path or f"fit-{self.identity['dataset'][:8]}.checkpoint"
            self._save()
            log.warning(
                "interrupted after epoch %d; the state is in %s: "
                'call fit again with checkpoint="%s" to go on',
                self.step // self.feed.steps,
                self.path,
                self.path,
            )
            raise

    def _clock(self) -> None:
        self.elapsed = time.monotonic() - self._start

    def _save(self) -> None:
        if self.path:
            checkpoints.write(self.path, self)
            self._saved = time.monotonic()

    def _epoch(self) -> None:
        epoch, first = divmod(self.step, self.feed.steps)
        if first == 0 and epoch > len(self.history["epoch"]):
            epoch, first = epoch - 1, self.feed.steps  # stopped before the epoch was judged
        if first == 0:
            self.total = self.count = 0.0
        for batch in self.feed.epoch(epoch, first):
            share = max(self.step / self.steps, self.elapsed / self.limit)
            loss = self._update(batch, self.plan.rate(share))
            rows = len(batch.z)
            self.total, self.count = self.total + rows * loss, self.count + rows
            self._bar.advance(rows, f"loss {loss - self._offset:.3f}")
            self._clock()
            if self.elapsed >= self.limit:
                break
            if self.path and time.monotonic() - self._saved > _CHECKPOINT_SECONDS:
                self._save()
        held_out = self._validate()
        if not all(map(math.isfinite, held_out)):
            log.warning("the held-out loss of epoch %d is %s", epoch + 1, held_out)
        better = [new < old for new, old in zip(held_out, self.best_loss)]
        self.best_loss = [min(pair) for pair in zip(held_out, self.best_loss)]
        self.stale = 0 if any(better) else self.stale + 1
        if any(better):
            self.average.keep_best(self.best, better)
        rate = self.optimizer.param_groups[0]["lr"]
        train = self.total / max(self.count, 1) - self._offset
        mean = sum(held_out) / len(held_out)
        for key, value in zip(self.history, (epoch + 1, train, mean, rate, self.elapsed)):
            self.history[key].append(value)

    def _update(self, batch: Prepared, rate: float) -> float:
        """One step of the optimiser; returns the loss."""
        torch.manual_seed(self.source.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.members.train()
        self.members.progress(self.step / self.steps)
        if self.gold is None:
            loss = batch.mean(self.members.losses(batch.z, batch.given, batch.masks)).sum()
            loss.backward()
        else:
            losses, terms = self.gold(self.members, batch)
            loss = losses.sum()
            (loss + terms.sum()).backward()
        if bool(self.members.clip_(self.plan.clip).isfinite().any()):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        keep = min(1 - 1 / self.plan.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():  # else each step would keep its weights alive
            torch._foreach_lerp_(self.averages, self.parameters, 1 - keep)  # type: ignore[arg-type]
        value = float(loss.detach()) / self.members.count
        hopeless = not any(map(math.isfinite, self.best_loss))
        if not math.isfinite(value) and self.step > 100 and hopeless:
            raise ValueError(f"the loss is {value} at step {self.step}: try a lower learning_rate")
        return value

    @torch.no_grad()
    def _validate(self) -> list[float]:
        """Held-out loss of each member's averaged weights, nats in physical units.

        Random numbers in a loss are the same at each call, so that losses can be compared.
        """
        for mine, theirs in zip(self.average.buffers(), self.members.buffers()):
            mine.copy_(theirs)
        total, count = torch.zeros(self.members.count, dtype=torch.float64), 0
        for i, batch in enumerate(self.held_out.epoch(0)):
            torch.manual_seed(self.source.seed * 1_000_003 + i)
            rows = len(batch.z)
            loss = batch.mean(self.average.losses(batch.z, batch.given, batch.masks))
            total, count = total + rows * loss.double().cpu(), count + rows
        return (total / count - self._offset).tolist()


def _plan(family: Any, pipeline: Pipeline, rows: int) -> Schedule:
    """The model's own schedule or the family's, where it has one for vectors, else the default."""
    if pipeline.target.axes:
        return image_schedule(rows)
    own = getattr(pipeline.heads[0].model, "schedule", None)
    if own is not None:
        return own(rows)
    member, _ = members(family)
    given = [pipeline.fields[k].layout for k in pipeline.expression.given]
    vectors = all(layout == "vector" for layout in given)
    if pipeline.expression.given == ("theta",) and not hasattr(member, "schedule"):
        return surrogate_schedule(rows)
    rule = getattr(member, "schedule", default_schedule)
    return rule(rows, pipeline.target.features, vectors)


@contextlib.contextmanager
def _threads(pipeline: Pipeline) -> Iterator[None]:
    """One thread for small networks on a CPU: two gain nothing there, and lose much when a core
    is taken.
    """
    before = torch.get_num_threads()
    given = sum(pipeline.fields[k].size for k in pipeline.expression.given)
    modelled = 0 if not pipeline.target.axes else _SMALL
    if pipeline.device.type == "cpu" and given + modelled <= _SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def _seconds(budget: str | float | None) -> float:
    """A budget as seconds: 90, "90s", "10min", "2h"."""
    if budget is None:
        return math.inf
    units = {"": 1, "s": 1, "min": 60, "h": 3600}
    text = str(budget).strip()
    number = text.rstrip("smhin ")
    try:
        seconds = float(number) * units[text[len(number) :].strip()]
    except (ValueError, KeyError):
        raise ValueError(f"budget is seconds, or '90s', '10min', '2h'; got {budget!r}") from None
    if seconds <= 0:
        raise ValueError(f"budget must be positive; got {budget!r}")
    return seconds


def _tell_failures(dataset: Dataset, expression: Expression) -> None:
    """Warns where failed rows change what is learned."""
    if not dataset.status.any():
        return
    found = [d for d in dataset.dependence() if d.p_failure is not None]
    names = {d.name for d in found}
    for one in found:
        if one.p_failure is not None and one.p_failure * len(found) < SIGNIFICANT:
            log.warning("%s: the effective prior is truncated: %s", dataset.path, one)
    if {"theta", *names} & set(expression.given):
        log.warning(
            "%s: %.2g %% of its rows failed and are left out: what is learned is p(%s, success)",
            dataset.path,
            100 * (dataset.status != 0).mean(),
            expression,
        )


def _prior(dataset: Dataset) -> Prior | None:
    """The dataset's prior, None where it has none or cannot rebuild it."""
    try:
        return dataset.prior
    except DatasetError:
        return None


def _provenance(dataset: Dataset, source: Source, run: Training, seed: int) -> dict[str, Any]:
    packages = ("torch", "zuko", "numpy", "h5py")
    return {
        "dataset": {
            "path": str(dataset.path),
            "identity": dataset.identity,
            "rows": len(dataset),
            "failed": float((dataset.status != 0).mean()),
            "split": list(dataset.split),
            "simulator": dataset.provenance.get("simulator"),
            "truncation": dataset.truncation,
        },
        "training": {
            **asdict(run.plan),
            "rows": len(source),
            "steps": run.step,
            "epochs": len(run.history["epoch"]),
            "seconds": run.elapsed,
            "best_validation_loss": sum(run.best_loss) / len(run.best_loss),
            "parameters": sum(p.numel() for p in run.pipeline.parameters()),
            "device": str(run.device),
            "gold": source.gold,
            "mask": None if source.mask is None else source.mask.describe(),
        },
        "variable": list(source.lengths.values()),
        "seed": seed,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {
            "simgen": __version__,
            "python": platform.python_version(),
            **{k: version(k) for k in packages},
        },
    }
