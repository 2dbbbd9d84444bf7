r"""Linearity of an operator, found by trying it, and its matrix, adjoint and offset by autograd.

.. math::
    A(x) = L x + c, \qquad c = A(0), \qquad
    A(a x + b z) - c = a \, (A(x) - c) + b \, (A(z) - c), \qquad
    \langle L x, r \rangle = \langle x, L^\top r \rangle

A callable is taken for affine if the first identity holds for random rows of several sizes, and
its adjoint is used once the second, the dot test, holds. Rows must be independent and the operator
deterministic: neither identity would hold.

References:
    | Earth Soundings Analysis: Processing versus Inversion (Claerbout, 1992), ch. 5: the dot test
    | http://sepwww.stanford.edu/sep/prof/pvi.pdf
"""

from __future__ import annotations

__all__ = ["LinearMap", "Linearity", "differentiable", "is_linear"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]

_ROWS = 4  # of the dot test, and of gradients
_SIZES = [10.0**k for k in (-3, -2, -1, 0, 0, 1, 2, 3)]  # of rows that linearity is tried on
_ROUNDED = 0.1  # share of the tolerance for an offset, under which the rest is rounded
_LARGEST = 2**26  # numbers of a dense matrix
_CHUNK = 2**23  # numbers of a batch of unit vectors and what is seen of them


@dataclass(frozen=True)
class Linearity:
    """What an operator is: "linear", "affine" or "nonlinear". True as a boolean if linear.

    Arguments:
        kind: Which.
        offset: A(0), flattened, (m,); None if it is nonlinear.
    """

    kind: str
    offset: Tensor | None

    def __bool__(self) -> bool:
        return self.kind == "linear"


def is_linear(
    operator: Operator,
    event_shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
    sizes: Sequence[float] = _SIZES,
) -> Linearity:
    """Whether an operator is linear, affine or neither, by random rows of sizes 1e-3 to 1e3.

    It need not be differentiable. What bends beyond those sizes only, or by less than 1e-4 (in
    float64 1e-10) of what it returns beside its offset, of which a tenth counts, is taken for
    straight. What raises of any row is not.

    Arguments:
        operator: Maps (n, *event) to (n, *observed), floating.
        event_shape: Shape of the event.
        dtype: Precision that the operator is tried in.
        device: Where it is tried.
        seed: Of the random rows.
        sizes: Of the random rows.

    Raises:
        TypeError: If it returns anything but a real floating tensor.
        ValueError: If it returns another number of rows, is random, or couples its rows.
    """
    normal = _normal(seed, dtype, device)
    ones = [1] * len(event_shape)
    with torch.no_grad():
        size = torch.tensor(sizes, dtype=dtype, device=device).view(-1, *ones)
        x, z = (size * normal(len(size), *event_shape) for _ in range(2))
        a, b = (normal(len(size), *ones) for _ in range(2))
        rows = [0 * x[:1], x, z, a * x + b * z, x[:1]]
        try:
            found = [operator(v) for v in rows]
        except Exception:
            return Linearity("nonlinear", None)
        offset, A_x, A_z, A_both, alone = map(_checked, found, rows)
        offset = offset[0]
        _check_rows(A_x[:1], alone)
        a, b = a.view(-1, 1), b.view(-1, 1)
        terms = torch.stack([A_both - offset, -a * (A_x - offset), -b * (A_z - offset)]).double()
        error = terms.sum(0).norm(dim=1)
        scale = terms.norm(dim=2).sum(0) + _ROUNDED * offset.double().norm()
        # NaN and infinity are not below
        straight = (error <= _tolerance(A_x) * scale) & scale.isfinite()
    if not straight.all():
        return Linearity("nonlinear", None)
    return Linearity("affine" if offset.any() else "linear", offset)


