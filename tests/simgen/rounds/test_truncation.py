"""Truncated priors: exact draws, whatever they are tried from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Beta, MultivariateNormal, Normal, Uniform

from simgen import DatasetError, Prior
from simgen.rounds.region import Region
from simgen.rounds.truncation import QUANTILE, TruncatedPrior, Volume, measure


class Known:
    """A Gaussian posterior in closed form."""

    density = "exact"

    def __init__(self, mean: list[float], covariance: torch.Tensor) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float64)
        self.law = MultivariateNormal(self.mean, covariance.double())

    def sample(self, shape, seed):
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return self.law.sample(shape)

    def log_prob(self, theta):
        return self.law.log_prob(theta.double())

    def radius(self, theta):
        """Mahalanobis distance (n,)."""
        white = torch.linalg.solve_triangular(
            self.law.scale_tril, (theta.double() - self.mean).T, upper=False
        )
        return white.norm(dim=0)


def ball(q: Known, volume: Volume) -> float:
    """The radius of a Gaussian's region."""
    peak = float(q.log_prob(q.mean))
    return math.sqrt(2 * (peak - volume.threshold))


def spread(d: int) -> torch.Tensor:
    """A covariance with correlations."""
    a = torch.linspace(0.5, 1.5, d)
    return 0.01 * (torch.diag(a) + 0.3 * a.sqrt().outer(a.sqrt()))


@pytest.mark.parametrize("origin", ["prior", "posterior"])
def test_draws_of_one_parameter_follow_the_truncated_normal(origin) -> None:
    prior = Prior(mu=Normal(0.0, 1.0))
    q = Known([0.7], torch.tensor([[0.16]]))
    measured = measure(prior, q)
    r = 0.4 * ball(q, measured)
    law = stats.truncnorm(0.7 - r, 0.7 + r)
    share = stats.norm.cdf(0.7 + r) - stats.norm.cdf(0.7 - r)
    assert measured.volume == pytest.approx(share, abs=4 * 0.5 / math.sqrt(1 << 16))
    rate = share if origin == "prior" else 0.01
    volume = Volume(measured.threshold, measured.volume, origin, rate)
    truncated = TruncatedPrior(prior, [Region(q, measured.threshold)], volume)
    theta = truncated.sample((4000,), seed=3)[:, 0].numpy()
    assert stats.kstest(theta, law.cdf).pvalue > 1e-3
    # the density is that of the law but for the volume's error
    at = torch.tensor([[0.7 - 0.99 * r], [0.2], [0.7 + 1.01 * r]])
    found = truncated.log_prob(at).exp().numpy()
    assert found == pytest.approx(law.pdf(at[:, 0].numpy()), rel=0.02)
    assert truncated.contains(at).tolist() == [True, True, False]


@pytest.mark.parametrize("d", [2, 5])
@pytest.mark.parametrize("origin", ["prior", "posterior"])
def test_draws_of_a_flat_prior_fill_the_ellipsoid(d, origin) -> None:
    wide = {"prior": 0.9, "posterior": 30.0}[origin]  # a region far too small for the prior
    prior = Prior({f"t{i}": Uniform(-wide, wide) for i in range(d)})
    q = Known([0.1] * d, spread(d))
    measured = measure(prior, q)
    assert measured.origin == ("prior" if d == 2 and wide < 1 else measured.origin)
    radius = ball(q, measured)
    # the threshold is the quantile of its own draws
    assert stats.chi2(d).sf(radius**2) == pytest.approx(QUANTILE, rel=1.0)
    if wide > 1:
        assert measured.origin == "posterior"
        size = math.pi ** (d / 2) / math.gamma(d / 2 + 1) * radius**d
        size *= float(spread(d).det().sqrt()) / (2 * wide) ** d
        assert measured.volume == pytest.approx(size, rel=0.5)
        # one draw in some thousands, however narrow the posterior is
        assert measured.acceptance > 1e-4
    truncated = TruncatedPrior(prior, [Region(q, measured.threshold)], measured)
    theta = truncated.sample((600,), seed=0)
    if wide > 1:
        share = (q.radius(theta) / radius).numpy() ** d
        assert stats.kstest(share, "uniform").pvalue > 1e-3
    z = np.abs(theta.numpy() - 0.1).max()
    assert z < wide


