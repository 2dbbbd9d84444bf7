r"""The Lennard-Jones fluid: equilibrium configurations of N particles in a periodic box.

.. math::
    p(x \mid \vartheta) \propto e^{-U(x) / T}, \qquad
    U = \sum_{i < j} \bigl[ u(r_{ij}) - u(r_c) \bigr]_{r_{ij} < r_c}, \qquad
    u(r) = 4 (r^{-12} - r^{-6})

Reduced units: energies in epsilon, lengths in sigma, Boltzmann's constant one. r is the distance
to the nearest image; the potential is cut off at r_c and shifted to be continuous there, so its
thermodynamics is that of this truncated fluid, without a tail correction. The normalisation is
unknown; a row is the end of a Markov chain whose proposals are leaps along the force F,

.. math::
    \xi \sim \mathcal N(0, I), \qquad p = \xi + \tfrac h2 \tfrac{F(x)}{T}, \qquad
    y = x + h\, p, \qquad \xi' = p + \tfrac h2 \tfrac{F(y)}{T},

accepted with log-probability (U(x) - U(y)) / T + (|xi|^2 - |xi'|^2) / 2. One leap a proposal is
the Metropolis-adjusted Langevin algorithm (MALA), several are Hamiltonian Monte Carlo, which here
needs several times fewer leaps.

References:
    | Exponential convergence of Langevin distributions and their discrete approximations (Roberts,
      Tweedie, 1996), https://doi.org/10.2307/3318418
    | MCMC using Hamiltonian dynamics (Neal, 2011), section 5: one leap is Langevin's
    | https://arxiv.org/abs/1206.1901
    | Understanding Molecular Simulation (Frenkel, Smit, 2002), section 3.2: truncation and virial
"""

from __future__ import annotations

__all__ = ["Fluid", "Interactions", "LennardJones"]

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy import ndarray as Array

from simgen.field import Field
from simgen.forward import Simulator

if TYPE_CHECKING:
    from simgen.prior import Prior

PRIORS = {"T": (1.5, 3.0), "rho": (0.1, 0.5)}
"""Bounds of the uniform priors; above the critical temperature of the truncated fluid, 1.08."""
FIRST, LARGEST = 0.05, 0.25
"""The size h of the first leaps, and of the largest: a pair met by chance must not stick."""
RELAXATION = 100
"""Tamed leaps from random places until no particles overlap."""
TARGET = 0.6
"""The acceptance aimed at: it is best at 0.57 for one leap a proposal, at 0.65 for many."""
CORE = 0.1
"""Within it, at 4e12, the potential is level: there a trajectory that diverges may end."""
CHUNK = 2**15
"""Pairs worked on at once: what fits a processor's cache is fastest."""


class Interactions(NamedTuple):
    """Of n configurations: U (n,), forces -dU/dx (n, N, 3), and the virial sum r . F (n,)."""

    energy: Array
    forces: Array
    virial: Array


