"""Joint models: every conditional of a Gaussian, whole, partial and marginal, by closed form."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal

import simgen
from simgen import Conditional, Dataset, Prior
from simgen.models import VAE, Diffusion, Flow

A = np.array([[1.0, 0.5], [0.0, 1.0], [1.0, -1.0]])
NOISE = 0.5


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(4_000, 2))
    x = theta @ A.T + NOISE * rng.normal(size=(4_000, 3))
    x[:, 1] = 2.0 * x[:, 1] + 10.0  # another unit
    prior = Prior(a=Normal(0.0, 1.0), b=Normal(0.0, 1.0))
    return Dataset.create(tmp_path_factory.mktemp("joint") / "d", theta=theta, x=x, prior=prior)


@pytest.fixture(scope="module", params=["mlp", "tokens"])
def joint(dataset, request) -> Conditional:
    model = Diffusion(network=request.param, hidden=32, blocks=2)
    return simgen.fit(
        "theta, x", dataset, model, max_epochs=40, learning_rate=3e-3, seed=0, progress=False
    )


def exact(observed: np.ndarray, kept: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of theta given some entries of x."""
    scale, offset = np.array([1.0, 2.0, 1.0]), np.array([0.0, 10.0, 0.0])
    y, a = ((observed - offset) / scale)[kept], A[kept]
    covariance = np.linalg.inv(np.eye(2) + a.T @ a / NOISE**2)
    return covariance @ a.T @ y / NOISE**2, covariance


OBSERVED = np.array([[0.8, 11.0, -0.3], [-0.5, 8.5, 0.9]])


@pytest.mark.parametrize("kept", [[0, 1, 2], [0, 2], [1]])
def test_posterior_given_all_or_a_part_of_x(joint, kept) -> None:
    posterior = joint.condition("theta | x")
    x = np.full_like(OBSERVED, np.nan)
    x[:, kept] = OBSERVED[:, kept]
    draws = posterior(x).sample((4_000,), seed=0).numpy()
    for i in range(2):
        mean, covariance = exact(OBSERVED[i], kept)
        sd = np.sqrt(covariance.diagonal())
        # one mask in a hundred is as partial: learned last, but far from ignored
        assert (np.abs(draws[:, i].mean(0) - mean) < (0.25 if len(kept) == 3 else 0.5) * sd).all()
        assert (np.abs(draws[:, i].std(0) / sd - 1) < (0.25 if len(kept) == 3 else 0.5)).all()


def test_likelihood_and_marginals_of_single_parameters(joint) -> None:
    theta = np.array([[0.5, -1.0]])
    x = joint.condition("x | theta")(theta).sample((4_000,), seed=1)[:, 0].numpy()
    wanted = theta[0] @ A.T * [1, 2, 1] + [0, 10, 0]
    sd = NOISE * np.array([1, 2, 1])
    assert (np.abs(x.mean(0) - wanted) < 0.3 * sd).all()
    assert (np.abs(x.std(0) / sd - 1) < 0.25).all()
    one = joint.condition("a | x, b")
    assert one.names == ("a",) and one.given == ("x", "b")
    draws = one(x=OBSERVED[0], b=np.array(0.3)).sample((4_000,), seed=2).numpy()
    mean, covariance = exact(OBSERVED[0], [0, 1, 2])
    gain = covariance[0, 1] / covariance[1, 1]
    sd = np.sqrt(covariance[0, 0] - gain * covariance[0, 1])
    assert abs(draws.mean() - mean[0] - gain * (0.3 - mean[1])) < 0.3 * sd
    marginal = joint.condition("b | x")
    draws = marginal(OBSERVED[0]).sample((4_000,), seed=3).numpy()
    assert abs(draws.mean() - mean[1]) < 0.25 * covariance[1, 1] ** 0.5
    assert marginal(OBSERVED[0]).density is None  # b alone would need an integral over a


def test_density_is_that_of_the_conditional(joint) -> None:
    q = joint.condition("theta | x")(OBSERVED[0])
    mean, covariance = exact(OBSERVED[0], [0, 1, 2])
    p = torch.distributions.MultivariateNormal(
        torch.tensor(mean).float(), torch.tensor(covariance).float()
    )
    theta = p.sample((200,))
    assert q.density == "ode"
    divergence = float((p.log_prob(theta) - q.log_prob(theta)).mean())
    assert -0.05 < divergence < 0.2
    with pytest.raises(ValueError, match="NaN"):
        joint.condition("theta | x")(np.array([0.0, np.nan, 1.0])).log_prob(theta)


def test_a_condition_survives_its_file(joint, tmp_path) -> None:
    posterior = joint.condition("theta | x")
    posterior.save(tmp_path / "p.safetensors")
    loaded = simgen.load(tmp_path / "p.safetensors")
    assert loaded.expression == "theta | x"
    torch.testing.assert_close(
        loaded(OBSERVED).sample((5,), seed=0), posterior(OBSERVED).sample((5,), seed=0)
    )


def test_what_cannot_be_conditioned_says_so(joint, dataset) -> None:
    for family in (Flow(transforms=1), VAE(width=8, blocks=0)):
        together = simgen.fit("theta, x", dataset, family, max_epochs=1, progress=False)
        with pytest.raises(ValueError, match="is no joint model"):
            together.condition("theta | x")
    with pytest.raises(ValueError, match="no field 'y'"):
        joint.condition("theta | y")
    with pytest.raises(ValueError, match="a column of theta"):
        joint.condition("theta | x, a")
