"""Chains that noise and denoise: what switches the likelihood on."""

import pytest
import torch

import simgen.samplers.noise_denoise as module
from simgen.gaussian import GaussianPrior, MixturePrior
from simgen.samplers.denoising import ClosedForm
from simgen.samplers.levels import levels
from simgen.samplers.noise_denoise import noise_denoise, redraw


def test_a_likelihood_that_is_not_whole_is_no_answer(monkeypatch):
    """Nothing says of chains that they are at a power of the likelihood: so there are none."""
    monkeypatch.setattr(module, "_MOST", 20)
    prior = ClosedForm(GaussianPrior(torch.zeros(2).double(), 1.0))
    generator = torch.Generator().manual_seed(0)

    def likelihood(x):
        return -0.5 * ((x - 1e6) / 1e-3).square().sum(-1)

    with pytest.raises(ValueError, match="far from what the prior predicts"):
        noise_denoise(prior, likelihood, prior.draw(64, generator), 4, 4, generator, 24)


@pytest.mark.parametrize("steps", [24, 60])
def test_noising_and_denoising_leave_the_prior_as_it_is(steps):
    """Of modes of unequal widths, whose shares are what few or misplaced steps get wrong."""
    widths = torch.tensor([0.01, 4.0]).view(2, 1, 1)
    mixture = MixturePrior([0.3, 0.7], torch.tensor([[-2.0], [2.0]]).double(), widths.double())
    prior, generator, n = ClosedForm(mixture), torch.Generator().manual_seed(0), 20_000
    grid = [high for high, _ in levels(prior, steps + 1)[1:]] + [0.0]
    edges = torch.tensor([-2.2, -2.0, -1.8, 0.0, 2.0, 5.0]).double()
    x = prior.draw(n, generator)
    before = (x < edges).double().mean(0)
    for _ in range(3):
        noise = torch.randn(n, 1, generator=generator, dtype=torch.float64)
        x = redraw(prior, x + grid[0] * noise, grid, generator)
    # n independent draws before and after are within 0.014 of each other
    error = float(((x < edges).double().mean(0) - before).abs().max())
    assert error < (0.02 if steps == 24 else 0.014), error