def test_regions_lie_inside_of_those_before() -> None:
    prior = Prior(a=Uniform(-1.0, 1.0), b=Uniform(-1.0, 1.0))
    first = Known([0.0, 0.0], 0.02 * torch.eye(2))
    one = measure(prior, first)
    region = Region(first, one.threshold)
    second = Known([0.4, 0.0], 0.02 * torch.eye(2))
    two = measure(prior, second, [region])
    both = TruncatedPrior(prior, [region, Region(second, two.threshold)], two)
    theta = both.sample((2000,), seed=0)
    assert both.contains(theta).all()
    assert region.contains(theta).all()
    alone = TruncatedPrior(prior, [region], one)
    inside = both.contains(alone.sample((20_000,), seed=1)).double().mean()
    assert float(inside) == pytest.approx(two.volume / one.volume, abs=0.03)
    # the share of the inner region: what both estimates say of it
    half = (theta[:, 0] > 0.2).double().mean()
    known = alone.sample((40_000,), seed=2)
    known = known[both.contains(known)]
    assert float(half) == pytest.approx(float((known[:, 0] > 0.2).double().mean()), abs=0.04)
    with pytest.raises(DatasetError, match="not a posterior of these simulations"):
        measure(prior, Known([0.95, 0.95], 1e-6 * torch.eye(2)), [region])


def test_the_truth_is_inside() -> None:
    """Over the prior, a region of the exact posterior leaves out one truth in ten thousand."""
    d, noise, n = 3, 0.3, 40_000
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(n, d, generator=generator, dtype=torch.float64)
    x = theta + noise * torch.randn(n, d, generator=generator, dtype=torch.float64)
    variance = 1 / (1 + 1 / noise**2)
    prior = Prior({f"t{i}": Normal(0.0, 1.0) for i in range(d)})
    for k in range(3):  # the threshold of one observation is that of every other: q shifts only
        q = Known((variance / noise**2 * x[k]).tolist(), variance * torch.eye(d))
        radius = ball(q, measure(prior, q, seed=k))
        missed = ((theta - variance / noise**2 * x).norm(dim=1) > radius * variance**0.5).sum()
        assert stats.binom(n, 2 * QUANTILE).sf(int(missed) - 1) > 1e-4
        assert float(missed) / n <= 1e-3


def test_streams_and_shapes() -> None:
    prior = Prior(a=Uniform(-1.0, 1.0), b=Normal(0.0, 1.0))
    q = Known([0.2, 0.3], 0.01 * torch.eye(2))
    found = measure(prior, q)
    truncated = TruncatedPrior(prior, [Region(q, found.threshold)], found)
    block = truncated.draw(256, 5, (0, 3, 1))
    assert torch.equal(block, truncated.draw(256, 5, (0, 3, 1)))
    assert torch.equal(block[:10], truncated.draw(256, 5, (0, 3, 1))[:10])
    assert not torch.equal(block, truncated.draw(256, 5, (0, 4, 1)))
    assert truncated.sample((2, 3)).shape == (2, 3, 2) and truncated.sample().shape == (2,)
    assert truncated.log_prob(truncated.sample((4, 5))).isfinite().all()
    assert truncated.mean.shape == truncated.variance.shape == (2,)
    assert isinstance(truncated, Prior) and truncated.names == prior.names
    assert "within a region of" in repr(truncated)


def test_what_cannot_be_drawn_says_so() -> None:
    q = Known([0.5], torch.tensor([[1e-12]]))
    bound = Known([0.5], torch.tensor([[1e-14]]))
    bound.density = "bound"
    with pytest.raises(DatasetError, match="exact density"):
        measure(Prior(a=Uniform(0.0, 1.0)), bound)
    with pytest.raises(DatasetError, match="exact density"):
        measure(Prior(a=Beta(0.5, 0.5)), Known([0.5], torch.tensor([[1e-14]])))  # no mode
    assert measure(Prior(a=Uniform(0.0, 1.0)), q).origin == "posterior"
    with pytest.raises(ValueError, match="small share"):
        measure(Prior(a=Uniform(0.0, 1.0)), q, quantile=0.7)
    with pytest.raises(DatasetError, match="next to nothing there"):
        measure(Prior(a=Normal(0.0, 1.0)), Known([8.0], torch.tensor([[1e-4]])))
    # a region that is not what was measured ends, and says so
    away = Region(Known([50.0], torch.tensor([[1.0]])), -1.0)
    lost = TruncatedPrior(Prior(a=Uniform(0.0, 1.0)), [away], Volume(-1.0, 0.5, "prior", 0.5))
    with pytest.raises(DatasetError, match="far fewer"):
        lost.sample((10,), seed=0)
