"""The plane's densities, the change of variables and weighted evidence against closed forms."""

import math

import numpy as np
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from simgen.prescribed import NaiveEvidence
from studies.lectures.densities_board import HALF, judge, window
from studies.lectures.densities_change import centres, change, outline, polygon_area
from studies.lectures.densities_targets import Checkerboard, Fork
from studies.lectures.densities_weights import Problem, elbo, measure


def test_the_fork_and_its_best_gaussian_integrate_to_one_and_have_its_moments() -> None:
    fork, box = Fork(), ((-6.0, 6.0), (-20.0, 20.0))
    x = centres(box, (300, 2_000)).double().numpy()
    cell = 12 * 40 / x[..., 0].size
    p, q = np.exp(fork.log_prob(x)) * cell, np.exp(fork.best_gaussian(x)) * cell
    assert p.sum() == pytest.approx(1, abs=1e-6)
    assert q.sum() == pytest.approx(1, abs=1e-6)
    draws = fork.sample(20_000, seed=0)
    for moment in (lambda v: v[..., 1], lambda v: v[..., 1] ** 2, lambda v: v[..., 0] * v[..., 1]):
        wanted, found = (p * moment(x)).sum(), moment(draws)
        assert abs(found.mean() - wanted) < 4 * found.std() / len(draws) ** 0.5
        assert (q * moment(x)).sum() == pytest.approx(wanted, abs=1e-5)


def test_the_best_gaussian_has_the_expected_log_likelihood() -> None:
    fork = Fork()
    first, weight = hermegauss(200)
    log_variance = np.log(fork.spread**2 + fork.half(first) ** 2)
    wanted = -math.log(2 * math.pi * math.e) - 0.5 * weight @ log_variance / weight.sum()
    found = fork.best_gaussian(fork.sample(20_000, seed=1))
    assert abs(found.mean() - wanted) < 4 * found.std() / 20_000**0.5


def test_the_checkerboard_is_uniform_on_its_squares() -> None:
    board = Checkerboard()
    density = np.exp(board.log_prob(window()))
    assert density.mean() * (2 * HALF) ** 2 == pytest.approx(1)
    draws = board.sample(20_000, seed=0)
    assert board.inside(draws).all()
    cell = np.floor(2 * draws).astype(int)  # quarters of the squares
    _, counts = np.unique(cell, axis=0, return_counts=True)
    assert len(counts) == 32
    chi2 = ((counts - 625) ** 2 / 625).sum()
    assert abs(chi2 - 31) < 4 * math.sqrt(62)


class Bend:
    """x_1 = 2 z_1, x_2 = z_2 / 2 + x_1^2 / 4, and its density, off by a factor."""

    def __init__(self, slip: float = 0.0) -> None:
        self.slip = slip

    def transport(self, z: Tensor) -> Tensor:
        first = 2 * z[..., 0]
        return torch.stack((first, z[..., 1] / 2 + first**2 / 4), -1)

    def log_prob(self, x: Tensor) -> Tensor:
        z = torch.stack((x[..., 0] / 2, 2 * (x[..., 1] - x[..., 0] ** 2 / 4)), -1)
        return -0.5 * z.square().sum(-1) - math.log(2 * math.pi) + self.slip


@pytest.mark.parametrize("slip", [0.0, 0.1])
def test_the_change_of_variables_of_a_known_map(slip: float) -> None:
    torch.manual_seed(0)
    rows = Bend().transport(torch.randn(5_000, 2))
    found = change(Bend(slip), rows.numpy(), Bend().log_prob(rows).numpy())
    within = math.erf(3 / math.sqrt(2))  # of z_1 in the window
    assert found.integral == pytest.approx(within * math.exp(slip), abs=2e-5)
    assert found.identity == pytest.approx(slip, abs=1e-4)
    assert found.triangle == 0
    assert found.volume == pytest.approx(25, rel=1e-5)
    assert found.area == pytest.approx(25, rel=1e-4)
    assert found.gap == pytest.approx(-slip, abs=1e-5)
    wanted = -math.log(2 * math.pi * math.e) + slip
    assert abs(found.log_likelihood - wanted) < 4 * found.error


