r"""Tests whose p-values hold at every theta: Neyman's construction, calibrated by simulations.

.. math::
    p(x, \psi) = P\bigl( t(x', \psi) \ge t(x, \psi) \mid \vartheta \bigr), \; x' \sim
        p(x' \mid \vartheta), \qquad
    t = 2 \Bigl[ \sup_{\vartheta'} \log q(x \mid \vartheta')
        - \sup_\nu \log q(x \mid \psi, \nu) \Bigr]

Pairs (theta_i, x_i) of a dataset that were not trained on give t(x_i, psi_i), and those
its quantiles as a function of theta: no further simulation is needed. A surrogate q that is wrong
makes sets larger, not false. Of a posterior "theta | x" the statistic is that of Waldo,

.. math::
    t = (\psi - E[\psi \mid x])^\top \, \mathrm{Cov}[\psi \mid x]^{-1} (\psi - E[\psi \mid x])

With nuisance parameters nu the p-value depends on their true values. "hybrid" takes those that
fit x best given psi: close to exact where data tell of nu, without a guarantee elsewhere.
"conservative" takes the largest p-value over draws of nu from the prior: sets cover at least as
often as they say, for every nu that the prior allows.

References:
    | Confidence Sets and Hypothesis Testing in a Likelihood-Free Inference Setting (Dalmasso,
    | Izbicki & Lee, 2020), https://arxiv.org/abs/2002.10399
    | Likelihood-Free Frequentist Inference (Dalmasso, Masserano, Zhao, Izbicki & Lee, 2021),
    | section 3.3 on nuisance parameters, https://arxiv.org/abs/2107.03920
    | Simulator-Based Inference with Waldo (Masserano, Dorigo, Izbicki, Kuusela & Lee, 2022), eq. 6
    | https://arxiv.org/abs/2205.15680
"""

from __future__ import annotations

