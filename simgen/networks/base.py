"""Networks that know how they were made: a built-in module carries its configuration into the
model file.
"""

from __future__ import annotations

__all__ = ["Configured", "build"]

import functools
import inspect
from typing import Any, ClassVar

from torch import nn


class Configured(nn.Module):
    """A module whose constructor's arguments are plain values, kept in `config`."""

    registry: ClassVar[dict[str, type[Configured]]] = {}
    config: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Configured.registry[cls.__name__] = cls
        initialise = cls.__init__

        @functools.wraps(initialise)
        def wrapped(self: Configured, *args: Any, **kwargs: Any) -> None:
            bound = inspect.signature(initialise).bind(self, *args, **kwargs)
            bound.apply_defaults()
            arguments = {k: v for k, v in bound.arguments.items() if k != "self"}
            initialise(self, *args, **kwargs)
            self.config = {"class": cls.__name__, **arguments}

        cls.__init__ = wrapped  # type: ignore


def build(config: dict[str, Any]) -> Configured:
    """The module that a configuration describes, with fresh weights.

    Raises:
        ValueError: If the class is none of simgen's networks.
    """
    arguments = dict(config)
    name = arguments.pop("class")
    if name not in Configured.registry:
        raise ValueError(
            f"no network {name!r}; there are {', '.join(sorted(Configured.registry))}"
        )
    return Configured.registry[name](**arguments)
