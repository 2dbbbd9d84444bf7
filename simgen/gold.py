r"""Gold: what a simulator knows of its own likelihood, used to learn p(x | theta) from fewer rows.

A simulator that follows its latents z knows the joint score t = ∇ log p(x, z | theta), whose mean
given x and theta is ∇ log p(x | theta). So each row says, with some noise, what the slope of the
surrogate has to be (SCANDAL):

.. math::
    L = -\frac1n \sum_i \log q(x_i \mid \vartheta_i)
        + \frac12 \sum_k \frac{1}{\sigma_k^2} \frac1n \sum_i r_{ik}^2, \qquad
    r_{ik} = \frac{\log q(x_i \mid \vartheta_i + h_k w_k) -
        \log q(x_i \mid \vartheta_i - h_k w_k)}{2 h_k} - w_k \cdot t_i

Along the directions w_k the scores are white, and sigma_k^2 is the residuals' own variance in the
batch: weighted by it, score and density tell of q's parameters what each knows, and the sum is
the likelihood of both to second order. So the weight has no unit and nothing to tune. The slope is
a secant, not a derivative: networks are piecewise linear in theta, and what happens at their
kinks is part of the slope. A surrogate that is held to the slope learns later what is noise, and
is trained for longer.

References:
    | Mining gold from implicit models to improve likelihood-free inference (Brehmer et al., 2018)
    | https://arxiv.org/abs/1805.12244, eqs. 9, 10 and 26
    | Multi-Task Learning Using Uncertainty to Weigh Losses (Kendall, Gal & Cipolla, 2018), eq. 5
    | https://arxiv.org/abs/1705.07115
"""

from __future__ import annotations

