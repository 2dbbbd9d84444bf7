r"""Fitted models as sbi has them, for its diagnostics, plots and samplers.

.. math::
    q(\vartheta \mid x) \to \text{NeuralPosterior}, \qquad
    q(x \mid \vartheta) \to \text{ConditionalDensityEstimator}

Nothing is trained or copied: both call the conditional. Its posteriors lie inside the prior's
support, so that sbi's rejection and its correction for leakage have nothing to do.
"""

from __future__ import annotations

__all__ = ["FittedEstimator", "FittedPosterior", "to_sbi"]

from typing import TYPE_CHECKING, Any

import torch
from sbi.inference.posteriors.base_posterior import NeuralPosterior
from sbi.inference.posteriors.direct_posterior import DirectPosterior
from sbi.inference.potentials.base_potential import BasePotential
from sbi.neural_nets.estimators import ConditionalDensityEstimator
from sbi.utils.sbiutils import mcmc_transform
from torch import Tensor

if TYPE_CHECKING:
    from .conditional import Conditional
    from .distribution import ConditionalDistribution


def to_sbi(conditional: Conditional, prior: Any = None) -> FittedPosterior | FittedEstimator:
    """A posterior, or a density estimator where parameters are given.

    Raises:
        ValueError: If nothing is given, or several fields that are no vectors.
    """
    if not conditional.given:
        raise ValueError(
            f"{conditional.expression!r}: sbi has no model of what is not conditional"
        )
    trained = conditional.prior
    parameters = {"theta", *(() if trained is None else trained.names)}
    if parameters & set(conditional.given):
        return FittedEstimator(conditional)
    if prior is None and trained is not None and trained.names == conditional.names:
        prior = trained
    return FittedPosterior(conditional, prior)


class FittedEstimator(ConditionalDensityEstimator):
    """p(input | condition) of a fitted conditional; of several given vectors, the condition is
    their columns one after the other.
    """

    def __init__(self, conditional: Conditional) -> None:
        fields = {k: conditional.fields[k] for k in conditional.given}
        shapes = [f.shape or (1,) for f in fields.values()]
        if len(fields) > 1 and any(f.layout != "vector" for f in fields.values()):
            raise ValueError(
                f"{conditional.expression!r}: sbi conditions on one array; several given fields "
                "must be vectors"
            )
        condition = shapes[0] if len(shapes) == 1 else (sum(s[0] for s in shapes),)
        event = conditional.pipeline.event_shape
        super().__init__(conditional.pipeline, event, torch.Size(condition))
        self.conditional, self._fields = conditional, fields

    def at(self, condition: Tensor) -> ConditionalDistribution:
        """The distribution given conditions (*batch, *condition_shape)."""
        if len(self._fields) == 1:
            (field,) = self._fields.values()
            return self.conditional(condition if field.shape else condition[..., 0])
        parts = condition.split([f.size for f in self._fields.values()], -1)
        rows = {k: v if f.shape else v[..., 0] for (k, f), v in zip(self._fields.items(), parts)}
        return self.conditional(**rows)

    def log_prob(self, input: Tensor, condition: Tensor, **_: Any) -> Tensor:
        """log p (samples, batch) of inputs (samples, batch, *input_shape) or (batch,
        *input_shape), given conditions (batch, *condition_shape) or one a sample.
        """
        if input.dim() <= len(self.input_shape) + 1:
            input = input[None]
        return self.at(condition).log_prob(input)

    def sample(self, sample_shape: Any, condition: Tensor, **_: Any) -> Tensor:
        """Draws (*sample_shape, batch, *input_shape)."""
        return self.at(condition).sample(torch.Size(sample_shape))

    def loss(self, input: Tensor, condition: Tensor, **_: Any) -> Tensor:
        """-log p (batch,) of inputs (batch, *input_shape)."""
        return -self.log_prob(input[None], condition)[0]


