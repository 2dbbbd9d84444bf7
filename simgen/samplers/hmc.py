r"""Hamiltonian Monte Carlo of many chains in lockstep, which adapts itself (ChEES-HMC).

.. math::
    r \leftarrow r + \tfrac\epsilon2 L^\top \nabla \log p(x), \qquad
    x \leftarrow x + \epsilon L r, \qquad
    r \leftarrow r + \tfrac\epsilon2 L^\top \nabla \log p(x)

for a time :math:`h T` from :math:`r \sim \mathcal{N}(0, I)`, in the fewest equal steps that are
not above :math:`\epsilon`, accepted with probability :math:`\min(1, e^{-\Delta H})`. h is
equidistributed over (1/2, 1): enough to meet no period, and near the quarter of a period after
which draws of a Gaussian of unit covariance are independent. All chains take the same number of
steps, so that each batched gradient serves every chain. Warm-up finds, from all chains together,
the root L of the covariance, the largest step :math:`\epsilon` by dual averaging of the
acceptance, and the length T that changes the squared distance from the centre most.

References:
    | An Adaptive MCMC Scheme for Setting Trajectory Lengths in Hamiltonian Monte Carlo
    | (Hoffman, Radul & Sountsov, 2021), https://proceedings.mlr.press/v130/hoffman21a.html
    | The No-U-Turn Sampler (Hoffman & Gelman, 2014), section 3.2, https://arxiv.org/abs/1111.4246
"""

from __future__ import annotations

__all__ = ["hmc_sample"]

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..progress import Bar
from .chains import Chains

_DENSE = 200  # variables up to which the whole covariance is used
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples modulo 1 are equidistributed
_FIRST = math.log(2.0)  # the length that a Gaussian of unit covariance likes
_LONGEST = 100  # leapfrog steps of one transition at most
_DIVERGED = -1000.0  # energy error that no step size explains, as Stan's


