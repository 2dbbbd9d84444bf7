"""Products of residuals: exact under the null, powerful against a wrong correlation."""

import numpy as np
import pytest
import torch

from simgen.calibration.correlation import about_correlation, assess_products, count_products
from simgen.calibration.pool import pooled, whitened
from simgen.calibration.uniformity import randomised_ranks


def draws_of(rho: float, shape: tuple[int, ...], rng: np.random.Generator) -> torch.Tensor:
    root = np.linalg.cholesky(np.array([[1, rho], [rho, 1]]))
    return torch.as_tensor(rng.standard_normal((*shape, 2)) @ root.T)


def test_a_pool_does_not_tell_the_truth_from_a_draw() -> None:
    rng = np.random.default_rng(0)
    values = torch.as_tensor(rng.standard_normal((8, 5, 3)))
    one, other = pooled(values[1:], values[0]), pooled(values[[0, *range(2, 8)]], values[1])
    assert torch.allclose(one.mean, other.mean) and torch.allclose(one.sd, other.sd)
    assert torch.allclose(one.truth, other.draws[0])
    whole = torch.cat([one.truth[None], one.draws])
    assert torch.allclose(whole.mean(0), torch.zeros(5, 3).double(), atol=1e-12)
    assert torch.allclose(whole.square().mean(0), torch.ones(5, 3).double())
    constant = pooled(torch.ones(7, 5, 3).double(), torch.ones(5, 3).double())
    assert (constant.truth == 0).all()


def test_whitened_pools_have_unit_covariance_also_along_narrow_directions() -> None:
    rng = np.random.default_rng(1)
    pool = pooled(draws_of(0.99, (400, 3), rng), draws_of(0.99, (3,), rng))
    white = whitened(pool, 400)
    whole = torch.cat([white["residuals"][None], white["drawn"]])
    covariance = torch.einsum("sbj,sbk->bjk", whole, whole) / 401
    assert torch.allclose(covariance, torch.eye(2).double().expand(3, 2, 2), atol=1e-9)


@pytest.mark.parametrize(
    ("true", "drawn", "found"), [(0.5, 0.5, False), (0.5, 0.0, True), (-0.2, 0.3, True)]
)
def test_a_wrong_correlation_is_found_and_told(true: float, drawn: float, found: bool) -> None:
    rng = np.random.default_rng(2)
    n, s = 600, 99
    pool = pooled(draws_of(drawn, (s, n), rng), draws_of(true, (n,), rng))
    below, ties = count_products(pool)
    assert below.shape == (n, 1)
    ranks = randomised_ranks(below.numpy(), ties.numpy(), rng)
    flat = pool.draws.flatten(0, 1)
    moments = (pool.truth.T @ pool.truth / n).numpy(), (flat.T @ flat / (n * s)).numpy()
    result = assess_products(ranks, s, moments, rng)
    assert (result.p_value < 1e-6) is found
    assert result.truth == pytest.approx(true, abs=0.15)
    assert result.drawn == pytest.approx(drawn, abs=0.03)
    text = about_correlation(result, ["a", "b"])
    assert text.startswith("a and b: true values correlate by") and f"{result.truth:.2f}" in text
