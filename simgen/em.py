r"""Priors from corrupted data alone: expectation-maximisation.

.. math::
    y_i = A_i x_i + N(0, \Sigma_i), \quad x_i \sim p: \qquad
    p_{k+1} = \arg\max_q \sum_i \mathbb{E}_{p_k(x \mid y_i)} \log q(x)

No x is ever seen whole. In each lap x_i is drawn given y_i, under the prior as it stands and
through the instrument of its own row (E), and a diffusion model is fitted to the draws (M): but
for errors of the fit and of the draws, no lap lowers the likelihood of what was observed. Where
every x_i loses the same directions nothing can be learned in them: instruments must differ from
row to row.

The first prior is Gaussian, by the same laps in closed form:

.. math::
    m \leftarrow \frac1n \sum_i m_i, \qquad
    C \leftarrow \frac1n \sum_i C_i + (m_i - m)(m_i - m)^\top

with m_i and C_i the mean and the covariance of x_i given y_i.

References:
    | Learning Diffusion Priors from Observations by Expectation Maximization (Rozet et al., 2024),
    | section 4, https://arxiv.org/abs/2405.13712
    | Maximum Likelihood from Incomplete Data via the EM Algorithm (Dempster et al., 1977)
"""

from __future__ import annotations

__all__ = ["Incomplete", "draw_rows", "fit_gaussian_prior", "fit_prior", "prior_laps"]

import logging
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .conditional import Conditional
from .dataset import Dataset
from .gaussian import GaussianPrior
from .models import Diffusion
from .samplers.ancestral import bridge
from .samplers.denoising import ClosedForm, Network
from .samplers.levels import levels
from .samplers.problem import Twist, cholesky, gaussian, inner, seen
from .training import fit

log = logging.getLogger("simgen")

_ROWS = 2048  # drawn at once
_RISE = 1e-7  # nats a row by which a lap must raise the likelihood, or it is the last


@dataclass(frozen=True)
class Incomplete:
    """Observations of n rows of x, each through an instrument of its own; in units of the noise.

    Arguments:
        y: (n, m); zero where nothing was observed.
        A: (m, n, d); rows of zeros, likewise.
        scale: log of the noise's density at its mean, of all rows together.
    """

    y: Tensor
    A: Tensor
    scale: float

    @classmethod
    def of(cls, observed: Any, operators: Any, sigma: Any) -> Incomplete:
        """From physical units.

        Arguments:
            observed: (n, m); NaN where nothing was observed.
            operators: A_i, (n, m, d), or one for all (m, d); None where y is x itself with noise
                and gaps.
            sigma: The noise's standard deviation: a number, (m,) or (n, m).

        Raises:
            ValueError: If shapes do not agree, sigma is not positive, or nothing was observed.
        """
        y = torch.as_tensor(observed, dtype=torch.float64).detach()
        there = ~y.isnan()
        if y.dim() != 2 or not bool(there.any()) or bool(y.isinf().any()):
            raise ValueError(
                f"observed must be (n, m), finite or NaN, not all NaN; got {tuple(y.shape)}"
            )
        n, m = y.shape
        A = torch.as_tensor(torch.eye(m) if operators is None else operators, dtype=torch.float64)
        if A.dim() not in (2, 3) or A.shape[:-1] not in ((m,), (n, m)) or not A.isfinite().all():
            raise ValueError(
                f"of observations {(n, m)} the operators must be finite, (n, m, d) or (m, d); "
                f"got {tuple(A.shape)}"
            )
        sd = torch.as_tensor(sigma, dtype=torch.float64)
        if sd.shape not in ((), (m,), (n, m)) or not bool((sd > 0).all()):
            raise ValueError(f"sigma must be a positive number, {(m,)} or {(n, m)}")
        sd = sd.expand(n, m)
        A = torch.where(there[..., None], A.expand(n, m, -1) / sd[..., None], 0.0)
        scale = -float((sd.log() + 0.5 * math.log(2 * math.pi))[there].sum())
        return cls(torch.where(there, y / sd, 0.0), A.movedim(1, 0).contiguous(), scale)

    def moved(self, offset: Tensor, slope: Tensor) -> Incomplete:
        """The same of z, where x = offset + slope z: (d,) and (d, d)."""
        return Incomplete(self.y - seen(self.A, offset.expand(len(self.y), -1)), self.A @ slope, 0)

    def rows(self, part: slice) -> Incomplete:
        """Some rows."""
        return Incomplete(self.y[part], self.A[:, part], 0)

    def twist(self, mean: Tensor, covariance: Any) -> Twist:
        """What is known of each row where x is N(mean, covariance) without y."""
        spread = covariance(self.A)
        factor = cholesky(inner(self.A, spread))
        return Twist(mean, covariance, self.A, spread, factor, self.y - seen(self.A, mean))

    def log_likelihood(self, prior: GaussianPrior) -> float:
        """log p(y) of all rows under a Gaussian prior."""
        known = self.twist(prior.mean.double().expand(len(self.y), -1), prior.structure)
        return self.scale + float(gaussian(known.residual, known.factor).sum())


