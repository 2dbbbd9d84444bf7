r"""Small symmetric matrices by the million: Cholesky factors, inverses, and the way back.

.. math::
    P = L L^T, \qquad
    \bar P = L^{-T} \, \mathrm{sym}(Z) \, L^{-1}, \quad
    Z = \Phi(L^T \bar L), \quad \Phi: \text{lower triangle, half the diagonal}

Matrices are (n, b, b, m): n of them for each of m modes, so that what is done for one entry is
done for all modes at once.

References:
    | Differentiation of the Cholesky Decomposition (Murray, 2016)
    | https://arxiv.org/abs/1602.07527, equations 9 and 10
"""

from __future__ import annotations

__all__ = ["cholesky", "half_diagonal", "inverse", "product", "sandwich"]

import numpy as np

Array = np.ndarray


def cholesky(P: Array) -> Array:
    """The lower triangular L of P = L L^T, each (n, b, b, m); NaN where P is not positive."""
    b = P.shape[1]
    L = np.zeros_like(P)
    with np.errstate(invalid="ignore", divide="ignore"):
        for j in range(b):
            pivot = P[:, j, j] - (L[:, j, :j] ** 2).sum(1)
            L[:, j, j] = np.sqrt(np.where(pivot > 0, pivot, np.nan))
            for i in range(j + 1, b):
                rest = P[:, i, j] - (L[:, i, :j] * L[:, j, :j]).sum(1)
                L[:, i, j] = rest / L[:, j, j]
    return L


def inverse(L: Array) -> Array:
    """The inverse of lower triangular matrices (n, b, b, m)."""
    b = L.shape[1]
    out = np.zeros_like(L)
    for j in range(b):
        out[:, j, j] = 1 / L[:, j, j]
        for i in range(j + 1, b):
            out[:, i, j] = -(L[:, i, j:i] * out[:, j:i, j]).sum(1) / L[:, i, i]
    return out


def product(A: Array, B: Array) -> Array:
    """A B, (n, b, b, m)."""
    return A * B if A.shape[1] == 1 else np.einsum("niam,najm->nijm", A, B)


def sandwich(L_inverse: Array, Z: Array) -> Array:
    """The symmetric part of L^-T Z L^-1, (n, b, b, m)."""
    S = product(product(L_inverse.swapaxes(1, 2), Z), L_inverse)
    return (S + S.swapaxes(1, 2)) / 2


def half_diagonal(Z: Array) -> Array:
    """The lower triangle of Z (n, b, b, m), with half its diagonal."""
    b = Z.shape[1]
    return Z * (np.tril(np.ones((b, b))) - np.eye(b) / 2)[..., None]