def test_the_outline_goes_round_the_square() -> None:
    points = outline(400).double()
    assert points.abs().amax(1).eq(2.5).all()
    assert polygon_area(points.numpy()) == pytest.approx(25)
    steps = (points - points.roll(1, 0)).norm(dim=1)
    assert torch.allclose(steps, torch.full_like(steps, 20 / 400), atol=1e-5)


def test_a_gaussian_is_judged_as_it_is() -> None:
    board, s = Checkerboard(), 1.3
    quality, picture = judge(Independent(Normal(torch.zeros(2), s), 1), board, seed=0)
    wanted = -math.log(2 * math.pi * s**2) - (8 / 3) / (2 * s**2)  # E|x|^2 = 8 / 3
    assert abs(quality.log_likelihood - wanted) < 4 * quality.error
    assert quality.gap == pytest.approx(-math.log(8) - quality.log_likelihood)
    assert quality.integral == pytest.approx(math.erf(HALF / (s * math.sqrt(2))) ** 2, abs=1e-4)
    edge = Normal(0.0, s).cdf(torch.arange(-2.0, 3.0))
    mass = edge.diff()
    colour = (torch.arange(4)[:, None] + torch.arange(4)) % 2 == 0
    inside = float((mass[:, None] * mass)[colour].sum())
    error = math.sqrt(inside * (1 - inside) / len(picture.draws))
    assert abs(quality.inside - inside) < 4 * error


@pytest.mark.parametrize("name", ["naive", "importance"])
def test_moments_and_gap_of_a_proposal(name: str) -> None:
    problem = Problem.of(3)
    exact = problem.model.posterior(problem.x)
    q, total = problem.proposals[name], 0.0
    z = torch.linspace(-12, 12, 40_001, dtype=torch.float64)
    for i in range(3):
        posterior = Normal(exact.mean[0, i], exact.variance[0, i].sqrt())
        ratio = 2 * posterior.log_prob(z) - Normal(q.mean[i], q.variance[i].sqrt()).log_prob(z)
        total += float(torch.trapezoid(ratio.exp(), z).log())
    assert problem.moment(name) == pytest.approx(total, abs=1e-8)
    diagonal = Independent(Normal(exact.mean[0], exact.variance[0].sqrt()), 1)
    assert problem.gap(name) == pytest.approx(float(kl_divergence(q, diagonal)), abs=1e-9)
    evidence = Normal(torch.zeros(3), math.sqrt(1.25)).log_prob(problem.x).sum()
    assert problem.evidence == pytest.approx(float(evidence), abs=1e-6)


@pytest.mark.parametrize("name", ["naive", "importance"])
def test_estimates_scatter_as_the_closed_form_says(name: str) -> None:
    torch.manual_seed(0)
    problem = Problem.of(2)
    found = measure(problem, name, draws=2_000, repeats=400)
    assert found.sd == pytest.approx(found.true, rel=4 / math.sqrt(800) + 0.05)
    assert found.admitted == pytest.approx(found.true, rel=0.1)
    assert abs(found.error + found.true**2 / 2) < 4 * found.sd / 20  # log is concave
    assert abs(elbo(problem, name, 40_000) + problem.gap(name)) < 0.05


def test_naive_draws_are_those_of_the_toolkit_and_admit_nothing_when_they_miss() -> None:
    problem = Problem.of(64)
    torch.manual_seed(1)
    mine = problem.log_weights("naive", (100, 5)).logsumexp(0) - math.log(100)
    torch.manual_seed(1)
    theirs = NaiveEvidence(problem.model, 100)(problem.x.expand(5, -1), torch.arange(5))
    assert torch.allclose(mine, theirs)
    found = measure(problem, "naive", draws=1_000, repeats=20)
    assert found.true > 1e10
    assert found.admitted < 1
    assert found.error < -20
