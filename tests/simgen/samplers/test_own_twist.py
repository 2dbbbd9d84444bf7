"""Rows by their own covariance, where one that all share is wrong."""

import math

import pytest
import torch

import simgen.samplers.ancestral as module
from simgen.answers.instrument import instrument
from simgen.gaussian import GaussianPrior, MixturePrior
from simgen.likelihood import GaussianLikelihood
from simgen.models.process import EDM
from simgen.samplers.ancestral import ancestral
from simgen.samplers.denoising import Network
from simgen.samplers.own_twist import OwnTwist, own_levels
from simgen.samplers.problem import Problem

D, SD = 48, 0.3


class Denoiser:
    """A prior of which nothing is seen but draws and the denoiser."""

    event_shape = torch.Size([D])

    def __init__(self, prior):
        self.denoise, self.sample = prior.denoise, prior.sample


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(prior, y, operator=None):
    operator = torch.eye(D, dtype=torch.float64) if operator is None else operator
    torch.manual_seed(0)
    seen = instrument([GaussianLikelihood(operator, SD)], [y], prior.event_shape, torch.float64)
    return Problem(Network(Denoiser(prior), D), seen.predict, seen.y, seen.scale, seen.matrix)


def dark_or_bright():
    """Images whose pixels have a deviation of 0.1 or of 1, as a whole."""
    shapes = torch.stack([0.1**2 * torch.eye(D), torch.eye(D)]).double()
    return MixturePrior(torch.ones(2), torch.zeros(2, D).double(), shapes)


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_draws_have_the_deviation_of_their_own_kind(scale, monkeypatch):
    """48 pixels leave no doubt which kind it is: the posterior is that kind's, a Gaussian."""
    y = (scale**2 + SD**2) ** 0.5 * torch.randn(D, generator=seeded(5), dtype=torch.float64)
    asked = problem(dark_or_bright(), y)
    mean = y * scale**2 / (scale**2 + SD**2)
    sd = scale * SD / (scale**2 + SD**2) ** 0.5
    x = ancestral(asked, 2000, 10, seeded())
    # 96,000 numbers: the deviation's own error is 0.2 %, the rest is what four sweeps leave
    width = float((x - mean).square().mean().sqrt()) / sd
    assert abs(width - 1) < 0.03, width
    assert float((x.mean(0) - mean).abs().max()) < 0.15 * sd
    monkeypatch.setattr(module, "own_levels", lambda problem: [])
    shared = ancestral(asked, 2000, 10, seeded())
    assert abs(float((shared - mean).square().mean().sqrt()) / sd - 1) > 3 * abs(width - 1)


def test_of_a_gaussian_prior_it_is_the_shared_one():
    root = torch.randn(D, D, generator=seeded(1), dtype=torch.float64)
    prior = GaussianPrior(torch.zeros(D).double(), root @ root.mT / D + 0.2 * torch.eye(D))
    A = torch.randn(20, D, generator=seeded(2), dtype=torch.float64)
    asked = problem(prior, torch.randn(20, generator=seeded(3), dtype=torch.float64), A)
    x_t = torch.randn(6, D, generator=seeded(4), dtype=torch.float64)
    noise = torch.randn(6, D, generator=seeded(5), dtype=torch.float64)
    error = torch.randn(6, 20, generator=seeded(6), dtype=torch.float64)
    own = OwnTwist(asked, x_t, 0.1)
    found = own.draw(noise, error)
    assert own.solved.all()
    # V is nearly 0.01 I here: eight products give its root, to a per cent of a deviation of 0.1
    torch.testing.assert_close(found, own.shared.draw(noise, error), atol=3e-3, rtol=0)
    nobody = torch.zeros(6, dtype=torch.bool)
    torch.testing.assert_close(
        OwnTwist(asked, x_t, 0.1).draw(noise, error, nobody),
        own.shared.draw(noise, error, nobody),
    )


def test_levels_are_low_and_end_at_zero():
    asked = problem(dark_or_bright(), torch.zeros(D).double())
    found = own_levels(asked)
    assert found[-1][1] == 0.0
    assert found[-1][0] == pytest.approx(4 * asked.prior.smallest)
    assert all(high == pytest.approx(2 * low) for high, low in found[:-1])


def test_a_denoiser_that_is_none_at_some_level_keeps_the_shared_one():
    """Half of its derivative is negative: no covariance, and no row is solved."""

    class Wrong(Denoiser):
        def __init__(self, prior):
            super().__init__(prior)
            slope = torch.where(torch.arange(D) % 2 == 0, 0.5, -0.5).double()
            self.denoise = lambda x, alpha, sigma: slope * x

    prior = dark_or_bright()
    asked = problem(prior, torch.zeros(D).double(), 100 * torch.eye(D, dtype=torch.float64))
    wrong = Problem(Network(Wrong(prior), D), asked.predict, asked.y, asked.scale, asked.matrix)
    own = OwnTwist(wrong, torch.ones(4, D).double(), 1.0)
    noise = torch.randn(4, D, generator=seeded(), dtype=torch.float64)
    x = own.draw(noise, noise)
    assert not own.solved.any() and x.isfinite().all()
    assert own_levels(wrong) == [] and math.isfinite(float(ancestral(wrong, 2, 3, seeded()).sum()))


def test_a_networks_covariance_is_that_of_its_errors():
    """It denoises for a variance w, and the prior's is 1: both have closed forms.

    Errors have (1 - k)^2 + k^2 sigma^2 a number with k = w / (w + sigma^2), its derivative says
    sigma^2 k.
    """
    w, sigma = 0.7, 0.8
    slope = w / (w + sigma**2)

    class Trained(Denoiser):
        process = EDM()

        def __init__(self):
            self.denoise = lambda x, alpha, level: w / (w + (level / alpha) ** 2) * x
            self.sample = lambda shape: torch.randn(*shape, D, dtype=torch.float64)

    torch.manual_seed(0)
    network = Network(Trained(), D)
    errors = (1 - slope) ** 2 + slope**2 * sigma**2
    # 1,024 draws of 48 numbers: 0.6 % of the mean square, 4.4 % of one column
    assert network.variance(sigma) == pytest.approx(errors / slope, rel=0.03)
    values = network.averaged(sigma).values
    assert float(values.mean()) == pytest.approx(errors, rel=0.03)
    assert float(values.min()) > 0.8 * errors and float(values.max()) < 1.2 * errors
