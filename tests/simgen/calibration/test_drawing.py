import numpy as np
import pytest
import torch
from torch.distributions import (
    Distribution,
    Independent,
    LogNormal,
    MultivariateNormal,
    Normal,
    Uniform,
)

from simgen.calibration.drawing import draw

N, S = 70, 40
rng = np.random.default_rng(0)
THETA = rng.standard_normal((N, 2)).astype(np.float32)
X = (THETA + rng.standard_normal((N, 2))).astype(np.float32)
WEIGHT = torch.tensor([[0.5, 0.1], [0.0, 0.5]])


def batched(x: torch.Tensor) -> Distribution:
    return MultivariateNormal(x @ WEIGHT.mT, 0.5 * torch.eye(2))


def not_independent(x: torch.Tensor) -> Distribution:
    return Normal(x @ WEIGHT.mT, 0.5**0.5)


def one_at_a_time(x: torch.Tensor) -> Distribution:
    assert x.shape == (2,)
    return MultivariateNormal(WEIGHT @ x, 0.5 * torch.eye(2))


def with_a_batch_of_one(x: torch.Tensor) -> Distribution:
    return batched(x.reshape(1, 2))


@pytest.mark.parametrize("q", [batched, not_independent, one_at_a_time, with_a_batch_of_one])
def test_every_kind_of_callable_is_the_same_distribution(q) -> None:
    parts = list(draw(q, THETA, {"x": X}, S, 0))
    theta = torch.cat([p.draws for p in parts], 1)
    log_q = torch.cat([p.log_q for p in parts], 1)
    truth = torch.cat([p.log_q_truth for p in parts])
    assert theta.shape == (S, N, 2)
    exact = batched(torch.as_tensor(X))
    assert torch.allclose(log_q, exact.log_prob(theta), atol=1e-4)
    assert torch.allclose(truth, exact.log_prob(torch.as_tensor(THETA)), atol=1e-4)
    z = (theta - exact.mean) / 0.5**0.5
    assert abs(z.mean()) < 4 / (S * N * 2) ** 0.5 and abs(z.std() - 1) < 0.05


def test_one_column_in_every_shape() -> None:
    theta, x = THETA[:, :1], X[:, :1]
    for q in (
        lambda x: Normal(x[..., 0], 1.0),
        lambda x: Normal(x, 1.0),
        lambda x: Independent(Normal(x, 1.0), 1),
    ):
        (part,) = draw(q, theta, {"x": x}, S, 0)
        assert part.draws.shape == (S, N, 1) and part.log_q.shape == (S, N)
        assert part.log_q_truth.shape == (N,)


def test_a_distribution_that_ignores_x_is_asked_row_by_row() -> None:
    prior = MultivariateNormal(torch.zeros(2), torch.eye(2))
    (part,) = draw(lambda x: prior, THETA, {"x": X}, S, 0)
    assert part.draws.shape == (S, N, 2)
    assert len(torch.unique(part.draws[..., 0])) == S * N


def test_truth_outside_the_support_has_no_density() -> None:
    low, high = torch.zeros(N, 2), torch.ones(N, 2)
    box = Independent(Uniform(low, high, validate_args=True), 1)
    (part,) = draw(lambda x: box, THETA, {"x": X}, S, 0)
    outside = ((THETA < 0) | (THETA > 1)).any(1)
    assert np.array_equal(np.isneginf(part.log_q_truth.numpy()), outside)
    assert box.base_dist._validate_args  # as it was
    positive = Independent(LogNormal(low, high, validate_args=True), 1)
    (part,) = draw(lambda x: positive, THETA, {"x": X}, S, 0)
    assert np.array_equal(np.isneginf(part.log_q_truth.numpy()), (THETA < 0).any(1))


def test_several_given_fields_go_by_name_and_none_by_nothing() -> None:
    q = lambda a, b: Independent(Normal(a + b, 1.0), 1)  # noqa: E731
    (part,) = draw(q, THETA, {"b": X, "a": X}, S, 0)
    assert abs((part.draws - 2 * torch.as_tensor(X)).mean()) < 0.1
    (part,) = draw(lambda: Independent(Normal(torch.zeros(2), 1.0), 1), THETA, {}, S, 0)
    assert part.draws.shape == (S, N, 2) and part.log_q.shape == (S, N)
    assert part.log_q_truth.shape == (N,)


def test_draws_repeat_with_the_seed() -> None:
    first, again, other = (
        next(iter(draw(batched, THETA, {"x": X}, S, seed))).draws for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_wrong_event_shape_is_named() -> None:
    q = lambda x: Independent(Normal(torch.zeros(len(x), 3), 1.0), 1)  # noqa: E731
    with pytest.raises(ValueError, match=r"event shape \(2,\).*\(3,\)"):
        list(draw(q, THETA, {"x": X}, S, 0))
    with pytest.raises(TypeError, match="torch Distribution; it returned Tensor"):
        list(draw(lambda x: x, THETA, {"x": X}, S, 0))
