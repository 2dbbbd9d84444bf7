"""Calibrated tests against closed forms: at a bound, with counts, with two peaks, by Waldo."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2, norm
from torch.distributions import Independent, Normal, Uniform

import simgen
from simgen.frequentist import calibrate_test, check_coverage, confidence_set
from simgen.frequentist.coverage import coverage_of
from simgen.frequentist.quantiles import learn_quantiles
from simulators.benchmarks import TwoMoons

BOUNDED = simgen.Prior(mu=Uniform(0.0, 6.0))
MEAN = simgen.GaussianLikelihood(torch.eye(1), 1.0)


def pairs(prior, simulate, n, seed=0):
    theta = prior.sample((n,), seed=seed).numpy().astype(float)
    return {"theta": theta, "x": simulate(theta, np.random.default_rng(seed))}


def gaussian(theta, rng):
    return theta[:, :1] + rng.standard_normal((len(theta), 1))


@pytest.fixture(scope="module")
def bounded():
    return calibrate_test(MEAN, pairs(BOUNDED, gaussian, 5_000), prior=BOUNDED)


def exact_p(x, mu):
    """Of the likelihood ratio of a mean that is not negative (Feldman & Cousins)."""
    root = np.abs(x - mu) if x >= 0 else np.sqrt(np.maximum(mu**2 - 2 * x * mu, 0))
    low = np.where(root <= mu, mu - root, (mu**2 - root**2) / (2 * np.maximum(mu, 1e-9)))
    return norm.sf(root) + norm.cdf(low - mu)


@pytest.mark.parametrize("x", [-1.0, 0.3, 2.0])
def test_p_values_of_a_bounded_mean_are_those_of_feldman_and_cousins(bounded, x):
    mu = np.linspace(0.3, 4.0, 60)  # below, t changes faster than pairs can tell
    found = bounded.p_value([x], mu[:, None]).numpy()
    assert np.abs(found - exact_p(x, mu)).max() < 0.1
    assert np.abs(found - exact_p(x, mu)).mean() < 0.03


def test_set_of_a_bounded_mean_where_wilks_is_wrong(bounded):
    found = confidence_set(bounded, [-1.0])
    ((low, high),) = found.interval(0.9)
    assert low == 0.0 and high == pytest.approx(0.81, abs=0.1)  # Feldman & Cousins, table X
    x = 0.3 + np.random.default_rng(5).standard_normal((2_000, 1))
    p = bounded.p_value(x, np.full((2_000, 1), 0.3)).numpy()
    t = (x[:, 0] - 0.3) ** 2 - np.minimum(x[:, 0], 0) ** 2
    wilks = (t <= chi2.ppf(0.68, 1)).mean()
    assert wilks > 0.77 and (p >= 0.32).mean() == pytest.approx(0.68, abs=0.06)
    assert bounded.critical([[0.3]], 0.68)[0] == pytest.approx(0.648, abs=0.15)
    assert bounded.critical([[3.0]], 0.68)[0] == pytest.approx(chi2.ppf(0.68, 1), abs=0.15)
    assert found.plot(truth=[0.2]).axes and "68 %" in found.headline


def test_coverage_of_a_bounded_mean(bounded):
    mu = np.linspace(0.6, 5.4, 12)[:, None]
    x = mu[:, None] + np.random.default_rng(6).standard_normal((12, 600, 1))
    found = check_coverage(bounded, {"theta": mu, "x": x})
    # 3 sigma of 600 trials and of the neighbours among 5,000 pairs
    assert (np.abs(found.share - [0.68, 0.95]) < [0.1, 0.05]).all(), str(found)
    assert found.trials.tolist() == [600] * 12
    binned = check_coverage(bounded, pairs(BOUNDED, gaussian, 2_000, seed=7))
    assert binned.passed and len(binned.trials) == 10
    assert {r["level"] for r in binned.rows()} == {0.68, 0.95}
    assert found.plot().axes and "binomial band" in binned.headline
    with pytest.raises(ValueError, match="calibrated on these"):
        check_coverage(bounded, pairs(BOUNDED, gaussian, 5_000))


def test_bands_fail_wrong_coverage_and_pass_right_coverage():
    rng = np.random.default_rng(0)
    right = [
        coverage_of(rng.random((200, 400)), np.zeros((200, 1)), "t", (0.68, 0.95))
        for _ in range(20)
    ]
    assert sum(c.passed for c in right) >= 17
    p = rng.random((200, 400))
    p[7] = p[7] ** 1.6  # sets that hold the truth too rarely at one point
    wrong = coverage_of(p, np.zeros((200, 1)), "t", (0.68, 0.95))
    assert not wrong.passed and not wrong.valid and "too low at 1" in wrong.headline
    large = coverage_of(p[:5] ** 0.5, np.zeros((5, 1)), "t", (0.68,))
    assert large.valid and not large.passed


def test_quantiles_by_place_with_a_value_of_its_own():
    """t = 0 with probability 1/2, else an exponential whose scale grows with v."""
    generator = torch.Generator().manual_seed(0)
    v = torch.rand(8_000, 2, generator=generator).double() * 2 - 1
    e = -torch.rand(8_000, generator=generator).double().log() * (1.5 + v[:, 0])
    t = torch.where(torch.rand(8_000, generator=generator) < 0.5, 0.0, e)
    found = learn_quantiles(t, v)
    at = torch.tensor([[-0.6, 0.0], [0.0, 0.5], [0.9, -0.9]]).double()
    scale = 1.5 + at[:, 0]
    assert torch.allclose(found.p_value(torch.zeros(3).double(), at), torch.ones(3).double())
    wanted = 0.5 * torch.exp(-1 / scale)
    assert torch.allclose(found.p_value(torch.ones(3).double(), at), wanted, atol=0.06)
    assert torch.allclose(found.critical(0.9, at), -scale * math.log(0.2), rtol=0.25)
    assert (found.critical(0.4, at) == 0).all()
    assert found.neighbours < 4_000  # theta matters
    flat = learn_quantiles(torch.rand(4_000, generator=generator).double(), v[:4_000])
    assert flat.neighbours > found.neighbours / 4


@pytest.fixture(scope="module")
def counts():
    prior = simgen.Prior(s=Uniform(0.0, 20.0), b=Uniform(1.0, 10.0))
    seen = simgen.PoissonLikelihood(lambda s, b: torch.cat([s + b, 2 * b], -1))
    return prior, seen


def on_off(theta, rng):
    return rng.poisson(np.stack([theta.sum(1), 2 * theta[:, 1]], 1)).astype(float)


@pytest.mark.parametrize("nuisance", ["hybrid", "conservative"])
def test_counts_with_a_background_are_covered(counts, nuisance):
    prior, seen = counts
    test = calibrate_test(seen, pairs(prior, on_off, 2_000), "s", prior, nuisance=nuisance)
    assert nuisance in test.headline
    r, shares = 200, []
    for s, b in ((0.0, 3.0), (2.0, 6.0), (12.0, 4.0)):
        x = on_off(np.tile([s, b], (r, 1)), np.random.default_rng(3))
        p = test.p_value(x, np.full((r, 1), s)).numpy()
        shares.append([(p >= 0.32).mean(), (p >= 0.05).mean()])
    low, high = np.min(shares, 0), np.max(shares, 0)
    assert (low > [0.57, 0.89]).all()  # 3 sigma of 200 trials, and of the pairs
    if nuisance == "hybrid":
        assert (high < [0.82, 1.0]).all()  # counts are discrete
    found = confidence_set(test, [9.0, 8.0], points=21)
    ((a, b),) = found.interval(0.68)
    assert a < 5.0 < b and 1.5 < b - a < 12


def test_two_peaks_have_a_set_in_two_parts():
    prior = simgen.Prior(theta=Uniform(-3.0, 3.0))
    seen = simgen.GaussianLikelihood(lambda t: t**2, 0.3)
    data = pairs(prior, lambda t, rng: t**2 + 0.3 * rng.standard_normal(t.shape), 1_500)
    found = confidence_set(calibrate_test(seen, data, prior=prior), [4.0])
    assert found.parts(0.68) == 2
    (a, b), (c, d) = found.interval(0.6827)
    ends = np.sqrt([3.7, 4.3])
    assert np.allclose([c, d], ends, atol=0.02) and np.allclose([-b, -a], ends, atol=0.02)


class Known:
    """A conditional that is known: theta to x, or x to theta."""

    provenance = None

    def __init__(self, expression, function, prior):
        self.expression, self.function, self.prior = expression, function, prior
        self.target, self.given = ((side.strip(),) for side in expression.split("|"))

    def __call__(self, value):
        return self.function(torch.as_tensor(value).double())


class Seeded(Independent):
    def sample(self, shape=(), seed=None):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return super().sample(shape)


def test_waldo_of_a_posterior_is_the_distance_in_its_units():
    prior = simgen.Prior(a=Normal(0.0, 1.0), b=Normal(0.0, 1.0))
    posterior = Known("theta | x", lambda x: Seeded(Normal(x / 2, math.sqrt(0.5)), 1), prior)
    data = pairs(prior, lambda t, rng: t + rng.standard_normal(t.shape), 2_000)
    test = calibrate_test(posterior, data, "a")
    x, a = torch.tensor([[0.8, -0.3]]), torch.tensor([[1.1], [-0.5]]).double()
    t, at = test.statistic(x, a, torch.zeros(2).long())
    assert torch.allclose(t, ((a - 0.4).square() / 0.5)[:, 0], rtol=0.25, atol=0.05)
    assert torch.allclose(at[:, 1], torch.tensor([-0.15]).double(), atol=0.1)
    # x | a ~ N(a, 1), so x / 2 - a ~ N(-a / 2, 1/4): of its own distribution at each a
    exact = [_far(0.5 * root, a_) for root, a_ in zip(t.sqrt().tolist(), a[:, 0].tolist())]
    assert test.p_value(x[0], a).tolist() == pytest.approx(exact, abs=0.08)
    assert "Waldo" in test.headline


def _far(distance, a):
    """P(|x / 2 - a| >= distance sqrt(2)), x ~ N(a, 1)."""
    d = distance * math.sqrt(2)
    return norm.cdf((a - d) * 2 - a) + norm.sf((a + d) * 2 - a)


def test_a_surrogate_of_single_events_tests_sets_of_them():
    surrogate = Known("x | theta", lambda t: Independent(Normal(t, 2.0), 1), BOUNDED)
    data = pairs(
        BOUNDED, lambda t, rng: t[:, None] + 2 * rng.standard_normal((len(t), 4, 1)), 2_000
    )
    test = calibrate_test(surrogate, data, iid=True)
    x = torch.tensor([2.0, 3.5, 2.5, 4.0])[:, None]  # mean 3, error 1
    mu = torch.tensor([[2.0], [3.0], [4.5]])
    t, _ = test.statistic(x[None], mu.double(), torch.zeros(3).long())
    assert torch.allclose(t, torch.tensor([1.0, 0.0, 2.25]).double(), atol=1e-3)
    wanted = torch.tensor(chi2.sf([1.0, 0.0, 2.25], 1))
    assert torch.allclose(test.p_value(x, mu), wanted, atol=0.07)


def test_a_learned_surrogate_uses_rows_it_was_not_trained_on(tmp_path):
    dataset = simgen.simulate(TwoMoons(), 1_500, tmp_path / "moons", seed=0, progress=False)
    flow = simgen.Flow(transforms=2, hidden=(16,), transform="affine")
    dataset = simgen.Dataset(tmp_path / "moons", split=(0.5, 0.1, 0.4))
    surrogate = simgen.fit("x | theta", dataset, flow, max_epochs=2, progress=False, device="cpu")
    test = calibrate_test(surrogate, dataset)
    assert len(test.quantiles.t) == len(dataset.test) and "test rows" in test.source
    found = confidence_set(test, dataset["x"][0], points=31)
    assert 0 < found.region(0.68).sum() < found.region(0.95).sum() < 31**2
    p = test.p_value(dataset["x"][:3], dataset["theta"][:3])
    one = test.p_value(dataset["x"][1], dataset["theta"][1])
    assert p.shape == (3,) and one[0] == pytest.approx(float(p[1]), abs=1e-3)
    posterior = TwoMoons().sample_posterior(np.zeros(2), 200, np.random.default_rng(0))
    assert found.plot(posterior=posterior, truth=[0.1, 0.1]).axes
    few = confidence_set(test, dataset["x"][0], at=posterior)
    assert len(few.p_values) == 200 and few.span(0.95).shape == (2, 2)


def test_what_cannot_be_tested_is_refused(bounded):
    with pytest.raises(ValueError, match="outside the prior"):
        bounded.p_value([0.0], [[-1.0]])
    with pytest.raises(ValueError, match="shape"):
        bounded.p_value(np.zeros((1, 2)), [[1.0]])
    with pytest.raises(ValueError, match="too few"):
        calibrate_test(MEAN, pairs(BOUNDED, gaussian, 50), prior=BOUNDED)
    with pytest.raises(ValueError, match="nuisance is one of"):
        calibrate_test(MEAN, pairs(BOUNDED, gaussian, 300), prior=BOUNDED, nuisance="none")
