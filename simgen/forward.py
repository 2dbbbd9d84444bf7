r"""Simulator: the forward model p(x | theta), with named fields.

.. math::
    \vartheta \sim p(\vartheta), \qquad (x, z) \sim p(x, z \mid \vartheta)

A simulator maps parameters (n, d) and a random generator to fields of n rows each: the
observable `x`, and what else it cares to record: latents `z_*`, the joint score, weights. NumPy
at this boundary, and no torch: worker processes unpickle a simulator without its prior.
"""

from __future__ import annotations

__all__ = ["FunctionSimulator", "Parameters", "Simulator", "joined", "simulator", "stream"]

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .field import Field

if TYPE_CHECKING:
    from .prior import Prior

THETA, BLOCK, ROW = 0, 1, 2
"""Purposes of random streams: drawing parameters, a batched call on a block, a call on one row."""


def stream(seed: int, purpose: int, index: int) -> np.random.Generator:
    """The random stream (seed, purpose, index): the same wherever and whenever it is asked for."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, index)))


class Parameters(np.ndarray):
    """An array (..., d) of parameters whose columns also go by name: theta["Omega_m"]."""

    names: tuple[str, ...]

    def __new__(cls, values: Any, names: tuple[str, ...] = ()) -> Parameters:
        """A float64 array with named columns, a copy: simulators may work in place."""
        array = np.array(values, dtype=np.float64).view(cls)
        array.names = tuple(names)
        return array

    def __array_finalize__(self, other: Any) -> None:
        self.names = getattr(other, "names", ())

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        if key not in self.names:
            raise KeyError(f"no parameter {key!r}; there are {', '.join(self.names)}")
        return np.asarray(self)[..., self.names.index(key)]


class Simulator:
    """A forward model. Subclass it, say the prior and the fields, and write `simulate`.

    Attributes:
        prior: The prior over theta; None for an unconditional simulator (theta then has shape
            (n, 0)).
        fields: What is known of the fields; what is not declared is inferred from the first good
            block.
        batched: Whether `simulate` takes a block of rows; else it is called on one at a time.
    """

    prior: Prior | None = None
    fields: Mapping[str, Field] = {}
    batched: bool = True
    _hidden: ClassVar[tuple[str, ...]] = ("prior",)

    def simulate(self, theta: np.ndarray, rng: np.random.Generator) -> Any:
        """Draws the fields given theta.

        Arguments:
            theta: Parameters, shape (n, d) when batched, else (d,); also theta["name"].
            rng: The only source of randomness to use.

        Returns:
            A dict of arrays (n, ...), or (...) when not batched; an array alone is taken as `x`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define simulate(theta, rng)")

    @property
    def name(self) -> str:
        """What a dataset records as its origin."""
        return f"{type(self).__module__}:{type(self).__qualname__}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return () if self.prior is None else tuple(self.prior.names)

    @property
    def answers(self) -> tuple[str, ...]:
        """What the instance answers without learning: the methods `log_likelihood(x, theta)` and
        `exact_posterior(x)`, where it has them.
        """
        return tuple(m for m in ("log_likelihood", "exact_posterior") if hasattr(self, m))

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments that the instance keeps as attributes, as JSON values."""
        arguments = inspect.signature(type(self).__init__).parameters
        return {k: vars(self)[k] for k in arguments if k in vars(self) and k not in self._hidden}

    def __getstate__(self) -> dict[str, Any]:
        """What a worker gets: everything but the prior, and the parameters' names in its place."""
        state = {k: v for k, v in vars(self).items() if k not in self._hidden}
        state["_names"] = self.names
        return state

    def run(self, theta: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Calls `simulate` and checks what comes back.

        Arguments:
            theta: Parameters, shape (n, d), or (d,) when not batched.
            rng: The random stream of this block or row.

        Returns:
            The fields as arrays with one row per parameter vector: floats as float32, other
            types as they are. When not batched, one row.

        Raises:
            ValueError: If `x` is missing, or a field has the wrong number of rows or not its
                declared shape.
        """
        names = vars(self).get("_names") or self.names
        parameters = Parameters(theta, names)
        result = self.simulate(parameters, rng)
        fields = dict(result) if isinstance(result, Mapping) else {"x": result}
        if "x" not in fields:
            raise ValueError(
                "a simulator must return the field 'x'; "
                f"it returned {', '.join(fields) or 'nothing'}"
            )
        n = len(parameters) if self.batched else 1
        out = {}
        for name, value in fields.items():
            array = np.asarray(value) if self.batched else np.asarray(value)[None]
            if array.dtype.kind == "f" and array.dtype != np.float32:
                with np.errstate(over="ignore"):
                    array = array.astype(np.float32)
            elif array.dtype.kind not in "fiub":
                raise ValueError(
                    f"field {name!r} has type {array.dtype}; fields are numbers or booleans"
                )
            if array.ndim == 0 or len(array) != n:
                raise ValueError(f"field {name!r} has shape {array.shape}; wanted {n} rows first")
            declared = self.fields.get(name)
            if declared is not None and array.shape[1:] != declared.shape:
                raise ValueError(
                    f"field {name!r} was declared with shape {declared.shape} a row; "
                    f"found {array.shape[1:]}"
                )
            out[name] = array
        return out

    def __call__(self, theta: Any, seed: int = 0) -> dict[str, np.ndarray]:
        """Runs the simulator directly.

        Arguments:
            theta: Parameters, shape (n, d) or (d,): an array, a tensor, or a dict by name. Of an
                unconditional simulator, the number of rows.
            seed: Seeds the random stream.

        Returns:
            The fields, with a leading row axis if theta has one.
        """
        if isinstance(theta, Mapping):
            theta = np.stack([np.asarray(theta[k], dtype=float) for k in self.names], -1)
        if self.prior is None and np.ndim(theta) == 0:
            theta = np.empty((int(theta), 0))
        theta = np.asarray(theta, dtype=np.float64)
        if theta.ndim not in (1, 2) or (self.names and theta.shape[-1] != len(self.names)):
            raise ValueError(
                f"theta must be (n, {len(self.names)}) or ({len(self.names)},); got {theta.shape}"
            )
        rows = np.atleast_2d(theta)
        if self.batched:
            fields = self.run(rows, stream(seed, BLOCK, 0))
        else:
            fields = joined([self.run(row, stream(seed, ROW, i)) for i, row in enumerate(rows)])
        return fields if theta.ndim == 2 else {k: v[0] for k, v in fields.items()}


def joined(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The fields of rows that were simulated one at a time.

    Raises:
        ValueError: If they have not all the same fields and shapes.
    """
    first, *others = ({k: v.shape[1:] for k, v in row.items()} for row in rows)
    for i, found in enumerate(others, start=1):
        if found != first:
            raise ValueError(
                f"row 0 has fields of shapes {first}, row {i} {found}: they must be the same in "
                "all rows; pad an x of variable length with zeros and return its x_length"
            )
    return {k: np.concatenate([row[k] for row in rows]) for k in first}


class FunctionSimulator(Simulator):
    """A simulator made of one function; see `simulator`."""

    _hidden = ("prior", "function")

    def __init__(
        self,
        function: Callable[..., Any],
        prior: Prior | None = None,
        batched: bool = False,
        fields: Mapping[str, Field] | None = None,
        name: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.function = function
        self.prior = prior
        self.batched = bool(batched)
        self.fields = dict(fields or {})
        self._name = name or f"{function.__module__}:{function.__qualname__}"
        self._settings = dict(settings or {})
        self.__doc__ = function.__doc__

    def simulate(self, theta: np.ndarray, rng: np.random.Generator) -> Any:
        """Calls the function."""
        return self.function(theta, rng)

    @property
    def name(self) -> str:
        """Module and name of the function."""
        return self._name

    @property
    def settings(self) -> dict[str, Any]:
        """What was given as settings."""
        return dict(self._settings)

    def __getstate__(self) -> dict[str, Any]:
        """The prior stays behind; the function goes along."""
        return {**super().__getstate__(), "function": self.function}


def simulator(
    function: Callable[..., Any] | None = None,
    *,
    prior: Prior | None = None,
    batched: bool = False,
    fields: Mapping[str, Field] | None = None,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """Wraps a function of (theta, rng) as a Simulator.

    Arguments:
        function: Maps one parameter vector (d,) and a generator to x, or to a dict of fields; or
            with `batched=True` parameters (n, d) to fields of n rows each.
        prior: The prior over theta.
        batched: Whether the function takes many parameter vectors at once.
        fields: Declarations of fields; the rest is inferred.
        name: What a dataset records as origin; module and name of the function unless said.
        settings: JSON values that belong to the simulator's identity.

    Examples:
        >>> import simgen
        >>> from torch.distributions import Uniform
        >>> @simgen.simulator(prior=simgen.Prior(mu=Uniform(-1.0, 1.0)))
        ... def mine(theta, rng):
        ...     return theta + 0.1 * rng.standard_normal(1)
        >>> mine([[0.5], [0.6]], seed=0)["x"].shape
        (2, 1)
    """

    def wrap(function: Callable[..., Any]) -> FunctionSimulator:
        return FunctionSimulator(function, prior, batched, fields, name, settings)

    return wrap if function is None else wrap(function)
