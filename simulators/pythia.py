r"""Pythia: e+ e- to hadrons at the Z by a generator that nobody here wrote.

.. math::
    x = \{(1 - T_i, \; n_{\text{jets},i}, \; n_{\text{charged},i})\}, \qquad
    x_i \sim p(x_i \mid \alpha_s) = \int p(x_i \mid z_i) \, p(z_i \mid \alpha_s) \, \mathrm dz_i

z_i are the quark pair, its parton shower, the strings, hadrons and their decays: a likelihood that
nobody can write down. T is thrust; jets are anti-kt with the radius and the least pT of
`parton_shower`, whose events are to be compared.

To set alpha_s, the shower alone is initialised again, in 0.3 ms where all of Pythia takes 0.12 s:
with the random numbers started again the events are, bit for bit, those of a new Pythia.

References:
    | A comprehensive guide to the physics and usage of PYTHIA 8.3 (Bierlich et al., 2022)
    | https://arxiv.org/abs/2203.11601
"""

from __future__ import annotations

__all__ = ["PythiaEvents"]

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray as Array

from simgen import Field, Simulator

from .lund import M_Z
from .parton_shower import JET_PT, JET_RADIUS

if TYPE_CHECKING:
    from simgen import Prior

SETTINGS = (
    "Print:quiet = on",
    "Beams:idA = 11",
    "Beams:idB = -11",
    f"Beams:eCM = {M_Z}",
    "PDF:lepton = off",
    "WeakSingleBoson:ffbar2gmZ = on",
    "23:onMode = off",
    "23:onIfAny = 1 2 3 4 5",
)
"""Unpolarised beams without radiation, and a Z (or photon) that becomes quarks."""
LARGEST_SEED = 900_000_000
MARGIN = 1.1
"""Pythia's least cut-off, in units of Lambda of three flavours."""
ANTI_KT, VISIBLE, MASSIVE, EVERYWHERE = -1, 2, 2, 25.0
"""Arguments of Pythia's analyses: neutrinos are not seen, masses kept, all rapidities taken."""


class PythiaEvents(Simulator):
    r"""The strong coupling from Pythia's e+ e- collisions at the mass of the Z.

    Theta is alpha_s in [0.10, 0.14]: that of final-state showers at the mass of the Z, one loop.
    x (events, 3) is a set of independent events, of each tau = 1 - thrust, the number of anti-kt
    jets (R = 0.7, pT above 5 GeV) and the number of charged particles; without hadrons that of
    partons. It needs `pip install "simgen[pythia]"`.

    Arguments:
        events: The number of events in a set.
        hadrons: Whether partons become hadrons, which decay.
        cutoff: The least kt of a splitting, GeV. Pythia's own default, 0.5, would be raised in
            silence where alpha_s is large.

    Raises:
        ValueError: If an argument is out of range.

    Examples:
        >>> PythiaEvents(events=50).fields["x"].names
        ('tau', 'n_jets', 'n_charged')
    """

    def __init__(self, events: int = 100, hadrons: bool = True, cutoff: float = 1.5) -> None:
        whole = isinstance(events, (int, np.integer)) and not isinstance(events, bool)
        if not whole or events < 1:
            raise ValueError(f"events must be a whole number of at least 1; got {events}")
        if not 0.1 <= cutoff <= 2.0:
            raise ValueError(f"Pythia takes a cutoff from 0.1 to 2 GeV; got {cutoff}")
        self.events, self.hadrons, self.cutoff = int(events), bool(hadrons), float(cutoff)
        number = ("n_charged", r"$n_\mathrm{ch}$") if hadrons else ("n_partons", "$n$")
        x = Field(
            (self.events, 3),
            layout="set",
            iid=True,
            names=("tau", "n_jets", number[0]),
            labels=(r"$\tau$", r"$n_\mathrm{jets}$", number[1]),
        )
        self.fields = {"x": x}

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

    def simulate(self, theta: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws sets of events for theta (n, 1).

        Raises:
            ValueError: If alpha_s is out of Pythia's range, or takes a larger cut-off.
            RuntimeError: If Pythia can't start, or gives up on an event.
            ImportError: If Pythia is not installed.
        """
        theta = np.asarray(theta, dtype=np.float64)
        if theta.ndim != 2 or theta.shape[1] != 1:
            raise ValueError(f"theta must be (n, 1), alpha_s; got shape {theta.shape}")
        pythia8 = _library()
        generator = self._generator(pythia8)
        thrust = pythia8.Thrust(VISIBLE)
        # without fjcore, which prints a banner
        jets = pythia8.SlowJet(
            ANTI_KT, JET_RADIUS, JET_PT, EVERYWHERE, VISIBLE, MASSIVE, None, False, True
        )
        seeds = rng.integers(1, LARGEST_SEED, len(theta), endpoint=True)
        x = np.empty((len(theta), self.events, 3))
        for row, alpha_s, seed in zip(x, theta[:, 0].tolist(), seeds.tolist()):
            self._restart(pythia8, generator, alpha_s, seed)
            for shapes in row:
                if not generator.next():
                    raise RuntimeError(f"Pythia gave up on an event at alpha_s = {alpha_s:.4f}")
                event = generator.event
                if not (thrust.analyze(event) and jets.analyze(event)):
                    raise RuntimeError(f"Pythia found no shape of an event of {event.size()}")
                shapes[:] = 1 - thrust.thrust(), jets.sizeJet(), event.nFinal(self.hadrons)
        return {"x": x}

    def _generator(self, pythia8: Any) -> Any:
        """A Pythia that is ready to run."""
        generator = pythia8.Pythia("", False)
        hadrons = f"HadronLevel:all = {'on' if self.hadrons else 'off'}"
        for setting in (*SETTINGS, hadrons, f"TimeShower:pTmin = {self.cutoff}"):
            if not generator.readString(setting):
                raise RuntimeError(f"Pythia does not take the setting {setting!r}")
        if not generator.init():
            raise RuntimeError("Pythia could not start: see what it printed")
        return generator

    def _restart(self, pythia8: Any, generator: Any, alpha_s: float, seed: int) -> None:
        """Sets alpha_s and starts the random numbers again."""
        settings = generator.settings
        low, high = 0.06, 0.25  # beyond, Pythia would keep the value from before
        if not low <= alpha_s <= high:
            raise ValueError(f"Pythia takes alpha_s from {low} to {high}; got {alpha_s}")
        coupling = pythia8.AlphaStrong()
        coupling.init(
            alpha_s,
            settings.mode("TimeShower:alphaSorder"),
            settings.mode("StandardModel:alphaSnfmax"),
            settings.flag("TimeShower:alphaSuseCMW"),
        )
        least = MARGIN * coupling.Lambda3()
        if self.cutoff <= least:
            raise ValueError(
                f"at alpha_s = {alpha_s:.4f} Pythia would raise the cut-off from {self.cutoff} to "
                f"{least:.3f} GeV: take a cutoff above that for all alpha_s"
            )
        settings.parm("TimeShower:alphaSvalue", alpha_s)
        generator.getShowerModelPtr().getTimeShower().init()
        generator.rndm.init(seed)


def _library() -> Any:
    try:
        import pythia8mc
    except ImportError as error:
        raise ImportError('PythiaEvents needs Pythia: pip install "simgen[pythia]"') from error
    return pythia8mc
