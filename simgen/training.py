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
from . import checkpoint as checkpoints
from .conditional import Conditional
from .dataset import Dataset, DatasetError
from .expression import parse
from .models import Flow
from .pipeline import Pipeline
from .prior import Prior
from .progress import Bar
from .schedule import Schedule, default_schedule
from .source import Batch, Prepared, Source, embeddings, prepare

log = logging.getLogger("simgen")

_CHECKPOINT_SECONDS = 600.0
_SMALL = 2_000  # given numbers a row up to which one thread is faster than two


def fit(
    expression: str,
    dataset: Dataset,
    model: Any = None,
    *,
    embedding: nn.Module | Mapping[str, nn.Module | None] | None = None,
    augment: Callable[[Batch, np.random.Generator], Batch] | None = None,
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
        augment: Maps a batch of fields and a generator to a batch, anew each epoch.
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
        ValueError: If a field is unknown, or a setting makes no sense.
        DatasetError: If there are no rows to train on.
    """
    family = Flow() if model is None else model
    parsed = parse(expression)
    fields = parsed.resolve(dataset.fields)
    limit = _seconds(budget)
    identity = {
        "expression": str(parsed),
        "family": {"name": type(family).__name__, **asdict(family)},
        "dataset": dataset.identity,
        "rows": len(dataset),
        "seed": seed,
    }
    resumed = checkpoints.read(checkpoint, identity) if checkpoint else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        source = Source(parsed, fields, dataset, augment, seed, memory)
        if resumed is None:
            pipeline = prepare(parsed, fields, source, embedding, family)
        else:
            modules = embeddings(parsed, fields, embedding, source.columns)
            pipeline = resumed.pipeline(modules, family)
        pipeline.to(_device(device))
        said: dict[str, Any] = {
            "max_epochs": max_epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
        }
        vectors = all(fields[k].layout == "vector" for k in parsed.given)
        plan = default_schedule(len(source), pipeline.target.features, vectors)
        plan = replace(plan, **{k: v for k, v in said.items() if v is not None})
        run = Training(pipeline, source, plan, limit, identity, checkpoint)
        if resumed is not None:
            resumed.restore(run)
        with _threads(pipeline):
            run(progress)
    pipeline.load_state_dict(run.best)
    provenance = _provenance(dataset, source, run, seed)
    return Conditional(pipeline.to("cpu"), family, _prior(dataset), run.history, provenance)


class Training:
    """State and loop of one fit.

    Arguments:
        pipeline: The module to train, in place.
        source: The dataset's side.
        plan: Length and rates.
        limit: Seconds that all runs together may take.
        identity: What a checkpoint must agree with.
        path: The checkpoint, None for none.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        source: Source,
        plan: Schedule,
        limit: float,
        identity: dict[str, Any],
        path: str | os.PathLike[str] | None,
    ) -> None:
        self.pipeline, self.source, self.plan = pipeline, source, plan
        self.limit, self.identity, self.path = limit, identity, path
        self.device = pipeline.device
        self.feed = source.feed(pipeline, False, plan.batch_size)
        self.held_out = source.feed(pipeline, True, 4 * plan.batch_size)
        self.average = copy.deepcopy(pipeline).requires_grad_(False).eval()
        self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
        pairs = zip(self.average.parameters(), pipeline.parameters())
        trained = [(a, p) for a, p in pairs if p.requires_grad]
        self.averages, self.parameters = [a for a, _ in trained], [p for _, p in trained]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True
        )
        self.step = 0
        self.elapsed = 0.0
        self.best_loss = math.inf
        self.stale = 0
        self.total = self.count = 0.0
        keys = ("epoch", "train_loss", "validation_loss", "learning_rate", "seconds")
        self.history: dict[str, list[float]] = {k: [] for k in keys}
        self._offset = float(torch.cat([b.ladj.flatten() for b in self.held_out.epoch(0)]).mean())

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
        if not math.isfinite(held_out):
            log.warning("the held-out loss of epoch %d is %s", epoch + 1, held_out)
        if held_out < self.best_loss:
            self.best_loss, self.stale = held_out, 0
            self.best = {k: v.clone() for k, v in self.average.state_dict().items()}
        else:
            self.stale += 1
        rate = self.optimizer.param_groups[0]["lr"]
        train = self.total / max(self.count, 1) - self._offset
        for key, value in zip(self.history, (epoch + 1, train, held_out, rate, self.elapsed)):
            self.history[key].append(value)

    def _update(self, batch: Prepared, rate: float) -> float:
        """One step of the optimiser; returns the loss."""
        torch.manual_seed(self.source.seed * 1_000_003 + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.pipeline.train()
        loss = batch.mean(self.pipeline.loss(batch.z, batch.given, batch.masks))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.plan.clip)
        if bool(norm.isfinite()):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        keep = min(1 - 1 / self.plan.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.averages, self.parameters, 1 - keep)  # type: ignore[arg-type]
        value = float(loss.detach())
        if not math.isfinite(value) and self.step > 100 and not math.isfinite(self.best_loss):
            raise ValueError(f"the loss is {value} at step {self.step}: try a lower learning_rate")
        return value

    @torch.no_grad()
    def _validate(self) -> float:
        """Held-out loss of the averaged weights, nats in physical units."""
        for mine, theirs in zip(self.average.buffers(), self.pipeline.buffers()):
            mine.copy_(theirs)
        total = weight = 0.0
        for batch in self.held_out.epoch(0):
            rows = float(len(batch.z) if batch.weight is None else batch.weight.abs().sum())
            loss = batch.mean(self.average.loss(batch.z, batch.given, batch.masks))
            total, weight = total + rows * float(loss), weight + rows
        return total / weight - self._offset


@contextlib.contextmanager
def _threads(pipeline: Pipeline) -> Iterator[None]:
    """One thread for small networks on a CPU: two gain nothing there, and lose much when a core
    is taken.
    """
    before = torch.get_num_threads()
    given = sum(pipeline.fields[k].size for k in pipeline.expression.given)
    if pipeline.device.type == "cpu" and given <= _SMALL:
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
            "split": list(dataset.split),
            "simulator": dataset.provenance.get("simulator"),
        },
        "training": {
            **asdict(run.plan),
            "rows": len(source),
            "steps": run.step,
            "epochs": len(run.history["epoch"]),
            "seconds": run.elapsed,
            "best_validation_loss": run.best_loss,
            "parameters": sum(p.numel() for p in run.pipeline.parameters()),
            "device": str(run.device),
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