def fit_gaussian_prior(
    observed: Any, operators: Any = None, sigma: Any = 1.0, *, laps: int = 1000
) -> GaussianPrior:
    """The Gaussian prior of the greatest likelihood, by expectation-maximisation.

    Arguments:
        observed: (n, m); NaN where nothing was observed.
        operators: A_i, (n, m, d), or one for all (m, d); None where y is x itself with noise and
            gaps.
        sigma: The noise's standard deviation: a number, (m,) or (n, m).
        laps: At most; no more than raise the likelihood.

    Raises:
        ValueError: If shapes do not agree.
    """
    data = Incomplete.of(observed, operators, sigma)
    n = len(data.y)
    prior, last = _first(data), -math.inf
    for _ in range(laps):
        known = data.twist(prior.mean.expand(n, -1), prior.structure)
        value = float(gaussian(known.residual, known.factor).sum())
        if value - last < _RISE * n:
            break
        last = value
        means = known.guided()
        gain = torch.cholesky_solve(known.spread.movedim(1, 0), known.factor)
        lost = torch.einsum("nmi,mnj->ij", gain, known.spread) / n
        mean = means.mean(0)
        rest = means - mean
        C = prior.covariance - lost + rest.mT @ rest / n
        prior = GaussianPrior(mean, (C + C.mT) / 2)
    return prior


def prior_laps(
    observed: Any,
    operators: Any = None,
    sigma: Any = 1.0,
    model: Any = None,
    *,
    laps: int = 4,
    steps: int = 32,
    seed: int = 0,
    **training: Any,
) -> Iterator[Conditional]:
    """The priors of `fit_prior`, one a lap."""
    if laps < 1:
        raise ValueError(f"laps must be 1 or more; got {laps}")
    data = Incomplete.of(observed, operators, sigma)
    generator = torch.Generator().manual_seed(seed)
    denoiser: Any = ClosedForm(fit_gaussian_prior(observed, operators, sigma))
    for lap in range(laps):
        x = draw_rows(denoiser, data, steps if lap else 1, generator)
        with tempfile.TemporaryDirectory() as folder:
            dataset = Dataset.create(f"{folder}/draws", x=x.float().numpy())
            options = {"progress": False, **training}
            prior = fit("x", dataset, model or Diffusion(), seed=seed + lap, **options)
        log.info("lap %d of %d: held-out loss %s", lap + 1, laps, prior.history["validation_loss"])
        yield prior
        denoiser = Network(prior(), len(data.A))


def fit_prior(
    observed: Any,
    operators: Any = None,
    sigma: Any = 1.0,
    model: Any = None,
    *,
    laps: int = 4,
    steps: int = 32,
    seed: int = 0,
    **training: Any,
) -> Conditional:
    """A diffusion prior of x from incomplete, noisy observations y_i = A_i x_i + N(0, sigma^2).

    Arguments:
        observed: (n, m); NaN where nothing was observed.
        operators: A_i, (n, m, d), or one for all (m, d); None where y is x itself with noise and
            gaps.
        sigma: The noise's standard deviation: a number, (m,) or (n, m).
        model: A `Diffusion` with its settings.
        laps: How many fits, the first to draws under the Gaussian prior of greatest likelihood.
        steps: Noise levels of the draws.
        seed: Of all random numbers.
        **training: Of each fit, as `simgen.fit` takes it: max_epochs, budget, device ...

    Returns:
        The last fit, a Conditional "x".

    Raises:
        ValueError: If shapes do not agree.
    """
    options = {"laps": laps, "steps": steps, "seed": seed, **training}
    *_, last = prior_laps(observed, operators, sigma, model, **options)
    return last


def draw_rows(
    denoiser: ClosedForm | Network, data: Incomplete, steps: int, generator: torch.Generator
) -> Tensor:
    """A draw of x_i given y_i, for each row: (n, d), float64.

    By steps that know the covariance of what is left (`ancestral`): exact at any number of them
    for a Gaussian prior, else as good as a Gaussian is for x given x_t.
    """
    size = denoiser.size
    zero, unit = torch.zeros(1, size).double(), torch.eye(size).double()
    with torch.no_grad():  # the way to physical units is affine: x is real
        offset = denoiser.physical(zero).double().flatten()
        slope = (denoiser.physical(unit).double().flatten(1) - offset).mT
    inside = data.moved(offset, slope)
    found = []
    for first in range(0, len(data.y), _ROWS):
        part = inside.rows(slice(first, first + _ROWS))
        x = zero
        for _ in range(3):  # at infinite noise the denoiser gives the prior's mean
            x = denoiser.mean(x, denoiser.farthest).detach()
        x = x.expand(len(part.y), -1)
        for high, low in levels(denoiser, steps):
            mean, V = denoiser.moments(x, min(high, denoiser.farthest))
            x = bridge(part.twist(mean, V), x, high, low, generator)
        found.append(offset + x @ slope.mT)
    return torch.cat(found)


def _first(data: Incomplete) -> GaussianPrior:
    """Where the laps start: the mean by least squares, and one variance for all numbers, by the
    residuals.
    """
    d = data.A.shape[-1]
    flat, unit = data.A.movedim(1, 0).reshape(-1, d), torch.eye(d).double()
    gram = flat.mT @ flat
    mean = torch.linalg.solve(gram + 1e-9 * gram.trace() * unit, flat.mT @ data.y.flatten())
    square = float((data.y - seen(data.A, mean.expand(len(data.y), -1))).square().sum())
    noise = float((data.A != 0).any(-1).sum())
    return GaussianPrior(mean, max(square - noise, 1e-3 * square, 1e-12) / gram.trace() * unit)