__all__ = ["ScoreTerm", "check_gold", "check_joint_score", "joint_log_ratio", "longer"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

from .dataset import Dataset, DatasetError
from .diagnosis import score_identities
from .expression import Expression
from .fitting.pipeline import Pipeline
from .fitting.schedule import Schedule
from .forward import Simulator

if TYPE_CHECKING:
    from .fitting.source import Prepared
    from .fitting.stacking import Members

_STEP, _REACH = 0.1, 0.05  # largest step: in nats of the scores, in deviations of theta
_FLOOR = 0.1  # least sigma^2, as a share of the scores' variance
_LONGER = 3  # times the epochs of a fit without gold
_ROWS, _BYTES = 10_000, 64 << 20
_CHANCE = 1e-6


@dataclass(frozen=True)
class ScoreTerm:
    """The second term of the loss. Rows of a batch take the directions in turn.

    Arguments:
        directions: w_k, (d, d): scores along them are white, of mean square one (or zero, where
            they do not vary). In units of standardised theta.
        steps: h_k, (d,).
    """

    directions: Tensor
    steps: Tensor

    @classmethod
    def fitted(cls, pipeline: Pipeline, dataset: Dataset, gold: str) -> ScoreTerm:
        """The directions of a dataset's training rows.

        Raises:
            ValueError: If the model's density is not known exactly.
            DatasetError: If the scores do not vary.
        """
        model = pipeline.heads[0].model
        if model.density != "exact":
            raise ValueError(
                f"gold={gold!r} needs a model whose density is exact, such as Flow(); that of "
                f"{type(model).__name__} is {model.density or 'not known'}"
            )
        fields = _rows(dataset, ("theta", gold))
        theta, t = (torch.from_numpy(fields[k]).to(pipeline.device) for k in ("theta", gold))
        score = pipeline.given_score("theta", theta, t).double()
        values, vectors = torch.linalg.eigh(score.T @ score / len(score))
        if not bool(values[-1] > 0):
            raise DatasetError(f"{gold!r} is zero in every row: there is nothing to learn from it")
        size = values.sqrt().where(values > 1e-8 * values[-1], torch.inf)
        return cls((vectors / size).T.float(), (_REACH * size).clamp(max=_STEP).float())

    def __call__(self, members: Members, batch: Prepared) -> tuple[Tensor, Tensor]:
        """Both terms of the loss, each (members,)."""
        assert batch.gold is not None
        d, n = len(self.steps), len(batch.z)
        turn = torch.arange(n, device=batch.z.device) % d
        w, h = self.directions[turn], self.steps[turn]
        u, move = batch.given["theta"], h[:, None] * w
        z = batch.z.repeat(3, *[1] * (batch.z.dim() - 1))
        losses = members.losses(z, {"theta": torch.cat((u, u + move, u - move))}, {})
        loss, above, below = losses.tensor_split(3, 1)
        events = batch.z.shape[1] if members.iid else 1  # of a set the loss is the mean
        square = (events * (below - above) / (2 * h) - (w * batch.gold).sum(-1)).square()
        ones = torch.ones_like(h) if batch.weight is None else batch.weight.abs()
        share = torch.nn.functional.one_hot(turn, d) * ones[:, None]
        variance = square.detach() @ share / share.sum(0).clamp(min=1e-12)
        term = batch.mean(square / (variance[:, turn] + _FLOOR))
        return batch.mean(loss), d / (2 * events) * term


def longer(plan: Schedule) -> Schedule:
    """The schedule of a fit with gold, from that of a fit without."""
    return replace(plan, max_epochs=_LONGER * plan.max_epochs)


def check_gold(expression: Expression, dataset: Dataset, gold: str) -> None:
    """Whether a joint score can help an expression, and is one.

    Raises:
        ValueError: If the expression has something else than theta given, or as of
            `check_joint_score`.
    """
    if expression.given != ("theta",) or "theta" in expression.target:
        raise ValueError(
            f"gold={gold!r} is the slope of a log-density by theta: the expression must be such "
            f"as 'x | theta', with theta alone given; got {str(expression)!r}"
        )
    check_joint_score(dataset, gold, expression.target)


def check_joint_score(dataset: Dataset, gold: str, outcomes: Sequence[str]) -> None:
    """Whether a field obeys the identities of a joint score, on a dataset's training rows.

    Arguments:
        dataset: The dataset; without its prior only E[t] = 0 is checked.
        gold: The field.
        outcomes: Fields that depend on theta.

    Raises:
        ValueError: If the field is missing, has not the shape of theta, or contradicts an
            identity by what chance does once in a million.
    """
    if "theta" not in dataset.fields:
        raise ValueError(f"{dataset.path} has no theta: there is no gold={gold!r} without one")
    if gold not in dataset.fields:
        raise ValueError(
            f"{dataset.path} has no field {gold!r} for gold=; it has {', '.join(dataset.stored)}: "
            "simulate with a simulator that records its joint score, and keep it"
        )
    shape, wanted = dataset.fields[gold].shape, dataset.fields["theta"].shape
    if shape != wanted:
        raise ValueError(f"gold={gold!r} has shape {shape} a row; wanted {wanted}, that of theta")
    try:
        prior = dataset.prior
    except DatasetError:
        prior = None
    weight = ("weight",) if "weight" in dataset.fields else ()
    fields = _rows(dataset, ("theta", gold, *outcomes, *weight))
    for found in score_identities(
        prior,
        fields["theta"],
        fields[gold],
        [fields[k] for k in outcomes],
        fields.get("weight"),
    ):
        if found.chance < _CHANCE:
            raise ValueError(
                f"{gold!r} in {dataset.path} is no joint score: {found.identity} fails by "
                f"{found.deviation:.1f} standard errors in {len(fields['theta'])} rows; it must "
                "be the gradient by theta of log p(x, z | theta) at the row's own theta "
                "(`simgen check` looks closer)"
            )


def joint_log_ratio(
    simulator: Simulator, fields: Mapping[str, Array], theta_0: Any, theta_1: Any
) -> Array:
    r"""Joint log-ratios of simulated rows, (n,).

    .. math::
        \log r(x, z \mid \vartheta_0, \vartheta_1)
            = \log p(x, z \mid \vartheta_0) - \log p(x, z \mid \vartheta_1)

    Of rows simulated at theta_1, r has mean one, and its mean given x is the likelihood ratio.

    Arguments:
        simulator: One that has `joint_log_likelihood(fields, theta)`.
        fields: As it simulated them, with the latents that its likelihood needs.
        theta_0: (n, d), or (d,) for all rows.
        theta_1: Likewise.

    Raises:
        TypeError: If the simulator has no joint likelihood.

    References:
        | Mining gold from implicit models (Brehmer et al., 2018), eq. 5
        | https://arxiv.org/abs/1805.12244
    """
    joint: Any = getattr(simulator, "joint_log_likelihood", None)
    if joint is None:
        raise TypeError(
            f"{simulator.name} has no joint_log_likelihood(fields, theta), from which joint "
            "ratios follow"
        )
    zero, one = (np.asarray(v, dtype=np.float64) for v in (theta_0, theta_1))
    return np.asarray(joint(fields, zero) - joint(fields, one))


def _rows(dataset: Dataset, names: tuple[str, ...]) -> dict[str, Array]:
    """Fields of training rows, evenly spread: all, or as many as are enough."""
    rows = dataset.train.rows
    width = sum(4 * dataset.fields[k].size for k in names)
    most = max(1, min(_ROWS, _BYTES // width))
    rows = rows[:: -(-len(rows) // most)]
    return {k: dataset.read_rows(k, rows) for k in names}
