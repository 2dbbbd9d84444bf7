"""Catalogue: what a built-in simulator is, in a line of text."""

from __future__ import annotations

__all__ = ["entry"]

from typing import Any

from ..forward import Simulator


def entry(name: str, preset: Any) -> tuple[str, str, str, str, str]:
    """Description, parameters, shape of x, other fields, and exact answers of a preset.

    Arguments:
        name: The preset's name in `simulators.PRESETS`.
        preset: The preset.
    """
    import simulators

    settings = ", ".join(f"{k}={v}" for k, v in preset.arguments.items())
    what = f"{preset.description} ({settings})" if settings else preset.description
    try:
        made = simulators.get(name)
    except ImportError as error:
        return what, "", "", "", f"needs {error.name}"
    except ValueError:
        return what, "", "by data of yours", "", ""
    fields = {k: f.shape for k, f in made.fields.items() if k != "theta"}
    x = " x ".join(map(str, fields.pop("x", ()))) or "by the first rows"
    others = ", ".join(k for k in fields if not k.endswith("_length"))
    return what, _parameters(made), x, others, ", ".join(made.answers)


def _parameters(simulator: Simulator) -> str:
    """Names of the parameters, with units."""
    if simulator.prior is None:
        return "none"
    units = simulator.prior.units or ("",) * len(simulator.names)
    return ", ".join(f"{n} [{u}]" if u else n for n, u in zip(simulator.names, units))
