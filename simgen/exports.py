r"""Exports: samples as what other tools take, with names, labels, units, bounds and weights.

.. math:: \{(y_i, w_i)\} \to \{y_{c_i}\}, \qquad P(c_i = j) = w_j

ArviZ counts all draws the same, so weighted ones are resampled for it, and with them, by the same
indices, whatever belongs to each draw; GetDist, corner and pandas take the weights. Each tool is
imported when asked for.
"""

from __future__ import annotations

__all__ = ["to_arviz", "to_corner", "to_getdist", "to_pandas"]

import importlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .samples import Samples


def to_arviz(
    samples: Samples,
    *,
    prior: Samples | None = None,
    predictive: Any = None,
    observed: Any = None,
    log_density: Any = None,
    weighted: bool = False,
) -> Any:
    """Samples as ArviZ has them: an InferenceData of arviz 0.x, a DataTree of arviz 1.

    Weighted draws are resampled, since ArviZ knows no weights, and what is said a draw with them.
    Units, labels (`long_name`) and bounds are attributes of each variable.

    Arguments:
        samples: The posterior's, one chain.
        prior: Draws of the prior: the group prior.
        predictive: What each draw predicts, (n, *event), or several by name: posterior_predictive.
        observed: What was observed, (*event), or several by name: observed_data.
        log_density: Log-density of each draw, (n,): sample_stats.lp.
        weighted: Keep the draws as they are, and let sample_stats.log_weight say what each counts,
            instead of resampling.

    Raises:
        ImportError: If arviz is not installed.
        ValueError: If what is said a draw has another number of rows.
    """
    arviz = optional("arviz")
    n = len(samples)
    resampled = samples.log_weights is not None and not weighted
    rows = samples.choose() if resampled else np.arange(n)
    stats = {"lp": log_density, "log_weight": samples.log_weights}
    groups = {
        "posterior": {k: v[rows] for k, v in _columns(samples).items()},
        "posterior_predictive": {
            k: _a_draw(f"predictive {k!r}", v, n)[rows] for k, v in _named(predictive).items()
        },
        "sample_stats": {
            k: _a_draw(k, v, n, flat=True)[rows] for k, v in stats.items() if v is not None
        },
        "prior": {} if prior is None else _columns(prior.resample()),
    }
    chains = {k: {j: v[None] for j, v in group.items()} for k, group in groups.items() if group}
    if seen := _named(observed):
        chains["observed_data"] = {k: np.asarray(v) for k, v in seen.items()}
    plain = "posterior" in inspect.signature(arviz.from_dict).parameters
    data = arviz.from_dict(**chains) if plain else arviz.from_dict(chains)
    _describe(data["posterior"], samples)
    if prior is not None:
        _describe(data["prior"], prior)
    if "log_weight" in groups["sample_stats"]:
        data["sample_stats"]["log_weight"].attrs["resampled"] = int(resampled)
    return data


def to_getdist(samples: Samples, **settings: Any) -> Any:
    """A getdist MCSamples: labels with units, weights, and ranges from the bounds, beyond which it
    smooths nothing.

    Arguments:
        samples: Vectors by name.
        **settings: Of `getdist.MCSamples`, such as loglikes, label, ranges of its own.

    Raises:
        ImportError: If getdist is not installed.
    """
    getdist = optional("getdist")
    _vectors(samples)
    ends = [[None if np.isinf(v) else float(v) for v in pair] for pair in samples.bounds]
    ranges = {k: pair for k, pair in zip(samples.names, ends) if pair != [None, None]}
    said = {
        "weights": None if samples.log_weights is None else samples.weights,
        "names": list(samples.names),
        "labels": [_latex(a, b) for a, b in zip(samples.labels, samples.units)],
        "ranges": ranges,
    }
    return getdist.MCSamples(samples=samples.draws.astype(np.float64), **{**said, **settings})


def to_corner(samples: Samples, **settings: Any) -> Any:
    """A matplotlib Figure by corner, with labels, units and weights.

    Arguments:
        samples: Vectors by name.
        **settings: Of `corner.corner`, such as truths, quantiles, levels, fig.

    Raises:
        ImportError: If corner is not installed.
    """
    from .plots.style import tex

    corner = optional("corner")
    _vectors(samples)
    said = {
        "labels": [tex(a, b) for a, b in zip(samples.labels, samples.units)],
        "weights": None if samples.log_weights is None else samples.weights,
    }
    return corner.corner(samples.draws.astype(np.float64), **{**said, **settings})


def to_pandas(samples: Samples) -> Any:
    """A DataFrame: one column a name, and `weight`, which sums to one; attrs holds units, labels
    and bounds by name.

    Raises:
        ImportError: If pandas is not installed.
        ValueError: If a column is called weight, or the draws are no vectors.
    """
    pandas = optional("pandas")
    _vectors(samples)
    if "weight" in samples.names:
        raise ValueError("a column is called 'weight', which the weights are to be: rename it")
    frame = pandas.DataFrame({**_columns(samples), "weight": samples.weights})
    frame.attrs = {
        "units": dict(zip(samples.names, samples.units)),
        "labels": dict(zip(samples.names, samples.labels)),
        "bounds": {k: tuple(map(float, v)) for k, v in zip(samples.names, samples.bounds)},
    }
    return frame


def optional(name: str, why: str = "this") -> Any:
    """A package that is not always installed.

    Raises:
        ImportError: If it is not; it says what to do.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(
            f"{why} needs the package {package}, which could not be imported ({error}): "
            f"pip install {package}"
        ) from error


def _columns(samples: Samples) -> dict[str, np.ndarray]:
    """The draws by name; y where they have none."""
    return {k: samples[k] for k in samples.names} or {"y": samples.draws}


def _vectors(samples: Samples) -> None:
    if not samples.names:
        shape = samples.draws.shape[1:]
        raise ValueError(f"this takes vectors by name; the draws are of shape {shape}")


def _named(values: Any) -> dict[str, Any]:
    """Arrays by name; x where one has none."""
    if values is None:
        return {}
    return dict(values) if isinstance(values, Mapping) else {"x": values}


def _a_draw(what: str, values: Any, n: int, flat: bool = False) -> np.ndarray:
    """An array with one row a draw."""
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if array.shape[:1] != (n,) or (flat and array.ndim != 1):
        raise ValueError(f"{what} must have one row a draw, {n}; got shape {array.shape}")
    return array


def _describe(group: Any, samples: Samples) -> None:
    """Units, labels and bounds of a group's variables."""
    for i, name in enumerate(samples.names):
        group[name].attrs.update(
            units=samples.units[i],
            long_name=samples.labels[i],
            bounds=[float(v) for v in samples.bounds[i]],
        )


def _latex(label: str, unit: str) -> str:
    r"""A label in LaTeX without dollars, with its unit in brackets.

    Examples:
        >>> _latex("Omega_m", "")
        '\\Omega_{\\mathrm{m}}'
        >>> _latex("$E_T$", "GeV")
        'E_T\\ [\\mathrm{GeV}]'
    """
    from .plots.style import tex

    text = tex(label)
    if "$" not in text:
        text = r"\mathrm{" + text.replace(" ", r"\ ") + "}"
    text, unit = text.replace("$", ""), unit.replace("$", "").replace(" ", r"\ ")
    return text + r"\ [\mathrm{" + unit + "}]" if unit else text
