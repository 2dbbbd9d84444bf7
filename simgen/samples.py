r"""Samples: named draws with weights, and the way to other tools.

.. math::
    \bar y = \sum_i w_i\, y_i, \qquad w_i = \frac{e^{\ell_i}}{\sum_j e^{\ell_j}}

A draw has a name, a label, a unit and bounds a column; without log-weights all draws count the
same. It needs no torch. `exports` makes of it what other tools take.
"""

from __future__ import annotations

__all__ = ["Samples"]

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from . import exports

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class Samples:
    """Draws (n, d), or (n, *event) of anything else than a vector, by name.

    Arguments:
        draws: The draws, one a row.
        names: One a column, or of a single quantity with axes none; theta_0 ... unless said.
        log_weights: Unnormalised logarithms of the weights, shape (n,); None if all draws count
            the same.
        labels: LaTeX, one a column; the names unless said.
        units: One a column.
        bounds: Lower and upper bound of the support of each column, (d, 2), infinite where there
            is none; none unless said. Estimates of densities must not smooth beyond them.

    Raises:
        ValueError: If names, labels, units, bounds or weights do not match the draws, or all
            weights are zero.

    Examples:
        >>> samples = Samples([[0.0], [4.0]], names=("mu",), log_weights=np.log([3.0, 1.0]))
        >>> samples.mean
        array([1.])
    """

    draws: np.ndarray
    names: tuple[str, ...] = ()
    log_weights: np.ndarray | None = None
    labels: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    bounds: Any = None

    def __post_init__(self) -> None:
        draws = _array(self.draws)
        if draws.ndim == 1:
            draws = draws[:, None]
        if draws.ndim < 2 or not len(draws):
            raise ValueError(f"draws must be (n, d) with n > 0; got shape {draws.shape}")
        object.__setattr__(self, "draws", draws)
        d = draws.shape[1] if draws.ndim == 2 else 0
        names = tuple(self.names) or tuple(f"theta_{i}" for i in range(d))
        object.__setattr__(self, "names", names if d else ())
        for what, default in (("labels", self.names), ("units", ("",) * d)):
            object.__setattr__(self, what, tuple(getattr(self, what)) or default)
        for what in ("names", "labels", "units"):
            if d and len(getattr(self, what)) != d:
                raise ValueError(f"{what} must be {d}; got {len(getattr(self, what))}")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"names must differ; got {', '.join(self.names)}")
        object.__setattr__(self, "bounds", _bounds(self.bounds, self.names))
        if self.log_weights is not None:
            log_w = _array(self.log_weights).astype(np.float64)
            if log_w.shape != (len(draws),) or np.isnan(log_w).any():
                raise ValueError(
                    f"log_weights must be {(len(draws),)} numbers without NaN; got {log_w.shape}"
                )
            if not np.isfinite(log_w.max()):
                raise ValueError("log_weights need a finite largest one: no draw has any weight")
            object.__setattr__(self, "log_weights", log_w)

    @classmethod
    def draw(
        cls,
        q: Any,
        n: int,
        seed: int | None = None,
        *,
        names: Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
        units: Sequence[str] | None = None,
        bounds: Any = None,
    ) -> Samples:
        """Draws from a distribution without a batch.

        Arguments:
            q: Any torch Distribution; one of ours brings its names, labels and units, any its
                support.
            n: The number of draws.
            seed: Makes the draws repeatable.
            names: In place of the distribution's.
            labels: The same.
            units: The same.
            bounds: In place of those of the distribution's support.

        Raises:
            ValueError: If q is a batch of distributions.
        """
        batch = tuple(q.batch_shape)
        if (int(np.prod(batch)) != 1 and len(q.event_shape)) or len(batch) > 1:
            raise ValueError(
                f"Samples.draw takes one distribution; this is a batch of shape {batch}: "
                "call the conditional with a single value"
            )
        values = _array(sample(q, (n,), seed)).reshape(n, *(q.event_shape or batch))
        said = {"names": names, "labels": labels, "units": units}
        found = {k: getattr(q, k, ()) if v is None else v for k, v in said.items()}
        columns: dict[str, Any] = {k: tuple(v) for k, v in found.items()}
        if bounds is None and values.ndim == 2:
            from .support import bounds_of

            bounds = bounds_of(q, values.shape[1])
        return cls(values, **columns, bounds=bounds)

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, name: str) -> np.ndarray:
        """The draws of one column by name, shape (n,)."""
        return self.draws[:, self._column(name)]

    def _column(self, name: str) -> int:
        if name not in self.names:
            raise KeyError(f"no column {name!r}; there are {', '.join(self.names)}")
        return self.names.index(name)

    @property
    def weights(self) -> np.ndarray:
        """Normalised weights, shape (n,)."""
        if self.log_weights is None:
            return np.full(len(self), 1 / len(self))
        w = np.exp(self.log_weights - self.log_weights.max())
        return w / w.sum()

    @property
    def ess(self) -> float:
        """Effective number of draws, one over the sum of squared weights."""
        return float(1 / (self.weights**2).sum())

    @property
    def mean(self) -> np.ndarray:
        """The weighted mean, shape (d,)."""
        return np.tensordot(self.weights, self.draws.astype(np.float64), 1)

    @property
    def sd(self) -> np.ndarray:
        """The weighted standard deviation, shape (d,)."""
        centred = self.draws.astype(np.float64) - self.mean
        return np.sqrt(np.tensordot(self.weights, centred**2, 1))

    @property
    def covariance(self) -> np.ndarray:
        """The weighted covariance of vectors, shape (d, d)."""
        centred = self.draws.astype(np.float64) - self.mean
        return (self.weights[:, None] * centred).T @ centred

    def quantile(self, levels: float | Sequence[float]) -> np.ndarray:
        """Weighted quantiles, shape (*levels, *event), linear between the draws."""
        q = np.asarray(levels, dtype=float)
        if self.log_weights is None:
            return np.quantile(self.draws.astype(np.float64), q, axis=0)
        flat = self.draws.reshape(len(self), -1).astype(np.float64)
        order = np.argsort(flat, axis=0)
        w = self.weights[order]
        middle = np.cumsum(w, axis=0) - w / 2
        columns = [np.interp(q, middle[:, j], flat[order[:, j], j]) for j in range(flat.shape[1])]
        return np.stack(columns, -1).reshape(*q.shape, *self.draws.shape[1:])

    def resample(self, n: int | None = None, seed: int = 0) -> Samples:
        """Draws of equal weight, taken with replacement by weight."""
        if self.log_weights is None and n is None:
            return self
        chosen = self.choose(n, seed)
        return replace(self, draws=self.draws[chosen], log_weights=None)

    def choose(self, n: int | None = None, seed: int = 0) -> np.ndarray:
        """Indices (n,) of draws taken with replacement by weight: `resample` keeps these rows."""
        return np.random.default_rng(seed).choice(len(self), n or len(self), p=self.weights)

    def summary(self, truth: Any = None) -> list[dict[str, Any]]:
        """One row a column: name, unit, mean, sd, median, low and high of the central 68 %.

        Arguments:
            truth: True values (d,); adds truth and pull, (truth - mean) / sd.
        """
        low, median, high = self.quantile([0.158655, 0.5, 0.841345])
        mean, sd = self.mean, self.sd
        rows = []
        known = None if truth is None else _array(truth).astype(float).reshape(-1)
        if known is not None and known.shape != (len(self.names),):
            raise ValueError(f"truth must be {len(self.names)} numbers; got {known.shape}")
        for i, name in enumerate(self.names):
            row: dict[str, Any] = {"name": name, "unit": self.units[i]}
            values = {"mean": mean, "sd": sd, "median": median, "low": low, "high": high}
            row |= {k: float(v[i]) for k, v in values.items()}
            if known is not None:
                pull = (known[i] - mean[i]) / sd[i] if sd[i] > 0 else float("nan")
                row |= {"truth": float(known[i]), "pull": float(pull)}
            rows.append(row)
        return rows

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one HDF5 file: /draws, /log_weights; names, labels, units and bounds are
        attributes.
        """
        temporary = Path(f"{os.fspath(path)}.part{os.getpid()}")
        try:
            with h5py.File(temporary, "w") as file:
                file.attrs["simgen"] = "samples"
                file.attrs["schema"] = SCHEMA
                for what in ("names", "labels", "units"):
                    file.attrs.create(what, list(getattr(self, what)), dtype=h5py.string_dtype())
                file.attrs["bounds"] = self.bounds
                file.create_dataset("draws", data=self.draws)
                if self.log_weights is not None:
                    file.create_dataset("log_weights", data=self.log_weights)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Samples:
        """Reads what `save` wrote.

        Raises:
            ValueError: If the file holds something else, or a newer schema.
        """
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"{os.fspath(path)} is no HDF5 file, or is cut short") from error
        with file:
            if file.attrs.get("simgen") != "samples" or "draws" not in file:
                raise ValueError(f"{os.fspath(path)} holds no samples of simgen")
            if file.attrs["schema"] > SCHEMA:
                raise ValueError(
                    f"{os.fspath(path)} has schema {file.attrs['schema']}; this simgen reads "
                    f"{SCHEMA}: update it"
                )
            log_w = file["log_weights"][:] if "log_weights" in file else None
            said = {k: tuple(map(str, file.attrs[k])) for k in ("names", "labels", "units")}
            bounds = file.attrs.get("bounds")  # none in files of before they were kept
            return cls(file["draws"][:], log_weights=log_w, bounds=bounds, **said)

    def to_arviz(self, **groups: Any) -> Any:
        """Groups for ArviZ: posterior, prior, posterior_predictive, sample_stats; see
        `exports.to_arviz`.

        Raises:
            ImportError: If arviz is not installed.
        """
        return exports.to_arviz(self, **groups)

    def to_getdist(self, **settings: Any) -> Any:
        """A getdist MCSamples with labels, units, weights and ranges; see `exports.to_getdist`.

        Raises:
            ImportError: If getdist is not installed.
        """
        return exports.to_getdist(self, **settings)

    def to_corner(self, **settings: Any) -> Any:
        """A figure by corner, with labels, units and weights; see `exports.to_corner`.

        Raises:
            ImportError: If corner is not installed.
        """
        return exports.to_corner(self, **settings)

    def to_pandas(self) -> Any:
        """A DataFrame with a column of weights; see `exports.to_pandas`.

        Raises:
            ImportError: If pandas is not installed.
        """
        return exports.to_pandas(self)

    def __repr__(self) -> str:
        what = ", ".join(self.names) or f"shape {self.draws.shape[1:]}"
        return f"Samples({len(self)} draws of {what})"


def sample(q: Any, shape: tuple[int, ...], seed: int | None) -> Any:
    """Draws from any torch distribution, repeatable with a seed: torch's own take none."""
    import torch

    with torch.no_grad():
        if "seed" in inspect.signature(q.sample).parameters:
            return q.sample(shape, seed=seed)
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            return q.sample(shape)


def _array(values: Any) -> np.ndarray:
    """A NumPy array of anything, a tensor on any device among them."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    array = np.asarray(values)
    return array if array.dtype.kind in "fiub" else array.astype(float)


def _bounds(values: Any, names: Sequence[str]) -> np.ndarray:
    """Bounds (d, 2), float64, of named columns."""
    d = len(names)
    if values is None:
        return np.tile([-np.inf, np.inf], (d, 1))
    bounds = _array(values).astype(np.float64)
    if bounds.shape != (d, 2):
        raise ValueError(f"bounds must be {(d, 2)}, low and high a column; got {bounds.shape}")
    for name, (low, high) in zip(names, bounds):
        if not low < high:
            raise ValueError(f"bounds of {name!r} must have low < high; got {low} and {high}")
    return bounds