class FittedPotential(BasePotential):
    """log p(theta | x) of a fitted posterior."""

    def __init__(self, estimator: FittedEstimator, prior: Any) -> None:
        super().__init__(prior, None, str(estimator.conditional.pipeline.device))
        self.estimator = estimator

    def set_x(self, x_o: Tensor | None, x_is_iid: bool | None = False) -> None:
        """The observation; several are one a parameter vector."""
        if x_o is not None:
            x_o = _batched(torch.as_tensor(x_o), self.estimator)
        super().set_x(x_o, x_is_iid)

    def __call__(self, theta: Tensor, track_gradients: bool = True) -> Tensor:
        """log p(theta | x) (n,) of n parameter vectors.

        Raises:
            ValueError: If there are several independent observations: the prior would count once
                for each.
        """
        if self.x_is_iid and len(self.x_o) > 1:
            raise ValueError("a posterior of one observation is no posterior of several")
        with torch.set_grad_enabled(track_gradients):
            return self.estimator.log_prob(theta[None], self.x_o)[0]


class FittedPosterior(DirectPosterior):
    """A fitted posterior: sample, sample_batched, log_prob, potential, map, default_x.

    Options of sbi's rejection and leakage correction are taken and have no effect.
    """

    def __init__(self, conditional: Conditional, prior: Any = None) -> None:
        self.posterior_estimator = FittedEstimator(conditional)
        self.prior = prior
        self.device = str(conditional.pipeline.device)
        transform = None if prior is None else mcmc_transform(prior, device=self.device)
        potential = FittedPotential(self.posterior_estimator, prior)
        NeuralPosterior.__init__(self, potential, transform, self.device)
        self._purpose = f"{conditional.expression}, fitted by simgen"

    def to(self, device: str | torch.device) -> None:
        """Moves the network, in place."""
        self.posterior_estimator.conditional.to(device)
        default = self.default_x
        self.__init__(self.posterior_estimator.conditional, self.prior)  # type: ignore[misc]
        if default is not None:
            self.set_default_x(default)

    def set_default_x(self, x: Tensor) -> FittedPosterior:
        """The observation of calls that name none."""
        super().set_default_x(_batched(torch.as_tensor(x), self.posterior_estimator))
        return self

    def sample(  # type: ignore[override]
        self, sample_shape: Any = (), x: Tensor | None = None, *_: Any, **__: Any
    ) -> Tensor:
        """Draws (*sample_shape, d) given one observation."""
        return self._at(self._one(x)).sample(torch.Size(sample_shape)).squeeze(-2)

    def sample_batched(  # type: ignore[override]
        self, sample_shape: Any, x: Tensor, *_: Any, **__: Any
    ) -> Tensor:
        """Draws (*sample_shape, n, d) given n observations."""
        x = _batched(self._x_else_default_x(x), self.posterior_estimator)
        return self._at(x).sample(torch.Size(sample_shape))

    def log_prob(  # type: ignore[override]
        self,
        theta: Tensor,
        x: Tensor | None = None,
        norm_posterior: bool = True,
        track_gradients: bool = False,
        **_: Any,
    ) -> Tensor:
        """log p(theta | x) (n,) of parameters (n, d) given one observation."""
        theta = torch.as_tensor(theta)
        theta = theta[None] if theta.dim() == 1 else theta
        return self.log_prob_batched(theta[:, None], self._one(x), True, track_gradients)[:, 0]

    def log_prob_batched(  # type: ignore[override]
        self,
        theta: Tensor,
        x: Tensor,
        norm_posterior: bool = True,
        track_gradients: bool = False,
        **_: Any,
    ) -> Tensor:
        """log p (samples, n) of parameters (samples, n, d), or (n, d), given n observations."""
        theta = torch.as_tensor(theta, device=self._device)
        with torch.set_grad_enabled(track_gradients):
            found = self.posterior_estimator.log_prob(
                theta, _batched(self._x_else_default_x(x), self.posterior_estimator)
            )
        return found.float()

    def leakage_correction(self, x: Tensor, **_: Any) -> Tensor:  # type: ignore[override]
        """One: nothing leaks out of the prior."""
        return torch.ones(1, device=self._device)

    def _at(self, x: Tensor) -> ConditionalDistribution:
        return self.posterior_estimator.at(x)

    def _one(self, x: Tensor | None) -> Tensor:
        """One observation (1, *condition_shape)."""
        x = _batched(self._x_else_default_x(x), self.posterior_estimator)
        if len(x) != 1:
            raise ValueError(
                f"this takes one observation; got {len(x)}: use sample_batched or log_prob_batched"
            )
        return x


def _batched(x: Tensor, estimator: FittedEstimator) -> Tensor:
    """Observations (n, *condition_shape), of one without n too."""
    return x[None] if x.dim() == len(estimator.condition_shape) else x
