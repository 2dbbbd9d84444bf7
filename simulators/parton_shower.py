r"""Parton showers: e+ e- to q qbar, kt-ordered splittings with recoil, a detector, what is seen.

.. math::
    z_p &= (\cos\theta, \phi) \sim \tfrac{3}{16 \pi} (1 + \cos^2\theta), \qquad
    z_s = \{(\ln k_{t,i}, u_i, \phi_i, \ldots)\} \sim p(z_s \mid z_p, \alpha_s) \\
    z_d &\sim p(z_d \mid \text{partons}(z_p, z_s)), \qquad x \sim p(x \mid z_d)

The splittings are those of `dipoles`, whose density gives the joint score; the detector is that
of `calorimeter_image`. There is no hadronisation: partons reach the detector.

References:
    | Introduction to parton-shower event generators (Höche, 2014)
    | https://arxiv.org/abs/1411.4085
"""

from __future__ import annotations

__all__ = ["OBSERVABLES", "PartonShower"]

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray as Array

from simgen import Field, Simulator

from .calorimeter_image import Calorimeter
from .dipoles import COLUMNS, Shower, evolve
from .jets import anti_kt, thrust
from .lund import M_Z
from .splitting import Splitting, next_splitting, pole

if TYPE_CHECKING:
    from simgen import Prior

OBSERVABLES = ("image", "shapes")
LATENTS = ("z_p", "z_s", "z_d", "joint_score")
JET_RADIUS, JET_PT = 0.7, 5.0
"""Of the jets that are counted: anti-kt radius, and the least transverse momentum in GeV."""
_AT_ONCE = 1 << 14
"""About how many events are showered together."""


