"""Profiles against parabolas, counts with a background, mixtures."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch.distributions import Normal, Uniform

import simgen
from simgen.frequentist import profile

A = torch.tensor([[1.0, 0.5], [0.2, 1.0], [1.0, 1.0]]).double()
X = torch.tensor([0.7, -0.4, 0.3]).double()
GAUSSIAN = simgen.GaussianLikelihood(A, 0.5)
COVARIANCE = np.linalg.inv(4 * (A.mT @ A).numpy())
BEST = np.linalg.lstsq(A.numpy(), X.numpy(), rcond=None)[0]
WIDE = simgen.Prior(a=Uniform(-6.0, 6.0), b=Normal(0.0, 3.0))


@pytest.mark.parametrize("i", [0, 1])
def test_profile_of_a_linear_gaussian_is_a_parabola(i):
    found = profile(GAUSSIAN, X, "ab"[i], WIDE)
    sd = math.sqrt(COVARIANCE[i, i])
    wanted = ((found.axes[0] - BEST[i]) / sd) ** 2
    near = wanted < 30
    assert np.allclose(found.statistic[near], wanted[near], atol=1e-3)
    for level, k in ((0.6827, 1.0), (0.9545, 2.0)):
        ((low, high),) = found.interval(level)
        assert low == pytest.approx(BEST[i] - k * sd, abs=2e-3 * sd)
        assert high == pytest.approx(BEST[i] + k * sd, abs=2e-3 * sd)
    j = 1 - i
    line = BEST[j] + COVARIANCE[i, j] / COVARIANCE[i, i] * (found.axes[0] - BEST[i])
    assert np.allclose(found.nuisance[near][:, j], line[near], atol=5e-3)
    assert "profiled" in found.headline and "approximation" in found.headline


def test_marginal_likelihood_of_a_linear_gaussian():
    """nu ~ N(0, 3) makes the data Gaussian with a wider covariance."""
    found = profile(GAUSSIAN, X, "a", WIDE, nuisance="marginalise")
    wide = 0.25 * torch.eye(3).double() + 9 * torch.outer(A[:, 1], A[:, 1])
    precision = A[:, 0] @ torch.linalg.solve(wide, A[:, 0])
    best = A[:, 0] @ torch.linalg.solve(wide, X) / precision
    wanted = precision.numpy() * (found.axes[0] - best.numpy()) ** 2
    near = wanted < 4.5
    assert np.abs(found.statistic[near] - wanted[near]).max() < 0.3
    assert found.treatment == "marginalised" and found.nuisance is None


def test_two_parameters():
    prior = simgen.Prior(a=Uniform(-6.0, 6.0), b=Normal(0.0, 3.0), c=Normal(0.0, 1.0))
    seen = simgen.GaussianLikelihood(
        torch.cat([A, torch.zeros(3, 1)], 1), 0.5
    )  # of c data know nothing
    found = profile(seen, X, ("a", "b"), prior, points=15)
    a, b = np.meshgrid(*found.axes, indexing="ij")
    rest = np.stack([a, b], -1) - BEST
    wanted = np.einsum("ghi,ij,ghj->gh", rest, np.linalg.inv(COVARIANCE), rest)
    shift = wanted.min()  # the best point is one of the grid
    assert np.allclose(found.statistic, wanted - shift, atol=2e-3)
    assert found.threshold(0.95) == pytest.approx(5.991, abs=1e-3)
    assert found.region(0.95).sum() > found.region(0.68).sum() > 3
    assert found.plot(posterior=np.random.default_rng(0).normal(BEST, 0.3, (500, 2))).axes
    with pytest.raises(ValueError, match="region"):
        found.interval()


def test_counts_with_a_background_that_is_measured_beside():
    """n ~ Poisson(s + b), m ~ Poisson(3 b): the on-off problem, whose profile is written down."""
    n, m, tau = 12, 15, 3.0
    prior = simgen.Prior(s=Uniform(0.0, 40.0), b=Uniform(0.1, 30.0))
    seen = simgen.PoissonLikelihood(lambda s, b: torch.cat([s + b, tau * b], -1))
    found = profile(seen, torch.tensor([n, m]), "s", prior)

    def log_likelihood(s):
        # db: n/(s+b) - 1 + m/b - tau = 0
        p, q, r = 1 + tau, (1 + tau) * s - n - m, -m * s
        b = (-q + math.sqrt(q * q - 4 * p * r)) / (2 * p)
        return n * math.log(s + b) - s - b + m * math.log(tau * b) - tau * b

    top = log_likelihood(n - m / tau)
    assert found.best[0] == pytest.approx(n - m / tau, abs=0.02)
    low = brentq(lambda s: 2 * (top - log_likelihood(s)) - 1, 0.01, 7)
    high = brentq(lambda s: 2 * (top - log_likelihood(s)) - 1, 7, 30)
    ((a, b),) = found.interval(0.6827)
    assert (a, b) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_two_peaks_have_two_intervals():
    prior = simgen.Prior(theta=Uniform(-3.0, 3.0))
    found = profile(
        simgen.GaussianLikelihood(lambda t: t**2, 0.3), torch.tensor([1.5]), "theta", prior
    )
    (a, b), (c, d) = found.interval(0.6827)
    ends = np.sqrt([1.2, 1.8])
    assert np.allclose([-b, -a], ends, atol=2e-3) and np.allclose([c, d], ends, atol=2e-3)
    assert found.plot(truth=[1.2]).axes and " and " in found.headline


def test_an_interval_ends_at_the_bound():
    prior = simgen.Prior(mu=Uniform(0.0, 5.0))
    found = profile(
        simgen.GaussianLikelihood(torch.eye(1), 1.0), torch.tensor([-0.5]), "mu", prior
    )
    ((low, high),) = found.interval(0.6827)
    assert low == 0.0 and high == pytest.approx(-0.5 + math.sqrt(1.25), abs=2e-3)


def test_names_are_checked():
    with pytest.raises(ValueError, match="no parameter 'z'; there are: a, b"):
        profile(GAUSSIAN, X, "z", WIDE)
    with pytest.raises(ValueError, match="nuisance"):
        profile(GAUSSIAN, X, "a", WIDE, nuisance="ignore")
