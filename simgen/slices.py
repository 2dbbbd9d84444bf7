r"""Slices and marginals of a trained posterior.

.. math::
    q(\vartheta_A \mid \vartheta_B = b, x) = \frac{q(\vartheta_A, b \mid x)}{q(b \mid x)}, \qquad
    q(b \mid x) = \int q(\vartheta_A, b \mid x)\, d\vartheta_A

A slice is a density that is known up to its integral: `infer` draws from it and finds the
integral, which is the marginal density of the values held fixed. Nothing is trained again.
"""

from __future__ import annotations

__all__ = ["Marginal", "marginal", "sliced"]

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .answers.posterior import Posterior
from .prior import Prior
from .samples import sample


def sliced(
    posterior: Any,
    x: Any,
    fixed: Mapping[str, float],
    *,
    prior: Prior | None = None,
    method: str = "auto",
    particles: int | None = None,
    seed: int = 0,
) -> Posterior:
    """The posterior of the other parameters where some have known values.

    Arguments:
        posterior: A fitted "theta | x" with a density.
        x: What was observed, without a batch axis.
        fixed: Values by name, {"w_0": -1.0}.
        prior: Where to begin to look for the others: a prior over them that covers what they can
            be; their part of the posterior's own unless said. It does not change the answer.
        method: As of `infer`; particles unless said, which find every mode.
        particles: How many.
        seed: Of them.

    Returns:
        A distribution over the other parameters, by name; `.log_evidence()` is log q(b | x), the
        marginal density of the fixed values.

    Raises:
        ValueError: If a name is no parameter, none or all are fixed, a value is outside the
            prior, or the others' prior is not known.
    """
    from .inference import infer

    names, known = tuple(posterior.names), getattr(posterior, "prior", None)
    if unknown := [k for k in fixed if k not in names]:
        raise ValueError(f"no parameter {unknown[0]!r}; there are {', '.join(names)}")
    rest = [k for k in names if k not in fixed]
    if not fixed or not rest:
        raise ValueError(
            f"fix some of the parameters {', '.join(names)}, and leave some; got "
            f"{', '.join(fixed) or 'none'}"
        )
    _check_inside(known, fixed)
    start = _part(known, rest) if prior is None else prior
    if tuple(start.event_shape) != (len(rest),):
        raise ValueError(f"prior= is over {', '.join(rest)}; got shape {tuple(start.event_shape)}")
    q = posterior(torch.as_tensor(x))

    def density(theta: Tensor) -> Tensor:
        columns = dict(zip(rest, theta.unbind(-1)))
        held = {k: torch.full_like(theta[:, 0], float(v)) for k, v in fixed.items()}
        whole = torch.stack([{**columns, **held}[k] for k in names], -1)
        log_q = q.log_prob(whole.view(len(whole), *q.batch_shape, *q.event_shape))
        return log_q.reshape(len(whole)).double() - start.log_prob(theta).double()

    return infer(start, density, x, method=method, particles=particles, seed=seed)


class Marginal(Distribution):
    """Some columns of a distribution over vectors, by name: draws without the others.

    Arguments:
        joint: A distribution with `names`.
        columns: Which, in the order wanted.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    density = None

    def __init__(self, joint: Any, columns: Sequence[str]) -> None:
        names = tuple(joint.names)
        if not columns or (unknown := [k for k in columns if k not in names]):
            raise ValueError(
                f"no parameter {unknown[0]!r}; there are {', '.join(names)}"
                if columns
                else f"name at least one of {', '.join(names)}"
            )
        self.joint, self._index = joint, [names.index(k) for k in columns]
        for what, default in (("names", names), ("labels", names), ("units", ("",) * len(names))):
            found = tuple(getattr(joint, what, ())) or default
            setattr(self, what, tuple(found[i] for i in self._index))
        super().__init__(joint.batch_shape, torch.Size([len(columns)]), validate_args=False)

    def sample(self, sample_shape: Any = (), seed: int | None = None) -> Tensor:  # type: ignore[override]
        """Draws (*sample_shape, *batch_shape, columns)."""
        shape = (sample_shape,) if isinstance(sample_shape, int) else tuple(sample_shape)
        return sample(self.joint, shape, seed)[..., self._index]

    def log_prob(self, value: Any) -> Tensor:
        """Not known.

        Raises:
            NotImplementedError: Always; it says what to do.
        """
        raise NotImplementedError(
            "the marginal of a joint density is an integral: sliced(posterior, x, {name: value})"
            '.log_evidence() computes it at a value, fit("name | x", dataset) learns it'
        )


def marginal(q: Any, *names: str) -> Marginal:
    """The distribution of some parameters, without the others.

    Arguments:
        q: A distribution with names: posterior(x), or what `infer` returned.
        *names: Which.

    Raises:
        ValueError: If a name is no parameter.
    """
    return Marginal(q, names)


def _check_inside(prior: Any, fixed: Mapping[str, float]) -> None:
    """Refuses values that the prior excludes."""
    if not hasattr(prior, "low"):
        return
    for name, value in fixed.items():
        i = prior.names.index(name)
        low, high = float(prior.low[i]), float(prior.high[i])
        if not low <= float(value) <= high:
            raise ValueError(f"{name} = {value} is outside the prior, ({low:g}, {high:g})")


def _part(prior: Any, names: Sequence[str]) -> Prior:
    """The prior of some parameters."""
    factors = getattr(prior, "factors", {})
    if not set(names) <= set(factors):
        raise ValueError(
            f"the prior of {', '.join(names)} alone is not known: give prior= over them"
        )
    at = [prior.names.index(k) for k in names]
    return Prior(
        {k: factors[k] for k in names},
        labels=[prior.labels[i] for i in at],
        units=[prior.units[i] for i in at],
    )
