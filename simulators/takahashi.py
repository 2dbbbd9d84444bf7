r"""Takahashi's chain: particles on a line, bound to their neighbours, at constant pressure.

.. math::
    p(r_1, \dots, r_k \mid \vartheta) = \prod_i \frac{e^{-(u(r_i) + P r_i) / T}}{Z}, \qquad
    u(r) = \varepsilon\, a(r / \sigma), \quad a(q) = 4 (q^{-12} - q^{-6})

Neighbours alone interact, so that the spacings of an infinite chain are independent, and the
partition function is one integral. With b = epsilon / T and c = P sigma / T,

.. math::
    Z = \sigma \int_{-\infty}^\infty e^{E(s)}\, \mathrm ds, \qquad
    E(s) = -b\, a(e^s) - c\, e^s + s, \qquad s = \ln q .

The integrand falls off doubly exponentially on either side, where the trapezoidal rule converges
exponentially. Draws invert the same table's cumulative distribution, a monotone
rational-quadratic spline through its values and slopes. Energies and lengths are in the units of
those parameters that are not free; Boltzmann's constant is one.

References:
    | Eine einfache Methode zur Behandlung der statistischen Mechanik eindimensionaler Substanzen
      (Takahashi, 1942); in Mathematical Physics in One Dimension (Lieb, Mattis, 1966)
    | Piecewise rational quadratic interpolation to monotonic data (Gregory, Delbourgo, 1982)
    | https://doi.org/10.1093/imanum/2.2.123
"""

from __future__ import annotations

__all__ = ["TakahashiChain"]

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy import ndarray as Array

from simgen.field import Field
from simgen.forward import Simulator

from .grid_posterior import GridPosterior, grid_cells

if TYPE_CHECKING:
    from simgen.prior import Prior

PRIORS = {"T": (0.5, 2.0), "P": (0.2, 2.0), "epsilon": (0.5, 2.0), "sigma": (0.8, 1.2)}
"""Bounds of the uniform prior of each parameter, where it is free; 1 where it is not."""
LABELS = {"T": "$T$", "P": "$P$", "epsilon": r"$\varepsilon$", "sigma": r"$\sigma$"}
COORDINATES = ("spacings", "positions", "set")
NODES = 128
BOTTOM, WIDTH = np.log(2) / 6, 0.25
"""Nodes are even in v, s = BOTTOM + WIDTH sinh(v): dense in the well, sparse in the tail."""
CHUNK = 128
"""Rows worked on at once: their tables stay in the cache."""
B, C = (1e-3, 40.0), (1e-2, 100.0)
"""Bounds of b and c within which log Z is good to 1e-8. Within the prior it is to 1e-14, and the
chi-square distance of draws from their density is below 1e-6."""
_TAIL = 45.0
"""The table ends where the integrand is e^-45 of its largest value, or less."""


