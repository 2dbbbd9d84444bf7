import numpy as np
import pytest
import torch
from scipy.stats import truncnorm
from torch.distributions import Independent, Normal

from studies.pythia.posterior import GAPS, SurrogatePosterior, augment, spread
from studies.pythia.trend import ALPHAS, Means, growth

EVENTS, SD = 50, 0.03


def gaussian(theta):
    """Events whose first shape is N(alpha_s, SD^2), the others uninformed but spread."""
    loc = torch.cat([theta, torch.zeros(len(theta), 2)], -1)[:, None].expand(-1, EVENTS, -1)
    return Independent(Normal(loc, torch.tensor([SD, 5.0, 5.0])), 2)


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(0)
    theta = rng.uniform(0.10, 0.14, (40, 1))
    x = np.stack([theta + SD * rng.standard_normal((40, EVENTS)), *np.zeros((2, 40, EVENTS))], -1)
    return theta, x


def test_the_posterior_by_a_surrogate_is_the_exact_one(sets):
    """Of a Gaussian surrogate: a normal distribution cut to the prior."""
    _, x = sets
    mean, sd = x[..., 0].mean(1), SD / EVENTS**0.5
    exact = truncnorm((0.10 - mean) / sd, (0.14 - mean) / sd, mean, sd)
    posterior = SurrogatePosterior(gaussian)
    grid = posterior.grid(x)
    np.testing.assert_allclose(grid.mean[:, 0], exact.mean(), atol=1e-6)
    np.testing.assert_allclose(grid.sd[:, 0], exact.std(), rtol=1e-3)
    q = posterior(x)
    assert q.batch_shape == (40,) and q.event_shape == (1,)
    value = np.linspace(0.1001, 0.1399, 20)
    log_q = q.log_prob(torch.tensor(np.tile(value[:, None, None], (1, 40, 1))))
    # constant in each cell of 1e-4: half of one is 5e-5, the slope up to 2,200
    np.testing.assert_allclose(log_q, exact.logpdf(value[:, None]), atol=0.15)
    one = posterior(x[0]).sample((4000,))
    assert one.shape == (4000, 1) and abs(float(one.mean()) - exact.mean()[0]) < 4 * sd / 4000**0.5


def test_noise_fills_the_gaps_and_no_more(sets):
    rng = np.random.default_rng(1)
    x = np.stack([rng.random(5000), rng.integers(0, 5, 5000), 2 * rng.integers(1, 9, 5000)], -1)
    noisy = spread(x, np.random.default_rng(2))
    np.testing.assert_array_equal(noisy[:, 0], x[:, 0])
    np.testing.assert_array_equal(np.round(noisy[:, 1]), x[:, 1])
    np.testing.assert_array_equal(2 * np.round(noisy[:, 2] / 2), x[:, 2])
    assert np.ptp((noisy - x)[:, 2]) > 1.99
    batch = {"x": torch.tensor(x, dtype=torch.float32), "theta": torch.zeros(5000, 1)}
    out = augment(batch, np.random.default_rng(2))
    np.testing.assert_allclose(out["x"], noisy, rtol=1e-6)
    assert out["theta"] is batch["theta"] and len(GAPS) == 3


def test_growth_of_a_power_law():
    """Known exponents, and errors that are right: pulls of unit variance."""
    rng, b = np.random.default_rng(3), np.array([1.3, 0.4, 0.0])
    exact = np.array([0.05, 2.3, 20.0]) * (ALPHAS[:, None] / 0.12) ** b
    error = 0.01 * exact
    level, slope, _ = growth(Means(exact, error))
    np.testing.assert_allclose(level, exact[2], rtol=1e-12)
    np.testing.assert_allclose(slope, b, atol=1e-12)
    pulls = []
    for _ in range(400):
        _, slope, sd = growth(Means(exact + error * rng.standard_normal(exact.shape), error))
        pulls.append((slope - b) / sd)
    pulls = np.array(pulls)
    assert (np.abs(pulls.mean(0)) < 0.25).all() and (np.abs(pulls.std(0) - 1) < 0.15).all()