class PartonShower(Simulator):
    r"""The strong coupling from e+ e- collisions that make a pair of quarks.

    Theta is alpha_s in [0.10, 0.14], the strong coupling at the mass of the Z. x is an image of
    the calorimeter's two layers in (eta, phi), or three event shapes: tau = 1 - thrust, the number
    of anti-kt jets (R = 0.7, pT above 5 GeV), and the number of partons; of one event (3,), or of
    a set of independent events (events, 3). What else is recorded of an event:

    - `z_p` (2,): cos theta and phi of the quark.
    - `z_s` (partons - 2, 6): of each splitting ln(kt / GeV), the share u of the emitted parton,
      its azimuth, the kind (0: q to q g, 1: g to g g, 2: g to q qbar), the place of its dipole on
      the colour lines, and whether the left (0) or right (1) parton of it splits; zeros behind;
      `z_s_length` of them. With z_p it says every momentum: `shower`.
    - `z_d`: hits in each cell of the calorimeter, (2, pixels, pixels), or the momenta of the
      partons as measured, (partons, 3), `z_d_length` of them. x depends on nothing else.
    - `joint_score` (1,): the slope by alpha_s of log p(x, z | alpha_s); of a set, the sum.

    Of a set joint_score alone is recorded. Stored latents are those that the score was computed
    from: they are drawn in float32.

    Arguments:
        observable: "image" or "shapes".
        energy: sqrt(s) of the collision, GeV.
        events: The number of events in a set of shapes; None for one event a row.
        pixels: Cells of an image along eta and along phi.
        cutoff: The least kt of a splitting, GeV.
        partons: The most partons of an event: more is an error, never cut.
        record: What to record beside x: names among z_p, z_s, z_d and joint_score, of single
            events; all of them unless said.

    Raises:
        ValueError: If an argument is out of range, or a set is asked for its images or latents.

    References:
        | Mining gold from implicit models to improve likelihood-free inference (Brehmer, Louppe,
          Pavez, Cranmer, 2020)
        | https://arxiv.org/abs/1805.12244

    Examples:
        >>> rows = PartonShower()([[0.11], [0.13]], seed=0)
        >>> rows["x"].shape, rows["joint_score"].shape
        ((2, 2, 32, 32), (2, 1))
        >>> PartonShower("shapes", events=100)([0.118], seed=0)["x"].shape
        (100, 3)
    """

    def __init__(
        self,
        observable: str = "image",
        energy: float = M_Z,
        events: int | None = None,
        pixels: int = 32,
        cutoff: float = 1.0,
        partons: int = 32,
        record: Sequence[str] | None = None,
    ) -> None:
        if observable not in OBSERVABLES:
            raise ValueError(
                f"observable must be one of {', '.join(OBSERVABLES)}; got {observable!r}"
            )
        if not 0 < 2 * cutoff < energy:
            raise ValueError(
                f"cutoff and energy need 0 < 2 cutoff < energy; got {cutoff} and {energy} GeV"
            )
        for name, value, least in (
            ("events", 1 if events is None else events, 1),
            ("pixels", pixels, 2),
            ("partons", partons, 3),
        ):
            whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
            if not whole or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}; got {value}")
        if events is not None and observable == "image":
            raise ValueError("a set of events has shapes, not images: events=None for images")
        known = LATENTS if events is None else ("joint_score",)
        record = known if record is None else record
        record = [record] if isinstance(record, str) else list(record)
        if set(record) - set(known):
            raise ValueError(f"record must be names among {', '.join(known)}; got {record}")
        self.observable = observable
        self.energy, self.cutoff = float(energy), float(cutoff)
        self.events = None if events is None else int(events)
        self.pixels, self.partons = int(pixels), int(partons)
        self.record = [name for name in LATENTS if name in record]
        declared = _declare(observable, self.events, self.pixels, self.partons)
        self.fields = {name: declared[name] for name in ("x", *self.record)}

    @cached_property
    def prior(self) -> Prior:  # type: ignore[override]
        """Uniform over alpha_s in [0.10, 0.14]."""
        from torch.distributions import Uniform

        from simgen import Prior

        return Prior(alpha_s=Uniform(0.10, 0.14), labels=(r"$\alpha_s$",))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return ("alpha_s",)

    @property
    def calorimeter(self) -> Calorimeter:
        """The detector."""
        return Calorimeter(pixels=self.pixels)

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws x, and of the latents those in `record`.

        Arguments:
            theta: alpha_s, (n, 1).
            rng: The only source of randomness.

        Raises:
            ValueError: If alpha_s puts the Landau pole above the cut-off, or an event has more
                partons than there is room for.
        """
        theta = self._checked(theta)
        rows = max(_AT_ONCE // (self.events or 1), 1)
        parts = [
            self._simulate(theta[i : i + rows, 0], rng) for i in range(0, max(len(theta), 1), rows)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _simulate(self, alpha_s: Array, rng: np.random.Generator) -> dict[str, Array]:
        """The fields of as many rows as memory should hold at once."""
        alpha_s = np.repeat(alpha_s, self.events or 1)
        z_p = _draw_axis(len(alpha_s), rng)

        def choose(rows: Array, _: int, s: Array, gluon: Array, ln_t: Array) -> Splitting:
            return next_splitting(s, gluon, ln_t, alpha_s[rows], self.cutoff, rng)

        gold = "joint_score" in self.record
        shower = evolve(self._pair(z_p), alpha_s, self.cutoff, self.partons, choose, gold)
        out = {"z_p": z_p, "z_s": shower.splittings, "joint_score": shower.score[:, None]}
        if self.observable == "image":
            out["z_d"] = self.calorimeter.deposit(shower.momenta, shower.counts + 2, rng)
        else:
            out["z_d"] = self.calorimeter.measure(shower.momenta, rng).astype(np.float32)
        x = self.observe(out["z_d"], rng)
        if self.events is not None:
            x = x.reshape(-1, self.events, 3)
            out["joint_score"] = shower.score.reshape(-1, self.events).sum(1, keepdims=True)
        out = {"x": x, **{name: out[name] for name in self.record}}
        if "z_s" in out:
            out["z_s_length"] = shower.counts
        if "z_d" in out and self.observable == "shapes":
            out["z_d_length"] = shower.counts + 2
        return out

    def observe(self, z_d: Array, rng: np.random.Generator) -> Array:
        """Draws x given the detector's record alone.

        Arguments:
            z_d: Hits (n, 2, pixels, pixels), or measured momenta (n, partons, 3), zeros behind.
            rng: The source of randomness; shapes are a function of z_d.
        """
        if self.observable == "image":
            return self.calorimeter.image(z_d, rng)
        p = np.asarray(z_d, dtype=np.float64)
        energy = np.linalg.norm(p, axis=-1, keepdims=True)
        partons = (energy[..., 0] > 0).sum(1)
        # not fastjet, though it agrees: rows must not depend on what is installed
        jets = anti_kt(np.concatenate([p, energy], -1), partons, JET_RADIUS, JET_PT, "numpy")
        return np.stack([1 - thrust(p, partons)[0], jets.counts, partons], -1)

    def shower(self, fields: Mapping[str, Array], theta: Array) -> Shower:
        """Showers again what was recorded: momenta, and log-density and score at any alpha_s.

        Arguments:
            fields: `z_p`, `z_s` and `z_s_length`, as simulated.
            theta: alpha_s, (n, 1), or (1,) for all rows.

        Raises:
            ValueError: If a latent is missing, or alpha_s is out of range.
        """
        missing = [name for name in ("z_p", "z_s", "z_s_length") if name not in fields]
        if missing:
            raise ValueError(
                f"a shower needs {', '.join(missing)}, and there are {', '.join(fields)}: "
                "simulate single events with PartonShower(record=['z_p', 'z_s'])"
            )
        z_p, z_s = (np.asarray(fields[name], dtype=np.float64) for name in ("z_p", "z_s"))
        counts = np.asarray(fields["z_s_length"])
        alpha_s = np.broadcast_to(self._checked(theta), (len(z_p), 1))[:, 0]

        def choose(rows: Array, step: int, *_: Array) -> Splitting:
            alive = counts[rows] > step
            ln_kt, u, phi, *whole = z_s[rows, min(step, z_s.shape[1] - 1)].T
            kind, pair, side = (value.astype(np.int64) for value in whole)
            return Splitting(ln_kt, u, phi, kind, np.where(alive, pair, -1), side)

        return evolve(self._pair(z_p), alpha_s, self.cutoff, self.partons, choose)

    def joint_log_likelihood(self, fields: Mapping[str, Array], theta: Array) -> Array:
        """Log p(z_s | z_p, alpha_s) of each event, up to a constant of alpha_s, (n,).

        The other factors know no theta: a difference between two theta is a joint log-ratio, the
        slope is the joint score. Arguments and errors are those of `shower`.
        """
        return self.shower(fields, theta).log_prob

    def _pair(self, z_p: Array) -> Array:
        """Momenta (n, 2, 4) of the quark along z_p (n, 2) and the antiquark opposite."""
        c, phi = z_p.T
        across = np.sqrt(1 - c**2)
        axis = np.stack([across * np.cos(phi), across * np.sin(phi), c], -1)
        axis = np.stack([axis, -axis], 1)
        energy = np.linalg.norm(axis, axis=-1, keepdims=True)
        return np.concatenate([axis / energy, np.ones_like(energy)], -1) * (self.energy / 2)

    def _checked(self, theta: Any) -> Array:
        values = np.asarray(theta, dtype=np.float64)
        if values.shape[-1:] != (1,):
            raise ValueError(f"theta must be (n, 1), alpha_s; got shape {values.shape}")
        top = pole(self.cutoff)
        if not np.all((values > 0) & (values < top)):
            raise ValueError(
                f"alpha_s must lie between 0 and {top:.4f}, where the Landau pole meets the "
                f"shower's cut-off; got values from {values.min()} to {values.max()}"
            )
        return values


def _draw_axis(n: int, rng: np.random.Generator) -> Array:
    """Draws cos theta from 1 + cos^2 theta, by inverse CDF, and phi; (n, 2), float32 precision."""
    cos = 2 * np.sinh(np.arcsinh(4 * rng.random(n) - 2) / 3)
    phi = 2 * np.pi * rng.random(n)
    inner = np.nextafter(np.array([-1, 1, 0, 2 * np.pi], np.float32), np.float32(0.5))
    drawn = [np.clip(v.astype(np.float32), *b) for v, b in ((cos, inner[:2]), (phi, inner[2:]))]
    return np.stack(drawn, -1).astype(np.float64)


def _declare(observable: str, events: int | None, pixels: int, partons: int) -> dict[str, Field]:
    """The fields of one event, or of a set."""
    shapes: dict[str, Any] = {
        "names": ("tau", "n_jets", "n_partons"),
        "labels": (r"$\tau$", r"$n_\mathrm{jets}$", r"$n$"),
    }
    if observable == "image":
        layers, cells = ("layer_1", "layer_2"), (2, pixels, pixels)
        x = Field(cells, layout="image", names=layers, units=("GeV", "GeV"))
        z_d = Field(cells, layout="image", names=layers, discrete=True)
    else:
        x = Field((3,), **shapes)
        if events is not None:
            x = Field((events, 3), layout="set", iid=True, **shapes)
        z_d = Field(
            (partons, 3), layout="set", names=("px", "py", "pz"), units=("GeV", "GeV", "GeV")
        )
    return {
        "x": x,
        "z_p": Field(
            (2,),
            names=("cos_theta", "phi"),
            labels=(r"$\cos\theta$", r"$\phi$"),
            units=("", "rad"),
            support=((-1.0, 0.0), (1.0, 2 * np.pi)),
        ),
        "z_s": Field((partons - 2, len(COLUMNS)), layout="set", names=COLUMNS),
        "z_d": z_d,
        "joint_score": Field((1,), names=("d_alpha_s",)),
    }
