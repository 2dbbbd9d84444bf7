r"""Schedule: how long and how fast to train, by a written rule unless said.

.. math::
    \eta(s) = \eta_0 \, \tfrac12 \bigl( 1 + \cos \pi s \bigr)

after a linear warm-up, s the share of the whole training that is done.

References:
    | SGDR: Stochastic Gradient Descent with Warm Restarts (Loshchilov & Hutter, 2017), eq. 5
    | https://arxiv.org/abs/1608.03983
    | Decoupled Weight Decay Regularization (Loshchilov & Hutter, 2019)
    | https://arxiv.org/abs/1711.05101
"""

from __future__ import annotations

__all__ = ["Schedule", "default_schedule", "image_schedule", "surrogate_schedule"]

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Arguments:
        batch_size: Rows a step.
        learning_rate: Peak after the warm-up, where the cosine starts.
        max_epochs: Passes over the training rows.
        patience: Epochs without a better held-out loss before stopping; three quarters of all
            epochs unless said: while the rate is high, the loss may rest for long and still fall
            at the end.
        warmup: Share of all steps in which the rate rises.
        weight_decay: Of AdamW.
        clip: Largest norm of the gradient.
        average: Time constant of the weights' moving average, in steps.
    """

    batch_size: int
    learning_rate: float
    max_epochs: int
    patience: int | None = None
    warmup: float = 0.05
    weight_decay: float = 1e-4
    clip: float = 5.0
    average: float = 200.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "learning_rate", "max_epochs"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)!r}")

    @property
    def rest(self) -> int:
        """The patience, said or not."""
        return max(10, 3 * self.max_epochs // 4) if self.patience is None else self.patience

    def rate(self, share: float) -> float:
        """The learning rate after a share of the whole training."""
        if share < self.warmup:
            return self.learning_rate * (share / self.warmup + 1e-3)
        rest = (share - self.warmup) / (1 - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))


def default_schedule(rows: int, columns: int, vectors: bool = True) -> Schedule:
    """The default schedule: 1,400 steps at 9,000 rows, growing as the root of their number.

    Targets of one or two columns, which fit noise last, have 2,400. Batches of 256 rows (512 from
    30,000, 1,024 from 100,000), 10 to 200 epochs. The weights' decay follows what noise could be
    fitted: 0.04 d^2 at 9,000 rows, in proportion to 1 / rows, between 0.01 and 4. The rate at its
    peak is 0.004 where vectors are given, and falls as 1 / d^2 from 5 columns on down to 0.001,
    which it is where sets, series or images are embedded.

    Arguments:
        rows: Training rows n.
        columns: Columns of the target d.
        vectors: Whether nothing but vectors is given.
    """
    batch_size = 256 if rows < 30_000 else 512 if rows < 100_000 else 1024
    steps = (2_400 if columns <= 2 else 1_400) * max(rows / 9_000, 0.25) ** 0.5
    epochs = max(10, min(200, round(steps * batch_size / max(rows, 1))))
    decay = max(0.01, min(4.0, 0.04 * columns**2 * 9_000 / max(rows, 1)))
    rate = max(1e-3, 4e-3 * min(1.0, 25 / columns**2)) if vectors else 1e-3
    return Schedule(batch_size, rate, epochs, weight_decay=decay)


def surrogate_schedule(rows: int) -> Schedule:
    """The default schedule of p(x | theta): 4,200 steps at 9,000 rows, growing as the root of
    their number, at a peak rate of 0.002 and with next to no decay: parameters are few and without
    noise, so that there is little to overfit and a sharp function of them to be learned.

    Arguments:
        rows: Training rows n.
    """
    plan = default_schedule(rows, 3)
    return Schedule(plan.batch_size, 2e-3, min(200, 3 * plan.max_epochs), weight_decay=0.01)


def image_schedule(rows: int) -> Schedule:
    """The default schedule where the target is an image: 4,000 steps of 64 rows at 9,000 rows,
    growing as the root of their number, 10 to 200 epochs; a peak rate of 0.001.

    Arguments:
        rows: Training rows n.
    """
    steps = 4_000 * max(rows / 9_000, 0.25) ** 0.5
    epochs = max(10, min(200, round(steps * 64 / max(rows, 1))))
    return Schedule(64, 1e-3, epochs, weight_decay=0.01)