class LennardJones(Simulator):
    """Configurations x (N, 3) of the fluid given theta = (T, rho), a set of particles.

    Coordinates are in [0, L), L^3 = N / rho. T in [1.5, 3] and rho in [0.1, 0.5] are a fluid of
    one phase. Beside x there are `z_energy`, U / N; `z_pressure`, rho T + virial / (3 L^3); and
    `z_acceptance`, that of the second half of the steps.

    Particles start at random places, and first take 100 tamed leaps apart. In the first half of
    the steps log h grows by (alpha - 0.6) / t^0.6, by each row's own alpha, and h to 0.25 at most;
    then it stays, but for a factor from 0.6 to 1 by chance, and the chain is exact. What is left
    of the start would show as a drift of the fields with `steps`; below the prior's temperatures
    a row may need many more.

    Arguments:
        particles: N.
        fixed: T and rho, for an unconditional simulator, `prior = None`; these may lie outside the
            prior.
        cutoff: r_c, at most half of the densest box.
        steps: Proposals, at least 10.
        leaps: Leaps a proposal; 1 for MALA, which takes several times as many leaps in all.

    Raises:
        ValueError: If an argument is not positive, or the box is too small for the cutoff.

    Examples:
        >>> fluid = LennardJones(particles=32, fixed=(2.0, 0.2), steps=20)
        >>> fields = fluid(3, seed=0)
        >>> fields["x"].shape, fields["z_energy"].shape
        ((3, 32, 3), (3,))
    """

    def __init__(
        self,
        particles: int = 64,
        fixed: Sequence[float] | None = None,
        cutoff: float = 2.5,
        steps: int = 50,
        leaps: int = 10,
    ) -> None:
        for name, value, least in (
            ("particles", particles, 2),
            ("steps", steps, 10),
            ("leaps", leaps, 1),
        ):
            if value < least or value != int(value):
                raise ValueError(f"{name} must be a whole number from {least} on; got {value!r}")
        if not 0 < cutoff < np.inf:
            raise ValueError(f"cutoff must be positive; got {cutoff}")
        self.particles, self.cutoff = int(particles), float(cutoff)
        self.steps, self.leaps = int(steps), int(leaps)
        self.fixed = None if fixed is None else [float(value) for value in fixed]
        if self.fixed is None:
            self._side(np.array([PRIORS["rho"][1]]))
        else:
            self._state(np.empty((1, 0)))
        self.fields = {
            "x": Field((self.particles, 3), layout="set", names=("x", "y", "z")),
            "z_energy": Field(()),
            "z_pressure": Field(()),
            "z_acceptance": Field(()),
        }

    @cached_property
    def prior(self) -> Prior | None:  # type: ignore[override]
        """Uniform in `PRIORS`, made on first use; None if T and rho are fixed."""
        if self.fixed is not None:
            return None
        from torch.distributions import Uniform

        from simgen.prior import Prior

        factors = {name: Uniform(*bounds) for name, bounds in PRIORS.items()}
        return Prior(factors, labels=("$T$", r"$\rho$"))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return tuple(PRIORS) if self.fixed is None else ()

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws configurations for theta (n, 2), or (n, 0) if T and rho are fixed.

        Raises:
            ValueError: If T or rho is not positive, or a box too small for the cutoff.
        """
        T, side = self._state(theta)
        rows = max(1, CHUNK // self.particles**2)
        parts = [
            self._chain(T[i : i + rows], side[i : i + rows], rng)
            for i in range(0, max(len(T), 1), rows)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _state(self, theta: Array) -> tuple[Array, Array]:
        """T and the box's side (n,)."""
        theta = np.asarray(theta, dtype=float)
        values = theta if self.fixed is None else np.tile(self.fixed, (len(theta), 1))
        if values.shape[-1] != 2 or not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(f"T and rho must be two positive numbers a row; got {values[:1]}")
        return values[:, 0], self._side(values[:, 1])

    def _side(self, rho: Array) -> Array:
        side = np.cbrt(self.particles / rho)
        if side.size and side.min() < 2 * self.cutoff:
            needed = int(np.ceil(rho.max() * (2 * self.cutoff) ** 3))
            raise ValueError(
                f"the box of {self.particles} particles at density {rho.max():.3g} has sides of "
                f"{side.min():.3g}, less than twice the cutoff {self.cutoff:g}; take at least "
                f"{needed} particles or a smaller cutoff"
            )
        return side

    def _chain(self, T: Array, side: Array, rng: np.random.Generator) -> dict[str, Array]:
        """The end of one chain a row."""
        fluid = Fluid(self.particles, side, self.cutoff)
        x = _apart(rng.random((len(T), self.particles, 3)) * _column(side), fluid, T, rng)
        now = fluid(x)
        log_h, accepted = np.full(len(T), np.log(FIRST)), np.zeros(len(T))
        adapting = self.steps // 2
        for step in range(1, self.steps + 1):
            h = np.exp(log_h) * rng.uniform(0.6, 1, len(T))
            noise = rng.standard_normal(x.shape)
            y, _, new, log_alpha = propose(x, noise, now, fluid, h, T, self.leaps)
            accept = -rng.standard_exponential(len(T)) < log_alpha
            x = np.where(_column(accept), y, x)
            now = Interactions(
                np.where(accept, new.energy, now.energy),
                np.where(_column(accept), new.forces, now.forces),
                np.where(accept, new.virial, now.virial),
            )
            if step > adapting:
                accepted += accept
            else:
                log_h += (np.exp(np.minimum(log_alpha, 0)) - TARGET) / step**0.6
                np.minimum(log_h, np.log(LARGEST), out=log_h)
        volume = side**3
        return {
            "x": np.mod(x, _column(side)),
            "z_energy": now.energy / self.particles,
            "z_pressure": self.particles / volume * T + now.virial / (3 * volume),
            "z_acceptance": accepted / (self.steps - adapting),
        }


