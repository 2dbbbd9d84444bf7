r"""Collider chain: a hard process with a contact term, a parton shower, a detector, what is seen.

.. math::
    z_p &= (m, c) \sim p(m, c \mid \epsilon), \qquad
    z_s = \{(\ln k_{t,i}, \eta_i)\} \sim \mathrm{Poisson}(\mathrm d\mu(m, \alpha_s)) \\
    z_d &= (m, c, \tau, b_1, b_2, \dots), \qquad
        b_i \sim \mathrm{Bernoulli}(e), \quad \tau = \sum_i (k_{t,i} / m) \, e^{-\eta_i} \\
    x &= \left( m \, e^{\mathcal N(0, A^2 / m + B^2)}, \;
        c + \mathcal N(0, s_c^2), \; \sum_i b_i, \; \tau + \mathcal N(0, s_\tau^2) \right)

Theta reaches x only through z_p and z_s, whose densities are closed forms. So the joint likelihood
and its gradient are exact. The integral over every shower, p(x | theta), is a compound Poisson law
and one quadrature: exact, too, but at the cost of tables.
"""

from __future__ import annotations

__all__ = ["DETECTORS", "ColliderShower", "Detector"]

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray as Array

from simgen import Simulator

from . import contact, lund
from .collider_answers import EPS_HIGH, EPS_LOW, ExactAnswers
from .collider_fields import checked, declare, mask, pad, recorded
from .detector import DETECTORS, Detector
from .lund import MAX_EMISSIONS, Emissions, sum_events
from .shower_table import A_HIGH, A_LOW

if TYPE_CHECKING:
    from simgen import Prior

LATENTS = ("z_p", "z_s", "z_d", "joint_score")


