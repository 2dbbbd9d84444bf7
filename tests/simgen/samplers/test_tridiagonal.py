"""Chains' precisions against the same matrices, dense."""

import pytest
import torch

from simgen.samplers.tridiagonal import ChainCovariance, Tridiagonal


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def chain(blocks, b, size, n=4):
    """A positive block-tridiagonal matrix, and dense."""
    full = blocks * b
    dense = torch.eye(full).double().repeat(n, 1, 1)
    for j in range(max(blocks - 1, 1)):
        part = slice(j * b, min((j + 2) * b, size))
        width = part.stop - part.start
        root = torch.randn(n, width, width, generator=seeded(j), dtype=torch.float64)
        dense[:, part, part] += root @ root.mT
    cut = [slice(j * b, (j + 1) * b) for j in range(blocks)]
    diagonal = torch.stack([dense[:, c, c] for c in cut])
    below = [dense[:, c, d] for c, d in zip(cut[1:], cut)]
    below = torch.stack(below) if below else dense.new_zeros(0, n, b, b)
    return Tridiagonal(diagonal, below, size), dense[:, :size, :size]


CASES = [(1, 3, 3), (2, 3, 4), (5, 2, 10), (4, 4, 14)]


@pytest.mark.parametrize(("blocks", "b", "size"), CASES)
def test_products_and_systems(blocks, b, size):
    P, dense = chain(blocks, b, size)
    v = torch.randn(5, 4, size, generator=seeded(9), dtype=torch.float64)
    torch.testing.assert_close(P(v), torch.einsum("nij,knj->kni", dense, v))
    torch.testing.assert_close(P.solve(v), torch.linalg.solve(dense, v[..., None])[..., 0])
    torch.testing.assert_close(P.solve(v[0]), P.solve(v)[0])
    torch.testing.assert_close(P.solve(v[:, :1])[:, 2], P.solve(v[:, :1].expand_as(v))[:, 2])
    assert not P.failed.any()


@pytest.mark.parametrize(("blocks", "b", "size"), CASES)
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_its_covariance(blocks, b, size, shift):
    P, dense = chain(blocks, b, size)
    V, exact = ChainCovariance(0.3, P), 0.3 * torch.linalg.inv(dense)
    v = torch.randn(5, 4, size, generator=seeded(9), dtype=torch.float64)
    torch.testing.assert_close(V(v), torch.einsum("nij,knj->kni", exact, v))
    total = exact + shift * torch.eye(size).double()
    torch.testing.assert_close(V.solve(v, shift), torch.linalg.solve(total, v[..., None])[..., 0])
    unit = torch.eye(size).double()
    roots = torch.stack([V.root(row.expand(4, size)) for row in unit], -1)
    torch.testing.assert_close(roots @ roots.mT, exact)


def test_a_row_that_is_not_positive_is_told():
    P, _ = chain(3, 2, 6)
    P.diagonal[1, 2] -= 100 * torch.eye(2).double()
    assert P.failed.tolist() == [False, False, True, False]


def test_a_matrix_is_added_where_there_are_blocks():
    P, dense = chain(4, 3, 11)
    extra = torch.zeros(11, 11).double()
    extra[:4, :4], extra[8:, 8:] = 1.0, 2.0
    v = torch.randn(4, 11, generator=seeded(9), dtype=torch.float64)
    exact = torch.linalg.solve(dense + extra, v[..., None])[..., 0]
    torch.testing.assert_close(P.plus(extra).solve(v), exact)
    extra[0, 9] = extra[9, 0] = 1.0
    with pytest.raises(ValueError, match="apart"):
        P.plus(extra)
