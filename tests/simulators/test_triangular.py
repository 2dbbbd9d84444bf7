"""Factors of many small matrices against numpy's, and their derivative against differences."""

import numpy as np
import pytest

from simulators.triangular import cholesky, half_diagonal, inverse, product, sandwich

SIZES = pytest.mark.parametrize("b", [1, 2, 5])


def matrices(b, seed=0):
    A = np.random.default_rng(seed).normal(size=(3, b, b + 2, 4))
    return np.einsum("niam,njam->nijm", A, A)


@SIZES
def test_factors_and_inverses_are_numpys(b):
    P = matrices(b)
    L = cholesky(P)
    plain = np.moveaxis(P, -1, 1)
    np.testing.assert_allclose(np.moveaxis(L, -1, 1), np.linalg.cholesky(plain), rtol=1e-10)
    L_inverse = inverse(L)
    unit = np.broadcast_to(np.eye(b)[..., None], P.shape)
    np.testing.assert_allclose(product(L_inverse, L), unit, atol=1e-10)
    precision = np.moveaxis(product(L_inverse.swapaxes(1, 2), L_inverse), -1, 1)
    np.testing.assert_allclose(precision, np.linalg.inv(plain), rtol=1e-7, atol=1e-9)


@SIZES
def test_derivative_of_the_factor(b):
    """Of f = sum(V L(P)) along a symmetric direction."""
    P, D = matrices(b), matrices(b, seed=1)
    V = np.random.default_rng(2).normal(size=P.shape)
    L = cholesky(P)
    by_P = sandwich(inverse(L), half_diagonal(product(L.swapaxes(1, 2), V)))
    h = 1e-5
    slope = (V * (cholesky(P + h * D) - cholesky(P - h * D))).sum((1, 2)) / (2 * h)
    np.testing.assert_allclose((by_P * D).sum((1, 2)), slope, rtol=1e-6)


def test_what_is_not_positive_is_nan():
    P = matrices(2)
    P[1, 1, 1, 2] = -1
    bad = ~np.isfinite(cholesky(P)).all((1, 2))
    assert bad.sum() == 1 and bad[1, 2]
