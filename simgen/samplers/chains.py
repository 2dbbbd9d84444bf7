r"""Chains: draws of Markov chains, and whether they have converged.

.. math::
    \hat R = \sqrt{\frac{n - 1}{n} + \frac{B}{n W}}, \qquad
    \mathrm{ESS} = \frac{m n}{1 + 2 \sum_{t \geq 1} \hat\rho_t}

of m chains of n draws, with variances B between and W within chains and autocorrelations
:math:`\rho_t`; chains are split into halves and values replaced by their normal ranks, so that
heavy tails, drift and unequal widths are seen too. Computed by ArviZ.

References:
    | Rank-normalization, folding, and localization: an improved R-hat (Vehtari et al., 2021)
    | https://arxiv.org/abs/1903.08008
"""

from __future__ import annotations

__all__ = ["Chains"]

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

RHAT, ESS = 1.01, 400.0  # Vehtari et al., section 4: R-hat below, effective draws at least
DIVERGED = 0.01  # share of transitions that may diverge


@dataclass(frozen=True)
class Chains:
    """Draws of several chains of one target, and what they cost.

    Attributes:
        draws: (chains, n, d), after warm-up.
        log_prob: The target's log-density at each draw, (chains, n).
        accept: Mean acceptance probability; 1 of a sampler that always accepts.
        divergences: How many transitions had an energy error that the step size cannot explain.
        evaluations: Log-densities computed, warm-up included: one a chain and call; of a
            gradient sampler each with its gradient.
        calls: Calls of the log-density, of all chains at once.
        step_size: Of a sampler that has one.
    """

    draws: Tensor
    log_prob: Tensor
    accept: float
    divergences: int
    evaluations: int
    calls: int
    step_size: float | None = None

    @property
    def flat(self) -> Tensor:
        """All draws, (chains * n, d)."""
        return self.draws.flatten(0, 1)

    @cached_property
    def rhat(self) -> Tensor:
        """Rank-normalised split R-hat of each column, (d,)."""
        return self._statistic("rhat")

    @cached_property
    def ess_bulk(self) -> Tensor:
        """Effective draws for the centre of each column, (d,)."""
        return self._statistic("ess", method="bulk")

    @cached_property
    def ess_tail(self) -> Tensor:
        """Effective draws for the 5 % and 95 % quantiles of each column, (d,)."""
        return self._statistic("ess", method="tail")

    @property
    def converged(self) -> bool:
        """Whether nothing speaks against the draws; `problem` says what does."""
        return self.problem is None

    @cached_property
    def problem(self) -> str | None:
        """Why the draws are no answer yet, or None.

        R-hat of every column must be below 1.01 and bulk and tail effective sample size at
        least 400, over all chains; at most 1 % of the transitions may diverge.
        """
        if len(self.draws) < 2 or self.draws.shape[1] < 4:
            return f"R-hat needs 2 chains of 4 draws at least; got {tuple(self.draws.shape[:2])}"
        if not bool(self.draws.isfinite().all()):
            return "some draws are not finite"
        if not bool((self.draws != self.draws[:1, :1]).flatten(0, 1).any(0).all()):
            return "the chains never moved"
        worst = int(self.rhat.argmax())
        if not self.rhat[worst] < RHAT:
            return (
                f"R-hat of column {worst} is {self.rhat[worst]:.3f}, not below {RHAT}: chains "
                "disagree; they sit in different modes, or need longer warm-up or more draws"
            )
        for kind, ess in (("bulk", self.ess_bulk), ("tail", self.ess_tail)):
            worst = int(ess.argmin())
            if not ess[worst] >= ESS:
                return (
                    f"{kind} effective sample size of column {worst} is {ess[worst]:.0f}, below "
                    f"{ESS:.0f}: take more draws"
                )
        share = self.divergences / self.log_prob.numel()
        if share > DIVERGED:
            return (
                f"{share:.1%} of the transitions diverged: somewhere the target is too steep for "
                "the step size; raise target_accept or change variables"
            )
        return None

    def _statistic(self, name: str, **options: Any) -> Tensor:
        import arviz
        import xarray

        values = self.draws.detach().cpu().double().numpy()
        data = xarray.Dataset({"x": (("chain", "draw", "column"), values)})
        return torch.from_numpy(getattr(arviz, name)(data, **options)["x"].values)
