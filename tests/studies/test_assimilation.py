"""Assimilation: the reference is Kalman's where it has to be, and draws follow closed forms."""

import math

import pytest
import torch

from simgen.gaussian import GaussianPrior
from simgen.samplers.windows import Windows
from studies.assimilation.reference import smooth
from studies.assimilation.sampling import assimilate
from studies.assimilation.task import RATES, Rate, truths, wasserstein

F = torch.tensor([[0.95, 0.2, 0.0], [-0.2, 0.9, 0.1], [0.0, -0.1, 0.8]]).double()
VARIANCE = 0.1


def chain(length):
    """Covariance of a Gaussian chain whose first state is N(0, C)."""
    C = VARIANCE * torch.eye(3).double()
    for _ in range(500):
        C = F @ C @ F.T + VARIANCE * torch.eye(3).double()
    rows = []
    for i in range(length):
        row = [torch.linalg.matrix_power(F, i - j) @ C for j in range(i)]
        row += [C @ torch.linalg.matrix_power(F, j - i).T for j in range(i, length)]
        rows.append(torch.cat(row, 1))
    return C, torch.cat(rows)


def seen(rate, length):
    A = torch.zeros(-(-length // rate.every), 3 * length).double()
    for row, i in enumerate(range(0, length, rate.every)):
        A[row, 3 * i] = 1 / 8
    return A


def agree(x, exact, n, extra=1.0):
    sd = exact.covariance.diagonal().sqrt()
    assert ((x.mean(0) - exact.mean) / sd).abs().max() < extra * 4.5 / n**0.5
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(exact.covariance), (x - exact.mean).T, upper=False
    )
    assert (torch.cov(white) - torch.eye(len(sd))).abs().max() < extra * 4.5 * (2 / n) ** 0.5


@pytest.mark.parametrize("rate", [Rate(1, 0.05), Rate(4, 0.02)])
def test_the_reference_is_kalmans_smoother(rate):
    length, n, draws = 9, 8_000, 1_000
    C, whole = chain(length)
    generator = torch.Generator().manual_seed(0)
    A = seen(rate, length)
    y = torch.linspace(-0.1, 0.2, len(A)).double()

    def log_likelihood(i, x):
        if i % rate.every:
            return None
        rest = (y[i // rate.every] - x[:, 0] / 8) / rate.sd
        return -0.5 * rest.square() - math.log(rate.sd * math.sqrt(2 * math.pi))

    first = torch.randn(n, 3, generator=generator).double() @ torch.linalg.cholesky(C).T
    x, evidence = smooth(
        lambda v: v @ F.T, VARIANCE, first, log_likelihood, length, draws, generator
    )
    prior = GaussianPrior(torch.zeros(3 * length).double(), whole)
    S = rate.sd**2 * torch.eye(len(A)).double()
    agree(x.flatten(1), prior.condition(A, y, S), draws, 1.2)
    assert evidence == pytest.approx(float(prior.log_evidence(A, y, S)), abs=0.1)


@pytest.mark.parametrize("corrections", [0, 1])
def test_draws_under_a_gaussian_prior_are_exact(corrections):
    length, n, rate = 9, 2_000, Rate(4, 0.02)
    _, whole = chain(length)
    parts = [GaussianPrior(torch.zeros(3 * m).double(), whole[: 3 * m, : 3 * m]) for m in (3, 1)]
    A = seen(rate, length)
    y = torch.linspace(-0.1, 0.2, len(A)).double()
    x = assimilate(Windows(*parts, length, 3), rate, y, n, 4, corrections, 0)
    S = rate.sd**2 * torch.eye(len(A)).double()
    prior = GaussianPrior(torch.zeros(3 * length).double(), whole)
    agree(x.flatten(1), prior.condition(A, y, S), n)


def test_wasserstein_pairs_draws():
    a = torch.randn(40, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    shift = torch.zeros(5, 3).double()
    shift[2, 1] = 1e-3
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert wasserstein(a, (a + shift)[order]) == pytest.approx(1e-3)


def test_what_is_seen_of_the_truth():
    x, ys = truths(3, 0)
    assert x.shape == (3, 65, 3)
    for name, rate in RATES.items():
        rest = (ys[name] - x[:, :: rate.every, 0] / 8) / rate.sd
        assert rest.numel() == 3 * (64 // rate.every + 1)
        chi2 = float(rest.square().sum())
        assert abs(chi2 - rest.numel()) < 4 * math.sqrt(2 * rest.numel())
