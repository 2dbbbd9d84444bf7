r"""Summary: a locally optimal compression of x, learned from joint scores (SALLY).

.. math::
    s(x, \vartheta) = \arg\min_f E\bigl| f(x, \vartheta) - t(x, z \mid \vartheta) \bigr|^2
        = E[t \mid x, \vartheta] = \nabla_\vartheta \log p(x \mid \vartheta)

Close to a reference point the likelihood depends on x through the score there alone: d numbers
that lose nothing to first order. The regression is given theta beside x and is read at the
reference point, so that rows from all over the prior tell of it; rows that were all simulated
there are the special case in which theta says nothing.

References:
    | Mining gold from implicit models to improve likelihood-free inference (Brehmer et al., 2018)
    | https://arxiv.org/abs/1805.12244, section 3.3 (SALLY)
    | Massive optimal data compression (Alsing & Wandelt, 2018), eq. 5
    | https://arxiv.org/abs/1712.00012
"""

from __future__ import annotations

__all__ = ["sally"]

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .conditional import Conditional
from .dataset import Dataset
from .field import Field
from .fitting.head import default_embedding
from .gold import check_joint_score
from .models.base import Given
from .networks.score import Regression, ScoreSummary
from .training import fit

_ROWS = 4_096


def sally(
    dataset: Dataset,
    theta_ref: Any = None,
    *,
    gold: str = "joint_score",
    device: str = "auto",
    seed: int = 0,
    max_epochs: int | None = None,
    budget: str | float | None = None,
    progress: bool = True,
) -> ScoreSummary:
    """Learns the score of p(x | theta) at a reference point, as a network to embed x with.

    Of x it is a multilayer perceptron, behind the encoder of its layout where x is a set, series
    or image. Its d outputs have mean zero and deviation one over the dataset. Its weights are
    held fixed; `.requires_grad_(True)` lets `fit` go on with them.

    Arguments:
        dataset: Simulations over a prior, or all at theta_ref, with their joint scores.
        theta_ref: Where the summary is optimal, (d,); the middle of the dataset unless said.
        gold: The field of joint scores.
        device: "cpu", "cuda", or "auto".
        seed: Seeds initial weights and shuffle.
        max_epochs: Passes over the data; by `default_schedule` unless said.
        budget: Wall time, "10min".
        progress: Whether to show a progress bar on a terminal.

    Raises:
        ValueError: If theta_ref lies where nothing was simulated, or gold is no joint score.

    Examples:
        A posterior through the summary: `fit("theta | x", dataset, embedding=sally(dataset))`.
    """
    check_joint_score(dataset, gold, ("x",))
    x = dataset.fields["x"]
    encoder = None if x.layout == "vector" else default_embedding(x, dataset.fields[gold].size)
    reference = None if theta_ref is None else _inside(dataset, theta_ref)
    mean = fit(
        f"{gold} | x, theta",
        dataset,
        Mean(),
        embedding={"x": encoder, "theta": None},
        device=device,
        seed=seed,
        max_epochs=max_epochs,
        budget=budget,
        progress=progress,
    )
    return _summary(mean, reference, dataset)


def _summary(mean: Conditional, reference: Tensor | None, dataset: Dataset) -> ScoreSummary:
    """The regression at the reference point, standardised on training rows."""
    pipeline, head = mean.pipeline, mean.pipeline.heads[0]
    encoder: Any = head.embeds("x")
    network = ScoreSummary(
        head.model.regression.config,
        None if encoder is None else encoder.config,
        dataset.fields["theta"].size,
    )
    network.regression.load_state_dict(head.model.regression.state_dict())
    if network.encoder is not None:
        network.encoder.load_state_dict(encoder.state_dict())
    rows = dataset.train.rows
    rows = rows[:: -(-len(rows) // _ROWS)]
    names = ["x", "theta", *(("x_length",) if "x_length" in dataset.fields else ())]
    batch = {k: torch.from_numpy(dataset.read_rows(k, rows)) for k in names}
    masks = {}
    if "x_length" in batch:
        masks["x"] = torch.arange(batch["x"].shape[1]) < batch["x_length"][:, None]
    if reference is not None:
        batch["theta"] = reference.expand(len(rows), -1)
    with torch.no_grad():
        standardised = pipeline.standardise(batch, masks)
        if reference is not None:
            network.reference.copy_(standardised["theta"][0])
        values = network(standardised["x"], masks.get("x"))
        network.loc.copy_(values.mean(0))
        network.scale.copy_(values.std(0).clamp(min=1e-6))
    network.preprocessing = (copy.deepcopy(pipeline.given_field("x")),)
    return network.requires_grad_(False)


def _inside(dataset: Dataset, theta_ref: Any) -> Tensor:
    """The reference point, which must be one of those simulated, or between them."""
    reference = np.asarray(theta_ref, dtype=np.float64).reshape(-1)
    theta = dataset.train["theta"][:]
    if reference.shape != theta.shape[1:]:
        raise ValueError(f"theta_ref must be {theta.shape[1:]}; got {np.shape(theta_ref)}")
    low, high = theta.min(0), theta.max(0)
    slack = 1e-5 * (np.abs(low) + np.abs(high))
    if not ((reference >= low - slack) & (reference <= high + slack)).all():
        raise ValueError(
            f"theta_ref {reference.tolist()} is outside the simulated parameters, from "
            f"{low.tolist()} to {high.tolist()}: the score is learned inside them"
        )
    return torch.from_numpy(reference)


@dataclass(frozen=True)
class Mean:
    """The family of a conditional mean: least squares.

    Arguments:
        hidden: Widths of the network.
    """

    hidden: tuple[int, ...] = (128, 128)
    affine = True

    def build(self, target: Field, given: Mapping[str, Field]) -> MeanModule:
        """The network of a target vector given a context."""
        return MeanModule(Regression(given["context"].size, target.size, self.hidden))


class MeanModule(nn.Module):
    """E[target | context]; its loss is half the squared error.

    Arguments:
        regression: From the context to the mean.
    """

    density = None

    def __init__(self, regression: Regression) -> None:
        super().__init__()
        self.regression = regression

    def initialise(self, target: Tensor, given: Given) -> None:
        """Starts from the linear regression."""
        assert given[0] is not None
        self.regression.initialise(given[0], target)

    def loss(self, target: Tensor, given: Given) -> Tensor:
        """Half the squared error of each row (n,)."""
        assert given[0] is not None
        return 0.5 * (target - self.regression(given[0])).square().sum(-1)
