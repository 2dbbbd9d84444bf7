"""The built-in simulators, and presets of them by name for the command line."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

_WHERE = {
    "CalorimeterShower": "calorimeter",
    "ColliderShower": "collider",
    "ConvergenceMaps": "cosmology",
    "Dimuon": "dimuon",
    "GalaxySources": "galaxies",
    "Galton": "galton",
    "GaussianLinear": "benchmarks",
    "GaussianLinearUniform": "benchmarks",
    "KolmogorovFlow": "kolmogorov",
    "LennardJones": "lennard_jones",
    "LinearDrift": "linear_drift",
    "Lorenz63": "lorenz",
    "PartonShower": "parton_shower",
    "PythiaEvents": "pythia",
    "SLCP": "benchmarks",
    "StrongLens": "strong_lens",
    "Supernovae": "supernovae",
    "TakahashiChain": "takahashi",
    "TwoMoons": "benchmarks",
}

__all__ = [
    "PRESETS",
    "SLCP",
    "CalorimeterShower",
    "ColliderShower",
    "ConvergenceMaps",
    "Dimuon",
    "GalaxySources",
    "Galton",
    "GaussianLinear",
    "GaussianLinearUniform",
    "KolmogorovFlow",
    "LennardJones",
    "LinearDrift",
    "Lorenz63",
    "PartonShower",
    "Preset",
    "PythiaEvents",
    "StrongLens",
    "Supernovae",
    "TakahashiChain",
    "TwoMoons",
    "get",
]

if TYPE_CHECKING:
    from simgen import Simulator

    from .benchmarks import SLCP, GaussianLinear, GaussianLinearUniform, TwoMoons
    from .calorimeter import CalorimeterShower
    from .collider import ColliderShower
    from .cosmology import ConvergenceMaps
    from .dimuon import Dimuon
    from .galaxies import GalaxySources
    from .galton import Galton
    from .kolmogorov import KolmogorovFlow
    from .lennard_jones import LennardJones
    from .linear_drift import LinearDrift
    from .lorenz import Lorenz63
    from .parton_shower import PartonShower
    from .pythia import PythiaEvents
    from .strong_lens import StrongLens
    from .supernovae import Supernovae
    from .takahashi import TakahashiChain


class Preset(NamedTuple):
    """A simulator with settings: module in this package, class, arguments, and a line on it."""

    module: str
    cls: str
    arguments: dict[str, Any]
    description: str


PRESETS = {
    "collider": Preset(
        "collider",
        "ColliderShower",
        {"detector": "coarse", "events": 300},
        "contact interaction and alpha_s from sets of 300 events with parton showers",
    ),
    "map-quick": Preset(
        "cosmology",
        "ConvergenceMaps",
        {"pixels": 64, "side_deg": 5.0, "field": "gaussian"},
        "Omega_m, sigma_8, w_0 from Gaussian lensing maps, 64 x 64 pixels, 5 x 5 deg, one bin",
    ),
    "map-tomo": Preset(
        "cosmology",
        "ConvergenceMaps",
        {"pixels": 128, "side_deg": 10.0, "bins": 5},
        "Omega_m, sigma_8, w_0 from Gaussian lensing maps, 128 x 128 pixels, 10 x 10 deg, 5 bins",
    ),
    "collider-event": Preset(
        "collider",
        "ColliderShower",
        {"detector": "coarse"},
        "single collider events with all latents, for unfolding",
    ),
    "shower": Preset(
        "parton_shower",
        "PartonShower",
        {},
        "alpha_s from e+ e- to q qbar at the Z: dipole shower, two-layer calorimeter images",
    ),
    "shower-shapes": Preset(
        "parton_shower",
        "PartonShower",
        {"observable": "shapes", "events": 300},
        "alpha_s from sets of 300 events: 1 - thrust, jets and partons",
    ),
    "calorimeter": Preset(
        "calorimeter",
        "CalorimeterShower",
        {},
        "showers of electrons, 1 GeV to 1 TeV, in 24 x 9 x 8 cells of tungsten, energy and angle",
    ),
    "chain": Preset(
        "takahashi",
        "TakahashiChain",
        {},
        "T, P, epsilon from 64 spacings of a 1-D Lennard-Jones chain; exact",
    ),
    "fluid": Preset(
        "lennard_jones",
        "LennardJones",
        {},
        "T, rho from configurations of a 3-D Lennard-Jones fluid of 64 particles",
    ),
    "galton": Preset(
        "galton",
        "Galton",
        {},
        "pull of the nails of a Galton board from a ball's bin; latent path, exact",
    ),
    "dimuon": Preset(
        "dimuon", "Dimuon", {}, "Z peak, resolution and background share from sets of 500 dimuons"
    ),
    "dimuon-scale": Preset(
        "dimuon",
        "Dimuon",
        {"parameters": "scale"},
        "momentum scale, resolution and background share, the mass of the Z known",
    ),
    "lorenz": Preset(
        "lorenz",
        "Lorenz63",
        {},
        "sigma, rho, beta of a stochastic Lorenz system from noisy observations",
    ),
    "lorenz-prior": Preset(
        "lorenz",
        "Lorenz63",
        {"fixed": [10.0, 28.0, 8 / 3], "steps": 64, "every": 1, "sd": 0.0, "burn_in": 1024},
        "stationary Lorenz paths of 65 states: a prior for data assimilation",
    ),
    "linear-drift": Preset(
        "linear_drift",
        "LinearDrift",
        {},
        "damping and frequency of a noisy oscillator; exact by a Kalman filter",
    ),
    "kolmogorov": Preset(
        "kolmogorov",
        "KolmogorovFlow",
        {},
        "Reynolds number and forcing from the vorticity of two-dimensional turbulence, 64 x 64",
    ),
    "pythia": Preset(
        "pythia", "PythiaEvents", {}, "alpha_s from event shapes of Pythia; needs simgen[pythia]"
    ),
    "lens": Preset(
        "strong_lens",
        "StrongLens",
        {},
        "lens and source from images of lensed Sersic galaxies, exact likelihood",
    ),
    "lens-subhalos": Preset(
        "strong_lens",
        "StrongLens",
        {"subhalos": True},
        "lens, source, f_sub and beta of dark subhaloes from lensed images",
    ),
    "galaxies": Preset(
        "galaxies",
        "GalaxySources",
        {},
        "galaxies with bulge, spiral arms and clumps: sources without parameters, 32 x 32",
    ),
    "supernovae": Preset(
        "supernovae",
        "Supernovae",
        {},
        "Omega_m, w_0 from binned type Ia supernovae; data=DIR says where the Pantheon files are",
    ),
    "two_moons": Preset("benchmarks", "TwoMoons", {}, "sbibm: two crescents in 2 dimensions"),
    "slcp": Preset(
        "benchmarks", "SLCP", {}, "sbibm: simple likelihood, complex posterior of 4 modes"
    ),
    "gaussian_linear": Preset(
        "benchmarks", "GaussianLinear", {}, "sbibm: 10-dimensional Gaussian, Gaussian prior"
    ),
    "gaussian_linear_uniform": Preset(
        "benchmarks", "GaussianLinearUniform", {}, "sbibm: 10-dimensional Gaussian, uniform prior"
    ),
}


def get(name: str, **arguments: Any) -> Simulator:
    """The simulator of a preset.

    Arguments:
        name: One of `PRESETS`.
        **arguments: Of its constructor; they go before the preset's.

    Raises:
        ValueError: If there is no such preset, or the simulator takes no such argument.

    Examples:
        >>> get("collider", events=100).settings["events"]
        100
    """
    if name not in PRESETS:
        raise ValueError(f"no built-in simulator {name!r}; there are {', '.join(PRESETS)}")
    preset = PRESETS[name]
    cls = getattr(importlib.import_module(f".{preset.module}", __name__), preset.cls)
    known = inspect.signature(cls).parameters
    unknown = [key for key in arguments if key not in known]
    if unknown:
        raise ValueError(
            f"{name} takes no argument {', '.join(unknown)}; it takes {', '.join(known) or 'none'}"
        )
    return cls(**{**preset.arguments, **arguments})


def __getattr__(name: str) -> Any:
    """Loads a simulator from its module on first use."""
    if name not in _WHERE:
        raise AttributeError(f"module 'simulators' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
