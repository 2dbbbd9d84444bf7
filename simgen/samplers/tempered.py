r"""Sequential Monte Carlo from the prior to the posterior, through powers of the likelihood.

.. math::
    p_\lambda(u) \propto p(u)\, p(y \mid u)^\lambda, \qquad 0 = \lambda_0 < \dots < \lambda_K = 1,
    \qquad w = p(y \mid u)^{\lambda_{k+1} - \lambda_k}

Each power is the largest that leaves half the particles effective. A likelihood in several
factors, of more and more events, is brought in factor by factor, each with its powers: most moves
are then made where few events have to be looked at. Between powers the particles move by
Metropolis steps along differences of two others,

.. math::
    u' = u + \gamma (u_a - u_b) + \epsilon, \qquad \gamma = \frac{2.38}{\sqrt{2 d}}
    \text{, now and then } 1

which follow the target's shape, leap between its modes, and need no gradient. The particles live
on islands that know nothing of each other, so that their spread says how good the evidence is.

References:
    | Sequential Monte Carlo samplers (Del Moral, Doucet & Jasra, 2006), section 2.3.1
    | https://doi.org/10.1111/j.1467-9868.2006.00553.x
    | A sequential particle filter method for static models (Chopin, 2002), section 2
    | https://doi.org/10.1093/biomet/89.3.539
    | A Markov Chain Monte Carlo version of the genetic algorithm Differential Evolution (ter
    | Braak, 2006), eq. 2, https://doi.org/10.1007/s11222-006-8769-1
"""

from __future__ import annotations

__all__ = ["differences", "next_power", "tempered"]

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..progress import Bar
from .smc import Particles, systematic

_ISLANDS = 8
_HALF = 0.5
_LEAP, _TINY = 0.1, 1e-4  # share of moves with gamma = 1; epsilon, in deviations of the others
_MOVED = 0.99  # chance that a particle has moved between powers
_MOST = 200


def tempered(
    log_prior: Callable[[Tensor], Tensor],
    log_likelihoods: Sequence[Callable[[Tensor], Tensor]],
    draw: Callable[[int, torch.Generator], Tensor],
    n: int,
    generator: torch.Generator,
) -> Particles:
    """n weighted particles of the posterior.

    Arguments:
        log_prior: log p(u) (m,) of rows (m, d).
        log_likelihoods: log p(y | u) (m,), in one or several summands; -inf allowed.
        draw: Draws of the prior.
        n: How many particles, at least; a multiple of twice the islands is taken.
        generator: Of all random numbers.

    Raises:
        ValueError: If no draw of the prior has a likelihood.
    """
    half = max(4, math.ceil(n / (2 * _ISLANDS)))
    shape = (_ISLANDS, 2 * half)
    u = draw(math.prod(shape), generator)
    d = u.shape[-1]
    u = u.view(*shape, d)
    prior, evidence = _rows(log_prior, u), u.new_zeros(_ISLANDS)
    with Bar("smc", 100 * len(log_likelihoods), after=5.0) as bar:
        for log_likelihood in log_likelihoods:
            likelihood, power = _rows(log_likelihood, u), 0.0
            if not bool((likelihood > -math.inf).any(1).all()):
                raise ValueError(
                    "no draw of the prior has a finite likelihood: is the observation possible?"
                )
            while power < 1:
                new = next_power(likelihood, power, _HALF)
                bar.advance(100 * (new - power))
                # -inf times a difference of powers stays -inf; 0 times it does not come up
                log_w = (new - power) * likelihood
                evidence = evidence + log_w.logsumexp(1) - math.log(shape[1])
                power = new
                keep = systematic(log_w.log_softmax(1), log_w.shape[1], generator)
                u = torch.take_along_dim(u, keep[..., None], 1)
                likelihood, prior = (torch.take_along_dim(v, keep, 1) for v in (likelihood, prior))
                u, likelihood, prior = _move(
                    log_prior, log_likelihood, u, likelihood, prior, power, generator
                )
            prior, log_prior = prior + likelihood, _sum(log_prior, log_likelihood)
    total = float(evidence.logsumexp(0)) - math.log(_ISLANDS)
    spread = (evidence - total).exp()
    error = float(spread.std() / math.sqrt(_ISLANDS))
    log_w = (evidence.log_softmax(0) - math.log(shape[1]))[:, None].expand(shape)
    return Particles(u.reshape(-1, d), log_w.reshape(-1), total, error, _independent(u))


