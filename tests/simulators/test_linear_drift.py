"""The linear twin: Kalman's filter against one dense Gaussian, and what follows from it."""

import numpy as np
import pytest
from scipy.stats import kstest, multivariate_normal

from simulators.linear_drift import LinearDrift

THETA = np.array([0.4, 2.5])


def dense(simulator, theta):
    """Mean and covariance of x, from x as a linear map of independent noises."""
    gamma, omega = theta
    A = np.array([[-gamma, -omega], [omega, -gamma]]) * simulator.dt
    M = np.eye(2) + A
    if simulator.solver == "rk4":
        M += A @ A / 2 + A @ A @ A / 6 + A @ A @ A @ A / 24
    length = 1 + simulator.burn_in + simulator.steps
    mean, maps = [np.array(simulator.start_mean)], [np.zeros((2, 2 * length))]
    maps[0][:, :2] = np.linalg.cholesky(np.array(simulator.start_covariance))
    for i in range(1, length):
        step = M @ maps[-1]
        step[:, 2 * i : 2 * i + 2] += simulator.diffusion * simulator.dt**0.5 * np.eye(2)
        mean.append(M @ mean[-1])
        maps.append(step)
    seen = slice(simulator.burn_in, None, simulator.every)
    G, m = np.concatenate(maps[seen]), np.concatenate(mean[seen])
    return m, G @ G.T + simulator.sd**2 * np.eye(len(m))


@pytest.mark.parametrize("solver", ["euler", "rk4"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"every": 1, "sd": 0.0}, {"sd": 0.0}, {"every": 7, "burn_in": 11}, {"diffusion": 2.0}],
    ids=str,
)
def test_the_filter_is_the_dense_gaussian(solver, settings):
    simulator = LinearDrift(**{"solver": solver, "steps": 30, **settings})
    theta = np.array([[0.4, 2.5], [0.1, 1.0], [1.1, 4.0]])
    x = simulator.simulate(theta, np.random.default_rng(0))["x"]
    value = simulator.log_likelihood(x[:, None], theta)
    for j, at in enumerate(theta):
        expected = multivariate_normal(*dense(simulator, at)).logpdf(x.reshape(3, -1))
        np.testing.assert_allclose(value[:, j], expected, rtol=1e-9, atol=1e-9)


def test_simulations_have_that_mean_and_covariance():
    n, simulator = 20_000, LinearDrift(steps=12, burn_in=3)
    x = simulator.simulate(np.tile(THETA, (n, 1)), np.random.default_rng(1))["x"].reshape(n, -1)
    mean, covariance = dense(simulator, THETA)
    top = covariance.max()
    np.testing.assert_allclose(x.mean(0), mean, atol=4.5 * (top / n) ** 0.5)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=4.5 * top * (2 / n) ** 0.5)


def test_the_score_is_the_gradient():
    simulator = LinearDrift()
    theta = simulator.prior.sample((20,), seed=0).double().numpy()
    x = simulator.simulate(theta, np.random.default_rng(2))["x"]
    score = simulator.score(x, theta)
    for i in range(2):
        step = np.eye(2)[i] * 1e-4
        a, b = (simulator.log_likelihood(x, theta + s * step) for s in (1, -1))
        np.testing.assert_allclose((a - b) / 2e-4, score[:, i], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("every, sd", [(4, 0.3), (10, 1.0)])
def test_the_joint_score_given_x_averages_to_the_score(every, sd):
    """E[t | x] = score(x): the rest is uncorrelated with the score and with functions of x."""
    n, simulator = 20_000, LinearDrift(steps=60, every=every, sd=sd, record=["joint_score"])
    fields = simulator.simulate(np.tile(THETA, (n, 1)), np.random.default_rng(3))
    x, t = fields["x"], fields["joint_score"]
    score = simulator.score(x, np.tile(THETA, (n, 1)))
    assert (t.var(0) > 1.1 * score.var(0)).all()  # there is something to average
    functions = [score, x[:, 2], x[:, -1] ** 2, x[:, 1] * x[:, 2], np.sin(x[:, 3])]
    for h in np.concatenate(functions, -1).T:
        products = (t - score) * (h - h.mean())[:, None]
        assert (np.abs(products.mean(0)) < 4.5 * products.std(0) / n**0.5).all()
    slope = [np.polyfit(score[:, i], t[:, i], 1)[0] for i in range(2)]
    error = [((t - score)[:, i].std() / score[:, i].std()) / n**0.5 for i in range(2)]
    assert (np.abs(np.array(slope) - 1) < 4 * np.array(error)).all()


def test_the_exact_posterior_ranks_the_truth_uniformly():
    simulator = LinearDrift(steps=100, record=[])
    truth = simulator.prior.sample((150,), seed=4).double().numpy()
    x = simulator.simulate(truth, np.random.default_rng(5))["x"]
    posterior = simulator.exact_posterior(x, points=30)
    assert posterior.mean.shape == posterior.sd.shape == (150, 2)
    below = (posterior.sample(200, seed=6) < truth).mean(0)
    for i in range(2):
        assert kstest(below[:, i], "uniform").pvalue > 1e-3
    assert (posterior.sd.mean(0) < 0.7 * np.array([1.0, 3.0]) / 12**0.5).all()


def test_the_evidence_averages_the_likelihood_over_the_prior():
    simulator = LinearDrift(steps=20, record=[])
    x = simulator([THETA], seed=0)["x"][0]
    draws = simulator.prior.sample((20_000,), seed=7).double().numpy()
    likelihood = np.exp(simulator.log_likelihood(x, draws))
    error = likelihood.std() / len(draws) ** 0.5
    assert abs(np.exp(simulator.exact_posterior(x).log_evidence) - likelihood.mean()) < 4 * error


def test_paths_stay_bounded_all_over_the_prior():
    """The default step is stable: no noise is amplified."""
    simulator = LinearDrift(record=[])
    theta = simulator.prior.sample((2000,), seed=8).double().numpy()
    x = simulator.simulate(theta, np.random.default_rng(9))["x"]
    assert np.abs(x).max() < 10
