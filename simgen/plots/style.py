"""The look that all figures share: colours, sizes, labels."""

from __future__ import annotations

__all__ = [
    "COLOURS",
    "GREY",
    "TRUTH",
    "as_array",
    "cycle",
    "new_figure",
    "styled",
    "tex",
]

import re
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#2b6cb0", "#dd6b20", "#2f855a", "#b83280", "#6b46c1", "#718096")
TRUTH = "#1a202c"
GREY = "#a0aec0"
_STYLE: dict[str, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.labelsize": 10.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#4a5568",
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.color": "#4a5568",
    "ytick.color": "#4a5568",
    "xtick.labelcolor": "#1a202c",
    "ytick.labelcolor": "#1a202c",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "mathtext.fontset": "cm",
    "savefig.dpi": 144,
    "figure.facecolor": "white",
}
_LETTERS = (
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi "
    "psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
).split()
_GREEK = {**{letter: letter for letter in _LETTERS}, "eps": "epsilon"}

F = TypeVar("F", bound=Callable[..., Any])


def styled(function: F) -> F:
    """Runs a figure's function under simgen's style, leaving the user's alone."""

    @wraps(function)
    def inside(*args: Any, **kwargs: Any) -> Any:
        from matplotlib import rc_context

        with rc_context(_STYLE):  # type: ignore[arg-type]
            return function(*args, **kwargs)

    return inside  # type: ignore[return-value]


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches, laid out without overlaps, outside pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def tex(label: str, unit: str = "") -> str:
    r"""A label for matplotlib: LaTeX with or without dollars, or a plain name such as Omega_m.

    Examples:
        >>> tex("Omega_m")
        '$\\Omega_{\\mathrm{m}}$'
        >>> tex("E", unit="GeV")
        '$E$ [GeV]'
    """
    text = label
    name = re.fullmatch(r"([A-Za-z]+)(?:_?(\d+)|_(\w+))?", label)
    if "$" not in label and ("\\" in label or "^" in label):
        text = f"${label}$"
    elif name and (name[1] in _GREEK or len(name[1]) == 1):
        base = f"\\{_GREEK[name[1]]}" if name[1] in _GREEK else name[1]
        roman = "" if name[3] is None else "\\mathrm{" + name[3].replace("_", r"\_") + "}"
        sub = name[2] or roman
        text = f"${base}_{{{sub}}}$" if sub else f"${base}$"
    elif "$" not in label:
        text = label.replace("_", " ")
    if not _parses(text):
        text = label.replace("$", "").replace("\\", "").replace("_", " ")
    return f"{text} [{_unit(unit)}]" if unit else text


def _unit(unit: str) -> str:
    text = unit
    if ("^" in unit or "\\" in unit) and "$" not in unit:
        powers = re.sub(r"\^(-?\w+)", r"^{\1}", unit).replace(" ", r"\,")
        text = f"$\\mathrm{{{powers}}}$"
    return text if _parses(text) else unit.replace("$", "")


def _parses(text: str) -> bool:
    from matplotlib.mathtext import MathTextParser

    try:
        MathTextParser("path").parse(text)
    except ValueError:
        return False
    return True


def cycle(n: int) -> list[str]:
    """The first n colours."""
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def as_array(values: Any) -> np.ndarray:
    """A NumPy array of an array or a tensor."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
