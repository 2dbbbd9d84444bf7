r"""Instruments and their data, checked, side by side, and in units of their noise.

.. math::
    L_i^{-1} y_i = L_i^{-1} A_i(x) + N(0, I), \qquad \Sigma_i = L_i L_i^\top

Several instruments that look at the same x are one, of all their numbers. More numbers than
unknowns are no more than the unknowns can tell apart:

.. math::
    A = Q R, \qquad \lVert y - A x \rVert^2 = \lVert Q^\top y - R x \rVert^2
        + \lVert y \rVert^2 - \lVert Q^\top y \rVert^2
"""

from __future__ import annotations

__all__ = ["Instrument", "check_operator", "instrument", "observations"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..likelihood import GaussianLikelihood, Likelihood, PoissonLikelihood
from ..samplers.closed_form import white_scale
from .linearity import LinearMap, differentiable, is_linear
from .unknowns import Unknowns

_LARGEST = 2**26  # numbers of a matrix that is formed
_NEAR = (0.1, 1.0, 1.0, 1.0, 3.0, 3.0, 10.0, 10.0)  # deviations of the prior where it is tried


@dataclass(frozen=True)
class Instrument:
    """What instruments predict and what was observed, white.

    Arguments:
        predict: (n, m) of rows x (n, *event).
        y: (m,).
        scale: log of the noise's density at its mean.
        matrix: Of an affine instrument, (m, d) on the flattened x; None otherwise or if too large.
        offset: What it predicts of x = 0, (m,); None if it is not affine.
        forward: Of an affine one: rows (n, d) to (n, m), without the offset.
        adjoint: Of an affine one: rows (n, m) to (n, d), if it can be differentiated.
    """

    predict: Callable[[Tensor], Tensor]
    y: Tensor
    scale: float
    matrix: Tensor | None = None
    offset: Tensor | None = None
    forward: Callable[[Tensor], Tensor] | None = None
    adjoint: Callable[[Tensor], Tensor] | None = None

    @property
    def affine(self) -> bool:
        """Whether it is."""
        return self.offset is not None

    def reduced(self) -> Instrument:
        """The same information in at most d numbers."""
        matrix, offset = self.matrix, self.offset
        if matrix is None or offset is None or len(matrix) <= matrix.shape[1]:
            return self
        Q, R = torch.linalg.qr(matrix)
        rest = self.y - offset
        y = Q.mT @ rest
        lost = float(rest @ rest - y @ y)
        return replace(
            self,
            predict=lambda x: x.flatten(1).to(R) @ R.mT,
            y=y,
            scale=self.scale - 0.5 * max(lost, 0.0),
            matrix=R,
            offset=torch.zeros_like(y),
            forward=lambda x: x @ R.mT,
            adjoint=lambda r: r @ R,
        )


def observations(likelihoods: Sequence[Likelihood], observed: Any) -> list[Tensor]:
    """What was observed, one tensor a likelihood, float64.

    Raises:
        ValueError: If there are not as many as likelihoods, one is no array of numbers, or a
            number is not finite.
    """
    values = list(observed) if len(likelihoods) > 1 else [observed]
    if len(values) != len(likelihoods):
        raise ValueError(f"{len(likelihoods)} likelihoods need as many observations in a list")
    found = []
    for i, value in enumerate(values):
        try:
            y = torch.as_tensor(value).detach().double()
        except (RuntimeError, TypeError, ValueError):
            raise ValueError(f"observation {i} is no array of numbers: {value!r:.80}") from None
        if y.numel() == 0:
            raise ValueError(f"observation {i} is empty")
        if not bool(y.isfinite().all()):
            bad = int((~y.isfinite()).sum())
            raise ValueError(f"observation {i} holds {bad} numbers that are NaN or infinite")
        found.append(y)
    return found


def check_operator(likelihood: Likelihood, y: Tensor, rows: Unknowns) -> None:
    """Tries an operator on rows of the prior.

    Raises:
        ValueError: If it does not return (n, *observed), or NaN.
    """
    predict = getattr(likelihood, "predict", None)
    if predict is None:
        return
    n = len(next(iter(rows.values())))
    with torch.no_grad():
        found = predict(rows)
    if tuple(found.shape) != (n, *y.shape):
        wanted = ", ".join(map(str, ("n", *y.shape)))
        raise ValueError(
            f"the operator must return ({wanted}), as the observation is {tuple(y.shape)}; of "
            f"{n} rows it returned {tuple(found.shape)}"
        )
    if not bool(found.isfinite().all()):
        raise ValueError("the operator returns NaN or infinite numbers of draws of the prior")


def instrument(
    likelihoods: Sequence[Likelihood],
    ys: Sequence[Tensor],
    event: torch.Size,
    dtype: torch.dtype,
    physical: Callable[[Tensor], Tensor] | None = None,
    shape: torch.Size | None = None,
    where: Callable[[Tensor], Tensor] | None = None,
) -> Instrument | None:
    """One instrument of several, or None where one has no fixed noise to be measured by, or is a
    black box: neither linear nor differentiable.

    Arguments:
        likelihoods: Of one unknown.
        ys: What each observed.
        event: Shape of x.
        dtype: In which the operators are called.
        physical: x (n, *event) of rows of other coordinates (n, d); x itself unless said.
        shape: Shape of those coordinates.
        where: Rows of them as the prior draws them, of rows z ~ N(0, I) of that shape; z itself
            unless said. Whether operators are linear is tried there too.
    """
    parts = []
    for likelihood, y in zip(likelihoods, ys):
        part = _one(likelihood, y, event, dtype, physical, shape, where)
        if part is None:
            return None
        parts.append(part)
    if len(parts) == 1:
        return parts[0]
    affine = all(p.affine for p in parts)
    formed = all(p.matrix is not None for p in parts)
    sizes = [len(p.y) for p in parts]
    transposed = all(p.adjoint is not None for p in parts)
    return Instrument(
        lambda x: torch.cat([p.predict(x) for p in parts], -1),
        torch.cat([p.y for p in parts]),
        sum(p.scale for p in parts),
        torch.cat([p.matrix for p in parts]) if formed else None,  # type: ignore[misc]
        torch.cat([p.offset for p in parts]) if affine else None,  # type: ignore[misc]
        (lambda x: torch.cat([p.forward(x) for p in parts], -1)) if affine else None,  # type: ignore[misc]
        (lambda r: torch.stack([p.adjoint(v) for p, v in zip(parts, r.split(sizes, -1))]).sum(0))  # type: ignore[misc]
        if transposed
        else None,
    )


def _one(
    likelihood: Likelihood,
    y: Tensor,
    event: torch.Size,
    dtype: torch.dtype,
    physical: Callable[[Tensor], Tensor] | None,
    shape: torch.Size | None,
    where: Callable[[Tensor], Tensor] | None,
) -> Instrument | None:
    if isinstance(likelihood, GaussianLikelihood):
        if callable(likelihood.sigma):
            return None
        noise = likelihood.noise(y.shape)
    elif isinstance(likelihood, PoissonLikelihood):
        noise = likelihood.noise(y.shape, y)
    else:
        return None
    back = (lambda x: x) if physical is None else physical
    inner = event if shape is None else shape

    def operator(x: Tensor) -> Tensor:
        """Rows (n, *inner) to (n, m), in the precision of the operator."""
        return likelihood.predict({"x": back(x.view(len(x), *inner).to(dtype))}).flatten(1)

    def predict(x: Tensor) -> Tensor:
        return noise.white(operator(x).double())

    white = noise.white(y.flatten())
    scale = white_scale(noise.logdet, y.numel())
    found = Instrument(predict, white, scale)

    def near(z: Tensor) -> Tensor:
        """The same of rows z, in units of the prior."""
        return operator(z if where is None else where(z))

    kind = is_linear(operator, inner, dtype=dtype)
    if kind.offset is None or is_linear(near, inner, dtype=dtype, sizes=_NEAR).offset is None:
        return found if differentiable(near, inner, dtype=dtype) else None
    offset = noise.white(kind.offset.double())
    d, m = inner.numel(), y.numel()
    matrix, adjoint = None, None
    try:
        linear = LinearMap(operator, inner, dtype=dtype)
    except ValueError:  # autograd does not lead through it
        linear = None
    if m * d <= _LARGEST:
        raw = _matrix(operator, inner, kind.offset, dtype) if linear is None else linear.dense()
        matrix = noise.white(raw.double().mT).mT.contiguous()
        A = matrix
        return replace(
            found,
            predict=lambda x: x.flatten(1).to(A) @ A.mT + offset,
            matrix=A,
            offset=offset,
            forward=lambda x: x @ A.mT,
            adjoint=lambda r: r @ A,
        )
    if linear is not None and noise.factor is None:
        back_map = linear

        def adjoint(r: Tensor) -> Tensor:
            return back_map.adjoint(noise.white(r).to(dtype)).flatten(1).to(r)

    return replace(found, offset=offset, forward=lambda x: predict(x) - offset, adjoint=adjoint)


def _matrix(
    operator: Callable[[Tensor], Tensor], shape: torch.Size, offset: Tensor, dtype: torch.dtype
) -> Tensor:
    """The matrix (m, d) of an affine operator, by unit vectors alone."""
    unit = torch.eye(shape.numel(), dtype=dtype)
    with torch.no_grad():
        rows = [operator(part.view(-1, *shape)) - offset for part in unit.split(256)]
    return torch.cat(rows).mT
