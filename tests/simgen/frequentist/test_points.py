"""Maxima and information against Gaussians, counts, mixtures and two moons."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, Uniform

import simgen
from simgen.frequentist import fisher_information, maximum_a_posteriori, maximum_likelihood
from simulators.benchmarks import TwoMoons

A = torch.tensor([[1.0, 0.5, 0.0], [0.2, 1.0, -0.3], [0.0, 0.4, 1.0], [1.0, 1.0, 1.0]]).double()
SIGMA = torch.diag(torch.tensor([0.5, 1.0, 0.8, 1.5]).double()) + 0.2
INFORMATION = A.mT @ torch.linalg.inv(SIGMA) @ A
X = torch.tensor([0.7, -0.4, 0.3, 0.9]).double()
GAUSSIAN = simgen.GaussianLikelihood(A, covariance=SIGMA)
WIDE = simgen.Prior(a=Normal(0.0, 4.0), b=Uniform(-20.0, 20.0), c=Normal(1.0, 3.0))
BEST = torch.linalg.solve(INFORMATION, A.mT @ torch.linalg.solve(SIGMA, X)).numpy()


def test_maximum_likelihood_of_a_linear_gaussian_is_least_squares():
    found = maximum_likelihood(GAUSSIAN, X, WIDE)
    assert np.allclose(found.theta, BEST, atol=2e-3)
    assert np.allclose(found.covariance, np.linalg.inv(INFORMATION), rtol=1e-3, atol=1e-4)
    assert len(found.modes) == 1 and "a = " in found.headline and "±" in str(found)


def test_the_same_without_gradients_and_of_a_set_of_events():
    def numpy_only(y, theta):
        rest = np.asarray(y) - np.asarray(theta) @ A.numpy().T
        return torch.as_tensor(-0.5 * np.einsum("ni,ij,nj->n", rest, INVERSE, rest))

    found = maximum_likelihood(numpy_only, X, WIDE)
    assert np.allclose(found.theta, BEST, atol=5e-3)
    events = X + torch.randn(7, 4, generator=torch.Generator().manual_seed(0)).double()
    found = maximum_likelihood(GAUSSIAN, events, WIDE, iid=True)
    mean = A.mT @ torch.linalg.solve(SIGMA, events.mean(0))
    assert np.allclose(found.theta, torch.linalg.solve(INFORMATION, mean).numpy(), atol=2e-3)
    assert np.allclose(found.covariance, np.linalg.inv(7 * INFORMATION), rtol=1e-3, atol=1e-5)


INVERSE = np.linalg.inv(SIGMA.numpy())


def test_maximum_a_posteriori_is_the_posterior_mean_of_a_gaussian():
    prior = simgen.Prior(a=Normal(0.5, 0.4), b=Normal(0.0, 0.6), c=Normal(-1.0, 0.5))
    precision = INFORMATION + torch.diag(prior.variance.double().reciprocal())
    right = A.mT @ torch.linalg.solve(SIGMA, X) + (prior.mean / prior.variance).double()
    wanted = torch.linalg.solve(precision, right).numpy()
    found = maximum_a_posteriori(GAUSSIAN, X, prior)
    assert np.allclose(found.theta, wanted, atol=1e-3)
    assert np.allclose(found.covariance, torch.linalg.inv(precision).numpy(), rtol=1e-3, atol=1e-5)


def test_a_parameter_at_its_bound_is_held_there_and_has_no_error():
    prior = simgen.Prior(mu=Uniform(0.0, 5.0), nu=Uniform(-5.0, 5.0))
    seen = simgen.GaussianLikelihood(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), 1.0)
    found = maximum_likelihood(seen, torch.tensor([-1.0, 2.0]), prior)
    assert found.modes[0].at_bound == ("mu",)
    assert found.theta[0] < 0.01 and found.theta[1] == pytest.approx(2.0, abs=0.01)
    assert math.isnan(found.errors[0]) and found.errors[1] == pytest.approx(1.0, rel=1e-3)
    assert "mu" in found.headline.split("bound")[1]


def test_both_modes_of_two_moons_are_found():
    moons = TwoMoons()
    x = np.array([0.1, 0.05])

    def log_likelihood(y, theta):
        s = torch.stack([-(theta[:, 0] + theta[:, 1]).abs(), theta[:, 1] - theta[:, 0]], -1)
        u, v = (y - s / math.sqrt(2) - torch.tensor([0.25, 0.0])).unbind(-1)
        rho = (u.square() + v.square()).sqrt().clamp(min=1e-9)
        inside = -0.5 * ((rho - 0.1) / 0.01).square() - rho.log()
        return torch.where(u > 0, inside, -1e4 + 1e3 * u)

    found = maximum_likelihood(log_likelihood, x, moons.prior)
    assert len(found.modes) == 2
    shift = [m.theta.sum() for m in found.modes]
    assert shift[0] * shift[1] < 0  # on either side of the fold
    exact = moons.log_likelihood(x, np.stack([m.theta for m in found.modes]))
    peak = -math.log(0.01 * math.sqrt(2 * math.pi)) - math.log(math.pi * 0.1)
    assert (exact > peak - 0.1).all()


def test_a_likelihood_that_is_zero_everywhere_is_refused():
    with pytest.raises(ValueError, match="zero at all"):
        maximum_likelihood(lambda y, theta: theta[:, 0] - math.inf, X, WIDE)
    with pytest.raises(ValueError, match="prior="):
        maximum_likelihood(GAUSSIAN, X)


def test_information_of_gaussians_and_counts_in_closed_form():
    theta = np.array([0.3, -0.2, 0.5])
    found = fisher_information(GAUSSIAN, theta, names=WIDE.names)
    assert np.allclose(found.matrix, INFORMATION) and found.method == "closed form"
    assert np.allclose(found.errors**2, np.diagonal(np.linalg.inv(INFORMATION)))
    rate = torch.tensor([[2.0, 1.0], [0.0, 3.0]]).double()
    counts = simgen.PoissonLikelihood(lambda t: t @ rate.mT)
    point = torch.tensor([1.5, 2.0]).double()
    wanted = rate.mT @ torch.diag(1 / (rate @ point)) @ rate
    assert np.allclose(fisher_information(counts, point).matrix, wanted)
    spread = simgen.GaussianLikelihood(lambda t: t[:, :1], lambda t: t[:, 1:].exp())
    wanted = np.diag([math.exp(-2 * 0.3), 2.0])
    assert np.allclose(fisher_information(spread, [1.0, 0.3]).matrix, wanted)


def test_information_of_a_surrogates_draws():
    def surrogate(theta):
        return Independent(Normal(theta @ A.mT, 0.5), 1)

    found = fisher_information(surrogate, [0.1, 0.2, 0.3], n=20_000)
    wanted = (A.mT @ A / 0.25).numpy()
    assert (np.abs(found.matrix - wanted) < 4.5 * found.error).all()
    assert (found.error < 0.05 * wanted.max()).all()


@pytest.mark.parametrize("wrong", [1.0, 0.6])
def test_joint_scores_bound_the_information_whatever_the_surrogate(wrong):
    """z ~ N(theta, 1), x ~ N(z, 1): the information of x is 1/2, of z one."""
    rng = np.random.default_rng(0)
    z = 0.7 + rng.standard_normal((40_000, 1))
    rows = {"x": z + rng.standard_normal(z.shape), "joint_score": z - 0.7}
    found = fisher_information(
        lambda theta: Independent(Normal(wrong * theta, math.sqrt(2)), 1), [0.7], rows
    )
    assert found.matrix[0, 0] == pytest.approx(0.5, abs=4 * found.error[0, 0])
    assert found.upper[0, 0] == pytest.approx(1.0, abs=0.03)
    assert 0.001 < found.error[0, 0] < 0.01
    with pytest.raises(ValueError, match="other theta"):
        fisher_information(
            lambda t: Independent(Normal(t, 1.0), 1), [0.7], {**rows, "theta": z * 0}
        )


def test_the_mode_of_a_fitted_posterior():
    class Posterior:
        target, prior = ("theta",), simgen.Prior(a=Uniform(-2.0, 2.0), b=Normal(0.0, 1.0))

        def __call__(self, x):
            return Independent(Normal(torch.tensor([0.4, -0.7]), torch.tensor([0.1, 0.3])), 1)

    found = maximum_a_posteriori(Posterior(), torch.zeros(3))
    assert np.allclose(found.theta, [0.4, -0.7], atol=2e-3)
    assert np.allclose(found.errors, [0.1, 0.3], rtol=0.01)