__all__ = ["NUISANCE", "CalibratedTest", "calibrate_test"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..calibration.pairs import select
from ..expression import parse
from ..prior import Prior
from .profiles import indices
from .quantiles import Quantiles, learn_quantiles
from .statistics import LikelihoodRatio, Statistic, Waldo
from .surface import as_prior

NUISANCE = ("hybrid", "conservative")
_FEWEST = 200
_WORST = 64  # draws of nuisance parameters among which the worst is looked for
_MANY = 1 << 15


@dataclass(frozen=True)
class CalibratedTest:
    """A test of any value of some parameters, for any observation.

    Attributes:
        parameters: Names of those that it tests.
        prior: Of all parameters.
        statistic: t.
        quantiles: Its distribution by theta.
        nuisance: "hybrid", "conservative", or "" where there are no nuisance parameters.
        source: Which rows it was calibrated on.
    """

    parameters: tuple[str, ...]
    prior: Prior
    statistic: Statistic
    quantiles: Quantiles
    nuisance: str
    source: str

    @property
    def columns(self) -> list[int]:
        """Of the parameters that it tests, among all."""
        return indices(self.parameters, self.prior)

    @property
    def headline(self) -> str:
        """One sentence."""
        rest = [k for k in self.prior.names if k not in self.parameters]
        about = f", {', '.join(rest)} {self.nuisance}" if rest else ""
        return (
            f"Test of {', '.join(self.parameters)} by {self.statistic.what}{about}; calibrated on "
            f"{len(self.quantiles.t):,} pairs ({self.source}), of which "
            f"{self.quantiles.neighbours:,} have a say at each theta."
        )

    def __str__(self) -> str:
        return self.headline

    def p_value(self, x: Any, theta: Any) -> Tensor:
        """The p-values (n,) of parameter values.

        Arguments:
            x: An observation, or one for each row of theta (n, *event).
            theta: Values (n, k) or (k,) of the parameters that are tested, or of all, of which
                the others are not looked at.

        Raises:
            ValueError: If the shapes do not agree, or theta is outside the prior's support.
        """
        values = self._values(theta)
        rows = self.statistic.rows(x)
        if len(rows) not in (1, len(values)):
            raise ValueError(f"{len(rows)} observations for {len(values)} values of theta")
        row = torch.arange(len(values)) if len(rows) > 1 else torch.zeros(len(values)).long()
        t, at = self.statistic(rows, values, row)
        return self.p_of(t, at)

    def critical(self, theta: Any, level: float = 0.95) -> Tensor:
        """The critical values (n,) of t at all parameters theta (n, d)."""
        theta, d = torch.as_tensor(theta).double(), len(self.prior.names)
        if theta.shape[-1:] != (d,):
            raise ValueError(f"theta must be (n, {d}): all parameters; got {tuple(theta.shape)}")
        return self.quantiles.critical(level, coordinates(self.prior, theta.reshape(-1, d)))

    def _values(self, theta: Any) -> Tensor:
        values = torch.as_tensor(theta).detach().double()
        k, d = len(self.parameters), len(self.prior.names)
        values = values.reshape(1, -1) if values.dim() < 2 else values
        if values.dim() != 2 or values.shape[1] not in (k, d):
            raise ValueError(
                f"theta must be (n, {k}): {', '.join(self.parameters)}; got {tuple(values.shape)}"
            )
        if values.shape[1] != k:
            values = values[:, self.columns]
        low, high = self.prior.low[self.columns], self.prior.high[self.columns]
        if not bool(((values >= low) & (values <= high)).all()):
            raise ValueError("the test is not calibrated outside the prior's support")
        return values

    def p_of(self, t: Tensor, at: Tensor) -> Tensor:
        """The p-values (n,) of statistics (n,) at points (n, d), as `statistic` gives them; of
        the points' own nuisance parameters, or the worst.
        """
        if self.nuisance != "conservative":
            return self.quantiles.p_value(t, coordinates(self.prior, at))
        draws = self.prior.sample((_WORST,), seed=1).double()
        draws[:, self.columns] = 0.0
        parts = []
        for some in torch.arange(len(t)).split(max(1, _MANY // _WORST)):
            points = draws.repeat(len(some), 1, 1)
            points[:, :, self.columns] = at[some][:, None, self.columns]
            v = coordinates(self.prior, points.reshape(-1, at.shape[1]))
            p = self.quantiles.p_value(t[some].repeat_interleave(_WORST), v)
            parts.append(p.view(-1, _WORST).amax(1))
        return torch.cat(parts)


def calibrate_test(
    model: Any,
    dataset: Any,
    parameters: str | Sequence[str] | None = None,
    prior: Any = None,
    *,
    nuisance: str = "hybrid",
    iid: bool = False,
    n: int = 20_000,
    seed: int = 0,
) -> CalibratedTest:
    """Calibrates a test on simulations, once for all observations.

    Arguments:
        model: A fitted "x | theta" or an explicit likelihood: the likelihood ratio; a fitted
            "theta | x": Waldo.
        dataset: Pairs drawn from the prior: a Dataset, of which rows that the model was not
            trained on are used, or a dict of arrays theta (n, d) and x (n, ...), all of which
            are.
        parameters: Names of those to test; the others are nuisance. All unless said.
        prior: Of theta; the model's own, or the dataset's, unless said.
        nuisance: "hybrid" or "conservative".
        iid: Whether each row of x is a set of independent events (events, *event).
        n: The most pairs.
        seed: Of the choice of pairs and of starting points.

    Raises:
        ValueError: If there are fewer than 200 pairs, or a name is no parameter.
        DatasetError: If the model was trained on every row.
    """
    if nuisance not in NUISANCE:
        raise ValueError(f"nuisance is one of {', '.join(NUISANCE)}; got {nuisance!r}")
    known = getattr(model, "prior", None) or getattr(dataset, "prior", None)
    where = as_prior(prior if prior is not None else known, model)
    chosen = where.names if parameters is None else parameters
    chosen = (chosen,) if isinstance(chosen, str) else tuple(chosen)
    columns = indices(chosen, where)
    posterior = "theta" in getattr(model, "target", ())
    name = _observed(model, posterior)
    provenance = (getattr(model, "provenance", None) or {}).get("dataset")
    pairs = select(dataset, parse(f"theta | {name}"), provenance, n, seed)
    if len(pairs) < _FEWEST:
        raise ValueError(f"{len(pairs)} pairs are too few to calibrate on: simulate at least 200")
    theta = torch.as_tensor(pairs.truth).double()
    if theta.shape[1] != len(where.names):
        raise ValueError(
            f"theta has {theta.shape[1]} columns, the prior {len(where.names)} parameters"
        )
    x = torch.as_tensor(pairs.given[name])
    if posterior:
        statistic: Statistic = Waldo(model, columns, tuple(x.shape[1:]), seed)
    else:
        statistic = LikelihoodRatio(model, where, columns, theta, x, iid, seed)
    t, _ = statistic.of_pairs(theta, x)  # quantiles belong to the true nuisance parameters
    quantiles = learn_quantiles(t, coordinates(where, theta), seed)
    rest = nuisance if len(columns) < len(where.names) else ""
    return CalibratedTest(chosen, where, statistic, quantiles, rest, pairs.source)


def _observed(model: Any, posterior: bool) -> str:
    """The name of what is observed."""
    names = tuple(getattr(model, "given" if posterior else "target", ())) or ("x",)
    if len(names) != 1:
        raise ValueError(f"one observed field is tested with; got {', '.join(names)}")
    if posterior and tuple(model.target) != ("theta",):
        raise ValueError(f"a posterior must be of 'theta'; got {model.expression!r}")
    return str(names[0])


def coordinates(prior: Prior, theta: Tensor) -> Tensor:
    """theta (n, d) as prior probabilities (n, d) in [-1, 1]: pairs are evenly spread in them."""
    return 2 * torch.special.ndtr(prior.bijection.inv(theta.double())) - 1
