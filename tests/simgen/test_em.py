import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from simgen import Diffusion, GaussianPrior
from simgen.em import Incomplete, draw_rows, fit_gaussian_prior, fit_prior
from simgen.samplers.denoising import ClosedForm

D, M, SIGMA = 5, 2, 0.1
PARAMETERS = D + D * (D + 1) // 2


def truth():
    U = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(1))).Q.double()
    C = U @ torch.diag(torch.logspace(-1, 0.3, D).double()) @ U.T
    return GaussianPrior(torch.linspace(-1, 1, D).double(), (C + C.T) / 2)


@pytest.fixture(scope="module")
def seen():
    """Two random directions of each of 4,096 rows."""
    torch.manual_seed(0)
    prior, n = truth(), 4096
    A = torch.randn(n, M, D).double()
    A = A / A.norm(dim=-1, keepdim=True)
    x = prior.sample((n,))
    y = torch.einsum("nmd,nd->nm", A, x) + SIGMA * torch.randn(n, M).double()
    return prior, x, y, A


def test_the_gaussian_of_greatest_likelihood_is_found(seen):
    """Wilks: twice the gain over the truth is chi-squared of as many numbers as are fitted; below
    its 0.1 % quantile the maximum is missed, above the 99.9 % one more than noise was fitted.
    """
    prior, _, y, A = seen
    data = Incomplete.of(y, A, SIGMA)
    found = fit_gaussian_prior(y, A, SIGMA)
    gain = 2 * (data.log_likelihood(found) - data.log_likelihood(prior))
    assert chi2.ppf(0.001, PARAMETERS) < gain < chi2.ppf(0.999, PARAMETERS)
    # 2 of 5 directions of 4,096 rows say about what 4096 (2/5)^2 whole rows would: 5 sd of it
    error = (found.covariance - prior.covariance).norm() / prior.covariance.norm()
    assert error < 5 * math.sqrt(2 / (4096 * (M / D) ** 2))


def test_no_lap_lowers_the_likelihood(seen):
    _, _, y, A = seen
    data = Incomplete.of(y, A, SIGMA)
    values = [
        data.log_likelihood(fit_gaussian_prior(y, A, SIGMA, laps=k)) for k in range(0, 40, 5)
    ]
    assert values == sorted(values)


def test_of_whole_rows_it_is_the_closed_form():
    """A = I: the maximum is the sample's covariance less the noise."""
    torch.manual_seed(0)
    y = truth().sample((500,)) + SIGMA * torch.randn(500, D).double()
    found = fit_gaussian_prior(y, None, SIGMA)
    torch.testing.assert_close(found.mean, y.mean(0), atol=1e-4, rtol=0)
    wanted = y.mT.cov(correction=0) - SIGMA**2 * torch.eye(D).double()
    torch.testing.assert_close(found.covariance, wanted, atol=2e-3, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_draws_are_exact_for_a_gaussian_prior(seen, steps):
    """Each row's draw, made white by that row's own posterior, is N(0, I)."""
    prior, _, y, A = seen
    data = Incomplete.of(y, A, SIGMA)
    x = draw_rows(ClosedForm(prior), data, steps, torch.Generator().manual_seed(0))
    inverse = torch.linalg.inv(prior.covariance) + A.mT @ A / SIGMA**2
    rest = torch.einsum("nmd,nm->nd", A, y - A @ prior.mean) / SIGMA**2
    mean = prior.mean + torch.linalg.solve(inverse, rest)
    factor = torch.linalg.cholesky(inverse)
    white = torch.einsum("nji,nj->ni", factor, x - mean)
    n = len(white)
    assert white.mean(0).abs().max() < 4 / math.sqrt(n)
    assert (white.mT.cov() - torch.eye(D)).abs().max() < 4 * math.sqrt(2 / n)


def test_a_gap_is_as_if_it_had_not_been_asked(seen):
    prior, _, y, A = seen
    holes = y.clone()
    holes[:, 1] = math.nan
    more = Incomplete.of(holes, A, SIGMA)
    less = Incomplete.of(y[:, :1], A[:, :1], SIGMA)
    assert more.log_likelihood(prior) == pytest.approx(less.log_likelihood(prior), rel=1e-12)
    a = fit_gaussian_prior(holes, A, SIGMA, laps=5)
    b = fit_gaussian_prior(y[:, :1], A[:, :1], SIGMA, laps=5)
    torch.testing.assert_close(a.covariance, b.covariance, atol=1e-9, rtol=1e-9)
    one = Incomplete.of([[1.0, math.nan, 2.0]], None, [0.1, 0.2, 0.4])
    assert one.y.tolist() == [[10.0, 0.0, 5.0]]


def test_a_diffusion_prior_of_gaps_and_noise(seen):
    """Two laps of short fits: the covariance of its draws. A row of p(y) loses less than 0.02
    nats, 80 nats of all, of which noise of the fit alone is PARAMETERS / 2 = 10.
    """
    prior, _, y, A = seen
    options = {"steps": 8, "max_epochs": 20, "batch_size": 512}
    found = fit_prior(y, A, SIGMA, Diffusion(hidden=32, blocks=2), laps=2, seed=0, **options)
    assert found.expression == "x" and found.names == tuple(f"x_{i}" for i in range(D))
    draws = found().sample((20_000,), seed=0).double()
    moments = GaussianPrior(draws.mean(0), draws.mT.cov())
    data = Incomplete.of(y, A, SIGMA)
    lost = (data.log_likelihood(prior) - data.log_likelihood(moments)) / len(y)
    assert lost < 0.02
    error = (moments.covariance - prior.covariance).norm() / prior.covariance.norm()
    assert error < 0.15


@pytest.mark.parametrize(
    ("observed", "operators", "sigma", "wanted"),
    [
        (np.zeros(3), None, 1.0, "observed must be"),
        (np.full((3, 2), math.nan), None, 1.0, "not all NaN"),
        (np.zeros((3, 2)), np.zeros((4, 2, 5)), 1.0, "operators must be finite, "),
        (np.zeros((3, 2)), np.zeros((3, 5)), 1.0, "operators must be finite, "),
        (np.full((3, 2), math.inf), None, 1.0, "finite or NaN"),
        (np.zeros((3, 2)), np.full((2, 5), math.nan), 1.0, "must be finite"),
        (np.zeros((3, 2)), None, 0.0, "sigma must be"),
        (np.zeros((3, 2)), None, np.ones(3), "sigma must be"),
    ],
)
def test_what_does_not_fit_is_refused(observed, operators, sigma, wanted):
    with pytest.raises(ValueError, match=wanted):
        fit_gaussian_prior(observed, operators, sigma)


def test_no_lap_is_refused():
    with pytest.raises(ValueError, match="laps must be"):
        fit_prior(np.random.default_rng(0).normal(size=(50, 2)), laps=0)
