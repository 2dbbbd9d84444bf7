"""Series from windows: exact for Gaussian chains, whatever the windows."""

import warnings

import pytest
import torch

import simgen
from simgen.answers.posterior import ApproximateWarning
from simgen.gaussian import GaussianPrior
from simgen.samplers.ancestral import ancestral
from simgen.samplers.problem import Problem
from simgen.samplers.windows import Windows


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def chain(length, size=2):
    """Mean and covariance of a stationary Gaussian Markov chain of states of some numbers."""
    F = torch.tensor([[0.9, 0.3], [-0.3, 0.8]]).double()[:size, :size]
    Q = torch.tensor([[0.05, 0.02], [0.02, 0.1]]).double()[:size, :size]
    C = Q.clone()
    for _ in range(500):
        C = F @ C @ F.T + Q
    blocks = [[None] * length for _ in range(length)]
    for i in range(length):
        block = C
        for j in range(i, length):
            blocks[j][i], blocks[i][j] = block, block.T
            block = F @ block
    mean = torch.tensor([0.5, -1.0]).double()[:size].repeat(length)
    return mean, torch.cat([torch.cat(row, 1) for row in blocks])


def windows(length, m, o=1, size=2):
    mean, C = chain(max(length, m), size)
    parts = [GaussianPrior(mean[: k * size], C[: k * size, : k * size]) for k in (m, o)]
    return Windows(*parts, length, size), mean, C


@pytest.mark.parametrize("sigma", [1e-2, 0.3, 2.0, 30.0])
@pytest.mark.parametrize(
    ("length", "m", "o"), [(9, 2, 1), (9, 3, 1), (9, 5, 1), (10, 4, 2), (4, 4, 1)]
)
def test_moments_of_a_gaussian_chain_are_exact(length, m, o, sigma):
    prior, mean, C = windows(length, m, o)
    x = mean + torch.randn(3, len(mean), generator=seeded(), dtype=torch.float64) * (1 + sigma)
    found, V = prior.moments(x, sigma)
    eye = torch.eye(len(mean)).double()
    gain = torch.linalg.solve(C + sigma**2 * eye, C).T
    torch.testing.assert_close(found, mean + (x - mean) @ gain.T, rtol=1e-6, atol=1e-6)
    unit = eye[:, None].expand(-1, 3, -1)
    exact = sigma**2 * gain
    torch.testing.assert_close(V(unit)[:, 0], exact, rtol=1e-6, atol=1e-6 * sigma**2)


def test_the_middle_of_a_window_alone_is_not_exact():
    prior, mean, _ = windows(9, 5)
    x = mean + torch.randn(1, len(mean), generator=seeded(), dtype=torch.float64)
    window = prior.window.distribution
    middle = window.denoise(x[:, 4:14], 1.0, 1.0)[:, 4:6]
    assert (prior.mean(x, 1.0)[:, 8:10] - middle).abs().max() > 0.01


@pytest.mark.parametrize("steps", [1, 6])
def test_draws_given_sparse_data_have_the_exact_moments(steps):
    prior, mean, C = windows(9, 3)
    A = torch.zeros(3, 18, dtype=torch.float64)
    A[0, 0] = A[1, 8] = A[2, 16] = 5.0
    y = torch.tensor([4.0, 1.0, -2.0]).double()
    n = 4_000
    problem = Problem(prior, lambda x: x @ A.mT, y, 0.0, A)
    x = ancestral(problem, n, steps, seeded())
    exact = GaussianPrior(mean, C).condition(A, y, torch.eye(3).double())
    L = torch.linalg.cholesky(exact.covariance)
    white = torch.linalg.solve_triangular(L, (x - exact.mean).T, upper=False)
    assert white.mean(1).abs().max() < 4.5 / n**0.5
    assert (white.var(1) - 1).abs().max() < 4.5 * (2 / n) ** 0.5
    rest = torch.corrcoef(white) - torch.eye(18).double()
    assert rest.abs().max() < 4.5 / n**0.5


def test_units_of_the_windows_do_not_matter():
    prior, mean, C = windows(5, 3)

    class Standardised:
        """The same windows, in units of their own."""

        def __init__(self, part):
            d = part.states * 2
            self.unit = torch.tensor([2.0, 0.5]).double().repeat(part.states)
            self.shift = torch.tensor([1.0, 3.0]).double().repeat(part.states)
            self.inner = GaussianPrior(
                (mean[:d] - self.shift) / self.unit, C[:d, :d] / self.unit / self.unit[:, None]
            )
            self.event_shape = self.inner.event_shape
            self.sample, self.denoise = self.inner.sample, self.inner.denoise

        def to_physical(self, z):
            return self.shift + self.unit * z

    other = Windows(Standardised(prior.window), Standardised(prior.overlap), 5, 2)
    z = torch.randn(4, 10, generator=seeded(), dtype=torch.float64)
    unit, shift = (other.window.scale.repeat(5), other.window.location.repeat(5))
    same = GaussianPrior((mean - shift) / unit, C / unit / unit[:, None])
    torch.testing.assert_close(other.mean(z, 0.7), same.denoise(z, 1.0, 0.7), rtol=1e-6, atol=1e-6)


def test_draws_of_the_prior():
    prior, mean, C = windows(5, 3)
    x = prior.sample((4_000,), seed=0).double()
    assert x.shape == (4_000, 5, 2)
    L = torch.linalg.cholesky(C)
    white = torch.linalg.solve_triangular(L, (x.flatten(1) - mean).T, upper=False)
    assert white.mean(1).abs().max() < 4.5 / 4_000**0.5
    assert (torch.cov(white) - torch.eye(10).double()).abs().max() < 4.5 * (2 / 4_000) ** 0.5


@pytest.mark.parametrize(("length", "m", "o"), [(8, 3, 1), (2, 3, 1), (5, 2, 2)])
def test_windows_that_make_no_whole_are_refused(length, m, o):
    with pytest.raises(ValueError, match="windows of"):
        windows(length, m, o)


@pytest.mark.parametrize("method", ["ancestral", "smc"])
def test_infer_takes_them(method):
    """A Gaussian chain seen at both ends: any number of steps is exact, the evidence too."""
    prior, mean, C = windows(5, 3)
    y = torch.tensor([1.0, 0.0], dtype=torch.float64)
    A = torch.zeros(2, 10, dtype=torch.float64)
    A[0, 0] = A[1, 8] = 1
    whole, S = GaussianPrior(mean, C), 0.04 * torch.eye(2, dtype=torch.float64)
    exact = whole.condition(A, y, S)
    seen = simgen.GaussianLikelihood(lambda x: x[:, ::4, 0], 0.2)
    posterior = simgen.infer(prior, seen, y, method=method, steps=8, particles=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximateWarning)
        x = posterior.sample(1000).flatten(1).double()
    sd = exact.covariance.diagonal().sqrt()
    assert ((x.mean(0) - exact.mean.flatten()) / sd).abs().max() < 4.5 / 1000**0.5
    assert (x.std(0) / sd - 1).abs().max() < 4.5 / 2000**0.5
    if method == "smc":
        assert abs(float(posterior.log_evidence()) - float(whole.log_evidence(A, y, S))) < 1e-3
