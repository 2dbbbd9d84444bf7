"""The sbibm tasks: likelihood, simulator and exact sampler must agree, and with public draws."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.stats import ks_2samp

from simulators.benchmarks import SLCP, TASKS, GaussianLinear, TwoMoons

DATA = Path(__file__).parents[3] / "shared" / "data" / "sbibm"
PUBLIC = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no {DATA}: the reference posteriors of sbibm 1.1.0 are not here"
)
SIZES = {"two_moons": 2, "slcp": 8, "gaussian_linear": 10, "gaussian_linear_uniform": 10}
tasks = pytest.mark.parametrize("task", TASKS)
smooth = pytest.mark.parametrize("task", [task for task in TASKS if task != "two_moons"])


@tasks
def test_a_block_is_simulated_with_named_parameters(task: str) -> None:
    simulator = TASKS[task]()
    assert simulator.names == tuple(f"theta_{i + 1}" for i in range(simulator.dim))
    theta = simulator.prior.sample((7,), seed=0).numpy()
    x = simulator(theta, seed=1)["x"]
    assert x.shape == (7, SIZES[task]) and x.dtype == np.float32
    worker = pickle.loads(pickle.dumps(simulator))
    assert "prior" not in vars(worker) and worker.names == simulator.names
    np.testing.assert_array_equal(worker(theta, seed=1)["x"], x)


@smooth
def test_the_score_of_simulations_has_mean_zero(task: str) -> None:
    """E[d log p(x | theta) / d theta] = 0."""
    simulator, rng, n = TASKS[task](), np.random.default_rng(1), 20_000
    inner = simulator.prior.sample((1,), seed=3).numpy().astype(float) * 0.5
    x = simulator.simulate(np.repeat(inner, n, 0), rng)["x"]
    for i in range(simulator.dim):
        step = np.zeros(simulator.dim)
        step[i] = 1e-4
        up, down = (simulator.log_likelihood(x, inner + s) for s in (step, -step))
        score = (up - down) / 2e-4
        assert np.isfinite(score).all()
        assert abs(score.mean()) < 4.5 * score.std() / n**0.5


@smooth
def test_likelihood_ratios_average_to_one(task: str) -> None:
    """E[p(x | b) / p(x | a)] = 1 over x ~ p(x | a)."""
    simulator, rng = TASKS[task](), np.random.default_rng(2)
    a = np.full(simulator.dim, 0.7)
    b = a + (0.02 if task == "slcp" else 0.05)
    x = simulator.simulate(np.repeat(a[None], 100_000, 0), rng)["x"]
    ratio = np.exp(simulator.log_likelihood(x, b) - simulator.log_likelihood(x, a))
    assert ratio.mean() == pytest.approx(1.0, abs=4.5 * ratio.std() / len(x) ** 0.5)


def test_two_moons_likelihood_integrates_to_one() -> None:
    """The factor 1/(pi rho), which sbibm's own likelihood leaves out, is there."""
    theta = np.array([0.3, -0.5])
    step = 0.0005
    u, v = np.meshgrid(np.arange(step / 2, 0.16, step), np.arange(-0.16 + step / 2, 0.16, step))
    x = np.stack([u + 0.25, v], -1) + TwoMoons()._shift(theta)
    total = np.exp(TwoMoons().log_likelihood(x, theta)).sum() * step**2
    # the midpoint rule is good to (step / 0.01)^2 / 24 at the ring
    assert total == pytest.approx(1.0, abs=2e-3)
    assert TwoMoons().log_likelihood(x[0, 0] - [0.1, 0.0], theta) == -np.inf


def test_slcp_likelihood_is_the_product_of_four_gaussians() -> None:
    from scipy.stats import multivariate_normal

    theta = np.array([0.5, -1.0, 1.2, -0.7, 0.4])
    y = np.random.default_rng(0).normal(size=(4, 2))
    s1, s2, rho = 1.2**2, 0.7**2, np.tanh(0.4)
    cov = np.array([[s1**2, rho * s1 * s2], [rho * s1 * s2, s2**2]]) + 1e-6 * np.eye(2)
    expected = multivariate_normal(theta[:2], cov).logpdf(y).sum()
    assert SLCP().log_likelihood(y.ravel(), theta) == pytest.approx(expected, rel=1e-10)
    draws = SLCP().simulate(np.repeat(theta[None], 50_000, 0), np.random.default_rng(1))["x"]
    np.testing.assert_allclose(np.cov(draws[:, 2:4].T), cov, atol=5 * s1**2 * (2 / 50_000) ** 0.5)


def test_the_gaussian_posterior_is_conjugate() -> None:
    x = np.linspace(-0.5, 0.5, 10)
    theta = GaussianLinear().sample_posterior(x, 40_000, np.random.default_rng(0))
    np.testing.assert_allclose(theta.mean(0), x / 2, atol=5 * (0.05 / 40_000) ** 0.5)
    np.testing.assert_allclose(theta.var(0), 0.05, rtol=5 * (2 / 40_000) ** 0.5)


@tasks
def test_exact_posteriors_rank_the_truth_uniformly(task: str) -> None:
    """Simulation-based calibration of the exact sampler: 320 truths, 15 draws each."""
    simulator, rng = TASKS[task](), np.random.default_rng(4)
    truth = simulator.prior.sample((320,), seed=5).numpy()
    x = simulator(truth, seed=6)["x"]
    draws = np.stack([simulator.sample_posterior(row, 15, rng) for row in x], 1)
    rank = (draws < truth).sum(0)
    for column in rank.T:
        counts = np.bincount(column, minlength=16)
        # chi^2 of 15 degrees of freedom: above 45 with probability 8e-5
        assert ((counts - 20) ** 2 / 20).sum() < 45


def test_an_impossible_observation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0 of .* trial draws fell inside the prior's box"):
        TwoMoons().sample_posterior(np.array([9.0, 9.0]), 10, np.random.default_rng(0))


@PUBLIC
@tasks
def test_exact_samplers_agree_with_the_public_reference_posteriors(task: str) -> None:
    simulator, rng = TASKS[task](), np.random.default_rng(7)
    with h5py.File(DATA / f"{task}.h5") as file:
        observations, references = file["observation"][:], file["reference_posterior"][:]
    n = 2_000
    for x, reference in zip(observations, references):
        theta = simulator.sample_posterior(x, n, rng)
        likelihoods = [simulator.log_likelihood(x, t)[:, None] for t in (theta, reference)]
        ours, theirs = (np.hstack(pair) for pair in zip((theta, reference), likelihoods))
        for a, b in zip(ours.T, theirs.T):
            # up to 110 comparisons: the smallest p-value is below 1e-5 once in 900 times
            assert ks_2samp(a, b).pvalue > 1e-5


@PUBLIC
def test_two_moons_reference_refutes_the_likelihood_without_its_jacobian() -> None:
    """Without 1 / rho, the posterior's ring would be denser on its outside."""
    with h5py.File(DATA / "two_moons.h5") as file:
        x, theta = file["observation"][0], file["reference_posterior"][0].astype(float)
    u, v = (x - TwoMoons()._shift(theta) - [0.25, 0.0]).T
    radius = np.hypot(u, v)
    # uniform in theta is uniform in area: N(rho; 0.1, 0.01) / rho d(area) has mean 0.1, without
    # the Jacobian the mean is 0.1 + 0.01^2 / 0.1 = 0.101; the standard error is 1e-4
    assert radius.mean() == pytest.approx(0.1, abs=4e-4)
