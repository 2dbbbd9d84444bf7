r"""Systems and square roots of covariances that are known only by their products with vectors.

.. math::
    (V + s I) x = b, \qquad V^{1/2} \epsilon \approx \lVert \epsilon \rVert\,
        Q_k T_k^{1/2} e_1, \qquad V Q_k \approx Q_k T_k

by conjugate gradients and by Lanczos' process: both see V as v → V v. Rows are systems of their
own: nothing couples them.

References:
    | Matrix Computations (Golub & Van Loan, 2013), algorithms 10.1.1 and 11.3.3
    | Sampling from Gaussian distributions by Krylov subspaces (Chow & Saad, 2014), eq. 2.2
    | https://doi.org/10.1137/130920587
"""

from __future__ import annotations

__all__ = ["conjugate_gradients", "lanczos_root"]

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


def conjugate_gradients(
    product: Product, right: Tensor, tolerance: float | None = None, iterations: int | None = None
) -> Tensor:
    """Solves a symmetric positive system for each row of the right side (..., d).

    Arguments:
        product: Maps (..., d) to the system's product with it.
        right: The right sides.
        tolerance: Of the residual, as a share of the right side's norm; a few rounding errors
            unless said.
        iterations: At most; 10 d unless said, where rounding has long won.
    """
    tolerance = 20 * torch.finfo(right.dtype).eps if tolerance is None else tolerance
    solution, residual, direction = torch.zeros_like(right), right, right
    norm = (right * right).sum(-1, keepdim=True)
    enough = norm * tolerance**2
    for _ in range(iterations or 10 * right.shape[-1]):
        image = product(direction)
        curvature = (direction * image).sum(-1, keepdim=True)
        go = (norm > enough) & (curvature > 0)  # a row that is solved stays as it is
        if not go.any():
            break
        length = torch.where(go, norm / curvature, torch.zeros_like(norm))
        solution = solution + length * direction
        residual = residual - length * image
        new = (residual * residual).sum(-1, keepdim=True)
        direction = torch.where(go, residual + new / norm * direction, direction)
        norm = torch.where(go, new, norm)
    return solution


def lanczos_root(product: Product, noise: Tensor, iterations: int = 20) -> Tensor:
    """V^(1/2) noise of each row (n, d), with the symmetric root; what rounding or a network makes
    negative counts as zero.

    Arguments:
        product: Maps (n, d) to V's product with it.
        noise: N(0, I), (n, d).
        iterations: Products at most; d are exact.
    """
    size = noise.norm(dim=-1, keepdim=True)
    tiny = torch.finfo(noise.dtype).tiny
    basis, diagonal, beside = [noise / size.clamp(min=tiny)], [], []
    for k in range(min(iterations, noise.shape[-1])):
        image = product(basis[k])
        diagonal.append((basis[k] * image).sum(-1))
        for _ in range(2):  # orthogonal to all, twice: Lanczos' own recurrence loses it
            known = torch.stack(basis, -2)
            image = image - ((known @ image[..., None]).mT @ known)[..., 0, :]
        length = image.norm(dim=-1)
        if k + 1 == min(iterations, noise.shape[-1]):
            break
        alive = length > 1e-6 * size.new_ones(()) * torch.stack(diagonal).abs().amax(0)
        if not alive.any():
            break
        beside.append(torch.where(alive, length, torch.zeros_like(length)))
        scale = torch.where(alive, 1 / length.clamp(min=tiny), torch.zeros_like(length))
        basis.append(image * scale[..., None])
    matrix = torch.diag_embed(torch.stack(diagonal, -1))
    if beside:
        edge = torch.stack(beside[: len(diagonal) - 1], -1)
        matrix = matrix + torch.diag_embed(edge, 1) + torch.diag_embed(edge, -1)
    values, vectors = torch.linalg.eigh(matrix)
    first = (vectors * values.clamp(min=0).sqrt()[..., None, :]) @ vectors[..., :1, :].mT
    known = torch.stack(basis[: len(diagonal)], -2)
    return size * (first.mT @ known)[..., 0, :]
