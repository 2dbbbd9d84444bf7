"""The built-in simulators, and presets of them by name for the command line."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

_WHERE = {
    "ColliderShower": "collider",
    "ConvergenceMaps": "cosmology",
    "GaussianLinear": "benchmarks",
    "GaussianLinearUniform": "benchmarks",
    "SLCP": "benchmarks",
    "Supernovae": "supernovae",
    "TwoMoons": "benchmarks",
}

__all__ = [
    "PRESETS",
    "SLCP",
    "ColliderShower",
    "ConvergenceMaps",
    "GaussianLinear",
    "GaussianLinearUniform",
    "Preset",
    "Supernovae",
    "TwoMoons",
    "get",
]

if TYPE_CHECKING:
    from simgen import Simulator

    from .benchmarks import SLCP, GaussianLinear, GaussianLinearUniform, TwoMoons
    from .collider import ColliderShower
    from .cosmology import ConvergenceMaps
    from .supernovae import Supernovae


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
