r"""Ensemble: a mixture of members of one family, trained together from different seeds.

.. math::
    \log q(z \mid c) = \log \frac1K \sum_{k=1}^K q_k(z \mid c_k)

Members share the preprocessing, the batches and nothing else: each has its own embeddings,
initial weights and best weights. Their spread is what the data leave open, so that the mixture
is wider, and better calibrated, than a member where simulations are few.
"""

from __future__ import annotations

__all__ = ["Ensemble"]

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as default
from typing import Any

from torch import nn

from ..field import Field
from .flow import Flow


@dataclass(frozen=True)
class Ensemble:
    """K models of one family; `fit` trains them at once.

    Arguments:
        family: The family of each member.
        k: How many members.

    References:
        | Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles
        | (Lakshminarayanan et al., 2017), https://arxiv.org/abs/1612.01474
        | A Trust Crisis In Simulation-Based Inference? (Hermans et al., 2022), section 3
        | https://arxiv.org/abs/2110.06581
    """

    family: Any = default(default_factory=Flow)
    k: int = 5

    def __post_init__(self) -> None:
        if self.k < 2:
            raise ValueError(f"an ensemble has at least 2 members; got k={self.k}")
        if isinstance(self.family, Ensemble) or not hasattr(self.family, "build"):
            raise ValueError(f"family must be one such as Flow(); got {self.family!r}")

    def build(self, target: Field, given: Mapping[str, Field]) -> nn.Module:
        """The network of one member."""
        return self.family.build(target, given)