def _independent(u: Tensor) -> float:
    """How many independent draws particles (k, n, d) are worth, by how far the means of islands
    are apart beside the spread within.
    """
    k, n, _ = u.shape
    within = u.var(1).mean(0)
    between = u.mean(1).var(0)
    varies = within > 0
    ratio = (between[varies] / within[varies]).mean() if bool(varies.any()) else u.new_ones(())
    return min(float(k * n), k / max(float(ratio), 1e-12))


def _sum(f: Callable[[Tensor], Tensor], g: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda u: f(u) + g(u)


def _rows(f: Callable[[Tensor], Tensor], u: Tensor) -> Tensor:
    """f of particles (k, n, d), (k, n); NaN counts as impossible."""
    value = f(u.flatten(0, 1)).to(u).view(u.shape[:2])
    return torch.where(value.isnan(), -math.inf, value)


def next_power(likelihood: Tensor, power: float, share: float) -> float:
    """The power after another that leaves a share of the possible particles (..., n), of the
    poorest set of them, effective; or 1.
    """
    wanted = share * float((likelihood > -math.inf).double().mean(-1).min())

    def enough(new: float) -> bool:
        w = ((new - power) * likelihood).log_softmax(-1)
        left = (-torch.logsumexp(2 * w, -1)).exp().min()
        return float(left) / likelihood.shape[-1] >= wanted

    if enough(1.0):
        return 1.0
    low, high = power, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return max(low, power + 1e-12)


def differences(others: Tensor, n: int, scale: float, generator: torch.Generator) -> Tensor:
    """Steps (k, n, d) along differences of two of others (k, m, d): of a share of the length, now
    and then of all of it.
    """
    k, m, d = others.shape
    options = {"generator": generator, "dtype": others.dtype, "device": others.device}
    pick = torch.randint(m, (k, n), generator=generator, device=others.device)
    away = torch.randint(1, m, (k, n), generator=generator, device=others.device)
    a = torch.take_along_dim(others, pick[..., None], 1)
    b = torch.take_along_dim(others, ((pick + away) % m)[..., None], 1)
    leap = torch.rand(k, n, 1, **options) < _LEAP  # type: ignore[call-overload]
    jitter = torch.randn(k, n, d, **options)  # type: ignore[call-overload]
    return torch.where(leap, 1.0, scale) * (a - b) + _TINY * others.std(1, keepdim=True) * jitter


def _move(
    log_prior: Callable[[Tensor], Tensor],
    log_likelihood: Callable[[Tensor], Tensor],
    u: Tensor,
    likelihood: Tensor,
    prior: Tensor,
    power: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Metropolis steps of one half of each island along differences of the other, in turn, until
    all but a few particles have moved.
    """
    k, n, d = u.shape
    half, done, still = n // 2, 0, 1.0
    options = {"generator": generator, "dtype": u.dtype, "device": u.device}
    scale = 2.38 / math.sqrt(2 * d)
    while still > 1 - _MOVED and done < _MOST:
        accepted = 0.0
        order = torch.rand(k, n, **options).argsort(1)  # type: ignore[call-overload]
        for first in (0, half):
            mine = order[:, first : first + half]
            theirs = order[:, half - first : half - first + half]
            others = torch.take_along_dim(u, theirs[..., None], 1)
            now = torch.take_along_dim(u, mine[..., None], 1)
            tried = now + differences(others, half, scale, generator)
            new_prior, new_likelihood = _rows(log_prior, tried), _rows(log_likelihood, tried)
            was = [torch.take_along_dim(v, mine, 1) for v in (prior, likelihood)]
            gain = new_prior - was[0] + power * (new_likelihood - was[1])
            uniform = torch.rand(k, half, **options)  # type: ignore[call-overload]
            go = (uniform.log() < gain) & (new_likelihood > -math.inf)
            u = u.scatter(
                1, mine[..., None].expand(-1, -1, d), torch.where(go[..., None], tried, now)
            )
            prior = prior.scatter(1, mine, torch.where(go, new_prior, was[0]))
            likelihood = likelihood.scatter(1, mine, torch.where(go, new_likelihood, was[1]))
            accepted += float(go.double().mean()) / 2
        still *= 1 - accepted
        done += 1
        if done >= 10 and accepted < 1e-3:
            break
        if not done % 25:
            scale *= 0.5  # the moves are too long: a ridge that bends
    return u, likelihood, prior