def differentiable(
    operator: Operator,
    event_shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> bool:
    """Whether autograd leads from what the operator returns back to x, with finite gradients that
    are not all zero.

    Whatever goes wrong means no. That the gradient is right is for the dot test to say.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad():
            x = _normal(0, dtype, device)(_ROWS, *event_shape).requires_grad_()
            (gradient,) = torch.autograd.grad(operator(x).sum(), x)
    except Exception:
        return False
    return bool(gradient.isfinite().all() & gradient.any())


class LinearMap:
    """The linear part L of an affine operator, with its adjoint; flat on the observed side.

    Arguments:
        operator: Maps (n, *event) to (n, *observed), differentiable.
        event_shape: Shape of the event, of d numbers.
        dtype: Precision of the tests, of `offset` and of `dense`; `forward` and `adjoint` follow
            what they are given.
        device: Where the tests are run, and the dense matrix is made.
        seed: Of the random rows of the tests.

    Attributes:
        event_shape: Shape of x.
        observed_shape: Shape of y, of m numbers.
        shape: (m, d).
        offset: A(0), flattened, (m,).

    Raises:
        TypeError: If the operator returns anything but a real floating tensor.
        ValueError: If it is not affine, is random, couples its rows, autograd does not lead
            through it, or the dot test fails.
    """

    def __init__(
        self,
        operator: Operator,
        event_shape: Sequence[int],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        found = is_linear(operator, event_shape, dtype=dtype, device=device, seed=seed)
        if found.offset is None:
            raise ValueError(
                f"the operator is not affine in {dtype}, so it has no matrix: linearise it, or "
                "use a method for nonlinear operators; give dtype=torch.float32 if it is affine "
                "but computes in float32"
            )
        if not differentiable(operator, event_shape, dtype=dtype, device=device):
            raise ValueError(
                "autograd does not lead through the operator (NumPy or .detach() inside?): write "
                "it in torch, give its matrix as Matrix(A), or use a gradient-free method"
            )
        self.operator, self.offset = operator, found.offset
        self.event_shape = torch.Size(event_shape)
        with torch.no_grad():
            self.observed_shape = operator(self.offset.new_zeros(1, *event_shape)).shape[1:]
        self.shape = (self.offset.numel(), self.event_shape.numel())
        self._offsets = {(self.offset.device, self.offset.dtype): self.offset}
        self._dense: Tensor | None = None
        self._dot_test(seed)

    def forward(self, x: Tensor) -> Tensor:
        """L x (n, m) of x (n, *event): A(x) - A(0), flattened."""
        return _flat(self.operator, x) - self._offset(x)

    def adjoint(self, r: Tensor) -> Tensor:
        """L^T r (n, *event) of r (n, m); differentiable in r where the operator is twice so."""
        create_graph = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            x = r.new_zeros(len(r), *self.event_shape).requires_grad_()
            y = _flat(self.operator, x)
            (gradient,) = torch.autograd.grad(y, x, r.to(y), create_graph=create_graph)
        return gradient

    def dense(self, largest: int = _LARGEST) -> Tensor:
        """The matrix L (m, d), found by unit vectors of the smaller side, and kept.

        Arguments:
            largest: The most numbers that it may have.

        Raises:
            ValueError: If it has more.
        """
        m, d = self.shape
        if m * d > largest:
            raise ValueError(
                f"the matrix {m} x {d} has more than {largest} numbers: use forward and adjoint"
            )
        if self._dense is None:
            unit = torch.eye(min(m, d), dtype=self.offset.dtype, device=self.offset.device)
            parts = unit.split(max(1, _CHUNK // (m + d)))
            with torch.no_grad():
                if d <= m:
                    columns = [self.forward(part.view(-1, *self.event_shape)) for part in parts]
                    self._dense = torch.cat(columns).mT.contiguous()
                else:
                    self._dense = torch.cat([self.adjoint(part).flatten(1) for part in parts])
        return self._dense

    def _offset(self, like: Tensor) -> Tensor:
        """The offset on the device and in the precision of a tensor."""
        place = (like.device, like.dtype)
        if place not in self._offsets:
            with torch.inference_mode(False), torch.no_grad():
                zero = torch.zeros(1, *self.event_shape, device=like.device, dtype=like.dtype)
                self._offsets[place] = _flat(self.operator, zero)[0]
        return self._offsets[place]

    def _dot_test(self, seed: int) -> None:
        """Refuses an adjoint for which <L x, r> is not <x, L^T r> in random rows."""
        normal = _normal(seed, self.offset.dtype, self.offset.device)
        x, r = normal(_ROWS, *self.event_shape), normal(_ROWS, self.shape[0])
        with torch.no_grad():
            L_x = self.forward(x).double()
            Lt_r = self.adjoint(r).flatten(1).double()
        there, back = (L_x * r).sum(1), (x.flatten(1) * Lt_r).sum(1)
        scale = torch.maximum(L_x.norm(dim=1), Lt_r.norm(dim=1))
        rounding = 10 * torch.finfo(self.offset.dtype).eps * self.offset.double().norm()
        if not ((there - back).abs() <= _tolerance(self.offset) * scale + rounding).all():
            i = int((there - back).abs().argmax())
            raise ValueError(
                f"the dot test fails: <A x, r> = {there[i]:.9g}, <x, A^T r> = {back[i]:.9g}. A "
                "part of the operator is hidden from autograd (NumPy or .detach()?), or a "
                "hand-written backward is wrong: write that part in torch, or correct its backward"
            )


def _normal(seed: int, dtype: torch.dtype, device: torch.device | str) -> Callable[..., Tensor]:
    """A function that draws from N(0, 1) in a shape, the same on any device."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=dtype).to(device)


def _flat(operator: Operator, x: Tensor) -> Tensor:
    """A(x), checked and flattened, (n, m)."""
    return _checked(operator(x), x)


def _checked(y: Any, x: Tensor) -> Tensor:
    """What was returned of x, checked and flattened, (n, m)."""
    if not isinstance(y, Tensor) or not y.is_floating_point():
        found = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(
            f"an operator must return a real floating tensor; got {found} (wrap an array by "
            "torch.as_tensor, complex numbers by torch.view_as_real)"
        )
    if y.ndim < 1 or len(y) != len(x):
        raise ValueError(
            f"an operator must map (n, *event) to (n, *observed), row by row: of x "
            f"{tuple(x.shape)} it returned {tuple(y.shape)}"
        )
    return y.flatten(1) if y.ndim > 1 else y[:, None]


def _check_rows(row: Tensor, alone: Tensor) -> None:
    """Refuses an operator whose row 0 is another among other rows than alone."""
    same = (row == alone) | (row.isnan() & alone.isnan())
    change = torch.where(same, torch.zeros_like(row), row - alone).norm()
    if not change <= 10 * _tolerance(row) * row.nan_to_num().norm():
        raise ValueError(
            "the operator is random, or its rows depend on each other: row 0 of (n, *event) gives "
            "another result among the others than alone. Map each row by itself"
        )


def _tolerance(like: Tensor) -> float:
    """The relative error that rounding may make."""
    return 1e-10 if like.dtype == torch.float64 else 1e-4