class Fluid:
    """The interactions of configurations in boxes of one size a row; holds its working memory.

    Arguments:
        particles: N.
        side: Sides L of the boxes (n,).
        cutoff: r_c, at most half of every side.
    """

    def __init__(self, particles: int, side: Array, cutoff: float) -> None:
        self.side, self.cutoff = np.asarray(side, dtype=float), cutoff
        shape = (len(self.side), particles, particles)
        self._d, self._work = np.empty((2, 3, *shape))
        self._near = np.empty(shape, dtype=bool)

    def __call__(self, x: Array) -> Interactions:
        """Energy, forces and virial of x (n, N, 3), which need not lie in the box."""
        d, work, near = self._d, self._work, self._near
        scaled = np.moveaxis(x, -1, 0) / self.side[:, None]
        np.subtract(scaled[..., :, None], scaled[..., None, :], out=d)
        d -= np.rint(d, out=work)
        np.multiply(d, d, out=work)
        r_2, inverse_6, pull = work
        r_2 += inverse_6
        r_2 += pull
        r_2 *= (self.side**2)[:, None, None]
        np.maximum(r_2, CORE**2, out=r_2)
        np.einsum("nii->ni", r_2)[:] = np.inf
        np.less(r_2, self.cutoff**2, out=near)
        inverse_2 = np.divide(near, r_2, out=r_2)
        np.multiply(inverse_2, inverse_2, out=inverse_6)
        inverse_6 *= inverse_2
        s_6, s_12 = inverse_6.sum((1, 2)), np.einsum("nij,nij->n", inverse_6, inverse_6)
        np.multiply(inverse_6, 48, out=pull)
        pull -= 24
        pull *= inverse_6
        pull *= inverse_2
        forces = np.einsum("nij,cnij->nic", pull, d) * _column(self.side)
        shift = 2 * (self.cutoff**-12 - self.cutoff**-6)
        energy = 2 * (s_12 - s_6) - shift * np.count_nonzero(near, axis=(1, 2))
        return Interactions(energy, forces, 24 * s_12 - 12 * s_6)


def propose(
    x: Array, noise: Array, now: Interactions, fluid: Fluid, h: Array, T: Array, leaps: int
) -> tuple[Array, Array, Interactions, Array]:
    """Leaps from x with momenta `noise`, both (n, N, 3).

    Returns:
        y and its momenta (n, N, 3), its interactions, and the log-probability to accept it (n,).
    """
    h_, kick = _column(h), _column(h / (2 * T))
    y, p, new = x, noise, now
    for _ in range(leaps):
        p = p + kick * new.forces
        y = y + h_ * p
        new = fluid(y)
        p = p + kick * new.forces
    kinetic = ((noise**2).sum((1, 2)) - (p**2).sum((1, 2))) / 2
    return y, p, new, (now.energy - new.energy) / T + kinetic


def _apart(x: Array, fluid: Fluid, T: Array, rng: np.random.Generator) -> Array:
    """Tamed Langevin steps from x (n, N, 3): no drift beyond h in any direction."""
    for _ in range(RELAXATION):
        drift = _column(FIRST**2 / (2 * T)) * fluid(x).forces
        drift /= 1 + np.abs(drift) / FIRST
        x = x + drift + FIRST * rng.standard_normal(x.shape)
    return x


def _column(values: Array) -> Array:
    """(n,) as (n, 1, 1), to go with (n, N, 3)."""
    return values[:, None, None]
