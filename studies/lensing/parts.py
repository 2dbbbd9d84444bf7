"""The parts of the study: what each asks of `infer`, and what it finds."""

from __future__ import annotations

__all__ = ["PARTS", "Settings", "example"]

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simgen import infer
from simulators.galaxies import GalaxySources

from .averaged import Averaged, reconstruct
from .calibration import Reading, examine, judge, projections, summary
from .prior import learned
from .problem import (
    PIXELS,
    SIGMA,
    WRONG,
    DenoiserOnly,
    field_prior,
    likelihood,
    observe,
    reduced,
    rotated,
)


@dataclass(frozen=True)
class Settings:
    """How much is done.

    Arguments:
        truths: Truths of the calibration in closed form.
        few: Truths of those by samplers.
        draws: Draws that each truth is ranked among: 31 or 63.
        particles: Of sequential Monte Carlo.
        steps: Noise levels of samplers.
        simulations: Galaxies to learn from.
        budget: Wall time of training.
        model: File of the learned prior; None to train anew.
        seed: Of all random numbers.
    """

    truths: int = 64
    few: int = 64
    draws: int = 63
    particles: int = 128
    steps: int = 50
    simulations: int = 20_000
    budget: str = "12min"
    model: Path | None = None
    seed: int = 0

    @cached_property
    def galaxies(self) -> Any:
        """p(x) of galaxies, learned."""
        return learned(
            GalaxySources(PIXELS),
            self.model,
            self.simulations,
            self.budget,
            self.seed,
            widths=WIDTHS,
        )

    @cached_property
    def averaged(self) -> Averaged:
        """The same, with its averaged covariance."""
        return Averaged(self.galaxies())

    @property
    def smc(self) -> dict[str, Any]:
        """Settings of `infer`."""
        return {"method": "smc", "steps": self.steps, "particles": self.particles}

    def draw(self, prior: Any, n: int) -> Tensor:
        """Draws of a prior (n + 4, *event), repeatable."""
        with torch.random.fork_rng([]):
            torch.manual_seed(1_000 + self.seed)
            return prior.sample((n + DIRECTIONS,))


Found = dict[str, Any]
DIRECTIONS = 4
WIDTHS = (48, 96)


def calibrated(s: Settings, prior: Any, x: Tensor, asked: Found) -> Found:
    """The calibration of posteriors, of truths x (n + 4, *event), the last of which are directions
    of projection.
    """
    truths, seen = x[:-DIRECTIONS], likelihood()
    y = observe(seen, truths, 2_000 + s.seed)
    u = projections(x[-DIRECTIONS:])
    readings: list[Reading] = []
    small, statistic = reduced(seen)
    for i in range(len(truths)):
        given = small, statistic(y[i])
        settings = {**asked, "seed": s.seed + i}
        reading, _ = examine(prior, seen, truths[i], y[i], u, s.draws, given, **settings)
        readings.append(reading)
        print(i, f"chi2 {reading.chi2:.3f} rmse {reading.rmse:.3f} ess {reading.ess}", flush=True)
    return summary(readings, s.draws, s.seed) | {"warned": readings[0].warned}


def field(s: Settings) -> Found:
    """Gaussian random field, in closed form."""
    prior = field_prior()
    return calibrated(s, prior, s.draw(prior, s.truths), {})


def by_denoiser(method: str) -> Callable[[Settings], Found]:
    """Gaussian random field, by a sampler that knows nothing but draws and denoiser."""

    def part(s: Settings) -> Found:
        prior = field_prior()
        asked = {**s.smc, "method": method}
        return calibrated(s, DenoiserOnly(prior), s.draw(prior, s.few), asked)

    return part


def own(method: str) -> Callable[[Settings], Found]:
    """Learned prior, truths from itself."""

    def part(s: Settings) -> Found:
        prior = s.galaxies()
        return calibrated(s, prior, s.draw(prior, s.few), {**s.smc, "method": method})

    return part


def galaxies(s: Settings) -> Found:
    """Learned prior, truths from the generator of galaxies."""
    truths = _galaxies(s.few + DIRECTIONS, 3_000 + s.seed)
    return calibrated(s, s.galaxies(), truths, s.smc)


