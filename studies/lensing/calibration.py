r"""Is a posterior of images calibrated? Ranks of truths among its draws, and what else it says.

.. math::
    r = \#\{s : f(x_s) < f(x^*)\}, \qquad
    f(x) = u \cdot x \;\text{ or }\; \log p(y \mid x), \qquad
    x^* \sim p(x), \; y \sim p(y \mid x^*), \; x_s \sim p(x \mid y)

r is uniform over 0 ... S if the x_s are independent draws of the posterior; projections see means
and widths, log p(y | x) sees draws that fit the data too well or too badly.

References:
    | Validating Bayesian Inference Algorithms with Simulation-Based Calibration (Talts et al.,
    | 2018), https://arxiv.org/abs/1804.06788
    | Simulation-Based Calibration Checking for Bayesian Computation (Modrák et al., 2023): the
      likelihood as a test quantity, https://arxiv.org/abs/2211.02383
"""

from __future__ import annotations

__all__ = ["Reading", "examine", "judge", "projections", "summary"]

import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import simgen
from simgen.calibration.ranks import count_below
from simgen.calibration.uniformity import assess

LEVELS = (0.5, 0.9375)  # of S + 1 = 32 or 64 ranks a whole number lies outside


@dataclass(frozen=True)
class Reading:
    """What one posterior says of its truth.

    Arguments:
        ranks: Of each projection and of log p(y | x), (k + 1,).
        coverage: Share of pixels within the central 50 and 94 % of the draws.
        rmse: Of the posterior mean.
        spread: Root mean square of the posterior's standard deviations.
        chi2: Squared residuals over the number of pixels observed, mean over draws.
        truth_chi2: The same of the truth.
        ess: Effective draws; None where each is made anew.
        log_evidence: And its standard error; None if unknown.
        seconds: CPU time.
        warned: What the posterior warned of.
    """

    ranks: list[int]
    coverage: list[float]
    rmse: float
    spread: float
    chi2: float
    truth_chi2: float
    ess: float | None = None
    log_evidence: list[float] | None = None
    seconds: float = 0.0
    warned: list[str] = field(default_factory=list)


def projections(draws: Tensor, seed: int = 0) -> Tensor:
    """Directions u (8, d): four are white noise, four are draws of the prior (4, *event), less
    their mean; draws that are no truths, which would point at themselves.
    """
    flat = draws.double().flatten(1)
    white = torch.randn(4, flat.shape[1], generator=torch.Generator().manual_seed(seed)).double()
    u = torch.cat([white, flat - flat.mean(0)])
    return u / u.norm(dim=1, keepdim=True)


def examine(
    prior: Any,
    likelihood: simgen.GaussianLikelihood,
    truth: Tensor,
    y: Tensor,
    u: Tensor,
    draws: int = 63,
    given: tuple[Any, Tensor] | None = None,
    **settings: Any,
) -> tuple[Reading, Tensor]:
    """A posterior by `infer`, judged by its truth; and its draws (draws, *event).

    Arguments:
        prior: The prior.
        likelihood: The instrument.
        truth: What was there (*event).
        y: What was observed.
        u: Directions of projection (k, d).
        draws: How many draws the truth is ranked among.
        given: Another likelihood and observation that say the same of x, to infer from.
        settings: Of `infer`.
    """
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        posterior = simgen.infer(prior, *(given or (likelihood, y)), **settings)
        x = posterior.sample(draws).double()
        ess = posterior.ess
        try:
            evidence = [*map(float, posterior.log_evidence())]
        except NotImplementedError:
            evidence = None
    seconds = time.process_time() - start
    told = {
        "ess": ess if np.isfinite(ess) else None,
        "log_evidence": evidence,
        "seconds": seconds,
        "warned": sorted({str(w.message) for w in caught}),
    }
    return judge(likelihood, truth, y, u, x, **told), x


def judge(
    likelihood: simgen.GaussianLikelihood,
    truth: Tensor,
    y: Tensor,
    u: Tensor,
    x: Tensor,
    **told: Any,
) -> Reading:
    """Draws x (s, *event) by their truth; `told` is what else is known of them."""
    truth, x, y = truth.double(), x.double(), y.double()
    below, ties = count_below(
        _quantities(likelihood, x, y, u), _quantities(likelihood, truth[None], y, u)[0]
    )
    return Reading(
        ranks=(below + ties // 2).tolist(),
        coverage=[_between(x, truth, level) for level in LEVELS],
        rmse=float((x.mean(0) - truth).square().mean().sqrt()),
        spread=float(x.var(0).mean().sqrt()),
        chi2=float(likelihood.chi2(y, {"x": x}).mean()) / y.numel(),
        truth_chi2=float(likelihood.chi2(y, {"x": truth[None]})) / y.numel(),
        **told,
    )


def _quantities(likelihood: Any, x: Tensor, y: Tensor, u: Tensor) -> Tensor:
    """u . x and log p(y | x) of rows x (n, *event), (n, k + 1)."""
    with torch.no_grad():
        log_p = likelihood.log_prob(y, {"x": x})
    return torch.cat([x.flatten(1) @ u.mT, log_p[:, None]], 1)


def _between(x: Tensor, truth: Tensor, level: float) -> float:
    """Share of the numbers of a truth within the central part of draws (s, *event)."""
    rank = (x < truth).sum(0) + 0.5
    outside = (1 - level) / 2 * (len(x) + 1)
    return float(((rank > outside) & (rank < len(x) + 1 - outside)).double().mean())


def summary(readings: list[Reading], draws: int, seed: int = 0) -> dict[str, Any]:
    """p-values of uniform ranks, of each quantity and of all (Bonferroni), and averages."""
    rng = np.random.default_rng(seed)
    ranks = np.array([r.ranks for r in readings])
    found = [assess(column, draws, rng) for column in ranks.T]
    p = [one.p_value for one in found]
    ess = [r.ess for r in readings if r.ess is not None]
    return {
        "truths": len(readings),
        "draws": draws,
        "p_projections": [round(v, 4) for v in p[:-1]],
        "p_log_likelihood": round(p[-1], 4),
        "p": round(min(1.0, len(p) * min(p)), 4),
        "width": [round(one.width, 3) for one in found],
        "shift": [round(one.shift, 3) for one in found],
        "coverage": [round(float(np.mean([r.coverage[i] for r in readings])), 3) for i in (0, 1)],
        "rmse": float(np.mean([r.rmse for r in readings])),
        "spread": float(np.sqrt(np.mean([r.spread**2 for r in readings]))),
        "chi2": float(np.mean([r.chi2 for r in readings])),
        "truth_chi2": float(np.mean([r.truth_chi2 for r in readings])),
        "ess": None if not ess else float(np.median(ess)),
        "seconds": float(np.mean([r.seconds for r in readings])),
        "ranks": ranks.tolist(),
    }