class TakahashiChain(Simulator):
    r"""Configurations of a chain of k spacings given theta, among T, P, epsilon and sigma.

    T is the temperature, P the pressure (in one dimension a force), epsilon and sigma the depth
    and length of the Lennard-Jones potential, which is not cut off. Beside x there is
    `joint_score`: without latents, the score itself.

    The chain knows epsilon / T, P / T and sigma alone. Of (T, P, epsilon) it learns two
    combinations, and along the ray through theta the posterior is the prior's; with two of the
    three free, or with sigma, all parameters are learned.

    Arguments:
        spacings: Their number k.
        coordinates: What x is: "spacings" (k,), "positions" (k,) of the particles after the first,
            in order, or "set" (k, 1): the spacings as a set of independent events.
        free: The parameters theta; the others are 1.

    Raises:
        ValueError: If spacings is no positive number, or a name is unknown or given twice.

    Examples:
        >>> chain = TakahashiChain(spacings=8)
        >>> fields = chain([[1.0, 1.0, 1.0], [0.5, 2.0, 1.0]], seed=0)
        >>> fields["x"].shape, fields["joint_score"].shape
        ((2, 8), (2, 3))
        >>> chain.exact_posterior(fields["x"], points=20).mean.shape
        (2, 3)
    """

    def __init__(
        self,
        spacings: int = 64,
        coordinates: str = "spacings",
        free: Sequence[str] = ("T", "P", "epsilon"),
    ) -> None:
        free = [free] if isinstance(free, str) else list(free)
        if spacings < 1 or spacings != int(spacings):
            raise ValueError(f"spacings must be a positive whole number; got {spacings!r}")
        if coordinates not in COORDINATES:
            raise ValueError(
                f"coordinates must be one of {', '.join(COORDINATES)}; got {coordinates!r}"
            )
        if not free or set(free) - set(PRIORS) or len(set(free)) < len(free):
            raise ValueError(f"free must be different names among {', '.join(PRIORS)}; got {free}")
        self.spacings, self.coordinates = int(spacings), coordinates
        self.free = [name for name in PRIORS if name in free]
        x = {
            "spacings": Field((self.spacings,), support=(0, None)),
            "positions": Field((self.spacings,), support=(0, None)),
            "set": Field((self.spacings, 1), "set", support=(0, None), iid=True, names=("r",)),
        }
        score = Field((len(self.free),), names=tuple(f"d_{name}" for name in self.free))
        self.fields = {"x": x[coordinates], "joint_score": score}

    @cached_property
    def prior(self) -> Prior:  # type: ignore[override]
        """Uniform in `PRIORS`; made on first use, so that workers import no torch."""
        from torch.distributions import Uniform

        from simgen.prior import Prior

        factors = {name: Uniform(*PRIORS[name]) for name in self.free}
        return Prior(factors, labels=[LABELS[name] for name in self.free])

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return tuple(self.free)

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws x and its score for theta (n, d).

        Raises:
            ValueError: If a parameter is not positive, or far out of the prior.
        """
        values = self._values(theta)
        r = np.empty((len(values), self.spacings))
        score = np.empty((len(values), len(self.free)))
        for start in range(0, len(values), CHUNK):
            rows = slice(start, start + CHUNK)
            b, c, sigma = _reduced(values[rows])
            table = _tabulate(b, c)
            q = _draw(table, self.spacings, rng)
            r[rows] = sigma[:, None] * q
            score[rows] = self._score(values[rows], table, _sums(q, np.ones(len(q))))
        x = {"positions": r.cumsum(-1), "set": r[..., None]}.get(self.coordinates, r)
        return {"x": x, "joint_score": score}

    def log_likelihood(self, x: Array, theta: Array) -> Array:
        r"""The exact log p(x | theta), -inf where particles have changed places.

        Arguments:
            x: Configurations (*B, k), of a set (*B, k, 1).
            theta: Parameters (*T, d).

        Returns:
            Shape broadcast(*B, *T), float64.

        Raises:
            ValueError: If a shape is wrong, or theta as for `simulate`.
        """
        r = self._spacings(x)
        inside = np.asarray((r > 0).all(-1))
        b, c, sigma = _reduced(self._values(theta))
        q_12, q_6, q = _sums(np.where(inside[..., None], np.maximum(r, 1e-20), 1.0), sigma)
        log_p = -b * 4 * (q_12 - q_6) - c * q - r.shape[-1] * self.log_partition(theta)
        return np.where(inside, log_p, -np.inf)

    def joint_log_likelihood(self, fields: Mapping[str, Array], theta: Array) -> Array:
        """Log p(x | theta) of rows of fields, (n,): there are no latents."""
        return self.log_likelihood(fields["x"], theta)

    def score(self, x: Array, theta: Array) -> Array:
        """The gradient (n, d) of `log_likelihood` by theta (n, d), at x of n rows."""
        values = self._values(theta)
        b, c, sigma = _reduced(values)
        return self._score(values, _tabulate(b, c), _sums(self._spacings(x), sigma))

    def log_partition(self, theta: Array) -> Array:
        """Log Z of one spacing, shape (*T,), for theta (*T, d)."""
        return self._of_table(theta, lambda table, sigma: np.log(sigma) + table.log_z)

    def mean_spacing(self, theta: Array) -> Array:
        """The equation of state: the mean spacing (*T,), 1 / density, for theta (*T, d)."""
        return self._of_table(theta, lambda table, sigma: sigma * table.mean_q)

    def exact_posterior(self, x: Array, points: int = 40) -> GridPosterior:
        """The exact posterior on a grid of points^d cells under the uniform prior.

        Arguments:
            x: One configuration (k,), or a batch (n, k); (..., k, 1) of a set.
            points: Cells along each parameter.

        Raises:
            ValueError: As `log_likelihood`.
        """
        low, high = np.array([PRIORS[name] for name in self.free]).T
        theta, width = grid_cells(low, high, points)
        x = np.expand_dims(np.asarray(x), -2 if self.coordinates != "set" else -3)
        return GridPosterior.from_log_likelihood(theta, width, self.log_likelihood(x, theta))

    def _values(self, theta: Array) -> Array:
        """T, P, epsilon and sigma (..., 4)."""
        theta = np.asarray(theta, dtype=float)
        if theta.shape[-1:] != (len(self.free),):
            raise ValueError(
                f"theta must be (..., {len(self.free)}): {', '.join(self.free)}; got {theta.shape}"
            )
        if not (np.isfinite(theta) & (theta > 0)).all():
            raise ValueError(f"{', '.join(self.free)} must be positive; got {theta.min()}")
        values = np.ones((*theta.shape[:-1], len(PRIORS)))
        values[..., [list(PRIORS).index(name) for name in self.free]] = theta
        return values

    def _spacings(self, x: Array) -> Array:
        """The spacings (*B, k) of x."""
        x = np.asarray(x, dtype=float)
        shape = self.fields["x"].shape
        if x.shape[x.ndim - len(shape) :] != shape:
            raise ValueError(f"x must be (..., {', '.join(map(str, shape))}); got {x.shape}")
        if self.coordinates == "set":
            return x[..., 0]
        return np.diff(x, prepend=0.0) if self.coordinates == "positions" else x

    def _of_table(self, theta: Array, what: Any) -> Array:
        """A function of the tables and sigma, shape (*T,), for theta (*T, d), in chunks."""
        b, c, sigma = (v.ravel() for v in _reduced(self._values(theta)))
        parts = [slice(i, i + CHUNK) for i in range(0, max(len(b), 1), CHUNK)]
        out = [what(_tabulate(b[rows], c[rows]), sigma[rows]) for rows in parts]
        return np.concatenate(out).reshape(np.shape(theta)[:-1])

    def _score(self, values: Array, table: _Table, sums: tuple[Array, Array, Array]) -> Array:
        """The score (n, d) at the sums of q^-12, q^-6 and q over k spacings."""
        T, P, epsilon, sigma = values.T
        q_12, q_6, q = sums
        k = self.spacings
        by_b = k * table.mean_a - 4 * (q_12 - q_6)
        by_c = k * table.mean_q - q
        b, c = epsilon / T, P * sigma / T
        virial = 4 * b * (6 * q_6 - 12 * q_12)
        every = {
            "T": -(b * by_b + c * by_c) / T,
            "P": sigma / T * by_c,
            "epsilon": by_b / T,
            "sigma": (virial - k + k * c * table.mean_q) / sigma,
        }
        return np.stack([every[name] for name in self.free], -1)


class _Table(NamedTuple):
    """Of n rows: the first node v (n,) and the step (n,), density and cumulative distribution of
    v at the nodes (n, NODES), log Z of q (n,), and the means of a(q) and q (n,).
    """

    first: Array
    step: Array
    density: Array
    cumulative: Array
    log_z: Array
    mean_a: Array
    mean_q: Array


def _reduced(values: Array) -> tuple[Array, Array, Array]:
    """b, c and sigma (...) of T, P, epsilon and sigma (..., 4)."""
    T, P, epsilon, sigma = np.moveaxis(values, -1, 0)
    return epsilon / T, P * sigma / T, sigma


def _sums(r: Array, sigma: Array) -> tuple[Array, Array, Array]:
    """The sums over spacings r (*B, k) of q^-12, q^-6 and q at sigma (*T,), broadcast."""
    inverse_3 = r**-3
    inverse_6 = inverse_3 * inverse_3
    sigma_6 = sigma**6
    q_12 = np.einsum("...k,...k->...", inverse_6, inverse_6) * sigma_6**2
    return q_12, inverse_6.sum(-1) * sigma_6, r.sum(-1) / sigma


def _tabulate(b: Array, c: Array) -> _Table:
    """The law of v, s = s_0 + w sinh(v), for b (n,) and c (n,).

    The first node has 4 b q^-12 = A, where sqrt(A) = sqrt(b) + sqrt(b + c + tail): there
    E(s) < E(0) - tail. At the last one, c q = tail + 1.2 c.

    Raises:
        ValueError: If b or c is out of range.
    """
    for name, value, (least, most) in (("epsilon / T", b, B), ("P sigma / T", c, C)):
        if value.size and not (least <= value.min() and value.max() <= most):
            raise ValueError(
                f"{name} must lie between {least:g} and {most:g}, where the quadrature is "
                f"accurate; got values from {value.min():.4g} to {value.max():.4g}"
            )
    low = np.log(4 * b / (np.sqrt(b) + np.sqrt(b + c + _TAIL)) ** 2) / 12
    first = np.arcsinh((low - BOTTOM) / WIDTH)
    last = np.arcsinh((np.log(1.2 + _TAIL / c) - BOTTOM) / WIDTH)
    step = (last - first) / (NODES - 1)
    grow = np.exp(first[:, None] + step[:, None] * np.arange(NODES))
    v_cosh, v_sinh = (grow + 1 / grow) / 2, (grow - 1 / grow) / 2
    s = BOTTOM + WIDTH * v_sinh
    q = np.exp(s)
    q_6 = 1 / (q * q)
    q_6 *= q_6 * q_6
    a = 4 * (q_6 * q_6 - q_6)
    b_, c_, h = b[:, None], c[:, None], step[:, None]
    E = s - b_ * a - c_ * q
    peak = E.max(-1)
    density = np.exp(E - peak[:, None]) * v_cosh
    total = density.sum(-1) * step
    density /= total[:, None]
    slope = density * (WIDTH * v_cosh * (1 - c_ * q + b_ * (12 * a + 24 * q_6)) + v_sinh / v_cosh)
    mass = h / 2 * (density[:, 1:] + density[:, :-1]) - h**2 / 12 * np.diff(slope)
    cumulative = np.zeros_like(density)
    np.cumsum(mass, -1, out=cumulative[:, 1:])
    cumulative /= cumulative[:, -1:]
    mean_a, mean_q = (np.einsum("ij,ij->i", density, f) * step for f in (a, q))
    log_z = peak + np.log(WIDTH * total)
    return _Table(first, step, density, cumulative, log_z, mean_a, mean_q)


def _draw(table: _Table, k: int, rng: np.random.Generator) -> Array:
    """Draws q (n, k) by inverting each row's cumulative distribution."""
    n = len(table.step)
    rows = np.arange(n)[:, None]
    u = rng.random((n, k))
    cell = np.searchsorted((table.cumulative + rows).ravel(), (u + rows).ravel(), "right") - 1
    cell = np.clip(cell.reshape(n, k), rows * NODES, rows * NODES + NODES - 2)
    cumulative, density = table.cumulative.ravel(), table.density.ravel()
    low = cumulative[cell]
    mass = np.maximum(cumulative[cell + 1] - low, np.finfo(float).tiny)
    scale = table.step[:, None] / mass
    left, right = density[cell] * scale, density[cell + 1] * scale
    y = np.clip((u - low) / mass, 0, 1)
    bend = y * (left + right - 2)
    linear = left - bend
    t = 2 * y / (linear + np.sqrt(linear**2 + 4 * y * (1 - linear)))
    v = table.first[:, None] + (cell - rows * NODES + t) * table.step[:, None]
    return np.exp(BOTTOM + WIDTH * np.sinh(v))
