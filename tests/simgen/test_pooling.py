"""A posterior and a surrogate pooled, against Gaussians, whose geometric means are Gaussian."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal

import simgen
from simgen.pooling import Pooled, pool

SD = 1 / math.sqrt(5.0)  # of the posterior under N(0, 1) and noise of 0.5
PRIOR = simgen.Prior(a=Normal(0.0, 1.0), b=Normal(0.0, 1.0))
X = torch.tensor([0.5, -1.0])


def posterior(shift: float = 0.0, ratio: float = 1.0):
    return lambda x: Independent(Normal(0.8 * x + shift * SD, ratio * SD), 1)


def surrogate(shift: float = 0.0):
    """Makes a posterior whose mean is off by shift deviations."""

    def conditional(theta):
        return Independent(Normal(theta - 1.25 * shift * SD, 0.5), 1)

    conditional.expression, conditional.given = "x | theta", ("theta",)  # type: ignore[attr-defined]
    return conditional


def pairs(n: int = 400):
    torch.manual_seed(3)
    theta = torch.randn(n, 2)
    return {"theta": theta, "x": theta + 0.5 * torch.randn(n, 2)}


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("method", ["importance", "smc"])
def test_the_pool_of_two_gaussians(share, method):
    """Means weigh by precision: here both have the same."""
    both = Pooled(posterior(0.6), surrogate(-0.2), PRIOR, share)
    found = both(X, method=method, particles=20_000 if method == "importance" else 4_096)
    x = found.sample(4_000).double()
    mean = 0.8 * X + SD * (0.6 * (1 - share) - 0.2 * share)
    worth = min(4_000, found.ess)
    assert ((x.mean(0) - mean).abs() < 5 * SD / math.sqrt(worth)).all()
    assert (x.std(0) / SD - 1).abs().max() < 5 / math.sqrt(worth)
    density = Independent(Normal(mean.double(), SD), 1).log_prob(x[:5])
    tolerance = 5 * found.log_evidence().error + 2e-4
    torch.testing.assert_close(found.log_prob(x[:5]), density, atol=tolerance, rtol=1e-3)


@pytest.mark.parametrize(
    ("shifts", "share"),
    [((1.0, 0.0), 1.0), ((0.0, 1.0), 0.0), ((0.8, -0.8), 0.5), ((0.9, -0.3), 0.75)],
)
def test_held_out_rows_find_the_share(shifts, share):
    """Errors of opposite sign cancel where (1 - share) a + share b = 0."""
    both = pool(posterior(shifts[0]), surrogate(shifts[1]), pairs(), PRIOR, rows=400)
    assert both.share == pytest.approx(share, abs=0.1)
    assert both.gain[0] >= 0 and len(both.scores) == 21
    # the gain in log-density of two columns, of which each is half a squared shift
    assert both.gain[0] == pytest.approx(shifts[0] ** 2, abs=4 * both.gain[1] + 0.03)
    assert max(both.scores) == both.scores[round(20 * both.share)]


def test_scores_are_log_densities():
    """At share 0 that of the posterior, at 1 that of what the surrogate makes of the prior."""
    data = pairs()
    both = pool(posterior(0.3, 1.2), surrogate(), data, PRIOR, rows=400, draws=400)
    q = posterior(0.3, 1.2)(data["x"]).log_prob(data["theta"]).mean()
    p = posterior()(data["x"]).log_prob(data["theta"]).mean()
    assert both.scores[0] == pytest.approx(float(q), abs=1e-5)
    assert both.scores[-1] == pytest.approx(float(p), abs=0.02)


def test_what_is_refused():
    with pytest.raises(ValueError, match="give prior="):
        pool(posterior(), surrogate(), pairs())
    with pytest.raises(ValueError, match="50 held-out"):
        pool(posterior(), surrogate(), pairs(20), PRIOR)
