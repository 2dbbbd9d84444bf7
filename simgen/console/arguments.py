"""Arguments: what is written on a command line, as the objects that it names.

A simulator is a preset's name, `module:attribute` or `file.py:attribute`; a setting `name=value`.
"""

from __future__ import annotations

__all__ = ["attribute", "family", "prior", "settings", "shares", "simulator"]

import ast
import importlib
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..forward import Simulator
    from ..prior import Prior

_MODELS = {"hvae": "HierarchicalVAE", "latent": "LatentDiffusion"}


def settings(pairs: Sequence[str]) -> dict[str, str]:
    """The settings `name=value` by name.

    Raises:
        ValueError: If one of them is no pair, or stands twice.
    """
    out: dict[str, str] = {}
    for pair in pairs:
        name, found, value = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not found or not name:
            raise ValueError(f"a setting is name=value; got {pair!r}")
        if name in out:
            raise ValueError(f"the setting {name!r} is given twice")
        out[name] = value.strip()
    return out


def shares(text: str) -> tuple[float, ...]:
    """The shares of a split, "0.8,0.1,0.1"."""
    try:
        out = tuple(float(part) for part in text.split(","))
    except ValueError:
        out = ()
    if len(out) != 3:
        raise ValueError(
            f"a split is three shares, train, validation and test: 0.8,0.1,0.1; got {text!r}"
        )
    return out


def family(name: str, chosen: Mapping[str, str], ensemble: int = 1) -> Any:
    """A family of models with its settings.

    Arguments:
        name: "flow", or another of the families there are.
        chosen: Settings as text, by name; "diffusion.steps" is one of a part.
        ensemble: Members that are trained together.

    Raises:
        ValueError: If there is no such family or setting, or a value is of another type.
    """
    from ..models import FAMILIES, Ensemble

    short = {_short(known): cls for known, cls in FAMILIES.items() if cls is not Ensemble}
    cls = short.get(name.lower())
    if cls is None:
        raise ValueError(f"no family {name!r}; there are {', '.join(short)}")
    if ensemble < 1:
        raise ValueError(f"an ensemble has at least one member; got {ensemble}")
    one = _configured(cls, chosen)
    return one if ensemble == 1 else Ensemble(one, ensemble)


def _configured(cls: type, chosen: Mapping[str, str], place: str = "") -> Any:
    """An object of a dataclass with settings given as text."""
    types = typing.get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    values = {}
    for key, text in chosen.items():
        head, _, rest = key.partition(".")
        if head not in known or (rest and not is_dataclass(types[head])):
            raise ValueError(
                f"{_short(cls.__name__)} has no setting {place + key!r}; it has {', '.join(known)}"
            )
        if rest:
            inner = {k[len(head) + 1 :]: v for k, v in chosen.items() if k.startswith(head + ".")}
            values[head] = _configured(types[head], inner, f"{place}{head}.")
        else:
            values[key] = _typed(text, types[key], place + key)
    return cls(**values)


def _short(name: str) -> str:
    return {v: k for k, v in _MODELS.items()}.get(name, name.lower())


def _typed(text: str, wanted: Any, name: str) -> Any:
    """A text as a value of an annotated type: str, int, float, bool, a tuple of these, or None."""
    options = typing.get_args(wanted) if _is_union(wanted) else (wanted,)
    if type(None) in options and text.lower() in ("none", ""):
        return None
    for option in sorted(options, key=lambda o: o is str):
        try:
            return _convert(text, option)
        except (ValueError, TypeError, KeyError):
            continue
    kinds = " or ".join(_kind(o) for o in options if o is not type(None))
    raise ValueError(f"the setting {name!r} is {kinds}; got {text!r}")


def _is_union(wanted: Any) -> bool:
    return typing.get_origin(wanted) is typing.Union or type(wanted).__name__ == "UnionType"


def _kind(wanted: Any) -> str:
    if typing.get_origin(wanted) is tuple:
        return f"a list of {_kind(typing.get_args(wanted)[0])}, with commas"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(wanted, "a text")


def _convert(text: str, wanted: Any) -> Any:
    if wanted is bool:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
            text.lower()
        ]
    if typing.get_origin(wanted) is tuple:
        inner = typing.get_args(wanted)[0]
        return tuple(_convert(p.strip(), inner) for p in text.strip("()[] ,").split(","))
    if wanted in (int, float, str):
        return wanted(text)
    raise TypeError(f"no value of type {wanted} on a command line")


def simulator(name: str, chosen: Mapping[str, str] | None = None) -> Simulator:
    """The simulator that a name stands for.

    Arguments:
        name: A preset's name, or where a Simulator or its class is: `module:attribute`,
            `file.py:attribute`; or the file of a trained surrogate, model.safetensors.
        chosen: Arguments of its constructor, as text.

    Raises:
        ValueError: If there is no such simulator, or it takes no such argument.
    """
    from ..forward import Simulator

    values = {key: _literal(text) for key, text in (chosen or {}).items()}
    if name.endswith(".safetensors"):
        from ..conditional import load
        from ..emulator import Emulator

        if values:
            raise ValueError(f"{name} is trained already and takes no settings")
        return Emulator(load(name))
    if ":" not in name:
        import simulators

        if name not in simulators.PRESETS:
            there = ", ".join(simulators.PRESETS)
            raise ValueError(
                f"no built-in simulator {name!r}; there are {there}; your own is module:attribute"
            )
        return simulators.get(name, **values)
    found = attribute(name)
    if isinstance(found, type) and issubclass(found, Simulator):
        try:
            return found(**values)
        except TypeError as error:
            raise ValueError(
                f"{name} cannot be made with {values or 'no settings'}: {error}"
            ) from None
    if not isinstance(found, Simulator):
        raise ValueError(
            f"{name} is a {type(found).__name__}, not a Simulator: decorate the function with "
            "@simgen.simulator(prior=...)"
        )
    if values:
        raise ValueError(f"{name} is made already and takes no settings; got {', '.join(values)}")
    return found


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def prior(name: str) -> Prior:
    """The prior at `module:attribute`.

    Raises:
        ValueError: If there is none.
    """
    from ..prior import Prior

    found = attribute(name)
    found = getattr(found, "prior", found)
    if not isinstance(found, Prior):
        raise ValueError(
            f"{name} is a {type(found).__name__}, not a Prior or a Simulator with one"
        )
    return found


def attribute(name: str) -> Any:
    """What `module:attribute` or `file.py:attribute` names, from the working directory first.

    Raises:
        ValueError: If there is no such module or attribute.
    """
    where, _, what = name.rpartition(":")
    if not where or not what:
        raise ValueError(f"{name!r} is not of the form module:attribute")
    folder = Path.cwd()
    if where.endswith(".py"):
        file = Path(where)
        if not file.is_file():
            raise ValueError(f"there is no file {where}")
        folder, where = file.resolve().parent, file.stem
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        found: Any = importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
            raise ValueError(f"there is no module {where!r} here or installed") from None
        raise
    for part in what.split("."):
        if not hasattr(found, part):
            there = [k for k, v in vars(found).items() if _is_simulator(v)]
            hint = f"; its simulators are {', '.join(there)}" if there else ""
            raise ValueError(f"the module {where!r} has no {what!r}{hint}")
        found = getattr(found, part)
    return found


def _is_simulator(value: Any) -> bool:
    from ..forward import Simulator

    if isinstance(value, type):
        return issubclass(value, Simulator) and not value.__module__.startswith("simgen.")
    return isinstance(value, Simulator)
