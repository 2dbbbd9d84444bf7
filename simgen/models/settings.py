"""A family's settings as JSON values, and back: what a model file and a checkpoint say of it.

Settings are numbers, texts, tuples, other families or a user's own network, of which only the
name is kept: it is handed in again when the model is loaded.
"""

from __future__ import annotations

__all__ = ["describe_family", "rebuild_family"]

import copy
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn


def describe_family(family: Any) -> dict[str, Any]:
    """The name of a family and its settings, as JSON values.

    Arguments:
        family: A frozen dataclass with a `build` method.

    Raises:
        TypeError: If it is none.
    """
    if isinstance(family, type) or not is_dataclass(family) or not hasattr(family, "build"):
        hint = "()" if isinstance(family, type) else ""
        raise TypeError(f"model must be a family such as simgen.Flow(); got {family!r}{hint}")
    settings = {f.name: _plain(getattr(family, f.name)) for f in fields(family)}
    return {"name": type(family).__name__, **settings}


def rebuild_family(
    config: Mapping[str, Any],
    known: Mapping[str, type],
    modules: Mapping[str, nn.Module],
    place: str = "",
) -> Any:
    """The family that `describe_family` described.

    Arguments:
        config: What it returned.
        known: Families by name.
        modules: A user's own networks by their place in the settings, {"network": MyNet()}.
        place: Where this family stands in another's settings, "family." for example.

    Raises:
        ValueError: If the family or a network is not there.
    """
    settings = dict(config)
    name = settings.pop("name")
    if name not in known:
        raise ValueError(
            f"the model is of family {name!r}: hand it in with load(path, families=[{name}])"
        )
    for key, value in settings.items():
        if isinstance(value, Mapping) and "module" in value:
            if place + key not in modules:
                raise ValueError(
                    f"the {place + key} of the model is your own {value['module']}: "
                    f'hand one in with load(path, modules={{"{place + key}": ...}})'
                )
            settings[key] = copy.deepcopy(modules[place + key])
        elif isinstance(value, Mapping) and "name" in value:
            settings[key] = rebuild_family(value, known, modules, f"{place}{key}.")
        elif isinstance(value, list):
            settings[key] = tuple(value)
    try:
        return known[name](**settings)
    except TypeError as error:
        raise ValueError(f"the settings of {name!r} do not fit this simgen: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return {"module": f"{type(value).__module__}.{type(value).__qualname__}"}
    if is_dataclass(value):
        return describe_family(value)
    return list(value) if isinstance(value, tuple) else value