def averaged(own: bool) -> Callable[[Settings], Found]:
    """Learned prior, the ancestral sampler with the covariance averaged over the prior; truths
    from itself, or from the generator of galaxies.
    """

    def part(s: Settings) -> Found:
        n, start = s.truths + DIRECTIONS, time.process_time()
        x = s.draw(s.galaxies(), s.truths) if own else _galaxies(n, 3_000 + s.seed)
        truths, seen = x[:-DIRECTIONS], likelihood()
        y, u = observe(seen, truths, 2_000 + s.seed), projections(x[-DIRECTIONS:])
        small, statistic = reduced(seen)
        matrix = small.operator(torch.eye(PIXELS**2, dtype=torch.float64)).mT
        rows = torch.stack([statistic(one) for one in y])
        draws = reconstruct(s.averaged, matrix, rows, s.draws, s.steps, s.seed)
        each = (time.process_time() - start) / len(truths)
        readings = [
            judge(seen, truths[i], y[i], u, draws[:, i], seconds=each) for i in range(len(truths))
        ]
        return summary(readings, s.draws, s.seed)

    return part


def _galaxies(n: int, seed: int) -> Tensor:
    """Galaxies (n, 1, 32, 32) of the generator."""
    return torch.as_tensor(GalaxySources(PIXELS)(n, seed=seed)["x"])


def outside(s: Settings) -> Found:
    """Learned prior, sources that are no galaxies: chi2 and evidence beside a galaxy's."""
    seen, prior = likelihood(), s.galaxies()
    shown = {
        "galaxy": _source(s, "galaxy")[1],
        "word": rotated(),
        "Gaussian field": s.draw(field_prior(), 1)[0],
    }
    found: Found = {}
    for name, x in shown.items():
        y = observe(seen, x[None], 4_000 + s.seed)[0]
        u = x.double().flatten()[None]
        reading, _ = examine(prior, seen, x, y, u, s.draws, **s.smc)
        found[name] = {
            k: getattr(reading, k)
            for k in ("chi2", "truth_chi2", "rmse", "spread", "ess", "log_evidence", "warned")
        }
        print(name, found[name], flush=True)
    return found


def evidence(source: str) -> Callable[[Settings], Found]:
    """log-evidence of lens models: of a Gaussian field in closed form, of a galaxy by smc."""

    def part(s: Settings) -> Found:
        prior, x, asked = _source(s, source)
        y = observe(likelihood(), x[None], 4_000 + s.seed)[0]
        u = x.double().flatten()[None]
        found: Found = {}
        for name, change in WRONG.items():
            reading, _ = examine(prior, likelihood(**change), x, y, u, 31, **asked)
            found[name] = {
                k: getattr(reading, k) for k in ("log_evidence", "chi2", "ess", "warned")
            }
            print(source, name, found[name], flush=True)
        return found

    return part


def _source(s: Settings, source: str) -> tuple[Any, Tensor, Found]:
    """A prior, a source (1, 32, 32), and settings of `infer`."""
    if source == "field":
        prior = field_prior()
        return prior, s.draw(prior, 1)[0], {}
    return s.galaxies(), _galaxies(1, 7 + s.seed)[0], s.smc


def example(s: Settings, source: str) -> Found:
    """What a picture shows: a source, observed and inferred."""
    seen, (prior, x, asked) = likelihood(), _source(s, source)
    y = observe(seen, x[None], 4_000 + s.seed)[0]
    draws = infer(prior, seen, y, **asked).sample(s.draws).double()
    predicted = seen.predict({"x": draws})
    return {"observed": y, "draws": draws, "truth": x, "predicted": predicted, "sigma": SIGMA}


PARTS: dict[str, Callable[[Settings], Found]] = {
    "field": field,
    "field, smc by its denoiser": by_denoiser("smc"),
    "field, ancestral by its denoiser": by_denoiser("ancestral"),
    "learned, averaged covariance": averaged(own=True),
    "galaxies, averaged covariance": averaged(own=False),
    "learned, smc": own("smc"),
    "learned, ancestral": own("ancestral"),
    "learned, noise-denoise": own("noise-denoise"),
    "galaxies, smc": galaxies,
    "outside": outside,
    "evidence, field": evidence("field"),
    "evidence, galaxy": evidence("galaxy"),
}
"""By name."""