class _Target:
    """A log-density with its gradient, checked and counted; impossible where not finite."""

    def __init__(self, log_prob: Callable[[Tensor], Tensor]) -> None:
        self.log_prob, self.calls, self.rows = log_prob, 0, 0

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Log-densities (chains,) and gradients (chains, d) at x (chains, d)."""
        possible = x.isfinite().all(-1)
        x = torch.where(possible[:, None], x, 0.0).detach().requires_grad_()
        with torch.enable_grad():
            value = self.log_prob(x)
            if value.shape != x.shape[:1]:
                raise ValueError(
                    f"of {tuple(x.shape)} log_prob must be {(len(x),)}; got {tuple(value.shape)}"
                )
            if not value.requires_grad:
                raise ValueError("log_prob has no gradient: use slice sampling")
            (gradient,) = torch.autograd.grad(value.sum(), x)
        self.calls += 1
        self.rows += len(x)
        possible = possible & value.isfinite()
        value = torch.where(possible, value.detach(), -math.inf)
        return value, torch.where(gradient.isfinite(), gradient, 0.0)


@dataclass
class _State:
    """Where the chains are: x (chains, d), its log-density (chains,) and gradient."""

    x: Tensor
    value: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class _Metric:
    """The root L of a covariance: a lower triangle (d, d), or deviations (d,)."""

    root: Tensor

    @classmethod
    def of(cls, x: Tensor) -> _Metric:
        """From draws (m, d): dense where they are many and variables are few."""
        m, d = x.shape
        spread = x.std(0) if m > 1 else torch.zeros_like(x[0])
        spread = torch.where(spread > 0, spread, 1.0)
        if 1 < d <= _DENSE and m >= 10 * d:
            correlation = torch.corrcoef((x / spread).double().T).nan_to_num(0.0)
            jitter = 1e-6 * torch.eye(d, dtype=torch.float64, device=x.device)
            root, failed = torch.linalg.cholesky_ex(correlation + jitter)
            if not failed:
                return cls(spread[:, None] * root.to(x))
        return cls(spread)

    def out(self, r: Tensor) -> Tensor:
        """L r of r (chains, d)."""
        return r * self.root if self.root.dim() == 1 else r @ self.root.T

    def back(self, gradient: Tensor) -> Tensor:
        """L^T gradient."""
        return gradient * self.root if self.root.dim() == 1 else gradient @ self.root

    def white(self, x: Tensor) -> Tensor:
        """L^-1 x."""
        if self.root.dim() == 1:
            return x / self.root
        return torch.linalg.solve_triangular(self.root, x.T, upper=False).T


class _StepSize:
    """Dual averaging of log step sizes towards an acceptance (Hoffman & Gelman, eq. 6).

    One number for all chains, or one a chain.
    """

    def __init__(self, first: Tensor, accept: float) -> None:
        self.centre, self.accept = (2 * first).log(), accept
        self.log, self.mean, self.error, self.n = first.log(), first.log(), first * 0, 0

    def update(self, accept: Tensor) -> None:
        """Learns from the acceptance probabilities (chains,)."""
        self.n += 1
        accept = accept if self.log.dim() else accept.mean()
        eta, keep = 1 / (self.n + 10), self.n**-0.75
        self.error = (1 - eta) * self.error + eta * (self.accept - accept)
        self.log = self.centre - math.sqrt(self.n) / 0.05 * self.error
        self.mean = keep * self.log + (1 - keep) * self.mean


class _Length:
    """The trajectory length T, by Adam on the ChEES criterion (Hoffman et al., 2021)."""

    def __init__(self) -> None:
        self.log, self.first, self.second, self.n = _FIRST, 0.0, 0.0, 0

    def update(self, time: float, before: Tensor, after: Tensor, r: Tensor, a: Tensor) -> None:
        """Learns from a move of length time: whitened ends, last momenta, acceptances."""
        share = a / a.sum().clamp(min=1e-9)
        before = before - before.mean(0)
        after = after - (share[:, None] * after).sum(0)
        gain = after.square().sum(-1) - before.square().sum(-1)
        slope = time * float((share * gain * (after * r).sum(-1)).nan_to_num(0.0, 0.0, 0.0).sum())
        self.n += 1
        self.first = 0.9 * self.first + 0.1 * slope
        self.second = 0.95 * self.second + 0.05 * slope**2
        scale = math.sqrt(self.second / (1 - 0.95**self.n)) + 1e-12
        rate = 0.1 / math.sqrt(1 + self.n / 20)
        self.log += rate * self.first / (1 - 0.9**self.n) / scale


class _Sampler:
    """Chains on their way, with what warm-up adapts."""

    def __init__(self, target: _Target, start: Tensor, accept: float, seed: int) -> None:
        self.target, self.accept = target, accept
        self.generator = torch.Generator(start.device).manual_seed(seed)
        self.state = _State(start.detach(), *target(start))
        lost = int((self.state.value == -math.inf).sum())
        if lost:
            raise ValueError(f"{lost} of {len(start)} chains start where the density is zero")
        self.metric = _Metric.of(self.state.x)
        self.length, self.turn = _Length(), 0
        self.step = self.first_step(pooled=False)

    def momentum(self) -> Tensor:
        """Fresh r ~ N(0, I), (chains, d)."""
        x = self.state.x
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype, device=x.device)

    def move(self, r: Tensor, step: Tensor, steps: int) -> tuple[_State, Tensor, Tensor]:
        """Leapfrog from momenta r: the ends, their momenta, and -Delta H (chains,)."""
        state, step, energy = self.state, step.expand(len(r))[:, None], r.square().sum(-1) / 2
        for _ in range(steps):
            r = r + step / 2 * self.metric.back(state.gradient)
            x = state.x + step * self.metric.out(r)
            state = _State(x, *self.target(x))
            r = r + step / 2 * self.metric.back(state.gradient)
        error = state.value - self.state.value + energy - r.square().sum(-1) / 2
        return state, r, error.nan_to_num(-math.inf, math.inf, -math.inf)

    def first_step(self, pooled: bool) -> _StepSize:
        """Doubles or halves until the acceptance of one step crosses the aim, for most chains."""
        x, r = self.state.x, self.momentum()
        step = x.new_full(() if pooled else x.shape[:1], x.shape[1] ** -0.25)
        grow, done = None, torch.zeros_like(step, dtype=torch.bool)
        for _ in range(50):
            accept = self.move(r, step, 1)[2].clamp(max=0).exp()
            high = (accept.mean() if pooled else accept) > self.accept
            grow = high if grow is None else grow
            done = done | (high != grow)
            if done.double().mean() > 0.9:
                break
            step = torch.where(done, step, torch.where(grow, 2 * step, step / 2))
        return _StepSize(step, self.accept)

    def transition(self, step: Tensor, most: int, learn: bool) -> tuple[Tensor, Tensor]:
        """Moves each chain once; learns the length T if told.

        Returns:
            The acceptance probabilities and which chains diverged, (chains,).
        """
        self.turn += 1
        size = float(step.median())
        self.length.log = min(self.length.log, math.log(_LONGEST * size))
        # one step at least, or the acceptance would say nothing of the step size
        length = max(math.exp(self.length.log), size)
        time = (0.5 + 0.5 * (self.turn * _GOLDEN % 1)) * length
        steps = min(math.ceil(time / size), most)
        time = min(time, steps * size)
        old = self.state
        new, r, error = self.move(self.momentum(), step * (time / steps / size), steps)
        accept = error.clamp(max=0).exp()
        uniform = torch.rand(len(r), generator=self.generator, dtype=r.dtype, device=r.device)
        taken = uniform < accept
        if learn:
            ends = torch.where((accept > 0)[:, None], new.x, old.x)
            self.length.update(time, self.metric.white(old.x), self.metric.white(ends), r, accept)
        self.state = _State(
            torch.where(taken[:, None], new.x, old.x),
            torch.where(taken, new.value, old.value),
            torch.where(taken[:, None], new.gradient, old.gradient),
        )
        return accept, error < _DIVERGED

    def warm_up(self, iterations: int, advance: Callable[[int], None]) -> Tensor:
        """Adapts covariance, step size and length; the step size to go on with.

        The covariance is that of the last draws at first, while chains still close in, then of
        the later half; each is estimated after twice as many iterations as the one before.
        """
        passed: list[Tensor] = []
        due = 5
        for i in range(1, iterations + 1):
            pooled = self.step.log.dim() == 0
            accept, _ = self.transition(self.step.log.exp(), min(3 * due, _LONGEST), pooled)
            self.step.update(accept)
            passed.append(self.state.x)
            if i == due and i <= 0.8 * iterations:
                chains, d = self.state.x.shape
                last = i // 2 if i >= 20 else math.ceil(10 * d / chains)
                self.metric = _Metric.of(torch.cat(passed[-last:]))
                self.step = self.first_step(pooled=i >= 10)
                # what a step in units far too wide has cut off
                self.length.log = max(self.length.log, _FIRST)
                due *= 2
            advance(1)
        return self.step.mean.exp()


def hmc_sample(
    log_prob: Callable[[Tensor], Tensor],
    start: Tensor,
    draws: int,
    *,
    warmup: int = 100,
    seed: int = 0,
    target_accept: float = 0.8,
    progress: bool = False,
) -> Chains:
    """Hamiltonian Monte Carlo on R^d, many chains at once; 64 or more adapt fast.

    A gradient of hundreds of rows takes little longer than one of a few, so that many short
    chains cost less than few long ones.

    Arguments:
        log_prob: Maps (chains, d) to log-densities (chains,), up to a constant, differentiable,
            each row by itself; -inf allowed.
        start: (chains, d), where the density is positive; it settles dtype and device.
        draws: How many to keep of each chain.
        warmup: Transitions that are thrown away, over which the chains adapt; 20 at least.
        seed: Of all random numbers.
        target_accept: The acceptance that the step size aims at; nearer 1 in narrow places.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If a chain starts at zero density, log_prob returns another shape or has no
            gradient, or a setting makes no sense.
    """
    if start.dim() != 2 or not start.is_floating_point():
        raise ValueError(
            f"start must be floating (chains, d); got {start.dtype} {tuple(start.shape)}"
        )
    if warmup < 20 or draws < 1 or not 0 < target_accept < 1:
        raise ValueError(
            "warmup must be 20 or more, draws 1 or more, target_accept between 0 and 1; got "
            f"{warmup}, {draws}, {target_accept}"
        )
    target = _Target(log_prob)
    sampler = _Sampler(target, start, target_accept, seed)
    with Bar("HMC", warmup + draws, progress) as bar:
        step = sampler.warm_up(warmup, bar.advance)
        kept, densities, accepted, diverged = [], [], 0.0, 0
        for _ in range(draws):
            accept, bad = sampler.transition(step, _LONGEST, learn=False)
            kept.append(sampler.state.x)
            densities.append(sampler.state.value)
            accepted += float(accept.mean()) / draws
            diverged += int(bad.sum())
            bar.advance(1)
    return Chains(
        torch.stack(kept, 1),
        torch.stack(densities, 1),
        accepted,
        diverged,
        target.rows,
        target.calls,
        float(step),
    )