class ColliderShower(ExactAnswers, Simulator):
    r"""A contact interaction and the strong coupling, from collisions that make a pair of quarks.

    Theta is (eps, alpha_s): eps in [-0.5, 2] TeV^-2 multiplies a contact term in one helicity
    amplitude, alpha_s in [0.10, 0.14] is the strong coupling at the mass of the Z. x is (E_vis,
    cos theta*, n_det, tau): of one event (4,), or of a set of independent events (events, 4). One
    event says next to nothing about theta, some hundreds do. What else is recorded of an event:

    - `z_p` (2,): m in GeV and cos theta*.
    - `z_s` (64, 2): ln(kt / GeV) and eta of each emission, zeros behind; `z_s_length` of them.
    - `z_d` (3 + 64,): the energy and axis that reach the detector, tau of all emissions, and of
      each emission in z_s whether it was counted. Given z_d, x depends on nothing else.
    - `joint_score` (2,): the gradient by theta of log p(x, z | theta).

    Of a set, z_p and z_d have the axis (events,) in front, z_s is (events, 1 + 2 * 64): the number
    of emissions, then ln_kt_1, eta_1, ln_kt_2, ...; joint_score is the sum over the events. The
    latents of a set take fifty times the room of its x (240 kB for 300 events), so that a set
    records joint_score alone unless told otherwise. What is not recorded is not built. Stored
    latents are those that x and the score were computed from: they are drawn in float32.

    What is exact: `log_likelihood`, `score` and `exact_posterior` of events or sets,
    `log_unfolding` for p(z_p | x), and the stages `shower_log_likelihood` and
    `detector_log_likelihood`.

    Arguments:
        detector: "coarse", where the latents know much more than x, or "sharp", where they don't.
        events: The number of events in a set; None for one event a row.
        record: What to record beside x: names among z_p, z_s, z_d and joint_score. By default all
            of them for single events, joint_score for sets.

    Raises:
        ValueError: If detector or a recorded field is unknown, or events is no positive number.

    References:
        | Mining gold from implicit models to improve likelihood-free inference (Brehmer, Louppe,
          Pavez, Cranmer, 2020)
        | https://arxiv.org/abs/1805.12244

    Examples:
        >>> rows = ColliderShower(events=300)([[0.0, 0.118], [1.0, 0.118]], seed=0)
        >>> rows["x"].shape, rows["joint_score"].shape
        ((2, 300, 4), (2, 2))
    """

    def __init__(
        self,
        detector: str = "coarse",
        events: int | None = None,
        record: Sequence[str] | None = None,
    ) -> None:
        if detector not in DETECTORS:
            raise ValueError(f"detector must be one of {', '.join(DETECTORS)}; got {detector!r}")
        whole = isinstance(events, (int, np.integer)) and not isinstance(events, bool)
        if events is not None and (not whole or events < 1):
            raise ValueError(f"events must be a positive whole number, or None; got {events!r}")
        if record is None:
            record = LATENTS if events is None else ("joint_score",)
        record = [record] if isinstance(record, str) else list(record)
        if set(record) - set(LATENTS):
            raise ValueError(f"record must be names among {', '.join(LATENTS)}; got {record}")
        self.detector = detector
        self.events = None if events is None else int(events)
        self.record = [name for name in LATENTS if name in record]
        declared = declare(self.events)
        self.fields = {name: declared[name] for name in ("x", *self.record)}

    @cached_property
    def prior(self) -> Prior:  # type: ignore[override]
        """Uniform over eps in [-0.5, 2] TeV^-2 and alpha_s in [0.10, 0.14]."""
        from torch.distributions import Uniform

        from simgen import Prior

        return Prior(
            eps=Uniform(EPS_LOW, EPS_HIGH),
            alpha_s=Uniform(A_LOW, A_HIGH),
            labels=(r"$\epsilon$", r"$\alpha_s$"),
            units=("TeV^-2", ""),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return ("eps", "alpha_s")

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws x, and of the latents those in `record`.

        Arguments:
            theta: (n, 2): eps in TeV^-2 and alpha_s.
            rng: The only source of randomness.

        Raises:
            ValueError: If eps <= -1 TeV^-2, if alpha_s puts the Landau pole above the shower's
                cut-off, or if an event has more emissions than z_s holds.
        """
        eps, alpha_s = np.repeat(checked(theta), self.events or 1, axis=0).T
        m, c = contact.draw(eps, rng)
        emissions = lund.draw(m, alpha_s, rng)
        counts, ln_kt, eta = emissions
        seen = rng.random(len(eta)) < DETECTORS[self.detector].efficiency
        tau = (sum_events(np.exp(ln_kt - eta), counts) / m).astype(np.float32)
        n = sum_events(seen, counts)
        out = {"x": DETECTORS[self.detector].observe(m, c, n, tau, rng)}
        if "z_p" in self.record:
            out["z_p"] = np.stack([m, c], -1)
        if "z_s" in self.record:
            out |= self._shower_record(emissions)
        if "z_d" in self.record:
            record = np.stack([m, c, tau], -1).astype(np.float32)
            out["z_d"] = np.concatenate([record, pad(seen, counts)], -1)
        if self.events is not None:
            out = {k: v.reshape(-1, self.events, *v.shape[1:]) for k, v in out.items()}
        if "joint_score" in self.record:
            score = np.stack([contact.score(m, c, eps), lund.score(emissions, m, alpha_s)], -1)
            out["joint_score"] = score.reshape(-1, self.events or 1, 2).sum(1)
        return out

    def observe(self, z_d: Array, rng: np.random.Generator) -> Array:
        """Draws x (..., 4) given the detector's record z_d (..., 3 + 64) alone."""
        m, c, n, tau = recorded(z_d)
        flat = (m.ravel(), c.ravel(), n.ravel(), tau.ravel())
        return DETECTORS[self.detector].observe(*flat, rng).reshape(*m.shape, 4)

    def _shower_record(self, emissions: Emissions) -> dict[str, Array]:
        counts, ln_kt, eta = emissions
        padded = pad(np.stack([ln_kt, eta], -1), counts)
        if self.events is None:
            return {"z_s": padded, "z_s_length": counts}
        flat = padded.reshape(len(counts), -1)
        return {"z_s": np.concatenate([counts[:, None].astype(np.float32), flat], -1)}

    def latents(self, fields: Mapping[str, Array]) -> tuple[Array, Array, Emissions]:
        """The recorded m (GeV) and cos theta*, each (n,), and the emissions, of all n events.

        Arguments:
            fields: `z_p`, `z_s` and, for single events, `z_s_length`, as simulated.

        Raises:
            ValueError: If one of them was not recorded.
        """
        needed = ("z_p", "z_s", "z_s_length") if self.events is None else ("z_p", "z_s")
        missing = [name for name in needed if name not in fields]
        if missing:
            raise ValueError(
                f"the joint likelihood needs {', '.join(missing)}, and there are "
                f"{', '.join(fields)}: simulate with ColliderShower(record=['z_p', 'z_s'])"
            )
        m, c = np.asarray(fields["z_p"], dtype=np.float64).reshape(-1, 2).T
        z_s = np.asarray(fields["z_s"], dtype=np.float64)
        if self.events is None:
            counts = np.asarray(fields["z_s_length"])
        else:
            counts, z_s = z_s[..., 0].ravel().astype(np.int64), z_s[..., 1:]
        ln_kt, eta = z_s.reshape(-1, MAX_EMISSIONS, 2)[mask(counts)].T
        return m, c, Emissions(counts, ln_kt, eta)

    def joint_log_likelihood(self, fields: Mapping[str, Array], theta: Array) -> Array:
        """Log p(z_p, z_s | theta) of each row, summed over the events of a set, (n,).

        The other factors, p(z_d | z_p, z_s) p(x | z_d), know no theta: a difference between two
        theta is a joint log-ratio, the gradient is the joint score.

        Arguments:
            fields: `z_p`, `z_s` and, for single events, `z_s_length`, as simulated.
            theta: (n, 2), or (2,) for all rows: eps in TeV^-2 and alpha_s.

        Raises:
            ValueError: If a latent is missing, or theta is out of range as for `simulate`.
        """
        m, c, emissions = self.latents(fields)
        events = self.events or 1
        rows = np.broadcast_to(checked(theta), (len(m) // events, 2))
        eps, alpha_s = np.repeat(rows, events, axis=0).T
        log_p = contact.log_prob(m, c, eps) + lund.log_prob(emissions, m, alpha_s)
        return log_p.reshape(-1, events).sum(1)

    def joint_log_ratio(
        self, fields: Mapping[str, Array], numerator: Array, denominator: Array
    ) -> Array:
        """Log p(x, z | numerator) / p(x, z | denominator) of each row, (n,).

        Arguments:
            fields: As of `joint_log_likelihood`.
            numerator: Theta (n, 2), or (2,) for all rows.
            denominator: Likewise; where the rows come from it, the ratio has mean one.
        """
        above = self.joint_log_likelihood(fields, numerator)
        return above - self.joint_log_likelihood(fields, denominator)
